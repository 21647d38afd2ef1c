"""Sparse L1 descent."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.ascent import Ascent, ascend
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, flag, number
from advkit.norms import L1, Norm, column

__all__ = ["SparseL1Descent"]


@dataclass
class _Ascent(Ascent):
    def within(self, x: Tensor) -> Tensor:
        return project(x, self.originals, self.eps, self.bounds)


@dataclass(frozen=True, eq=False)
class SparseL1Descent(Attack):
    """Sparse L1 descent: projected ascent along the features of largest gradient (L1).

    x <- project(x + alpha * e / ||e||_1), where e is the sign of the gradient of the cross-entropy at the features
    whose magnitude reaches the ``quantile``, and 0 elsewhere. A gradient that points out of the box counts as 0,
    and ties with the quantile take part. The projection is the exact one onto the L1 ball **and** the box.
    ``steps`` forwards and as many backwards.

    Tramèr & Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019, section 3 and
    algorithm 1.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 12 times the range of ``bounds``
            if not given.
        steps: how many steps, at least 1.
        quantile: the fraction of features that a step leaves alone, in [0, 1]; at 1 only the largest moves.
        random_start: start at a point drawn uniformly from the ball and projected, rather than at the image.
        alpha: the length of a step in L1, positive: a number, or a tensor of shape (N,); a fifth of ``eps`` if None.
        early_stop: let an image leave as soon as it is fooled; it then stands where it first was.
        bounds: the lowest and the highest value of a pixel.
        generator: where the random start is drawn from; torch's default generator if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = L1

    eps: float | Tensor = number(OfRange(12.0), at_least=0, per_image=True)
    steps: int = number(50, at_least=1, integer=True)
    quantile: float = number(0.99, at_least=0, at_most=1)
    random_start: bool = flag(False)
    _: KW_ONLY
    alpha: float | Tensor | None = number(None, above=0, per_image=True)
    early_stop: bool = flag(False)

    @property
    def stops_at_success(self) -> bool:
        """Whether an image leaves as soon as it is fooled: it was asked for."""
        return self.early_stop

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        alpha = self.eps / 5 if self.alpha is None else self.alpha
        rows = _Ascent(images, images, goal, self.eps, alpha, self.bounds)
        if self.random_start:
            rows.x = rows.within(images + L1.sample(images, self.generator) * column(self.eps, images))
        return ascend(self._classifier, rows, self._direction, steps=self.steps, early_stop=self.early_stop)

    def _direction(self, rows: _Ascent, gradient: Tensor) -> Tensor:
        low, high = self.bounds
        outward = ((rows.x <= low) & (gradient < 0)) | ((rows.x >= high) & (gradient > 0))
        flat = gradient.masked_fill(outward, 0).flatten(1)
        moving = flat.shape[1] - math.ceil(self.quantile * (flat.shape[1] - 1) - 1e-6)
        magnitudes = flat.abs()
        threshold = magnitudes.topk(moving, dim=1, sorted=False).values.amin(1, keepdim=True)
        direction = flat.sign().where(magnitudes >= threshold, 0)
        return (direction / L1.size(direction).clamp_min(1)[:, None]).view_as(gradient)


def project(x: Tensor, originals: Tensor, eps: float | Tensor, bounds: tuple[float, float]) -> Tensor:
    """The closest points (in L2) to ``x`` in the L1 ball about the originals and in the box: (n, ...) to (n, ...).

    With y = x - original and c_i the room that the box leaves in the direction of y_i, the answer moves feature i
    by min(max(|y_i| - t, 0), c_i) in that direction, with the least t >= 0 that makes the sum s(t) of these
    at most eps. s is piecewise linear; its slope changes by -1 at |y_i| and by +1 at |y_i| - c_i, which
    are sorted and summed up from the largest down.

    Args:
        x: (n, ...), anywhere.
        originals: (n, ...), inside the box.
        eps: the radius, one for all or one for each row.
        bounds: of the box.
    """
    low, high = bounds
    centre = originals.flatten(1)
    y = x.flatten(1) - centre
    magnitudes, room = y.abs(), torch.where(y > 0, high - centre, centre - low)
    eps = torch.as_tensor(eps, dtype=y.dtype, device=y.device).expand(len(y))[:, None]
    unit = torch.finfo(y.dtype).eps
    eps = eps * (1 - 8 * unit)  # room for what a sum over the features rounds off

    ends = torch.cat([magnitudes, (magnitudes - room).clamp_min(0), torch.zeros_like(eps)], 1)
    knots, which = ends.sort(dim=1, descending=True, stable=True)
    slopes = torch.where(which < y.shape[1], 1.0, -1.0).to(y.dtype).cumsum(1)[:, :-1]
    sums = (slopes * -knots.diff(dim=1)).cumsum(1)  # s at the second knot and those after it
    last = (sums < eps).sum(1, keepdim=True).clamp_max(sums.shape[1] - 1)
    slope, threshold = slopes.gather(1, last).clamp_min(1), knots.gather(1, last + 1)
    excess = sums.gather(1, last) - eps
    for _ in range(2):  # the second time for what the running sum has rounded off
        threshold = (threshold + excess / slope).clamp_min(0)
        moved = (magnitudes - threshold).clamp_min(0).minimum(room)
        size = moved.sum(1, keepdim=True)
        excess = size - eps
    moved = moved * (eps / size.clamp_min(torch.finfo(y.dtype).tiny)).clamp_max(1)  # the threshold is rounded too
    found = centre + moved.copysign(y)
    too_far = (found - centre).abs() > moved  # rounded outwards: over many features that would leave the ball
    inner = found - (found.abs() * unit).copysign(y)
    return torch.where(too_far, inner, found).clamp(low, high).view_as(x)
