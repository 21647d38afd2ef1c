"""Universal adversarial perturbations."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.classifier import Classifier
from advkit.attacks.fitted.base import Fitted
from advkit.attacks.minimal import DeepFool
from advkit.errors import InputError
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, choice, number
from advkit.norms import Norm

__all__ = ["Universal"]


@dataclass(frozen=True, eq=False)
class Universal(Fitted):
    """A universal perturbation (Linf or L2): one perturbation that fools the model on most images.

    ``fit`` learns it from a loader, by one of two methods. "ascent" takes a step on each batch,
    v <- project(v + alpha * steepest(sum_i grad_v min(J(clip(x_i + v), y_i), beta))): clipping the loss keeps images
    that are already misclassified from outweighing the others. "deepfool" goes through the images one by one, and for
    each that v does not fool adds the perturbation r that `DeepFool` finds: v <- project(v + r). It takes many more
    passes, and fools fewer images.

    The attack cannot be called before it is fitted. Afterwards it adds ``pattern`` to images, without querying the
    model. `Attack.on` keeps the pattern for another model: to attack that model with knowledge of it, fit again.

    Moosavi-Dezfooli, Fawzi, Fawzi & Frossard, "Universal adversarial perturbations", CVPR 2017, algorithm 1, is
    "deepfool". arXiv:1610.08401. "ascent" is Shafahi, Najibi, Xu, Dickerson, Davis & Goldstein, "Universal adversarial
    training", AAAI 2020, with decaying steps.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or, once it is fitted, also a tensor of shape (N,), to which
            the pattern is projected; 10/255 of the range of ``bounds`` if not given.
        norm: "linf" or "l2", or `advkit.norms.Linf` or `advkit.norms.L2`.
        method: "ascent" or "deepfool".
        alpha: the length of the first steps of the ascent, positive; half of ``eps`` if not given.
        target: the class to be predicted for all images; None for any class but the label.
        loss: the loss that the ascent maximises; see `PGD`.
        beta: where the loss of each image is clipped, greater than 0.
        pattern: the perturbation, of the shape of one image, if it is known already.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range, the norm is not supported, or the attack is called before it is
            fitted, or on images of another shape than it was fitted on; see `Attack` for the rest.

    Examples:
        >>> attack = advkit.Universal(model, eps=32 / 255).fit(loader, epochs=5)
        >>> attack.pattern.shape
        torch.Size([3, 16, 16])
        >>> result = attack.run(images, labels)
        >>> bool((result.distance("linf") <= 32 / 255 + 1e-6).all())
        True
        >>> report = advkit.evaluate(model, loader, [attack])
        >>> attack.picture().shape  # no change is grey
        torch.Size([3, 16, 16])
    """

    eps: float | Tensor = number(OfRange(10 / 255), at_least=0, per_image=True)
    norm: str | Norm = hyperparameters.norm("linf", "l2")
    _: KW_ONLY
    method: str = choice("ascent", "deepfool")
    alpha: float | Tensor = number(OfEps(5 / 255, 1 / 2), above=0, per_image=True)

    def _begin(self, images: Tensor) -> Tensor:
        return torch.zeros_like(images[0])

    def _applied(self, images: Tensor, pattern: Tensor) -> Tensor:
        self._check_shape(images, pattern)
        return (images + pattern).clamp(*self.bounds)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        pattern = self._known().to(images)
        self._check_shape(images, pattern)
        pattern = pattern.expand_as(images) if self.mask is None else pattern.where(self.mask, 0)
        return images + norms.get(self.norm).project(pattern, self.eps)

    def _check_shape(self, images: Tensor, pattern: Tensor) -> None:
        """Refuse a pattern for images of another shape."""
        one, whole = pattern.shape, images.shape[1:]
        if len(one) > len(whole) or any(
            mine not in (1, its) for mine, its in zip(one[::-1], whole[::-1], strict=False)
        ):
            raise InputError(
                f"the pattern has shape {tuple(one)}, but images of shape {tuple(images.shape)} need one of shape "
                f"{tuple(whole)}"
            )

    def _moved(self, pattern: Tensor, slope: Tensor, share: float) -> Tensor:
        norm = norms.get(self.norm)
        step = norm.steepest(slope[None]) * (share * self.alpha)
        return norm.project(pattern[None] + step, self.eps)[0]

    def _learned(
        self, pattern: Tensor, images: Tensor, goal: Goal, model: Classifier, share: float
    ) -> tuple[Tensor, list[Tensor]]:
        if self.method == "ascent":
            return super()._learned(pattern, images, goal, model, share)
        norm = norms.get(self.norm)
        search = DeepFool(model, norm=norm, bounds=self.bounds)
        with torch.no_grad():
            fooled = goal.success(model.logits(self._pasted(images, pattern)))
        for row in (~fooled).nonzero():  # one after the other: each is to be fooled with what the others have added
            x = self._pasted(images[row], pattern)
            added = (search._perturb(x, goal.rows(row)) - x).detach()
            pattern = norm.project(pattern[None] + added, self.eps)[0]
        return pattern, [fooled]

    def _shown(self, pattern: Tensor) -> Tensor:
        return 0.5 + pattern / (2 * pattern.abs().max()).clamp_min(torch.finfo(pattern.dtype).tiny)
