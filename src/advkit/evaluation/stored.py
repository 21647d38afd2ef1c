"""A report as JSON, and back."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from advkit.errors import InputError
from advkit.evaluation.flags import Flag
from advkit.evaluation.keepsakes import Picture
from advkit.evaluation.scores import AttackScore, DefenseScore, Failure, WorstCase

__all__ = ["as_json", "from_json"]

_SCHEMA = 2
Content = TypeVar("Content")


def as_json(content: Mapping[str, Any]) -> str:
    """Everything in a report, with null for NaN."""
    written = json.dumps(_without_nan({"schema": _SCHEMA, **content}), indent=2, allow_nan=False)
    # The triples of a confusion a line each, and what there is a value of for each image on one line.
    written = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3]", written)
    written = re.sub(r'(?<="labels": \[)[^][]*', lambda found: " ".join(found[0].split()), written)
    return re.sub(r",\s+(?=true|false)", ", ", written) + "\n"


def from_json(written: str) -> dict[str, Any]:
    """What `as_json` was given.

    Raises:
        InputError: this is no JSON, or of another version of the schema.
        KeyError: something is missing.
        TypeError: a part has other fields.
    """
    try:
        content: dict[str, Any] = json.loads(written)
    except json.JSONDecodeError as error:
        raise InputError(f"this is not a report that advkit wrote, since it is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"this is not a report that advkit wrote, since it is a {type(content).__name__}")
    schema = content.pop("schema", None)
    if schema != _SCHEMA:
        raise InputError(f"this report has schema {schema!r}, but this version of advkit reads schema {_SCHEMA}")
    parts: dict[str, type] = {
        "defenses": DefenseScore,
        "scores": AttackScore,
        "worst": WorstCase,
        "flags": Flag,
        "failures": Failure,
    }
    for name, kind in parts.items():
        content[name] = tuple(_read(kind, part) for part in content[name])
    content["pictures"] = tuple(map(Picture.from_json, content.get("pictures", ())))
    for name in ("not_tried", "standing", "proved", "labels"):
        content[name] = tuple(content.get(name, ()))
    return content


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, wherever it is."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _read(kind: type[Content], content: Mapping[str, Any]) -> Content:
    """A part of a report from its JSON: null is NaN where a number is due, and lists are tuples."""
    types = {known.name: known.type for known in fields(kind)}  # type: ignore[arg-type]
    read = {}
    for name, value in content.items():
        if value is None and types.get(name) is float:
            value = math.nan
        elif isinstance(value, list):
            value = tuple(tuple(part) if isinstance(part, list) else part for part in value)
        read[name] = value
    return kind(**read)
