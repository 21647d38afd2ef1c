"""Numbers as reports and pictures write them, and what errors advise."""

import math

import torch
from torch import Tensor

__all__ = ["for_all", "short"]


def short(value: object) -> str:
    """A hyperparameter as the field writes it: an eps of 0.0314 is 8/255, and one of 0.2 is not 51/255."""
    if isinstance(value, float) and 0 < value < 1 and not math.isclose(float(f"{value:.3g}"), value, rel_tol=1e-6):
        levels = round(255 * value, 1)
        if abs(255 * value - levels) < 1e-6 and levels:
            return f"{levels:g}/255"
    if isinstance(value, Tensor) and value.ndim and value.dtype == torch.bool:
        return f"[{int(value.sum())} of {value.numel()}]"
    if isinstance(value, Tensor) and value.ndim:
        return f"[{short(float(value.min()))} to {short(float(value.max()))}]" if value.numel() else "[]"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def for_all(name: str, value: Tensor) -> str:
    """What to do with a hyperparameter that has a value (N,), or an image (N, ...), for the images of one batch."""
    if value.ndim > 1:
        return f"omit {name}, or attack each batch by itself, with the values of its images"
    return f"give one {name} for all images"
