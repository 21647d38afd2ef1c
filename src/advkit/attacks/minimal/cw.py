"""The attack of Carlini and Wagner, L2."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from advkit._engine.adam import Adam
from advkit._engine.iterate import iterate
from advkit._engine.looks import Look
from advkit.attacks.minimal.bisection import Bisection, Descent
from advkit.attacks.minimal.objectives import SquaredL2
from advkit.attacks.minimal.penalty import Penalty
from advkit.attacks.minimal.tanh_box import TanhBox
from advkit.norms import L2, Norm

__all__ = ["CW"]


@dataclass
class _Moments(Descent):
    """Rows that remember what Adam needs of their gradients in w."""

    adam: Adam = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        area = (self.closest.objective.high - self.closest.objective.low) ** 2
        self.adam = Adam(self.x, 1e-8 * area)  # Adam's own epsilon, in units of pixels


@dataclass(frozen=True, eq=False)
class CW(Penalty):
    """Carlini and Wagner's attack: the smallest change (L2) that makes the model predict another class.

    Minimises ||x' - x||^2 + c * max(margin(x') + kappa, 0) with x' = mid + half * tanh(w) / (1 - 0.05), and with
    its own c for each image. The margin is max_{i != t} Z_i - Z_t for a target t, and Z_y - max_{i != y} Z_i
    without one. An image for which no adversarial is found is returned unchanged, as is one that is already
    misclassified, by whatever margin.

    By default c starts at the multiplier of the image's own linearised problem, each step goes a decaying fraction of
    the way to the minimum under the mean of the latest tangents, in w, and each search aims at another class, the
    nearest in the linearised model first. Images leave once no class promises a smaller change than they have: on a
    CIFAR-10 network, after about 65 of the 250 passes allowed. Without ``initial_c``, a walk of at most 21 passes then
    comes back from noise far away; where it ends closer by a twentieth, gradients near the image are uninformative,
    and up to eight more walks follow: together they are allowed as many passes as the searches.

    The paper's own search is ``CW(model, initial_c=1e-3, binary_search_steps=9, steps=1000, schedule="constant")``:
    Adam on w with a constant step size from the image itself, with c multiplied by ten until an adversarial is found
    and then bisected between the largest c that failed and the smallest that succeeded. In it, an image leaves a
    search when a tenth of its steps pass without decreasing the objective.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, section VI: the box constraint
    by tanh, objective f_6, and binary search on c.
    arXiv:1608.04644.

    Args:
        model: pixels (N, ...) to logits (N, K).
        kappa: the margin that a success must have, at least 0, in units of the logits.
        initial_c: the first c, positive; None for a multiple of the one that solves the linearised problem.
        binary_search_steps: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        lr: Adam's step size in w, positive; only the schedule "constant" takes steps of a given size.
        schedule: "cosine" for advkit's search with decaying steps, "constant" for the paper's search.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> just = advkit.CW(model).run(images, labels)
        >>> bool(just.distance("l2").median() < advkit.DeepFool(model).run(images, labels).distance("l2").median())
        True
        >>> clearly = advkit.CW(model, kappa=1.0)(images, labels)
        >>> bool((advkit.losses.margin(model(clearly), labels) < -0.99).all())
        True
    """

    norm: ClassVar[Norm] = L2

    def _objective(self) -> SquaredL2:
        return SquaredL2(self.bounds)

    def _published(self, search: Bisection) -> Tensor:
        for rows in search.rounds(self.binary_search_steps, _Moments):
            iterate(self.classifier, rows, self._adam, steps=self.steps - 1, loss="margin", keep=search.closest)
        return search.closest.images

    def _adam(self, rows: _Moments, look: Look) -> Tensor:
        """A step of Adam on w, with x = mid + reach * tanh(w): where it leads to, (n, ...)."""
        box = TanhBox(self.bounds)
        slope = rows.descent(look, self.steps).mul_(box.slope(rows.x))  # of the rows that go on, and so before Adam
        mean, scale = rows.adam.see(slope, look.step)
        return box.stepped(rows.x, -self.lr * mean / scale)
