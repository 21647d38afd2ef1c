"""What published searches for the smallest change share: rows that know the smallest success so far."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look, Seeking

__all__ = ["Shrinking", "annealed", "reach"]


@dataclass
class Shrinking(Seeking):
    """Rows that make their change smaller for as many steps as there are.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
        originals: (n, ...).
        kept: the smallest success of each image of the whole batch.
    """

    originals: Tensor
    kept: Smallest

    @property
    def best(self) -> Tensor:
        """How large the smallest success is so far, (n,); infinite where there was none."""
        return self.kept.least[self.index]

    def begin(self, look: Look) -> None:
        """At the first look let those go that are fooled as they are: nothing is closer."""
        if look.step == 0:
            self.retire(look.success)
            look.compact(self)


def annealed(first: float, last: float, step: int, steps: int) -> float:
    """From ``first`` at step 0 down to ``last`` at step ``steps``, as a cosine falls."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def reach(originals: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The largest change that the box allows in each feature: (n, ...)."""
    low, high = bounds
    return torch.maximum(originals - low, high - originals)
