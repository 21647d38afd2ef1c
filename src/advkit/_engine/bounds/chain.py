"""A sequential network, taken apart into the layers that bounds can be followed through."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advkit._engine.bounds.layers import MaxPool, Monotone, ReLU, Step, Weighted
from advkit.errors import InputError
from advkit.model import Model, Normalized

__all__ = ["chain", "copied"]

_UNBOUNDED = "bounds cannot be propagated through"
_SUPPORTED = (
    "they can through nn.Sequential of Linear, Conv1d, Conv2d, Conv3d, ReLU, BatchNorm, AvgPool, "
    "MaxPool2d, Flatten, Dropout and Identity, and through advkit.Normalized around it"
)


def copied(model: Model, dtype: torch.dtype) -> nn.Module:
    """A copy of a model to follow bounds through, in eval mode, without gradients of its weights."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not isinstance(model, nn.Module):
        raise InputError(f"{_UNBOUNDED} {type(model).__name__}, since it is not a module: {_SUPPORTED}")
    for _ in _steps(model, "", evaluating=True):  # before anything is copied
        pass
    return copy.deepcopy(model).to(dtype).eval().requires_grad_(False)


def chain(model: nn.Module) -> list[Step]:
    """The layers of a network in order, in the modes that they are in, each by what it does to bounds.

    They share its weights.

    Raises:
        InputError: it has a layer that bounds cannot be followed through; the sentence names it.
    """
    return list(_steps(model, "", evaluating=False))


def _steps(module: nn.Module, name: str, *, evaluating: bool) -> Iterator[Step]:
    forward = getattr(type(module), "forward", None)
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        raise InputError(f"{_called(module, name)} has a hook, which may change what it returns; remove it")
    if _overridden(module):
        raise InputError(f"{_UNBOUNDED} {_called(module, name)}, since its forward pass was overridden: {_SUPPORTED}")
    if forward is nn.Sequential.forward:
        # Not named_children, which tells of a layer that stands in two places only once.
        for inner, child in module._modules.items():
            assert child is not None
            yield from _steps(child, f"{name}.{inner}".lstrip("."), evaluating=evaluating)
    elif forward is Normalized.forward:
        assert isinstance(module, Normalized)
        yield Monotone(_Normalizing(module))
        if not isinstance(module.net, nn.Module):
            raise InputError(f"{_UNBOUNDED} {type(module.net).__name__}, since it is not a module: {_SUPPORTED}")
        yield from _steps(module.net, f"{name}.net".lstrip("."), evaluating=evaluating)
    elif forward in _NOTHING:
        if module.training and not evaluating and forward is not nn.Identity.forward:
            raise InputError(f"{_called(module, name)} is in training mode, where it is random; call model.eval()")
    elif forward in _LAYERS:
        yield _LAYERS[forward](module, _called(module, name), evaluating)
    else:
        raise InputError(f"{_UNBOUNDED} {_called(module, name)}: {_SUPPORTED}")


def _overridden(module: nn.Module) -> bool:
    """Whether a module works otherwise than the forward of its type says: by what this calls, or is called by."""
    kind: Any = type(module)
    if any(name in vars(module) for name in ("forward", "_conv_forward")) or kind.__call__ is not nn.Module.__call__:
        return True
    if isinstance(module, nn.Sequential):
        return kind.__iter__ is not nn.Sequential.__iter__
    convolutions = {one._conv_forward for one in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
    return hasattr(kind, "_conv_forward") and kind._conv_forward not in convolutions


def _called(module: nn.Module, name: str) -> str:
    return f"{type(module).__name__} ({name})" if name else type(module).__name__


class _Normalizing:
    """What `Normalized` does in front of its network."""

    def __init__(self, module: Normalized) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        mean, std = (row.to(x).view(shape) for row in (self.module.mean, self.module.std))
        return (x - mean) / std


def _linear(module: Any, called: str, evaluating: bool) -> Step:
    return Weighted(module, lambda x: F.linear(x, module.weight.abs()))


def _convolution(module: Any, called: str, evaluating: bool) -> Step:
    """Also with padding by reflection, which the layer does itself."""
    return Weighted(module, lambda x: module._conv_forward(x, module.weight.abs(), None))


def _norm(module: Any, called: str, evaluating: bool) -> Step:
    if (module.training and not evaluating) or module.running_mean is None:
        raise InputError(
            f"{called} normalises by the statistics of the batch, so that outputs depend on other images; call "
            "model.eval(), and keep track_running_stats=True"
        )
    return Monotone(module)


def _relu(module: Any, called: str, evaluating: bool) -> Step:
    return ReLU()


def _monotone(module: Any, called: str, evaluating: bool) -> Step:
    return Monotone(module)


def _max_pool(module: Any, called: str, evaluating: bool) -> Step:
    if module.return_indices:
        raise InputError(f"{_UNBOUNDED} {called}, since it returns indices: {_SUPPORTED}")
    return MaxPool(module)


_NOTHING = {
    kind.forward for kind in (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
}
_LAYERS: dict[Callable[..., Any], Callable[[Any, str, bool], Step]] = {
    nn.Linear.forward: _linear,
    **{kind.forward: _convolution for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
    nn.BatchNorm2d.forward: _norm,  # and the others': they have one between them
    nn.ReLU.forward: _relu,
    nn.MaxPool2d.forward: _max_pool,
    **{
        kind.forward: _monotone
        for kind in (
            nn.Flatten,
            nn.Unflatten,
            nn.AvgPool1d,
            nn.AvgPool2d,
            nn.AvgPool3d,
            nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
        )
    },
}
