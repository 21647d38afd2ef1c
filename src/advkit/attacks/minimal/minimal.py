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
    """The smallest change (L0, L1, L2, Linf) that makes the model predict another class: advkit's own search.

    Each step replaces the margin by the mean of its latest tangents, solves for the smallest change within the box in
    closed form, and goes a decaying fraction of the way there. Each of the ``rounds`` searches aims at another class,
    the nearest in the linearised model first, and images leave once no class promises a smaller change than they have.
    The smallest success is returned; an image for which none is found is returned unchanged, as is one that is already
    misclassified.

    A walk along the boundary, from noise far away, follows; where it ends closer by a twentieth (in L0 by three
    tenths), gradients near the image are uninformative, and up to eight more walks follow: together they are allowed as
    many passes as the searches. In L1 and L0, the second half of a walk is as in `BrendelBethge`. A walk's result
    replaces the earlier one only where it is closer.

    In L2 this is what `CW` does by default. In L1 it is `EAD`'s search with L1 alone to minimise, by decaying steps,
    and with three returns from twice as far away as the closest success: one more search, and twice 40 steps along the
    boundary as in `BrendelBethge`. In Linf the linearised problem is that of `FAB`, solved exactly, and there is one
    return along the boundary. In L0, three searches of 30 steps (``rounds`` of them, if that is less) come first: with
    a tenth of the features at the ends of the box, a hundredth, and one, and then with fewer after each success.
    Features that are not needed are put back.

    Costs a forward and a backward a step; one forward, with a backward for each of the nearest nine classes, to rank
    them; one to nine walks of at most 21 passes; in Linf the 41 passes of the return along the boundary, in L1 82; and
    in L0 the 93 of the first searches, with at most 14 forwards and 2 backwards after each search for putting features
    back. A quarter to a half of the passes allowed is usual.

    The objective, size plus a penalty on the margin, is that of Carlini & Wagner; the way it is minimised is advkit's
    own.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, section VI: the penalty on the
    margin.
    arXiv:1608.04644.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "l2", "l0", "l1" or "linf", or an object of `advkit.norms`: the norm to minimise.
        rounds: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

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
