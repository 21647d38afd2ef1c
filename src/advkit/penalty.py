"""What Carlini-Wagner and EAD share: a change that is small plus a margin times c, and which search for c is used."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from advkit._engine.checks import check_choice, check_number
from advkit._engine.descent import Descent, bisect
from advkit._engine.search import LARGEST_C, Objective, search
from advkit.attack import Attack, Kind
from advkit.goals import Goal

__all__ = ["Penalty"]


@dataclass(frozen=True, eq=False)
class Penalty(Attack):
    """Minimises size(x' - x) + c * max(margin(x') + kappa, 0), with a c for each image on its own.

    Args:
        kappa: the margin that a success must have, at least 0, in units of the logits.
        initial_c: the first c, positive; None for a multiple of the one that solves the linearised problem.
        binary_search_steps: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        lr: the first step size of the paper's descent, positive.
        schedule: "constant" for the paper's search, `bisect`; "cosine" for `search`.
    """

    kind: ClassVar[Kind] = "minimal"

    kappa: float = 0.0
    initial_c: float | None = None
    binary_search_steps: int = 5
    steps: int = 50
    lr: float = 0.01
    _: KW_ONLY
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("kappa", self.kappa, at_least=0)
        if self.initial_c is not None:
            check_number("initial_c", self.initial_c, above=0, at_most=LARGEST_C)
        check_number("binary_search_steps", self.binary_search_steps, at_least=1, integer=True)
        check_number("steps", self.steps, at_least=1, integer=True)
        check_number("lr", self.lr, above=0)
        check_choice("schedule", self.schedule, ("cosine", "constant"))

    @abstractmethod
    def _objective(self) -> Objective:
        """What is small, and how pixels are moved."""

    @abstractmethod
    def _descent(self) -> Callable[[Tensor, Tensor, Goal, Tensor, Tensor], Descent]:
        """The steps of the paper's search: what `bisect` begins with."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        find: Callable[..., Tensor] = search
        if self.schedule == "constant":
            find = partial(bisect, begin=self._descent())
        return find(
            self._classifier,
            images,
            goal,
            self._objective(),
            kappa=self.kappa,
            initial_c=self.initial_c,
            rounds=self.binary_search_steps,
            steps=self.steps,
        )
