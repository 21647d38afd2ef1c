"""Projected gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.ascent import Ascent, L2Ascent, LinfAscent, ascend
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, flag, number
from advkit.norms import Norm, column

__all__ = ["PGD"]

_ASCENTS: dict[Norm, type[Ascent]] = {norms.Linf: LinfAscent, norms.L2: L2Ascent}


@dataclass(frozen=True, eq=False)
class PGD(Attack):
    """Projected gradient descent (Linf or L2).

    x <- project(x + alpha * steepest(grad_x J(x, y))), back into the ball of radius ``eps`` around the image and
    into the box, from a random point of the ball. ``steepest`` is the sign of the gradient for Linf, and the
    gradient over its L2 norm for L2. ``steps`` forwards and as many backwards.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        alpha: the length of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        random_start: start at a point drawn uniformly from the ball, rather than at the image.
        norm: "linf" or "l2", or `advkit.norms.Linf` or `advkit.norms.L2`.
        early_stop: let an image leave as soon as it is fooled; it then stands where it first was.
        bounds: the lowest and the highest value of a pixel.
        generator: where the random start is drawn from; torch's default generator if None.

    Raises:
        InputError: a number is out of its range, or there is no PGD for the norm; see `Attack` for the rest.
    """

    independent_rows: ClassVar[bool] = True

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    random_start: bool = flag(True)
    norm: str | Norm = hyperparameters.norm("linf", "l2")
    early_stop: bool = flag(False)

    @property
    def stops_at_success(self) -> bool:
        """Whether an image leaves as soon as it is fooled: it was asked for."""
        return self.early_stop

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        norm = norms.get(self.norm)
        rows = _ASCENTS[norm](images, images, goal, self.eps, self.alpha, self.bounds)
        if self.random_start:
            noise = norm.sample(images, self.generator) * column(self.eps, images)
            rows.x = rows.within(noise.add_(images))
        return ascend(
            self._classifier,
            rows,
            lambda _, gradient: norm.steepest(gradient),
            steps=self.steps,
            early_stop=self.early_stop,
        )
