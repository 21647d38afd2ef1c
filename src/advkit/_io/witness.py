"""A model's outputs, so that a resumed run can tell whether it is still the same model.

Layers and weights tell most models apart, but not one function or attribute from another. So the model is run on a few
images again, and differentiated where attacks take gradients. The numbers are kept, rather than a digest of them, since
other devices round differently.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier, own, predict
from advkit._io.rng import repeatable
from advkit.model import Model, attacking, is_stochastic, placement

__all__ = ["Witness", "agree", "asked", "introduced", "is_known", "spread"]

_IMAGES = 8
_NUMBERS = 1000  # of each draw, at most: fewer images where there are many classes
_PIXELS = 32  # of each image, whose gradients are kept
_DRAWS = 10  # of a random model
_LOGIT = 1000.0  # what is larger is a mask, or has a scale of its own
_ALIKE, _ELSEWHERE = 1e-3, 3e-2  # what is rounding: on the same kind of device, and on another one or in 16 bits
_ERRORS = 6.0  # standard errors between the mean answers of random models that are two
_BENT = 0.3  # how far a gradient may turn by rounding, at the kinks of a network


@dataclass
class Witness:
    """What a model said of the first few images of a batch.

    Attributes:
        logits: (draws, images, K). There are 2 draws where the second was as the first. Empty if the model raised.
        gradients: of the largest logit with respect to some pixels, (images, pixels), as each attacker gets them.
            Empty where there are none, or not the same ones twice.
    """

    logits: list[list[list[float]]] = field(default_factory=list)
    gradients: list[list[list[float]]] = field(default_factory=list)


def asked(
    model: Model, images: Tensor, *names: object, seed: int | None, device: torch.device, adaptive: Sequence[bool]
) -> Witness:
    """Ask a model about the first few images, more than once.

    Args:
        model: pixels (N, ...) to logits (N, K).
        images: (n, ...), n at least 1.
        *names: what the model's random numbers are called by.
        seed: where they come from, see `repeatable`.
        device: where the model works.
        adaptive: by which attackers to ask for gradients as well; see `attacking`.
    """
    images = images[:_IMAGES]
    with repeatable(seed, *names, device=device):
        said = _answers(lambda: predict(model, images), 2)
        if said and (is_stochastic(model) or not _close(said[0], said[1], _ALIKE)):
            said += _answers(lambda: predict(model, images), _DRAWS - 2)
    slopes = []
    for knows in adaptive if said else ():
        with repeatable(seed, *names, "gradients", device=device):
            twice = _answers(partial(_gradients, model, images, adaptive=knows), 2)
        slopes.append(_written(twice[0]) if twice and _same_slopes(twice[0], twice[1]) else [])
    kept = max(1, _NUMBERS // said[0].shape[1]) if said else 0
    return Witness([_written(one[:kept]) for one in said], slopes)


def agree(before: Witness, now: Witness, *, alike: bool) -> bool:
    """Whether both may be of one model. Nothing is held against a model that raised.

    A random model gives the same answers again from the same seed, on the same kind of device. Otherwise the means
    over its draws are held against their spread.

    Args:
        before: what was answered.
        now: what is answered, to the same images.
        alike: whether the devices and the precision are the same. Gradients are not compared otherwise.
    """
    if not before.logits or not now.logits:
        return True
    old, new = _tensor(before.logits), _tensor(now.logits)
    if old.shape[1:] != new.shape[1:] or not _same_answers(old, new, _ALIKE if alike else _ELSEWHERE):
        return False
    pairs = zip(before.gradients, now.gradients, strict=False) if alike else ()
    return all(_same_slopes(_tensor(one), _tensor(other)) for one, other in pairs if one and other)


def introduced(model: Model, images: Tensor) -> dict[str, Any]:
    """What a model answers to the first few images (n, ...), n at least 1, to know it again by: as JSON can say it."""
    images = images if images.is_floating_point() else images / 255
    device, dtype = placement(model)
    said = asked(model, images, "introduced", seed=0, device=device or images.device, adaptive=())
    bits = torch.finfo(dtype or images.dtype).bits
    return {"logits": said.logits, "where": [(device or images.device).type, bits]}


def is_known(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether both may be of one model, which was `introduced` twice; see `agree`."""
    alike = before["where"] == now["where"] and now["where"][1] > 16
    return agree(Witness(before["logits"]), Witness(now["logits"]), alike=alike)


def spread(indices: Sequence[int]) -> set[int]:
    """The 1st, 2nd, 4th, 8th ... of the indices: where a run that goes on asks the models again."""
    return {indices[2**power - 1] for power in range(len(indices).bit_length())}


def _answers(ask: Callable[[], Tensor], times: int) -> list[Tensor]:
    try:
        return [ask().double().cpu() for _ in range(times)]
    except Exception:  # whoever's fault it is, the evaluation itself comes upon it
        return []


def _gradients(model: Model, images: Tensor, *, adaptive: bool) -> Tensor:
    """The gradient of each image's largest logit with respect to some of its pixels: (n, pixels)."""
    with attacking(model, adaptive=adaptive):
        classifier = Classifier(model, {})
        pixels = own(images, *classifier.workplace(images)).requires_grad_()
        gradient = classifier.gradient(classifier.logits(pixels).amax(1), pixels).flatten(1)
    return gradient[:, :: max(1, gradient.shape[1] // _PIXELS)][:, :_PIXELS]


def _same_answers(old: Tensor, new: Tensor, rounding: float) -> bool:
    """Whether logits (draws, n, K) may be of one model."""
    draws = min(len(old), len(new))
    if _close(old[:draws], new[:draws], rounding):
        return True
    if draws <= 2:
        return False
    old, new = (one.nan_to_num(0.0).clamp(-_LOGIT, _LOGIT) for one in (old, new))
    chance = (old.var(0) / len(old) + new.var(0) / len(new)).sum()
    return bool((old.mean(0) - new.mean(0)).square().sum() <= _ERRORS**2 * chance)


def _same_slopes(old: Tensor, new: Tensor) -> bool:
    """Whether most of the gradients (n, pixels) are the same, but for those that lie at a kink."""
    if old.shape != new.shape:
        return False
    off = (old - new).norm(dim=1) <= _BENT * old.norm(dim=1)
    return bool(2 * off.sum() >= len(off))


def _close(one: Tensor, other: Tensor, rounding: float) -> bool:
    """Whether logits (..., K) are the same but for rounding, which is relative to those that are no masks."""
    sizes = one.abs().nan_to_num(torch.inf)
    scale = float(sizes[sizes <= _LOGIT].mean().nan_to_num(0.0))
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _tensor(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _written(numbers: Tensor) -> list[list[float]]:
    """Numbers (n, m) with the digits that are theirs."""
    return [[float(f"{value:.7g}") for value in row] for row in numbers.tolist()]
