"""The model in training, as losses and attacks call it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from advkit._base.answers import found_in
from advkit._base.state import to_training_mode
from advkit.defenses.training.ranks import Ranks
from advkit.errors import InputError, ModelError
from advkit.model import placement

__all__ = ["Network", "training_mode"]


class Network(nn.Module):
    """The model in training, as losses and attacks call it: in its own dtype or autocast's, and checked.

    Args:
        model: images (N, ...) to logits (N, K).
        autocast: the dtype that matrix products and convolutions are computed in; None for the model's own.

    Attributes:
        ranks: the processes that train it together.
        largest_label: of the batch at hand. There must be a logit for it: a GPU would stop without saying why.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        device, self.dtype = placement(model)
        self.device = device or torch.device("cpu")
        self.autocast = autocast
        self.largest_label = 0
        self.ranks = Ranks(model)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What the model is shown here leaves no trace in its buffers, such as the statistics of a BatchNorm."""
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, its in before:
                    buffer.copy_(its)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K), float32 or better, of images (N, ...)."""
        with nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast):
            logits = found_in(self.model(images if self.dtype is None else images.to(self.dtype)))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            seen = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model returned {seen} for images of shape {tuple(images.shape)}; training needs logits of shape "
                f"({len(images)}, K)"
            )
        if logits.shape[1] <= self.largest_label:
            raise InputError(
                f"labels must lie in [0, {logits.shape[1]}), since the model returned {logits.shape[1]} logits "
                f"per image; the largest is {self.largest_label}"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """The model in training mode, but for layers that are frozen in eval mode, and afterwards each module as it was."""
    before = [(module, module.training) for module in model.modules()]
    try:
        to_training_mode(model)
        yield
    finally:
        for module, training in before:
            module.training = training
