"""Defaults in the signatures of the reference: those that calls get, not how a field is declared.

A dataclass is read from its source, where ``eps`` is ``number(OfRange(8 / 255), at_least=0)``. The page says
``eps = 8 / 255``; and the build stops where that is not the default that `inspect.signature` gives.
"""

import inspect
import pydoc
import sys
from collections.abc import Iterator
from typing import Any

import griffe

DECLARE = {"OfEps", "OfRange", "choice", "declared", "flag", "loss", "norm", "number", "tensor"}


class Defaults(griffe.Extension):
    """Write the signatures of dataclasses again, when griffe's own extension has made them."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Of functions, take what is written."""
        for each in func.parameters:
            each.default = _plain(each.default)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through all classes of the package."""
        for one in _dataclasses(pkg):
            init = one.members["__init__"]
            kind: Any = pydoc.locate(one.path)
            known = inspect.signature(kind).parameters
            init.parameters = griffe.Parameters(
                *(each for each in init.parameters if each.name == "self" or each.name in known)
            )
            for each in init.parameters:
                if each.name != "self":
                    each.default = _default(kind, each.name, each.default, known[each.name].default)


def _dataclasses(place: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    for member in list(place.members.values()):
        if member.is_alias:
            continue
        init = member.members.get("__init__")
        if member.is_class and init is not None and not init.lineno:  # which no source has
            yield member
        if member.is_class or member.is_module:
            yield from _dataclasses(member)


def _default(kind: type, name: str, written: Any, real: Any) -> Any:
    """A default as it is written, without what declares it."""
    if real is inspect.Parameter.empty:
        return None
    if repr(real) == "<factory>":
        return written
    written = _plain(written)
    if isinstance(written, griffe.ExprCall) and written.function.canonical_name == "loss":
        written = repr(real)
    for base in kind.__mro__:
        if name in inspect.get_annotations(base):
            assert eval(str(written), {**vars(sys.modules[base.__module__])}) == real, (kind, name, written, real)
            return written
    raise AssertionError(f"{kind} has no {name}")


def _plain(written: Any) -> Any:
    """What a declaration is given first, which is the default."""
    while isinstance(written, griffe.ExprCall) and written.function.canonical_name in DECLARE and written.arguments:
        written = written.arguments[0]
    return written
