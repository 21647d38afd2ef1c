"""What tells models in training, and what copies of data are made from, from others.

Sharded weights are gathered, so that all processes have to ask; `advkit._io.identity` is for one by itself.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advkit._io.stable import held, without_addresses
from advkit.model import Model

__all__ = ["description", "differences", "digest", "fingerprint", "plain"]

_OWN = frozenset(vars(nn.Module())) | {"training", "_forward_hooks_always_called"}  # torch's, of any module
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d+)?")
_FEW = 64  # numbers of a tensor that are written out
_DEEP = 4  # how far containers and closures are followed


def fingerprint(model: Model) -> dict[str, str]:
    """What tells a model from another: its layers as they print, and its weights. Of other callables, the name.

    The weights of a model that is sharded over processes are gathered, so that all of them have to ask.
    """
    if not isinstance(model, nn.Module):
        return {"model": str(plain(model))}
    state = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    layers = hashlib.sha256(without_addresses(repr(model)).encode()).hexdigest()[:16]
    return {"model": type(model).__qualname__, "model's layers": layers, "model's weights": digest(*state)}


def digest(*tensors: Tensor) -> str:
    """Tensors, in so few letters; of a distributed tensor, the whole."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for part in _parts(tensor.detach()):
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def plain(value: Any) -> Any:
    """A hyperparameter as JSON has it, or else as a text that is the same in the next process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):  # such as an attack that another is made of
        own = [field.name for field in fields(value) if field.name not in ("model", "generator")]
        return {"class": type(value).__qualname__, **{name: plain(getattr(value, name)) for name in own}}
    if isinstance(value, Tensor) and value.numel() > _FEW:  # such as a perturbation for all images
        return f"{value.dtype} of shape {tuple(value.shape)}, {digest(value)}"
    return value.tolist() if isinstance(value, Tensor) else without_addresses(repr(value))


def description(model: nn.Module) -> dict[str, str]:
    """What makes a model in training what it is, apart from the weights that training changes.

    Its classes and layers as they print, the names, shapes and dtypes of its weights, the values of its buffers, and
    the attributes of its modules: numbers, texts, dtypes, tensors, functions by their code, and containers of these.
    Of other objects only the class counts. Not told apart: what a ``forward`` does beyond that, global variables, and
    initial weights.

    Returns:
        Texts by name. Those that training itself changed, such as a counter, are for the caller to leave out.
    """
    found = {"class": f"{type(model).__module__}.{type(model).__qualname__}", "layers": _layers(model)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found[f"{name}: size"] = f"{tuple(tensor.shape)} of {tensor.dtype}"
    for name, buffer in model.named_buffers():
        found[name] = digest(buffer)
    for name, module in model.named_modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        found[f"{name or 'the model'}: class"] = kind
        for attribute, value in vars(module).items():
            if attribute not in _OWN and not _is_place(value):
                found[f"{name}.{attribute}".lstrip(".")] = _text(value)
    return found


def differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What is told apart, in words, of two descriptions, as far as ``there`` goes; sizes first."""
    names = sorted((name for name in there if there[name] != here.get(name)), key=lambda name: "size" not in name)
    return [
        f"{name.removesuffix(': size')} {'(size mismatch) ' if name.endswith(': size') else ''}"
        f"is {_short(there[name])} there and {_short(here.get(name, 'missing'))} here"
        for name in names
    ]


def _layers(model: nn.Module) -> str:
    return without_addresses(repr(model))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"another ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor consists of."""
    for whole in ("full_tensor", "to_local"):  # of a distributed tensor
        if hasattr(tensor, whole):
            yield from _parts(getattr(tensor, whole)())
            return
    if hasattr(tensor, "__tensor_flatten__"):  # of one that wraps others
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _parts(getattr(tensor, name))
        return
    yield tensor.as_subclass(Tensor)


def _is_place(value: object) -> bool:
    """Whether this only says where the model is, which may be elsewhere the next time."""
    return isinstance(value, torch.device) or (isinstance(value, str) and bool(_DEVICE.fullmatch(value)))


def _text(value: Any, deep: int = _DEEP) -> str:
    """An attribute, as a text that is the same in the next process."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.Size)):
        return repr(value)
    if isinstance(value, Tensor):
        return f"tensor {digest(value)}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return f"array {value.dtype}{value.shape} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, nn.Module):
        return _layers(value)
    if deep and isinstance(value, (list, tuple)):
        return f"[{', '.join(_text(part, deep - 1) for part in value)}]"
    if deep and isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(_text(part, deep - 1) for part in value))}}}"
    if deep and isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key, deep - 1)}: {_text(part, deep - 1)}' for key, part in value.items())}}}"
    if isinstance(value, FunctionType):
        return _code(value, deep)
    if deep and hasattr(value, "func") and hasattr(value, "keywords"):  # functools.partial
        return f"partial {_text([value.func, value.args, value.keywords], deep - 1)}"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _code(function: FunctionType, deep: int) -> str:
    """A function by its code, which differs between versions of Python, and by what it holds."""
    code = function.__code__
    constants = [constant for constant in code.co_consts if not hasattr(constant, "co_code")]
    body = hashlib.sha256(code.co_code + repr((constants, code.co_names)).encode()).hexdigest()[:16]
    inside = _text([function.__defaults__, held(function)], deep - 1) if deep else ""
    return f"{function.__qualname__} {sys.version_info[:2]} {body} {inside}"
