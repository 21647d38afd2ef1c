"""Rotations and translations."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.resampling import own_precision
from advkit.attack import Access, Aim
from advkit.black_box import BlackBox, Oracle
from advkit.errors import InputError
from advkit.hyperparameters import choice, number

__all__ = ["Spatial"]


@dataclass(frozen=True, eq=False)
class Spatial(BlackBox):
    """Rotations and translations: rotate and shift the image a little, until the model errs.

    Each candidate is the image rotated about its centre and then shifted, with bilinear interpolation, filled with the
    lowest pixel value. The budget is the angle and the shift, not a ball around the image: the result is far from it in
    any norm. "grid" tries a whole grid, the largest changes first, by default of 31 angles and 5 shifts in each
    direction: 774 candidates. "random" tries ``samples`` candidates, drawn uniformly for each image, as the paper's
    worst-of-10 does. An image leaves the batch when the model is fooled; one that withstands all candidates is returned
    unchanged.

    Engstrom, Tran, Tsipras, Schmidt & Madry, "Exploring the landscape of spatial robustness", ICML 2019.
    arXiv:1712.02779.

    Args:
        model: pixels (N, C, H, W) to logits (N, K); any callable, no gradient is needed.
        max_rotation: the largest angle in either direction, in degrees, from 0 to 180.
        max_translation: the largest shift in each direction, as a fraction of that side of the image, from 0 to 1. The
            paper's 3 pixels of CIFAR-10 are 3/32.
        method: "grid" or "random".
        rotations: the number of angles in the grid, evenly spaced, at least 1; 1 is no rotation.
        translations: the number of shifts in the grid in each direction, at least 1; 1 is none.
        samples: the number of random candidates, at least 1.
        max_queries: the most forwards for one image, at least 1; None for one for the image itself and one for
            each candidate.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for "random"; torch's default if None. The grid is deterministic.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> result = advkit.Spatial(model).run(images, labels)
        >>> bool(result.success.any()), bool((result.queries <= 775).all())
        (True, True)
        >>> worst_of_ten = advkit.Spatial(model, method="random").run(images, labels)
        >>> bool((worst_of_ten.queries <= 11).all())
        True
    """

    access: ClassVar[Access] = "decisions"
    aim: ClassVar[Aim] = "budget"
    spatial: ClassVar[bool] = True

    max_rotation: float = number(30.0, at_least=0, at_most=180)
    max_translation: float = number(0.1, at_least=0, at_most=1)
    method: str = choice("grid", "random")
    rotations: int = number(31, at_least=1, integer=True)
    translations: int = number(5, at_least=1, integer=True)
    samples: int = number(10, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        if images.ndim != 4:
            seen = tuple(images.shape)
            raise InputError(f"Spatial turns pictures, and needs images of shape (N, C, H, W); got {seen}")
        moves = self._grid(images) if self.method == "grid" else self._drawn(images)

        def moved(index: Tensor, turn: Tensor) -> Tensor:
            return _moved(images[index] - self.bounds[0], moves[index, turn]) + self.bounds[0]

        rows, tried = torch.arange(len(images), device=images.device), 0
        while len(rows) and tried < min(moves.shape[1], ask.limit):
            width = min(ask.width(len(rows), tried), moves.shape[1] - tried)
            turns = torch.arange(tried, tried + width, device=images.device)
            found = ask(moved, rows.repeat_interleave(width), turns.repeat(len(rows)))
            rows = rows[(found.view(-1, width) < torch.inf).all(1)]
            tried += width
        return images

    def _grid(self, images: Tensor) -> Tensor:
        """All angles, in radians, and ways down and to the right, in shares of the sides: (n, m, 3)."""
        ends = (math.radians(self.max_rotation), self.max_translation, self.max_translation)
        counts = (self.rotations, self.translations, self.translations)
        alone = torch.zeros(1, device="cpu")
        lines = [
            torch.linspace(-end, end, count, device="cpu") if count > 1 and end > 0 else alone
            for end, count in zip(ends, counts, strict=True)
        ]
        every = torch.cartesian_prod(*lines)
        size = (every.abs() / torch.tensor([max(end, 1e-12) for end in ends], device="cpu")).sum(1)
        every = every[size.argsort(descending=True, stable=True)]
        every = every[(every != 0).any(1)]  # the image itself has been asked about
        return every.to(images).expand(len(images), -1, -1)

    def _drawn(self, images: Tensor) -> Tensor:
        """The same, drawn for each image."""
        ends = images.new_tensor([math.radians(self.max_rotation), self.max_translation, self.max_translation])
        return ends * (2 * uniform_like(images.new_empty(len(images), self.samples, 3), self.generator) - 1)


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    """Images (n, C, H, W), each rotated clockwise and then moved down and to the right, (n, 3); 0 where none is left.

    In the units of `torch.nn.functional.affine_grid`, in which each side goes from -1 to 1, a rotation is none where an
    image is not square: it has to be brought to one scale and back.
    """
    height, width = images.shape[2:]
    cosine, sine = moves[:, 0].cos(), moves[:, 0].sin()
    down, right = moves[:, 1] * height, moves[:, 2] * width  # in pixels
    rows = [
        torch.stack([cosine, sine * height / width, -(cosine * right + sine * down) * 2 / width], 1),
        torch.stack([-sine * width / height, cosine, (sine * right - cosine * down) * 2 / height], 1),
    ]
    with own_precision(images.device):
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
