"""On which images no attack can fool a network within a budget: proved, by bounds on its outputs."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.bounds.chain import chain, copied
from advkit._engine.bounds.crown import Around, interval_margins, margins
from advkit._engine.bounds.layers import Step
from advkit._engine.checks import check_bounds, check_choice, check_classes, check_images, check_number
from advkit._engine.classifier import predict
from advkit.attack import Attack
from advkit.errors import AdvkitWarning, InputError
from advkit.evaluation.flags import Flag, balls
from advkit.model import Model, placement
from advkit.norms import Norm

__all__ = ["Verifier", "contradicted", "margin_bounds", "verifier_within", "verify"]

_NUMBERS = 2**14  # of the widest layer, in a part of a batch
_BUDGET = (
    1e-4  # of a budget, that an attack's answer may be beyond it by rounding, and this share of the pixels' range:
)
_RANGE = 1e-6
_ROUNDINGS = 100  # units in the last place that the model's own logits may be off
_AS_MUCH = 10  # and this many times as much as they are off at the image itself


def verify(
    model: Model,
    images: Tensor,
    labels: Tensor,
    norm: str | Norm = "linf",
    eps: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """On which images the model is right, and provably so on every image within the budget.

    First by intervals, and where these do not suffice by CROWN; see `margin_bounds`. True is a proof, for the network
    as its layers define it and up to rounding errors of its own logits. False proves nothing: an attack may succeed, or
    the bounds may be too loose.

    Args:
        model: pixels (N, ...) to logits (N, K): an `nn.Sequential` of layers through which bounds can be propagated,
            also behind `advkit.Normalized`, in any mode; the proof is about eval mode. It is not changed.
        images: floating (N, ...), within the bounds.
        labels: int64 (N,).
        norm: of the budget: "linf", "l2" or "l1".
        eps: the budget, in units of pixels, at least 0.
        bounds: the lowest and the highest value of a pixel.

    Returns:
        bool (N,), on the images' device.

    Raises:
        InputError: bounds cannot be propagated through a layer, which the error names; or another argument is wrong.

    Examples:
        >>> proved = advkit.evaluation.verify(model, images, labels, eps=0.5 / 255)
        >>> fooled = advkit.PGD(model, eps=0.5 / 255).run(images, labels).success
        >>> bool((proved & fooled).any())
        False
    """
    return Verifier(model, [(norms.get(norm), eps)], bounds)(images, labels).to(images.device)


def margin_bounds(
    model: Model,
    images: Tensor,
    labels: Tensor,
    norm: str | Norm = "linf",
    eps: float = 8 / 255,
    bounds: tuple[float, float] = (0.0, 1.0),
    method: Literal["interval", "crown"] = "crown",
) -> Tensor:
    """Lower bounds on how far the label's logit stays above each other one, on every image within the budget.

    Args:
        model: as for `verify`, like the others.
        images: floating (N, ...).
        labels: int64 (N,).
        norm: "linf", "l2" or "l1".
        eps: the budget.
        bounds: of the pixels.
        method: "interval" for interval bound propagation (Gowal et al. 2019), which takes about two forwards; or
            "crown" for linear bounds propagated backwards (Zhang et al. 2018), which are never looser, and take many.

    Returns:
        (N, K), float64 (float32 on MPS), on the images' device; 0 for the label itself.

    Raises:
        InputError: as for `verify`.

    Examples:
        >>> advkit.evaluation.margin_bounds(model, images, labels, eps=1 / 255).shape
        torch.Size([12, 10])
    """
    check_choice("method", method, ("interval", "crown"))
    verifier = Verifier(model, [(norms.get(norm), eps)], bounds)
    pixels, classes = verifier.checked(images, labels)
    (ball,) = verifier.balls
    return verifier.margins(pixels, classes, ball, method).to(images.device)


def verifier_within(model: Model, attacks: Iterable[Attack]) -> "Verifier":
    """What proves that these attacks, and all others within their budgets, cannot fool a model.

    Raises:
        InputError: none of them has a budget, or the model cannot be followed.
    """
    attacks = list(attacks)
    within = balls(attacks)
    if not within:
        raise InputError(
            "certify=True proves that no attack within a budget can fool the model, but none of these attacks has one; "
            "give one that has, such as advkit.PGD(model, eps=8 / 255), or the name of a verdict"
        )
    bounds = min(one.bounds[0] for one in attacks), max(one.bounds[1] for one in attacks)
    slack = _RANGE * (bounds[1] - bounds[0])
    return Verifier(model, [(norm, eps * (1 + _BUDGET) + slack) for norm, eps in within], bounds)


def contradicted(standing: Sequence[bool], proved: Sequence[bool]) -> tuple[Flag, ...]:
    """The flag for images that are proved and yet fooled, and a warning of them: this cannot be.

    Args:
        standing: for each image, whether the model is right under every attack.
        proved: whether no attack can fool it; nothing where nobody asked.
    """
    both = [place for place, (stands, safe) in enumerate(zip(standing, proved, strict=False)) if safe and not stands]
    if not both:
        return ()
    places = ", ".join(map(str, both[:10])) + (", ..." if len(both) > 10 else "")
    sentence = (
        f"{len(both)} images are proved to be safe within the budget, and yet an attack fooled them (at {places} in "
        "the loader's order). One of the two is wrong, and so is one of the numbers: check that the model is "
        "deterministic in eval mode, and report this to advkit's authors."
    )
    warnings.warn(sentence, AdvkitWarning, stacklevel=3)
    return (Flag("verified and yet fooled", sentence, "this cannot be", "none"),)


class Verifier:
    """A network, ready to be verified on one batch after another.

    Args:
        model: as for `verify`.
        balls: norms and radii; an image is verified if it is in all of them.
        bounds: of the pixels.
    """

    def __init__(self, model: Model, balls: Sequence[tuple[Norm, float]], bounds: tuple[float, float]) -> None:
        check_bounds(bounds)
        for norm, eps in balls:
            check_number("eps", eps, at_least=0)
            if norm is norms.L0:
                raise InputError("no bounds are known for L0; use linf, l2 or l1")
        self.model, self.balls, self.bounds = model, list(balls), bounds
        self.device = placement(model)[0]
        exact = self.device is None or self.device.type != "mps"
        self.dtype = torch.float64 if exact else torch.float32
        self._steps: list[Step] = chain(copied(model, self.dtype))

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which images are verified: bool (n,), on the CPU."""
        pixels, classes = self.checked(images, labels)
        verified = torch.zeros(len(images), dtype=torch.bool, device="cpu")
        if not len(images):
            return verified
        logits = self._answers(pixels)
        said = predict(self.model, images, {"labels": labels}).to(logits.device)
        self._check_same(logits, said)
        dtype = placement(self.model)[1] or images.dtype
        off = (logits - said).abs().amax(1)  # what rounding does to the model's own logits, where it can be seen
        slack = torch.maximum(_ROUNDINGS * torch.finfo(dtype).eps * (1 + logits.abs().amax(1)), _AS_MUCH * off)
        rows = (said.argmax(1) == classes).nonzero().squeeze(1)
        for ball in self.balls:
            rows = rows[self._proved(pixels[rows], classes[rows], ball, slack[rows])]
        verified[rows.cpu()] = True
        return verified

    def checked(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels where and in what the work is done."""
        check_images(images, self.bounds)
        check_classes("labels", labels, images)
        device = self.device or images.device
        return images.detach().to(device, self.dtype), labels.to(device, torch.int64)

    @torch.no_grad()
    def margins(self, pixels: Tensor, labels: Tensor, ball: tuple[Norm, float], method: str) -> Tensor:
        """See `margin_bounds`."""
        if not len(pixels):
            return pixels.new_zeros(0, self._answers(pixels).shape[1])
        around = Around.of(pixels, *ball, self.bounds)
        if method == "interval":
            return interval_margins(self._steps, around, labels)
        widest = self._widest(pixels[:1])
        parts = torch.arange(len(pixels), device=pixels.device).split(max(1, _NUMBERS // widest))
        return torch.cat([margins(self._steps, around.rows(some), labels[some]) for some in parts])

    def _proved(self, pixels: Tensor, labels: Tensor, ball: tuple[Norm, float], slack: Tensor) -> Tensor:
        """Which images are proved, bool (n,): by intervals, and the others by linear bounds."""
        proved = torch.zeros_like(labels, dtype=torch.bool)
        for method in ("interval", "crown"):
            left = (~proved).nonzero().squeeze(1)
            if len(left):
                found = self.margins(pixels[left], labels[left], ball, method)
                others = found.scatter(1, labels[left, None], torch.inf).amin(1)
                proved[left] = others > slack[left]
        return proved

    @torch.no_grad()
    def _answers(self, pixels: Tensor) -> Tensor:
        for step in self._steps:
            pixels = step(pixels)
        return pixels

    @torch.no_grad()
    def _widest(self, pixels: Tensor) -> int:
        """The most features that any layer has."""
        widest = pixels.numel()
        for step in self._steps:
            pixels = step(pixels)
            widest = max(widest, pixels.numel())
        return widest

    def _check_same(self, logits: Tensor, said: Tensor) -> None:
        """Refuse a model that does not answer as its layers do in turn."""
        scale = 1 + said.abs().amax(1, keepdim=True)
        off = ((logits - said) / scale).abs().amax() if logits.shape == said.shape else torch.inf
        if not off <= 0.1:
            raise InputError(
                "the model's outputs differ from those of its layers in sequence, so a proof about these "
                "would not hold for it; bounds can be propagated through a plain nn.Sequential"
            )
