"""The one loop of all transfer attacks, composed of parts."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters
from advkit._engine.ball import LinfBall
from advkit._engine.resampling import own_precision
from advkit.attack import Attack
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import PLACES, Part, PartList
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, declared, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm, column

__all__ = ["AtSixteen", "Shorthand", "Transfer"]


@dataclass(frozen=True, eq=False)
class Transfer(Attack):
    """Sign steps on a surrogate model, composed of parts, so that the images fool another model (Linf).

    Each step applies the parts in this order, whatever that of the list: x~ = look(x); g = the gradient at x~, or what
    a part makes of several (`Part.slope`), each averaged over the copies that parts show the model (`Part.inputs`, in
    the order of the list); g <- K * g (`Part.gradient`); m <- mu m + g / mean|g| (`Part.direction`);
    x <- project(x + alpha sign(m)) (`Part.step`). With no parts this is `IFGSM`, and with ``[Momentum()]`` it is
    `MIFGSM`.

    The model is the surrogate whose gradients are available, or an `advkit.Ensemble` of several. `run` judges success
    on the surrogate: run the model that you mean to fool on ``.images``.

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, is the step with momentum
    alone; the papers of the other parts are in their docstrings. arXiv:1710.06081.

    Args:
        model: pixels (N, ...) to logits (N, K).
        parts: what the attack is composed of: objects of `advkit.attacks.transfer`, or your own `Part`s.
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1. Targeted attacks need some 300, and ``loss="logit"``.
        loss: the loss to maximise: "ce", "margin", "dlr", "log_odds" or "logit", or a function of logits (N, K) and
            classes (N,) that returns one number per image; see `advkit.losses.get`. With targets it is minimised.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the parts; torch's default if None.

    Raises:
        InputError: a number is out of its range, the parts do not go together, or one does not apply to the images;
            see `Attack` for the rest.

    Examples:
        >>> from advkit.attacks.transfer import InputDiversity, Momentum, TranslationKernel
        >>> attack = advkit.Transfer(model, [InputDiversity(), TranslationKernel(size=5), Momentum()], steps=5)
        >>> print(attack)
        Transfer(parts=[InputDiversity(), TranslationKernel(size=5), Momentum()], steps=5)
        >>> result = attack.run(images, labels)
        >>> bool((result.distance("linf") <= 16 / 255 + 1e-6).all())
        True
    """

    norm: ClassVar[Norm] = Linf
    spatial: ClassVar[bool] = True

    parts: Sequence[Part] = declared(MISSING, PartList())
    eps: float | Tensor = number(OfRange(16 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(1.6 / 255, 1 / 10), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    _: KW_ONLY
    loss: str | Loss = hyperparameters.loss()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "independent_rows", all(part.independent_rows for part in self.parts))

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        for part in self.parts:
            part.check_images(images)
        at = {place: [part for part in self.parts if part.answers(place)] for place in PLACES}
        ball = LinfBall(images, self.eps, self.bounds)
        ball = ball if self.mask is None else ball.held(self.mask)
        ascent = Ascent(
            images, self.classifier, goal, ball, self.alpha, at["inputs"], self.loss, self.generator, free=self.mask
        )
        ascent.x = ascent.through(at["start"], "start", ascent.x)
        for count in range(self.steps):
            ascent.is_last = count == self.steps - 1
            place = ascent.through(at["look"], "look", ascent.x)
            gradient = ascent.through(at["slope"], "slope", place) if at["slope"] else ascent.gradient(place)
            with own_precision(images.device):
                gradient = ascent.through(at["gradient"], "gradient", gradient)
                direction = ascent.through(at["direction"], "direction", gradient)
                step = direction.sign().mul_(column(self.alpha, direction))
                ascent.x = ball.project(ascent.through(at["step"], "step", step).add_(ascent.x))
        return ascent.x


@dataclass(frozen=True, eq=False)
class Shorthand(Attack):
    """A `Transfer` under the name and with the arguments of its paper. Subclasses define the `parts`.

    Examples:
        >>> from advkit.attacks.transfer import TranslationKernel
        >>> nesterov = advkit.NIFGSM(model)
        >>> nesterov.parts
        [Nesterov(), Momentum()]
        >>> result = advkit.Transfer(model, [*nesterov.parts, TranslationKernel(size=5)]).run(images, labels)
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf
    spatial: ClassVar[bool] = True

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor | None = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    _: KW_ONLY
    loss: str | Loss = hyperparameters.loss()

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """What it is composed of, for a `Transfer` with more parts."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        whole = Transfer(self.model, self.parts, self.eps, steps=self.steps, loss=self.loss, bounds=self.bounds)
        alpha = self.eps / self.steps if self.alpha is None else self.alpha
        return whole._with(alpha=alpha, generator=self.generator, mask=self.mask)._perturb(images, goal)


@dataclass(frozen=True, eq=False)
class AtSixteen(Shorthand):
    """A shorthand with the budget of later papers, 16/255 in ten steps, and with momentum."""

    eps: float | Tensor = number(OfRange(16 / 255), at_least=0, per_image=True)
    alpha: float | Tensor | None = number(OfEps(1.6 / 255, 1 / 10), above=0, per_image=True)
    decay: float = number(1.0, at_least=0)
