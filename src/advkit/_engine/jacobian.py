"""Rows of the model's Jacobian, as many as are asked for."""

from collections.abc import Iterator

import torch
from torch import Tensor

from advkit._engine.classifier import check_differentiable

__all__ = ["difference_gradients"]


def difference_gradients(images: Tensor, logits: Tensor, classes: Tensor, reference: Tensor) -> Iterator[Tensor]:
    """Gradients of Z_k - Z_r with respect to the images, for one class k of each image after the other.

    Each is one backward for the whole batch through the one graph of ``logits``, which the last of them frees. A
    difference with the reference needs no gradient of the reference alone: m classes cost m backwards. One
    gradient is there at a time, so that memory does not grow with the classes.

    Args:
        images: (n, ...), the tensor that the model saw, with ``requires_grad`` set.
        logits: (n, K), what it answered.
        classes: int64 (n, m), the classes k of each image.
        reference: int64 (n, 1), the class r of each image.

    Yields:
        Gradients (n, ...), m times.

    Raises:
        ModelError: the logits do not depend on the images by way of differentiable operations.
    """
    check_differentiable(logits)
    differences = logits.gather(1, classes) - logits.gather(1, reference)
    for column in range(classes.shape[1]):
        last = column == classes.shape[1] - 1
        yield torch.autograd.grad(differences[:, column].sum(), images, retain_graph=not last)[0]
