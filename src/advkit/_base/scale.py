"""The scale of logits: what rounding may do to a margin, and which classes are in the race at all.

Neither may come from a class that is out of the race, such as one that is masked with -1e9 or -inf.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rounding", "contenders", "grain", "magnitude", "power_of_two", "rounding_margin"]

_SPACINGS = {"bf16": 2.0**-7, "tf32": 2.0**-10}
_HALVES = (torch.bfloat16, torch.float16)
_OUT = 1e3  # times as far below the two largest logits as those are large: a class that no image is given


def magnitude(logits: Tensor, classes: Tensor) -> Tensor:
    """How large the two logits are that a margin compares, Z_c and max_{i != c} Z_i: the larger. Shape (n,).

    That is from zero, or from the mean of the classes in the race if they are nearer to that, with an eighth of the
    mean on top: what all logits have in common costs a margin the last digits that it takes up, and nothing of what a
    network rounds on its way.

    Args:
        logits: (n, K).
        classes: int64 (n,), the labels or the targets.
    """
    logits, where = logits.detach(), classes[:, None]
    racing = contenders(logits)
    mean = logits.where(racing, 0).sum(1, keepdim=True) / racing.sum(1, keepdim=True).clamp_min(1)
    other = logits.scatter(1, where, -torch.inf).amax(1, keepdim=True)
    pair = torch.cat([logits.gather(1, where), other], 1)
    from_mean = (pair - mean).abs().amax(1) + mean.abs().squeeze(1) / 8
    return pair.abs().amax(1).minimum(from_mean)


class Rounding:
    """How coarsely a model rounds on its way to its logits, as far as that is known.

    Logits of 32 bits say nothing of it where the network computes in bfloat16, or torch rounds what it multiplies to
    TF32, as it does in convolutions on a GPU unless it is told not to.

    Attributes:
        unit: the relative spacing of the coarsest floats on the way; 0 for none that are coarser than the logits.
    """

    def __init__(self) -> None:
        self.unit = 0.0

    def see(self, *kinds: torch.dtype | None) -> None:
        """Take note of dtypes on the way."""
        self.unit = max(self.unit, *(torch.finfo(kind).eps for kind in _HALVES if kind in kinds), 0.0)

    @contextmanager
    def at_work(self, images: Tensor) -> Iterator[None]:
        """`rounding_margin` reckons with it inside, for a model that is asked about such images (N, ...)."""
        if images.dtype == torch.float32:
            self.unit = max(self.unit, _switched(images.device.type))
        token = _AT_WORK.set(self)
        try:
            yield
        finally:
            _AT_WORK.reset(token)


_AT_WORK: ContextVar[Rounding] = ContextVar("_AT_WORK", default=Rounding())  # noqa: B039, nobody writes to it


def _switched(kind: str) -> float:
    """What torch may round float32 to inside products and convolutions, by its switches: a spacing as `Rounding.unit`.

    Args:
        kind: the type of the device.
    """
    # Since torch 2.9 there is a switch for each operation; before, there were two that are on or off, for a GPU alone.
    places: list[tuple[Any, str]] = []
    if kind == "cuda":
        places = [(torch.backends.cudnn, "conv"), (torch.backends.cuda, "matmul")]
    elif kind == "cpu":
        places = [(torch.backends.mkldnn, "conv"), (torch.backends.mkldnn, "matmul")]
    said = {getattr(getattr(owner, name, None), "fp32_precision", "") for owner, name in places}
    if kind == "cuda" and "" in said:
        said = {"tf32"} if torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32 else set()
    return max(_SPACINGS.get(one, 0.0) for one in {*said, ""})


def rounding_margin(sizes: Tensor) -> Tensor:
    """A margin beyond rounding, (n,), of logits of these sizes, of the model at work.

    A success by this much is still one in a batch that rounds otherwise.
    """
    # Between batch sizes, roundings add up to 8 spacings of 32 bits in a CNN and 20 in a ResNet-50; of coarser floats,
    # where fewer fall otherwise, to 0.4 and 2.
    return max(16 * torch.finfo(sizes.dtype).eps, 2 * _AT_WORK.get().unit) * sizes


def grain(logits: Tensor) -> torch.dtype:
    """The coarsest floats that hold all of the logits (n, K): what they were computed in."""
    held = (kind for kind in (*_HALVES, torch.float32) if bool((logits.to(kind).to(logits.dtype) == logits).all()))
    return next(held, logits.dtype)


def power_of_two(sizes: Tensor) -> Tensor:
    """The power of two below each size, (n,), by which division is exact; 1 for 0 and for what is not finite."""
    usable = sizes.where(sizes.isfinite() & (sizes >= torch.finfo(sizes.dtype).tiny), 1)
    return torch.exp2(usable.log2().floor())


def contenders(logits: Tensor) -> Tensor:
    """Which classes are in the race: bool (n, K).

    Out of it are those that lie more than a thousand times as far behind as the two largest logits are large, however
    the logits are scaled: what is left of -1e9 where others are about 10.
    """
    top = logits.detach().topk(2, dim=1).values
    size = top.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True)
    return logits.detach() >= top[:, :1] - _OUT * size
