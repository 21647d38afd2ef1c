"""advkit's own search for the smallest change, in any norm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters, norms
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.objectives import Objective, SquaredL2
from advkit.attacks.minimal.pure import Count, Largest, Sum
from advkit.attacks.minimal.tangents import Tangents
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import Norm

__all__ = ["Minimal"]

_OBJECTIVES: dict[Norm, Callable[[tuple[float, float]], Objective]] = {
    norms.L2: SquaredL2,
    norms.L1: Sum,
    norms.Linf: Largest,
    norms.L0: Count,
}


@dataclass(frozen=True, eq=False)
class Minimal(Attack):
    """The smallest change (L0, L1, L2, Linf) that the model takes for another class: advkit's own search.

    Each step takes the mean of the margin's latest tangents for the margin, solves for the smallest change within the
    box in closed form, and goes there, or a part of the way, which decays. Each of the ``rounds`` searches aims at
    another class, the nearest of the linearised model first, and images leave once no class promises a smaller change
    than they have. The smallest success is returned; an image that is not reached comes back as it was, and so does one
    that is misclassified already.

    A walk along the boundary from noise far away then looks again; where it ends closer by a twentieth (in L0 by three
    tenths), gradients near the image have said little, and eight more follow. In L1 and L0 the second half of a walk is
    as in `BrendelBethge`. What a walk finds replaces what was found before only where it is closer.

    In L2 this is what `CW` does by default. In L1 it is `EAD`'s search with nothing but L1 to make small, by steps that
    die out, and three ways back from twice as far away as the closest success: one more search, and 40 steps along the
    boundary as in `BrendelBethge`, twice. In Linf the linearised problem is that of `FAB`, solved exactly. In L0 three
    searches of 36 steps, or ``rounds`` if that is less, come first: with a tenth of the features at the ends of the
    box, a hundredth, and one, and then with fewer after each success. Features that are not needed are put back.

    Beside a forward and a backward a step there is one forward, with a backward for each of the nearest nine classes,
    that ranks them, a walk of at most 21 passes, or nine, in L1 the 82 of the ways back, and in L0 the 219 of the first
    searches, with at most 14 forwards and 2 backwards after each search for what is put back. A quarter to a half of
    the passes allowed are usual.

    What is made small, with a penalty on the margin, is as in Carlini & Wagner; how it is made small is advkit's own.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, section VI: the penalty on the
    margin.
    arXiv:1608.04644.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "l2", "l0", "l1" or "linf", or an object of `advkit.norms`: the one to make small.
        rounds: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Minimal(model, norm="linf").run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> further = advkit.FAB(model, norm="linf").run(images, labels)
        >>> bool(result.distance("linf").mean() < 1.01 * further.distance("linf").mean())
        True
    """

    aim: ClassVar[Aim] = "minimal"
    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("l2", "l0", "l1", "linf")
    rounds: int = number(5, at_least=1, integer=True)
    steps: int = number(60, at_least=1, integer=True)

    def _objective(self) -> Objective:
        return _OBJECTIVES[norms.get(self.norm)](self.bounds)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        search = Tangents(self._objective(), kappa=0.0, initial_c=None, rounds=self.rounds, steps=self.steps)
        return search.search(self.classifier, images, goal)
