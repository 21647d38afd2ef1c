"""Elastic-net attack."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor

from advkit._engine.checks import check_choice, check_number
from advkit._engine.search import LARGEST_C, Objective, dot, search
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.norms import L1, column

__all__ = ["EAD"]

_HALVINGS = 12


@dataclass(frozen=True, eq=False)
class EAD(Attack):
    kappa: float = 0.0
    initial_c: float | None = None
    binary_search_steps: int = 5
    steps: int = 50
    lr: float = 0.01
    beta: float = 1e-3
    _: KW_ONLY
    decision_rule: Literal["l1", "elastic"] = "l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("kappa", self.kappa, at_least=0)
        if self.initial_c is not None:
            check_number("initial_c", self.initial_c, above=0, at_most=LARGEST_C)
        check_number("binary_search_steps", self.binary_search_steps, at_least=1, integer=True)
        check_number("steps", self.steps, at_least=1, integer=True)
        check_number("lr", self.lr, above=0)
        check_number("beta", self.beta, at_least=0)
        check_choice("decision_rule", self.decision_rule, ("l1", "elastic"))

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return search(
            self.model,
            images,
            goal,
            _ElasticNet(self.bounds, self.beta, self.beta / self.lr, self.decision_rule),
            kappa=self.kappa,
            initial_c=self.initial_c,
            rounds=self.binary_search_steps,
            steps=self.steps,
        )


class _ElasticNet(Objective):
    """||x' - x||_2^2 + weight * ||x' - x||_1 in the box."""

    def __init__(self, bounds: tuple[float, float], beta: float, weight: float, rule: str) -> None:
        self.low, self.high = bounds
        self.beta, self.weight, self.rule = beta, weight, rule

    def size(self, changes: Tensor) -> Tensor:
        l1 = L1.size(changes)
        return l1 if self.rule == "l1" else self.beta * l1 + dot(changes, changes)

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        steep = slope.abs()
        room = torch.where(slope > 0, originals - self.low, self.high - originals)
        tiny = torch.finfo(slope.dtype).tiny
        low = (self.weight / steep.flatten(1).amax(1).clamp_min(tiny)).clamp(1e-10, LARGEST_C)
        high = torch.full_like(low, LARGEST_C) if not isinstance(most, Tensor) else most
        for _ in range(_HALVINGS if isinstance(most, Tensor) else 3 * _HALVINGS):
            middle = (low * high).sqrt()
            moved = self._moved(steep, room, middle)
            short = dot(steep, moved) < level
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        moved = self._moved(steep, room, high.where(level > 0, 0))
        return -slope.sign() * moved, high

    def _moved(self, steep: Tensor, room: Tensor, multiplier: Tensor) -> Tensor:
        return ((column(multiplier, steep) * steep - self.weight) / 2).clamp_min(0).minimum(room)

    def move(self, x: Tensor, by: Tensor) -> Tensor:
        return (x + by).clamp(self.low, self.high)
