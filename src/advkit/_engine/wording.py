"""Numbers as reports and pictures write them."""

import torch
from torch import Tensor

__all__ = ["short"]


def short(value: object) -> str:
    """A hyperparameter as the field writes it: an eps of 0.0314 is 8/255."""
    if isinstance(value, float) and 0 < value < 1 and abs(value * 255 - round(value * 255)) < 1e-6:
        return f"{round(value * 255)}/255"
    if isinstance(value, Tensor) and value.ndim and value.dtype == torch.bool:
        return f"[{int(value.sum())} of {value.numel()}]"
    if isinstance(value, Tensor) and value.ndim:
        return f"[{short(float(value.min()))} to {short(float(value.max()))}]" if value.numel() else "[]"
    return f"{value:g}" if isinstance(value, float) else repr(value)
