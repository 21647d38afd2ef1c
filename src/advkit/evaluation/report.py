"""What an evaluation found, as numbers, as a table and as JSON."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from typing_extensions import Self

from advkit.errors import InputError

__all__ = ["AttackScore", "RobustnessReport"]

_SCHEMA = 1
_HEADER = ("attack", "accuracy", "success", "median L2", "median Linf", "ms/image")
_WIDTH = 80


@dataclass(frozen=True)
class AttackScore:
    """How a model fared under one attack. A number that nothing was measured for is NaN.

    Attributes:
        name: how the report calls the attack.
        attack: the attack's class.
        arguments: its hyperparameters by name, as numbers, strings, lists and None.
        accuracy: the share of all images that the model gets right under attack, in [0, 1].
        success_rate: the share of the images that the model got right before the attack, and wrong after.
        median_l2: of the successful perturbations, in units of pixels.
        median_linf: of the successful perturbations, in units of pixels.
        seconds_per_image: wall-clock time of the attack over the number of images attacked.
    """

    name: str
    attack: str
    accuracy: float
    success_rate: float
    median_l2: float
    median_linf: float
    seconds_per_image: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        """This score as the cells of a table row."""
        return (
            self.name,
            _percent(self.accuracy),
            _percent(self.success_rate),
            _number(self.median_l2, ".3f"),
            _number(self.median_linf, ".4f"),
            _number(1000 * self.seconds_per_image, ".2f"),
        )


@dataclass(frozen=True)
class RobustnessReport:
    """What `advkit.evaluate` found: prints as a table, and goes to Markdown and to JSON and back.

    ``report["FGSM"]`` is the score of the attack of that name.

    Attributes:
        images: how many images were evaluated.
        clean_accuracy: the share of them that the model gets right when nobody attacks, in [0, 1].
        attacks: a score for each attack, in the order of the attacks.
        device: where the model was, such as "cpu" or "cuda:0".
        advkit_version: the version of advkit that measured.
        torch_version: the version of torch that it ran on.
    """

    images: int
    clean_accuracy: float
    attacks: tuple[AttackScore, ...]
    device: str
    advkit_version: str
    torch_version: str

    def __getitem__(self, name: str) -> AttackScore:
        """The score of the attack of that name."""
        for score in self.attacks:
            if score.name == name:
                return score
        raise KeyError(f"no attack is called {name!r}; the report has {[score.name for score in self.attacks]}")

    def __str__(self) -> str:
        """A table that fits 80 columns; the names of attacks wrap where they have to."""
        rows = [_HEADER, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths[0] = min(widths[0], _WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
        lines: list[str] = []
        for name, *numbers in rows:
            first, *rest = textwrap.wrap(name, widths[0], subsequent_indent="  ")
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            lines += ["  ".join(cells), *rest]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([*lines, "", *textwrap.wrap(self._caption(), _WIDTH)])

    def to_markdown(self, path: str | PathLike[str] | None = None) -> str:
        """The table in Markdown, written to ``path`` as well if there is one."""
        rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1)), *self._rows()]
        table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
        return _written("\n".join([*table, "", self._caption(), ""]), path)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Everything in JSON, written to ``path`` as well if there is one. NaN becomes null."""
        content = {"schema": _SCHEMA, **asdict(self)}
        for score in content["attacks"]:
            score.update({name: None for name, value in score.items() if value != value})
        return _written(json.dumps(content, indent=2, allow_nan=False) + "\n", path)

    @classmethod
    def from_json(cls, source: str | PathLike[str]) -> Self:
        """The report that `to_json` wrote.

        Args:
            source: the JSON text itself, or the path of a file of it.

        Raises:
            InputError: this is no report, or a report of another version of the schema.
        """
        text = fspath(source)
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"this is no report of advkit's, since it is not JSON: {error}") from error
        schema = content.pop("schema", None)
        if schema != _SCHEMA:
            raise InputError(f"this report has schema {schema!r}, and this version of advkit reads schema {_SCHEMA}")
        floats = {known.name for known in fields(AttackScore) if known.type is float}
        scores: list[dict[str, Any]] = [
            {name: math.nan if value is None and name in floats else value for name, value in score.items()}
            for score in content.pop("attacks")
        ]
        return cls(**content, attacks=tuple(AttackScore(**score) for score in scores))

    def _rows(self) -> Sequence[tuple[str, ...]]:
        clean = ("none", _percent(self.clean_accuracy), *["-"] * (len(_HEADER) - 2))
        return [clean, *(score.cells() for score in self.attacks)]

    def _caption(self) -> str:
        right = round(self.clean_accuracy * self.images)
        return (
            f"{self.images} images on {self.device}, advkit {self.advkit_version}, torch {self.torch_version}. "
            f"Only the {right} that the model gets right are attacked: success and time are over those, "
            "medians over the successes, accuracy over all."
        )


def _percent(value: float) -> str:
    return _number(100 * value, ".1f", " %")


def _number(value: float, style: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else format(value, style) + unit


def _written(text: str, path: str | PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
