"""What tells a model or an attack from another, as JSON that comes out alike in every process.

Nothing here needs other processes, as gathering a sharded model would, nor writes to what it looks at.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from math import isfinite
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from advkit._io.stable import held, without_addresses
from advkit.attack import Attack
from advkit.model import defended

__all__ = [
    "Digest",
    "attack_identity",
    "digest",
    "digests",
    "identity",
    "is_sharded",
    "layers",
    "model_identity",
    "plain",
    "settings",
    "weights",
]

_FEW = 16  # numbers of a tensor that are written out
_DEPTH = 4  # of objects inside objects that are looked into
_APART = ("model", "generator", "adaptive")  # of an attack, which `evaluate` sets itself
_PASSING = ("training", "history", "teacher_history", "generator")  # of a defense: what it was not made with, or draws
_CALLED = ("__call__", "__init__", "__post_init__")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def digest(*parts: Tensor | str) -> str:
    """A name for what tensors hold, or for names; see `Digest`."""
    name = Digest()
    name.add(*parts)
    return str(name)


class Digest:
    """A name for what tensors hold, or for names, of which there may be too many to keep: they are added in turn.

    A tensor whose numbers this process does not have (on meta, or one shard of many) counts by its shape and dtype.
    """

    def __init__(self) -> None:
        self._name = blake2b(digest_size=16)

    def add(self, *parts: Tensor | str) -> None:
        """Take note of more."""
        for part in parts:
            if not isinstance(part, Tensor):
                self._name.update(part.encode())
                continue
            try:
                self._name.update(f"{part.dtype}{tuple(part.shape)}".encode())
                for numbers in _numbers(part.detach()):
                    self._name.update(numbers.contiguous().flatten().view(torch.uint8).numpy().data)
            except (RuntimeError, TypeError):  # an exotic tensor is no reason to fail
                self._name.update(type(part).__name__.encode())

    def __str__(self) -> str:
        return self._name.hexdigest()


def digests(images: Tensor, labels: Tensor) -> list[str]:
    """A name for each image with its label, whatever batch it comes in."""
    if type(images) is Tensor and not images.is_meta:
        images = images.detach().cpu()  # once, and not image by image
    return [digest(image, str(label)) for image, label in zip(images, labels.tolist(), strict=True)]


def _numbers(tensor: Tensor) -> Iterable[Tensor]:
    """The plain tensors on the CPU that hold a tensor's numbers; none where this process does not have them all."""
    sharded: Any = tensor
    if hasattr(tensor, "to_local"):  # a DTensor, as FSDP2 makes them
        return _numbers(sharded.to_local()) if sharded.device_mesh.size() == 1 else ()
    if hasattr(tensor, "__tensor_flatten__"):  # a wrapper without storage of its own
        inner, _ = tensor.__tensor_flatten__()
        return [part for name in inner for part in _numbers(getattr(tensor, name))]
    tensor = tensor.as_subclass(Tensor)
    if tensor.is_meta:
        return ()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    elif tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return [tensor.resolve_conj().resolve_neg().cpu()]


def weights(module: nn.Module) -> str | None:
    """A digest of the parameters and buffers, also of those that no state_dict has; None where there are none."""
    tensors = [*module.parameters(), *module.buffers()]
    return digest(*tensors) if tensors else None


def is_sharded(module: nn.Module) -> bool:
    """Whether other processes have parts of a model, as with fully_shard, FSDP or tensor parallelism."""
    meshes = [getattr(tensor, "device_mesh", None) for tensor in (*module.parameters(), *module.buffers())]
    wrapped = [one for one in module.modules() if type(one).__name__ == "FullyShardedDataParallel"]
    return bool(wrapped) or any(mesh is not None and mesh.size() > 1 for mesh in meshes)


def layers(module: nn.Module) -> list[str]:
    """A model's layers as they print, line by line, and each defense inside with what it was made with."""
    defenses = [one.defense for one in defended(module)]
    return [*without_addresses(repr(module)).splitlines(), *(_described(defense) for defense in defenses)]


def model_identity(model: object) -> dict[str, Any]:
    """What tells a model from another without asking it: little, of a function."""
    if isinstance(model, MethodType):
        model = model.__self__
    if not isinstance(model, nn.Module):
        return {"is": plain(model)}
    return {"layers": layers(model), "weights": weights(model)}


def attack_identity(attack: Any) -> dict[str, Any]:
    """What tells an attack from another: its class, its fields, and what else a stranger's has of its own.

    That is attributes that are numbers, texts, tensors, functions or modules, on the object or on its class, and the
    code of its class. Modules that its code imports, and lists that it changes as it goes, are not looked at.
    """
    known = {field.name for field in fields(attack)} - {"model", "generator"}
    own = {name: identity(getattr(attack, name)) for name in sorted(known)}
    more = {name: value for name, value in getattr(attack, "__dict__", {}).items() if _is_fixed(value)}
    own |= {name: identity(value) for name, value in more.items() if name not in {*own, *_APART}}
    return {**own, **_class(type(attack), own)}


def identity(value: Any, depth: int = _DEPTH) -> Any:
    """A value as JSON that tells it from others: numbers as they are, tensors and code by a digest.

    What is none of these, nor made of them, counts by how it prints.
    """
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, Tensor) and value.numel() > _FEW:
        return f"{value.dtype} of shape {tuple(value.shape)}, {digest(value)}"
    if isinstance(value, nn.Module):
        return model_identity(value)
    if isinstance(value, MethodType):
        return [identity(value.__func__, depth - 1), identity(value.__self__, depth - 1) if depth else ""]
    if isinstance(value, FunctionType):
        return f"{value.__qualname__}, code {_PYTHON} {_code(value, depth)}"
    if isinstance(value, Mapping) and depth:
        return {str(name): identity(each, depth - 1) for name, each in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [identity(each, depth - 1) for each in value]
    if isinstance(value, Attack) and depth:  # one that another is made of
        return attack_identity(value)
    if callable(getattr(value, "wrap", None)) and not isinstance(value, type) and depth:  # a defense
        return {"class": type(value).__qualname__, **settings(value, depth - 1)}
    if is_dataclass(value) and not isinstance(value, type) and depth:
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        own = {name: identity(each, depth - 1) for name, each in own.items() if name not in ("model", "generator")}
        return {"class": type(value).__qualname__, **own}
    return plain(value)


def plain(value: object) -> object:
    """A hyperparameter as JSON can say it, the same in every process."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return without_addresses(repr(value))


def settings(one: object, depth: int = _DEPTH) -> dict[str, Any]:
    """What a defense was made with, as `identity` says it."""
    shown = {name: value for name, value in vars(one).items() if not name.startswith("_") and name not in _PASSING}
    return {name: identity(value, depth) for name, value in shown.items()}


def _described(defense: object) -> str:
    """A defense and what it was made with, in one line."""
    shown = settings(defense)
    return str({**_class(type(defense), shown), **shown})


def _class(kind: type, known: Iterable[str]) -> dict[str, Any]:
    """The name of a class, and what a class that is not advkit's says and does beside its fields.

    Its module is left out: it is ``__main__`` where a script is run and has a name where it is imported.
    """
    found: dict[str, Any] = {"class": kind.__qualname__}
    for one in kind.__mro__:
        if one.__module__.split(".")[0] in ("advkit", "torch", "abc", "builtins"):
            continue
        mine = {name: value for name, value in vars(one).items() if _is_fixed(value) and name not in known}
        mine = {name: value for name, value in mine.items() if not name.startswith("__") or name in _CALLED}
        found |= {f"{one.__qualname__}.{name}": identity(value) for name, value in mine.items()}
    return found


def _is_fixed(value: object) -> bool:
    """Whether this is something that an attack has, and not something that it keeps notes in."""
    kinds = (bool, int, float, str, tuple, Tensor, nn.Module, FunctionType, MethodType, property)
    return isinstance(value, (*kinds, staticmethod, classmethod))


def _code(function: FunctionType, depth: int) -> str:
    """A digest of what a function does, wherever it stands: of its code, and the plain values that it takes along."""
    cells = [value for value in held(function) if value is not None]
    # Constants, as their spelling says; other globals may be counters.
    names = [name for name in function.__code__.co_names if name.isupper() and name in function.__globals__]
    taken = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells]
    taken += [function.__globals__[name] for name in names]
    values = [identity(value, depth - 1) for value in taken if depth and _is_fixed(value) and not _is_model(value)]
    return digest(_instructions(function.__code__, function.__doc__), repr(values))


def _instructions(code: CodeType, doc: str | None = None) -> str:
    """What the interpreter would do, without line numbers, names of local variables and documentation."""
    constants = [
        _instructions(each)
        if isinstance(each, CodeType)
        else repr(sorted(map(repr, each)))
        if isinstance(each, frozenset)
        else repr(each)
        for each in code.co_consts
        if each != doc or doc is None
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _is_model(value: object) -> bool:
    """Whether this may be a model under attack, which is known by its answers, and not by an attack that knows it."""
    return isinstance(value, (nn.Module, MethodType))
