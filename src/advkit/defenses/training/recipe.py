"""What is specific to one way of training. The loop around it is the same for all, see `loop`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit.defenses.training.guard import Guard
from advkit.defenses.training.network import Network
from advkit.errors import InputError

__all__ = ["Batch", "Recipe"]


@dataclass(frozen=True)
class Batch:
    """What a model is trained on in one step, on the model's device.

    Attributes:
        images: floating (N, ...), N at least 1.
        labels: int64 (N,).
        turn: which batch it is: one more than the batch before, and at the start of each epoch one more than at the
            start of the epoch before, so that attacks which take turns do so in epochs of any length.
        epoch: how many epochs came before this one.
        targets: floating (N, K), the share of each class in each label, if the loader gives any; otherwise None.
            ``labels`` are then the classes with the largest shares.
        label_smoothing: how much of each label is spread over all classes, from 0 to 1.
        adversarials: floating (N, ...), if `Recipe.around` has already made them; otherwise None.

    Examples:
        >>> from advkit.defenses.training import Batch
        >>> batch = Batch(images, labels)
        >>> batch.turn, batch.cross_entropy(model(images)).shape
        (0, torch.Size([12]))
    """

    images: Tensor
    labels: Tensor
    turn: int = 0
    epoch: int = 0
    targets: Tensor | None = None
    label_smoothing: float = 0.0
    adversarials: Tensor | None = None

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """The cross-entropy of each image, (N,), from logits (N, K), with soft or smoothed labels if there are any."""
        wanted = self.labels if self.targets is None else self.targets.to(logits.dtype)
        if wanted.ndim == 2 and wanted.shape != logits.shape:
            raise InputError(
                f"the labels have shares of {wanted.shape[1]} classes, but the model returned {logits.shape[1]} logits "
                "per image"
            )
        return F.cross_entropy(logits, wanted, reduction="none", label_smoothing=self.label_smoothing)


class Recipe(ABC):
    """A way of training: the loss of a batch, a context around its computation, and the number of repetitions.

    For each batch the loop does this, ``replays`` times:

        with recipe.around(network, batch) as given:  # another batch, or nothing
            recipe.loss(network, given or batch).backward()
        optimizer.step()

    Attributes:
        replays: how many times each batch is trained on.
        guard: checks after each epoch whether training has collapsed, and stops it; None for no check.

    Examples:
        >>> from torch.nn.functional import cross_entropy
        >>> class OnNoise(advkit.defenses.training.Recipe):
        ...     def loss(self, network, batch):
        ...         return cross_entropy(network(batch.images + 0.1 * torch.randn_like(batch.images)), batch.labels)
        >>> OnNoise().replays
        1
    """

    replays: int = 1
    guard: Guard | None = None

    def __repr__(self) -> str:
        """The name and the numbers, by which a checkpoint recognises its recipe."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, (bool, int, float, str))}
        shown = ", ".join(f"{name}={value!r}" for name, value in numbers.items() if not name.startswith("_"))
        return f"{type(self).__name__}({shown})"

    @abstractmethod
    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar to be differentiated.

        Validation computes it too, in eval mode and without `around`; see ``network.training``.

        Args:
            network: the model in training, images (N, ...) to logits (N, K). Attacks may be pointed at it.
            batch: what it is trained on.
        """

    def around(self, network: Network, batch: Batch) -> AbstractContextManager[Batch | None]:
        """A context around the computation and differentiation of the loss; none by default.

        It is entered before `loss` and left after the backward pass, with gradients in place, before the optimizer's
        step. Whatever it does to the weights it has to undo, even after an exception. What it yields takes the
        place of the batch, such as one that has its ``adversarials``; None leaves the batch as it is.

        Args:
            network: as for `loss`.
            batch: as for `loss`.
        """
        return nullcontext()

    def generators(self) -> Sequence[torch.Generator | None]:
        """The generators that the loss uses besides the default ones: checkpoints contain their state."""
        return ()

    def state(self) -> dict[str, Any]:
        """What is kept from batch to batch, for checkpoints: tensors, numbers, texts and containers of these."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state; if empty, the one before the first batch, with which each `TrainingDefense.fit` begins."""
        return None
