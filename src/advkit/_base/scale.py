"""The scale of logits: what rounding may do to a margin, and which classes are in the race at all.

Neither may come from a class that is out of the race, such as one that is masked with -1e9 or -inf.
"""

import torch
from torch import Tensor

__all__ = ["contenders", "magnitude", "power_of_two", "rounding_margin"]

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


def rounding_margin(sizes: Tensor) -> Tensor:
    """A margin beyond rounding, (n,), of logits of these sizes.

    A success by this much is still one in a batch that rounds otherwise.
    """
    return 16 * torch.finfo(sizes.dtype).eps * sizes


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
    size = top.abs().where(top.isfinite(), 0).amax(1, keepdim=True)
    return logits.detach() >= top[:, :1] - _OUT * size
