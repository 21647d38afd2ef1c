"""Primal-dual gradient descent, with and without a proximal step."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.adam import Adam
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.shrinking import Shrinking
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = ["PDGD", "PDPGD"]
MODE = "closed"

_LAST_PRIMAL, _LAST_DUAL = 0.01, 0.1  # of the step sizes, over the first ones
_MEMORY = 0.9  # how much of the mean multiplier a step keeps
_MOST = 13.815510557964274  # log 1e6: neither multiplier is more than that many times the other


@dataclass
class _Game(Shrinking):
    """Rows of which one player moves the image and the other sets what its size costs.

    Args:
        odds: (n,), the logarithm of the constraint's multiplier over the norm's.
        cost: (n,), the norm's multiplier, its mean over the steps; the constraint's is 1 minus it.
        adam: of the image.
    """

    odds: Tensor
    cost: Tensor
    adam: Adam

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the softplus of the margin, whatever the loss."""
        return -F.softplus(self.goal.margin(logits))


@dataclass(frozen=True, eq=False)
class _PrimalDual(Attack):
    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    steps: int = number(500, at_least=1, integer=True)
    primal_lr: float = number(OfRange(0.1), above=0)
    dual_lr: float = number(0.1, above=0)
    dual_ratio: float = number(0.01, at_least=1e-6, at_most=1e6)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        kept = Smallest(images, norms.get(self.norm))
        odds = torch.full_like(kept.least, 1 / self.dual_ratio).log()
        adam = Adam(images, 1e-8 / (self.bounds[1] - self.bounds[0]))
        rows = _Game(images, goal, images, kept, odds, torch.sigmoid(-odds), adam)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="margin", keep=kept)

    def _step(self, rows: _Game, look: Look) -> Tensor:
        rows.begin(look)
        moved = self._moved(rows, look, self.primal_lr * _LAST_PRIMAL ** (look.step / self.steps))
        late = look.step / max(1, self.steps - 1)
        dual_lr = self.dual_lr * (1 - late * (1 - _LAST_DUAL))
        rows.odds = torch.where(look.success, rows.odds - dual_lr, rows.odds + dual_lr).clamp(-_MOST, _MOST)
        rows.cost = torch.lerp(rows.cost, torch.sigmoid(-rows.odds), 1 - _MEMORY)
        return moved

    @abstractmethod
    def _moved(self, rows: _Game, look: Look, lr: float) -> Tensor:
        """Where the images go, (n, ...), in a step of this size."""


@dataclass(frozen=True, eq=False)
class PDGD(_PrimalDual):
    norm: ClassVar[Norm] = norms.L2

    def _moved(self, rows: _Game, look: Look, lr: float) -> Tensor:
        outwards = norms.L2.steepest(look.x - rows.originals) / (self.bounds[1] - self.bounds[0])
        cost = column(rows.cost, outwards)
        mean, scale = rows.adam.see(cost * outwards - (1 - cost) * look.gradient, look.step)
        return (look.x - lr * mean / scale).clamp(*self.bounds)


@dataclass(frozen=True, eq=False)
class PDPGD(_PrimalDual):
    _: KW_ONLY
    norm: str | Norm = hyperparameters.norm("linf", "l1", "l2")

    def _moved(self, rows: _Game, look: Look, lr: float) -> Tensor:
        mean, scale = rows.adam.see(-look.gradient, look.step)
        change = (look.x - lr * mean / scale).clamp(*self.bounds) - rows.originals
        ratio = lr * rows.cost / (1 - rows.cost)
        norm = norms.get(self.norm)
        if MODE == "closed":
            change = _CLOSED[norm](change, scale, ratio)
        else:
            psi = scale.flatten(1).amax(1)
            h = scale / column(psi, scale)
            z = change
            eps = torch.ones_like(psi)
            for _ in range(5):
                new = _PLAIN[norm](z - h * (z - change), ratio / psi)
                new = torch.where(column(eps > 1e-2, new), new, z)
                eps = norms.L2.size(new - z) / norms.L2.size(new)
                z = new
            change = z
        return rows.originals + change


def _l1(change, scale, ratio):
    return change.sign() * (change.abs() - column(ratio, change) / scale).clamp_min(0)


def _linf(change, scale, ratio):
    # clamp at t with sum h (|r|-t)+ = ratio
    size, order = change.abs().flatten(1).sort(1, descending=True)
    h = scale.flatten(1).gather(1, order)
    hs, hr = h.cumsum(1), (h * size).cumsum(1)
    t = ((hr - ratio[:, None]) / hs).amax(1).clamp_min(0)
    return norms.Linf.project(change, t)


def _l2(change, scale, ratio):
    # z = h r / (h + ratio / s), s = ||z||
    size = norms.L2.size(change)
    low, high = torch.zeros_like(size), size
    for _ in range(30):
        s = (low + high) / 2
        z = change * scale * column(s, change) / (scale * column(s, change) + column(ratio, change))
        up = norms.L2.size(z) > s
        low, high = torch.where(up, s, low), torch.where(up, high, s)
    return change * scale * column(low, change) / (scale * column(low, change) + column(ratio, change)).clamp_min(1e-30)


def _pl1(v, mu): return v.sign() * (v.abs() - column(mu, v)).clamp_min(0)
def _pl2(v, mu): return v * column((1 - mu / norms.L2.size(v).clamp_min(1e-30)).clamp_min(0), v)
def _plinf(v, mu): return v - norms.L1.project(v, mu)
_CLOSED = {norms.L1: _l1, norms.Linf: _linf, norms.L2: _l2}
_PLAIN = {norms.L1: _pl1, norms.Linf: _plinf, norms.L2: _pl2}
