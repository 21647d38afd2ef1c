"""Numbers, arguments and attacks as somebody writes them on a command line. Nothing that was written is run."""

import ast
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from advkit import attacks, hyperparameters, norms
from advkit.attack import Attack
from advkit.attacks import transfer
from advkit.errors import InputError
from advkit.model import Model

__all__ = ["arguments", "made", "number", "takes"]

_APART = ("model", "generator", "compiled", "adaptive", "autocast")  # fields that a command line has no use for
_EXAMPLE = '"PGD(eps=8/255, steps=40), CW"'


def number(text: str) -> float:
    """A number, or a fraction such as 8/255.

    Raises:
        InputError: it is neither.
    """
    value = _value(_parsed(text, "a number such as 0.5 or 8/255"), _Nothing(), text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{text!r} is not a number; write it as 0.5 or 8/255")
    return float(value)


def arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, such as ``"resnet18", num_classes=10``: those by place and those by name.

    Raises:
        InputError: something in it is no literal.
    """
    call = _parsed(f"call({text})", 'arguments such as "resnet18", num_classes=10')
    if not isinstance(call, ast.Call) or any(one.arg is None for one in call.keywords):
        raise InputError(f"{text!r} is not a list of arguments, such as \"'resnet18', num_classes=10\"")
    nothing = _Nothing()
    named = {str(one.arg): _value(one.value, nothing, text) for one in call.keywords}
    return [_value(one, nothing, text) for one in call.args], named


def made(text: str, model: Model, defaults: Mapping[str, Any]) -> list[Attack]:
    """The attacks of a list such as ``PGD(eps=8/255, steps=40), CW``.

    Args:
        text: names of attacks, with arguments where others than the usual are wanted: literals, fractions, lists, and
            attacks and parts of attacks inside such as ``WorstOf([FGSM, PGD])``.
        model: what they attack.
        defaults: "eps" and "norm", for attacks within a budget that are not given their own.

    Raises:
        InputError: it is no such list, there is no such attack, or an argument is wrong: says which there are.
    """
    listed = _parsed(f"[{text}]", f"a list of attacks such as {_EXAMPLE}")
    if not isinstance(listed, ast.List) or not listed.elts:
        raise InputError(f"{text!r} is not a list of attacks; write one such as {_EXAMPLE}")
    found = [_value(one, _Made(model, defaults), text) for one in listed.elts]
    for one in found:
        if not isinstance(one, Attack):
            raise InputError(f"{one!r} in {text!r} is not an attack; write a list such as {_EXAMPLE}")
    return found


def takes(kind: type) -> str:
    """The arguments of an attack, or of a part of one, and what they may be, in a sentence."""
    known = hyperparameters.of(kind)
    names = [each.name for each in fields(kind) if each.init and each.name not in _APART]
    said = [f"{name} ({known[name]})" if name in known else name for name in names]
    return ", ".join(said) or "none"


def _parsed(text: str, wanted: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"{text!r} cannot be read ({error.args[0]}); it must be {wanted}") from error


class _Nothing:
    """No names mean anything."""

    def named(self, node: ast.Name, text: str) -> Any:
        raise InputError(f"{node.id!r} in {text!r} is unknown here; put text in quotes")

    def called(self, node: ast.Call, text: str) -> Any:
        raise InputError(f"{ast.unparse(node)!r} in {text!r} is a call, but nothing is run here")


@dataclass(frozen=True)
class _Made(_Nothing):
    """Names mean attacks, and parts of transfer attacks."""

    model: Model
    defaults: Mapping[str, Any]

    def named(self, node: ast.Name, text: str) -> Any:
        return self._one(node.id, [], {}, text)

    def called(self, node: ast.Call, text: str) -> Any:
        if not isinstance(node.func, ast.Name) or any(one.arg is None for one in node.keywords):
            raise InputError(f"{ast.unparse(node)!r} in {text!r} is not an attack; write one such as PGD(eps=8/255)")
        args = [_value(one, self, text) for one in node.args]
        named = {str(one.arg): _value(one.value, self, text) for one in node.keywords}
        return self._one(node.func.id, args, named, text)

    def _one(self, name: str, args: list[Any], named: dict[str, Any], text: str) -> Any:
        kind = _kind(name, text)
        if isinstance(kind, type) and issubclass(kind, Attack):
            own = [each.name for each in fields(kind) if each.init and not each.kw_only]
            if own[:1] == ["model"]:
                args = [self.model, *args]
            for each in named:
                _check_argument(kind, name, each)
            named = {**self._usual(kind, {*own[: len(args)], *named}), **named}
        try:
            return kind(*args, **named)
        except TypeError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} cannot be made ({error}); it takes {takes(kind)}") from error

    def _usual(self, kind: type[Attack], given: set[str]) -> dict[str, Any]:
        """The defaults that an attack within a budget takes, and was not given."""
        if kind.aim != "budget":
            return {}
        known = {each.name for each in fields(kind) if each.init}
        norm = self.defaults.get("norm")
        fixed = None if "norm" in known else getattr(kind, "norm", None)
        if norm is not None and fixed is not None and norms.get(fixed) is not norms.get(norm):
            raise InputError(f"{kind.__name__} is in {norms.get(fixed)}, but --norm is {norm}; omit one of them")
        return {name: value for name, value in self.defaults.items() if name in known - given and value is not None}


def _kind(name: str, text: str) -> Any:
    names = [*attacks.__all__, *transfer.__all__]
    if name in names:
        return getattr(attacks if name in attacks.__all__ else transfer, name)
    like = difflib.get_close_matches(name, names, 1) or [each for each in names if each.lower() == name.lower()]
    hint = f"did you mean {like[0]}?" if like else "`advkit list` names them all"
    raise InputError(f"no attack is called {name!r}, as in {text!r}; {hint}")


def _check_argument(kind: type[Attack], name: str, argument: str) -> None:
    known = [each.name for each in fields(kind) if each.init and each.name not in _APART]
    if argument not in known:
        like = difflib.get_close_matches(argument, known, 1)
        hint = f"; did you mean {like[0]}?" if like else "."
        raise InputError(f"{name} has no argument {argument!r}{hint} It takes {takes(kind)}")


_SIGNS: dict[type, Callable[[Any], Any]] = {ast.UAdd: lambda value: value, ast.USub: lambda value: -value}
_SUMS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: one / other,
}


def _value(node: ast.expr, names: _Nothing, text: str) -> Any:
    """What an expression stands for: literals, sums of numbers, lists, and what the names mean."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, bool, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(one, names, text) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Name):
        return names.named(node, text)
    if isinstance(node, ast.Call):
        return names.called(node, text)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_operand(node.operand, names, text))
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        one, other = (_operand(side, names, text) for side in (node.left, node.right))
        try:
            return _SUMS[type(node.op)](one, other)
        except ZeroDivisionError as error:
            raise InputError(f"{ast.unparse(node)!r} in {text!r} divides by zero") from error
    raise InputError(f"{ast.unparse(node)!r} in {text!r} is neither a number, a text in quotes nor a list")


def _operand(node: ast.expr, names: _Nothing, text: str) -> Any:
    value = _value(node, names, text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{ast.unparse(node)!r} in {text!r} is not a number to calculate with")
    return value
