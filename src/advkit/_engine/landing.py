"""What becomes of adversarial images where pixels can take some values only: they land on the grid and still fool."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.ball import Ball
from advkit._engine.boundaries import dual_size, linear_distances
from advkit._engine.classifier import Classifier
from advkit._engine.grid import Grid, Halves, inward
from advkit.goals import Goal
from advkit.norms import column

__all__ = ["Landing"]

# How far to go, in parts of the way that was found, or of one on which the first pixel moves by a level.
_PUSHES = (1.05, 1.15, 1.3, 1.6, 2.2, 3.5, 6.0, 12.0)
_HALVINGS = 4  # of the stretch between the last of them that did not fool and the first that did
_STEPS = 10  # by gradients, where no way in the same direction fools
_SHARE = 1 / 8  # of a budget that the first of them goes at least
_FINEST = 12  # halvings of how much of a change a budget has room for


@dataclass(frozen=True)
class Landing:
    """Images on their way to a grid.

    A change that was found is scaled and rounded. Where the margin is linear, no other change on the grid of its length
    in L2 fools more, which is why the scale alone is searched for: the least that fools, or the most that the budget
    allows. Where that fails, steps along gradients that are taken on the grid find another change.

    Args:
        grid: the values that pixels can take.
        model: what has to be fooled.
        originals: (N, ...), on the grid or not.
        goal: of the N images.
        bounds: of the pixels.
        ball: the budget; None for none, or one that does not say what it is.
        free: bool (N, ...), the pixels that may move; None for all.
    """

    grid: Grid
    model: Classifier
    originals: Tensor
    goal: Goal
    bounds: tuple[float, float]
    ball: Ball | None
    free: Tensor | None

    def of(self, found: Tensor, within: bool) -> Tensor:
        """Images (N, ...) on the grid.

        Those that were found fool there too, if some way to the grid is found where they do. If none is, they stay
        ``within`` the budget as they are; those that have none are the originals again.

        Args:
            found: (N, ...), off the grid.
            within: whether there is a budget.
        """
        landed = self.inside(found) if within else self.nearest(found)
        if within and isinstance(self.grid, Halves):
            return landed  # steps so small undo nothing
        moved = (found != self.originals).flatten(1).any(1).nonzero().squeeze(1)
        lost = moved[~self.rows(moved)._fools(landed[moved])]
        if within:
            lost = lost[self.rows(lost)._fools(found[lost])]
        else:
            lost = self.rows(lost)._pushed(landed, found[lost], lost)
        if len(lost):
            landed[lost] = self.rows(lost)._mended(found[lost], landed[lost] if within else self.originals[lost])
        return landed

    def nearest(self, found: Tensor) -> Tensor:
        """Images (N, ...), each pixel at the nearest value; what is there already keeps its bits."""
        return self._settled(self.grid.nearest(found))

    def inside(self, found: Tensor) -> Tensor:
        """Images (N, ...) on the grid and in the budget, as near to what was found as that allows."""
        ball, grid = self.ball, self.grid
        if ball is None or isinstance(grid, Halves) or ball.norm is norms.L0:
            return self._settled(inward(grid, found, self.originals))
        if ball.norm is norms.Linf:
            far, landed = column(ball.eps, found) + grid.slack, grid.nearest(found)
            inner = grid.neighbours(landed, (self.originals - landed).sign())
            landed = inner.where((landed - self.originals).abs() > far, landed)
            landed = grid.nearest(self.originals).where((landed - self.originals).abs() > far, landed)
            return self._settled(landed)
        most = torch.ones_like(found.flatten(1)[:, 0])
        least = torch.zeros_like(most)
        for turn in range(_FINEST):
            middle = most if not turn else (least + most) / 2
            fits = ball.norm.distance(self._scaled(found, middle), self.originals) <= ball.eps
            least, most = torch.where(fits, middle, least), torch.where(fits, most, middle)
        return self._scaled(found, least)

    def _settled(self, landed: Tensor) -> Tensor:
        return self.grid.settled(self.originals, landed, self.free)

    def rows(self, index: Tensor) -> "Landing":
        """The same for some of the images."""
        free = None if self.free is None else self.free[index]
        ball = None if self.ball is None else self.ball.rows(index)
        return Landing(self.grid, self.model, self.originals[index], self.goal.rows(index), self.bounds, ball, free)

    def _fools(self, images: Tensor) -> Tensor:
        """Whether images (N, ...) are what was wanted: bool (N,)."""
        if not len(images):
            return torch.zeros_like(self.goal.classes, dtype=torch.bool)
        with torch.no_grad():
            return self.goal.success(self.model.logits(images))

    def _scaled(self, found: Tensor, scale: Tensor) -> Tensor:
        """The originals with so much of a change, (N,), on the grid."""
        there = self.originals + column(scale, found) * (found - self.originals)
        return self.nearest(there.clamp(*self.bounds))

    def _pushed(self, landed: Tensor, found: Tensor, place: Tensor) -> Tensor:
        """Push images (n, ...) the way that they were moved, into ``landed`` at their places, int64 (n,).

        Returns:
            The places of those that do not fool however far they go.
        """
        peak = norms.Linf.distance(found, self.originals)
        first = (self.grid.step / 2 / peak).clamp_min(1)
        low, left = first.clone(), torch.arange(len(place), device=place.device)
        high = torch.full_like(first, torch.inf)
        for push in _PUSHES:
            if not len(left):
                break
            scale = push * first[left]
            tried = self.rows(left)._scaled(found[left], scale)
            fooled = self.rows(left)._fools(tried)
            landed[place[left[fooled]]] = tried[fooled]
            high[left[fooled]], low[left[~fooled]] = scale[fooled], scale[~fooled]
            left = left[~fooled]
        reached = high.isfinite().nonzero().squeeze(1)
        for _ in range(_HALVINGS if len(reached) else 0):
            some, middle = self.rows(reached), (low[reached] + high[reached]) / 2
            tried = some._scaled(found[reached], middle)
            fooled = some._fools(tried)
            landed[place[reached[fooled]]] = tried[fooled]
            high[reached[fooled]], low[reached[~fooled]] = middle[fooled], middle[~fooled]
        return place[left]

    def _mended(self, found: Tensor, otherwise: Tensor) -> Tensor:
        """Other images (N, ...) that fool on the grid, near to those found; ``otherwise`` where there are none.

        Each step goes, from where the last one led before it was rounded, as far as the boundary seems to be from
        where it was rounded to, and every time further.
        """
        answer, x, left = otherwise.clone(), found, torch.arange(len(found), device=found.device)
        norm = norms.Linf if self.ball is not None and self.ball.norm is norms.Linf else norms.L2
        here = self
        for step in range(_STEPS):
            landed = here.inside(x) if here.ball is not None else here.nearest(x)
            leaf = landed.detach().requires_grad_()
            logits = self.model.logits(leaf)
            fooled = here.goal.success(logits)
            answer[left[fooled]] = landed[fooled]
            if bool(fooled.all()):
                break
            margin = here.goal.margin(logits)
            slope = self.model.gradient(margin, leaf).nan_to_num(0, 0, 0)
            if here.free is not None:
                slope = slope.where(here.free, 0)
            length = linear_distances(margin.detach(), dual_size(slope, norm)).to(x)
            length, ahead = length.where(length.isfinite(), 0), norm.steepest(slope).to(x)
            if here.ball is not None:  # along whose surface it may have far to go
                length = length.maximum(_SHARE * torch.as_tensor(here.ball.eps, dtype=x.dtype, device=x.device))
            else:  # or nothing might move
                peak = norms.Linf.size(ahead).clamp_min(torch.finfo(x.dtype).tiny)
                length = length.maximum(self.grid.step / 2 / peak)
            x = (x - (1 + step) * column(length, x) * ahead).clamp(*self.bounds)
            x = x if here.ball is None else here.ball.project(x)
            kept = (~fooled).nonzero().squeeze(1)
            here, x, left = here.rows(kept), x[kept], left[kept]
        return answer
