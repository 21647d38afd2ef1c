"""Checks of what callers pass in, each a sentence: what was wrong, what was seen, what to do."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from advkit.errors import DtypeError, InputError

__all__ = [
    "check_bounds",
    "check_choice",
    "check_classes",
    "check_generator",
    "check_images",
    "check_model",
    "check_number",
    "check_per_row",
    "check_rows",
    "check_targets",
]

_ROUNDINGS = 4  # units in the last place that normalising and going back, or a filter, may put a pixel outside


def check_model(model: object) -> None:
    """Refuse a model that cannot be called."""
    if not callable(model):
        several = "; for several at once give advkit.Ensemble(models)" if isinstance(model, (list, tuple)) else ""
        raise DtypeError(f"model must be callable, pixels in and logits out; got {type(model).__name__}{several}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_generator(generator: object) -> None:
    """Refuse a seed where a generator is wanted."""
    if generator is not None and not isinstance(generator, torch.Generator):
        seed = generator if isinstance(generator, Integral) else 0
        raise DtypeError(
            f"generator must be a torch.Generator or None, got {generator!r}; for a seed, give "
            f"torch.Generator().manual_seed({seed})"
        )


def check_number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    integer: bool = False,
) -> None:
    """Refuse a hyperparameter that is no number, not finite, or out of its range."""
    if isinstance(value, bool) or not isinstance(value, Integral if integer else Real):  # numpy's count too
        raise DtypeError(f"{name} must be {'an integer' if integer else 'a number'}, got {value!r}")
    number = float(value)
    limits = [
        (above, number > above, "greater than"),
        (at_least, number >= at_least, "at least"),
        (at_most, number <= at_most, "at most"),
    ]
    if not math.isfinite(number) or not all(holds for _, holds, _ in limits):
        wanted = " and ".join(f"{words} {limit:g}" for limit, _, words in limits if math.isfinite(limit))
        raise InputError(f"{name} must be {wanted or 'finite'}, got {value!r}")


def check_per_row(name: str, value: object, *, positive: bool = False) -> None:
    """Refuse a budget or step size that is neither a number >= 0 (> 0) nor a tensor of shape (N,) of such.

    Zeros are allowed in a tensor of step sizes: they say that a row does not move.
    """
    if not isinstance(value, Tensor):
        check_number(name, value, at_least=0, above=0 if positive else -math.inf)
    elif value.ndim > 1 or not value.is_floating_point():
        raise InputError(
            f"{name} must be a number, or a floating tensor of shape (N,) with one value for each image; "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    elif not bool((value.isfinite() & (value >= 0)).all()):
        raise InputError(f"{name} must be at least 0 and finite for every image, got {value.tolist()}")


def check_rows(name: str, value: Tensor, images: Tensor, bounds: tuple[float, float]) -> None:
    """Refuse a hyperparameter that is given for each image of another batch, and images outside ``bounds``."""
    if value.ndim > 1:
        if value.shape != images.shape:
            raise InputError(
                f"{name} has shape {tuple(value.shape)}, but a batch of images of shape {tuple(images.shape)} needs "
                "one image for each of them, in the same shape"
            )
        slack = _slack(value, bounds)
        if bool(((value < bounds[0] - slack) | (value > bounds[1] + slack)).any()):
            raise InputError(f"{name} must lie within bounds={bounds}, as images do; clamp it first")
        return
    if value.shape != images.shape[:1]:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}, but a batch of {images.shape[0]} images needs one number or "
            f"shape ({images.shape[0]},)"
        )


def check_bounds(bounds: object) -> None:
    """Refuse bounds that are not two finite numbers in order."""
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise InputError(f"bounds must be a pair (low, high), the range of a pixel; got {bounds!r}")
    for name, value in zip(("bounds[0]", "bounds[1]"), bounds, strict=True):
        check_number(name, value)
    if bounds[0] >= bounds[1]:
        raise InputError(f"bounds must be (low, high) with low < high, got {bounds!r}")


def check_images(images: object, bounds: tuple[float, float]) -> None:
    """Refuse images that are not a floating batch within bounds."""
    if not isinstance(images, Tensor):
        raise DtypeError(f"images must be a tensor of shape (N, ...), got {type(images).__name__}")
    if not images.is_floating_point():
        raise DtypeError(
            f"images must be floating, got {images.dtype}; scale integer pixels first, such as images.float() / 255"
        )
    if images.ndim < 2:
        raise InputError(
            f"images must be a batch of shape (N, ...), got {tuple(images.shape)}; add a batch dimension with "
            "images.unsqueeze(0)"
        )
    if not images.numel():
        return
    low, high = torch.stack(images.detach().aminmax()).tolist()
    if bounds[0] <= low and high <= bounds[1]:
        return
    if math.isnan(low) or math.isnan(high):
        raise InputError(f"images contain NaN: {_places(images.detach().isnan().flatten(1).any(1))}")
    slack = _slack(images, bounds)
    if low < bounds[0] - slack or high > bounds[1] + slack:
        raise InputError(
            f"images lie in [{_exact(low, bounds)}, {_exact(high, bounds)}], outside bounds=({bounds[0]:g}, "
            f"{bounds[1]:g}). If a filter or a resize has overshot, clamp them: images.clamp({bounds[0]:g}, "
            f"{bounds[1]:g}). If they are normalised, pass pixels instead, and put the normalisation inside the model: "
            "advkit.Normalized(net, mean, std). If they have another range, state it: bounds=(low, high)"
        )


def _slack(images: Tensor, bounds: tuple[float, float]) -> float:
    """How far outside the bounds a rounding may put pixels."""
    return _ROUNDINGS * torch.finfo(images.dtype).eps * max(map(abs, bounds))


def _exact(value: float, bounds: tuple[float, float]) -> str:
    """A value in as few digits as show on which side of the bounds it lies."""
    if value in bounds:
        return f"{value:g}"
    return next((text for digits in (6, 9) if float(text := f"{value:.{digits}g}") not in bounds), repr(value))


def _places(rows: Tensor) -> str:
    """Which images of a batch, bool (N,), in words."""
    places = rows.nonzero().squeeze(1).tolist()
    shown = ", ".join(map(str, places[:10])) + (", ..." if len(places) > 10 else "")
    return f"{len(places)} of {len(rows)}, at index {shown}"


def check_classes(name: str, classes: object, images: Tensor) -> None:
    """Refuse class indices that are not one non-negative integer for each image."""
    if not isinstance(classes, Tensor):
        raise DtypeError(f"{name} must be an int64 tensor of shape (N,), got {type(classes).__name__}")
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise DtypeError(f"{name} must be integer class indices, got {classes.dtype}")
    if classes.shape != images.shape[:1]:
        alone = images.ndim == 3 and classes.numel() == 1
        raise InputError(
            f"{name} must have shape ({images.shape[0]},), one class for each of the images of shape "
            f"{tuple(images.shape)}; got {tuple(classes.shape)}"
            + ". If that is a single image, make a batch of it: images[None], labels.reshape(1)"
            * alone
        )
    smallest = int(classes.long().min()) if classes.numel() else 0
    if smallest < 0:
        raise InputError(f"{name} must be class indices, at least 0; the smallest is {smallest}")


def check_targets(targets: Tensor, labels: Tensor) -> None:
    """Refuse labels as targets: such an image would be a success as it is."""
    same = targets == labels.to(targets.device)
    if bool(same.any()):
        raise InputError(
            f"targets must differ from the labels, but are the same for {_places(same)}; draw "
            "them from the other classes, as by (labels + torch.randint(1, K, labels.shape)) % K, or omit targets for "
            "an untargeted attack"
        )
