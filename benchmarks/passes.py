"""The passes that an attack makes through a network, counted, and made again with nothing else."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Pass:
    """One forward of ``rows`` images, and how many backwards followed from it to the images."""

    rows: int
    backwards: int = 0


class Counted(nn.Module):
    """Another model, and the passes that were made through it, which several models may write into one list."""

    def __init__(self, model: nn.Module, passes: list[Pass] | None = None) -> None:
        super().__init__()
        self.model = model
        self.passes: list[Pass] = [] if passes is None else passes

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, ...)."""
        this = Pass(len(images))
        self.passes.append(this)
        seen = images.view_as(images)
        if seen.requires_grad:
            seen.register_hook(lambda _: setattr(this, "backwards", this.backwards + 1))
        return self.model(seen)


@dataclass
class Replay:
    """The same passes through a model that asks for no gradient of its parameters: what an attack cannot go below.

    Args:
        model: in eval mode.
        images: (N, ...), the batch.
        passes: what to repeat.
    """

    model: nn.Module
    images: Tensor
    passes: list[Pass]
    pool: Tensor = field(init=False)

    def __post_init__(self) -> None:
        most = max(each.rows for each in self.passes)
        self.pool = self.images.repeat(-(-most // len(self.images)), *[1] * (self.images.ndim - 1))

    def __call__(self) -> None:
        """All of them, once."""
        for each in self.passes:
            x = self.pool[: each.rows].detach().requires_grad_(each.backwards > 0)
            total = self.model(x).sum()
            for left in reversed(range(each.backwards)):
                torch.autograd.grad(total, x, retain_graph=left > 0)
