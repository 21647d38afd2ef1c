"""What Carlini-Wagner and EAD share: a change that is small plus a margin times c, and which search for c is used."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from advkit.attack import Aim, Attack
from advkit.attacks.minimal.bisection import Bisection
from advkit.attacks.minimal.objectives import LARGEST_C, Objective
from advkit.attacks.minimal.tangents import Tangents
from advkit.goals import Goal
from advkit.hyperparameters import choice, number

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
        schedule: "constant" for the paper's search; "cosine" for advkit's own, `Tangents`.
    """

    aim: ClassVar[Aim] = "minimal"
    independent_rows: ClassVar[bool] = True

    kappa: float = number(0.0, at_least=0)
    initial_c: float | None = number(None, above=0, at_most=LARGEST_C)
    binary_search_steps: int = number(5, at_least=1, integer=True)
    steps: int = number(50, at_least=1, integer=True)
    lr: float = number(0.01, above=0)
    _: KW_ONLY
    schedule: Literal["cosine", "constant"] = choice("cosine", "constant")

    @abstractmethod
    def _objective(self) -> Objective:
        """What is small, and how pixels are moved."""

    @abstractmethod
    def _published(self, search: Bisection) -> Tensor:
        """The paper's algorithm: images (N, ...)."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        model, objective = self.classifier, self._objective()
        if self.schedule == "constant":
            return self._published(
                Bisection(model, images, goal, objective, kappa=self.kappa, initial_c=self.initial_c)
            )
        tangents = Tangents(objective, self.kappa, self.initial_c, self.binary_search_steps, self.steps)
        return tangents.search(model, images, goal)
