"""What modules are made to be while they are attacked, and while they are trained: their modes, and their flags."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["attributes", "entries", "to_training_mode"]


def attributes(modules: Iterable[nn.Module]) -> list[tuple[nn.Module | Tensor, str, object]]:
    """The attributes that are to be set while modules are attacked: owner, name and value of each."""
    found: list[tuple[nn.Module | Tensor, str, object]] = []
    for module in modules:
        if _needs_training_mode(module):
            found += [(module, "training", True), (module, "dropout", 0.0)]
        elif hasattr(module, "training"):  # frozen TorchScript has none
            found.append((module, "training", False))
        for parameter in module._parameters.values() if module._parameters else ():
            # An inference tensor takes no part in autograd, and could not be given its flag back here.
            if parameter is not None and not parameter.is_inference():
                found.append((parameter, "requires_grad", False))
    return found


def entries(modules: Iterable[nn.Module]) -> list[tuple[dict[str, Any], str, object]]:
    """The entries of dictionaries that are to be set while modules are attacked: dictionary, key and value of each."""
    found: list[tuple[dict[str, Any], str, object]] = []
    for module in modules:
        if isinstance(module, DistributedDataParallel):
            found.append((vars(module), "forward", module.module))
        elif module._buffers and _may_write_buffers(type(module).__module__):
            for name, buffer in module._buffers.items():
                # A wrapper whose copy is a plain tensor would no longer be what the module made of it.
                if buffer is not None and type(copied := buffer.clone()) is type(buffer):
                    found.append((module._buffers, name, copied))
    return found


def to_training_mode(model: nn.Module) -> None:
    """Put a model into training mode. Where some layer is in it already, one in eval mode is meant to be, and stays.

    Such as a frozen BatchNorm. A model that is in eval mode as a whole has no such layer. Modules without parameters of
    their own do not count, since one that was just wrapped around a model in eval mode is in training mode itself.
    """
    if not any(module.training and any(True for _ in module.parameters(recurse=False)) for module in model.modules()):
        model.train()


@lru_cache(maxsize=4096)
def _may_write_buffers(file: str) -> bool:
    """Whether modules of a class in this file may write to their buffers in eval mode: torch's and advkit's do not."""
    return not file.startswith(("torch.nn.", "torch.jit", "torchvision.", "advkit."))


def _needs_training_mode(module: nn.Module) -> TypeGuard[nn.RNNBase]:
    """Whether cuDNN computes this layer: it refuses a recurrent layer's backward outside training mode."""
    return isinstance(module, nn.RNNBase) and any(weight.is_cuda for weight in module.parameters())
