"""The mean of a model's weights over the steps of its training."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advkit._engine.checks import check_number
from advkit.errors import InputError

__all__ = ["averaged", "unparallel"]


def averaged(model: nn.Module, average: float | AveragedModel | None) -> AveragedModel | None:
    """What takes the mean: an exponential moving one for a decay; None for none.

    Raises:
        InputError: the decay is out of its range, or the averaged model is of another.
    """
    inner = unparallel(model)
    if average is None:
        return None
    if isinstance(average, AveragedModel):
        ours, its = inner.state_dict(), average.module.state_dict()
        if {name: one.shape for name, one in ours.items()} != {name: one.shape for name, one in its.items()}:
            raise InputError("average is an AveragedModel of another model; make it from the one that is trained")
        return average
    check_number("average", average, at_least=0, at_most=1)
    with torch.device("cpu"):  # its counter, whatever the default device is; the weights are beside the model's
        return AveragedModel(inner, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)


def unparallel(model: nn.Module) -> nn.Module:
    """The module inside a `DistributedDataParallel`, or else the model itself."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner
