"""The modules that a model asks, also where it is no module itself, or keeps one where modules do not look."""

import sysconfig
from collections import UserDict, UserList, deque
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["modules_behind"]

_HERE = str(Path(__file__).parent.parent)
_LIBRARIES = tuple({*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), "<frozen"})
_LARGE = 256  # of a container of more things only the modules are looked at: it is data, or a register of models
_OPAQUE = (str, bytes, int, float, complex, bool, type(None), Tensor)


def modules_behind(model: object) -> list[nn.Module]:
    """All modules that a callable may ask, each once, the outermost of each family before its submodules.

    Of a module that is itself and its submodules, and what its class reaches otherwise. Of a function, a bound method,
    a `functools.partial` or a callable object it is what stands in its closure, its defaults, its arguments, in the
    attributes and the global variables that its code names, and behind the functions that it calls by these names. Of
    functions in other libraries global variables are left alone. A module that is fetched by a name that is made up as
    the program runs is not found.

    Args:
        model: the callable.
    """
    return list(_Walk(model).found.values())


class _Walk:
    """What is reached from a callable."""

    def __init__(self, model: object) -> None:
        self.found: dict[int, nn.Module] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._kept: list[object] = []  # an id is an object's own as long as it lives
        self._root = model
        self._visit(model, frozenset())

    def _visit(self, thing: object, names: frozenset[str]) -> None:
        """Look into one thing, which code that says ``names`` has in its hands."""
        if isinstance(thing, _OPAQUE) or not self._new("visited", thing, names):
            return
        if isinstance(thing, nn.Module):
            self._modules(thing)
        elif isinstance(thing, FunctionType):
            self._function(thing, None)
        elif isinstance(thing, MethodType):
            if isinstance(thing.__func__, FunctionType):
                self._function(thing.__func__, thing.__self__)
            else:
                self._all([thing.__func__, thing.__self__], names)
        elif isinstance(thing, partial):
            self._all([thing.func, *thing.args, *thing.keywords.values()], names)
        elif isinstance(thing, BuiltinMethodType):
            self._visit(thing.__self__, names)
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            self._all(_few(thing), names)
        elif isinstance(thing, dict):
            self._all([*_few(thing.values()), getattr(thing, "default_factory", None)], names)
        elif isinstance(thing, (UserDict, UserList)):
            self._visit(thing.data, names)
        elif (inner := _wrapped(thing)) is not None:
            self._visit(inner, names)
        else:
            self._object(thing, names)

    def _all(self, things: Iterable[object], names: frozenset[str]) -> None:
        for thing in things:
            self._visit(thing, names)

    def _new(self, what: str, thing: object, other: object) -> bool:
        """Whether this has not been done before."""
        key = (what, id(thing), id(other))
        if key in self._seen:
            return False
        self._seen.add(key)
        self._kept += [thing, other]
        return True

    def _modules(self, module: nn.Module) -> None:
        if id(module) in self.found:
            return
        inside = list(module.modules())
        self.found |= {id(one): one for one in inside}
        for one in inside:
            its = vars(one)
            if forward := its.get("forward"):  # put there by somebody, over that of the class
                self._visit(forward, frozenset())
            for hooks in (its.get("_forward_pre_hooks"), its.get("_forward_hooks")):
                if hooks:
                    self._all(hooks.values(), frozenset())
            kind: Any = type(one)  # which mypy does not take for hashable
            if _is_of_users(kind):
                self._of_class(one, "forward", frozenset())

    def _of_class(self, thing: object, name: str, names: frozenset[str]) -> None:
        """What a thing has by way of its class: a method that is called on it, a slot, or what all of its kind have."""
        for cls in type(thing).__mro__:
            if name not in vars(cls):
                continue
            value = vars(cls)[name]
            if isinstance(value, MemberDescriptorType):
                value = getattr(thing, name, None)
            value = value if (inner := _wrapped(value)) is None else inner
            if not isinstance(value, FunctionType):
                self._visit(value, names)
            elif _of_users(value.__code__.co_filename):
                self._function(value, thing)
            return

    def _function(self, function: FunctionType, owner: object) -> None:
        if not self._new("called", function, owner):
            return
        code = function.__code__
        names = _names(code)
        things = [owner, *_closure(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        things += vars(function).values()
        if function is self._root or _of_users(code.co_filename):
            things += [function.__globals__[name] for name in names if name in function.__globals__]
        for thing in things:
            if isinstance(thing, nn.Module):
                self._modules(thing)
                self._attributes(thing, names)
            else:
                self._visit(thing, names)

    def _object(self, thing: object, names: frozenset[str]) -> None:
        """An object, a class or a file of code: the attributes that code names, and what calling it does."""
        if isinstance(thing, ModuleType) and not _of_users(getattr(thing, "__file__", None) or "<frozen"):
            return
        if thing is self._root:
            self._all(list(getattr(thing, "__dict__", {}).values()), names)
        if not isinstance(thing, (type, ModuleType)):
            self._of_class(thing, "__call__", names)
        self._attributes(thing, names)

    def _attributes(self, thing: object, names: frozenset[str]) -> None:
        if not self._new("named", thing, names):
            return
        its = getattr(thing, "__dict__", {})
        for name in names:
            if name in its:
                self._visit(its[name], names)
            elif not isinstance(thing, (type, ModuleType)):
                self._of_class(thing, name, names)


def _few(things: Collection[object]) -> Iterable[object]:
    """The things in a container that are worth a look."""
    return things if len(things) <= _LARGE else [thing for thing in things if isinstance(thing, nn.Module)]


def _wrapped(thing: object) -> object:
    """The function inside a property, a static method, a cache; None for what is none of these."""
    if isinstance(thing, property):
        return thing.fget
    if isinstance(thing, cached_property):
        return thing.func
    if isinstance(thing, (staticmethod, classmethod)):
        return thing.__func__
    return None if isinstance(thing, (type, FunctionType)) else getattr(thing, "__dict__", {}).get("__wrapped__")


def _closure(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing has been put there yet
            continue


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    """The attributes and global variables that code names, also in texts, that of functions inside it included."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    texts = (constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier())
    return frozenset(code.co_names).union(texts, *inner)


@lru_cache(maxsize=4096)
def _of_users(filename: str) -> bool:
    """Whether code is no library's. This one's own counts as the user's: its modules wrap callables."""
    return filename.startswith(_HERE) or not filename.startswith(_LIBRARIES)


@lru_cache(maxsize=4096)
def _is_of_users(cls: Any) -> bool:
    """Whether the forward of a class of modules is code of the user's. TorchScript has none that can be read."""
    forward = None if issubclass(cls, torch.jit.ScriptModule) else getattr(cls.forward, "__code__", None)
    return forward is not None and _of_users(forward.co_filename)
