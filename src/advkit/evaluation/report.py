"""What an evaluation found, as numbers, as a table, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit.errors import InputError
from advkit.evaluation.flags import Flag

__all__ = ["BARE", "AttackScore", "DefenseScore", "Failure", "RobustnessReport", "Score", "WorstCase"]

BARE = "none"  # what the report calls the bare model, among the defenses
_SCHEMA = 2
_WIDTH = 80
Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True)
class _Share:
    """A share of images that a model gets right. A number that nothing was measured for is NaN.

    Attributes:
        images: how many images it is of: those that were evaluated and that no error cost.
        accuracy: the share of them that the model gets right, in [0, 1]. Of a random model, the mean over its draws.
        low: the lower end of the 95 % interval of the accuracy; see `advkit.evaluation.metrics.wilson`.
        high: its upper end.
    """

    images: int
    accuracy: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy: (low, high)."""
        return self.low, self.high


@dataclass(frozen=True, kw_only=True)
class Score(_Share):
    """How well a model's predictions agree with the labels, with or without an attack.

    Attributes:
        precision: macro precision, in [0, 1]; see `advkit.evaluation.metrics.macro`.
        recall: macro recall, in [0, 1].
        f1: macro F1, in [0, 1].
        prediction_seconds: the time from an image to its prediction (Campbell & Lasselle 2024, section 4), averaged
            over images. Under attack the attack is part of it.
        confusion: (label, prediction, how often) of each pair that came up; a random model counts in every draw.
    """

    precision: float
    recall: float
    f1: float
    prediction_seconds: float
    confusion: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)

    def confusion_matrix(self) -> Tensor:
        """How often an image of class i was taken for class j: int64, (K, K), with K from the largest class seen."""
        classes = 1 + max((max(label, prediction) for label, prediction, _ in self.confusion), default=-1)
        matrix = torch.zeros(classes, classes, dtype=torch.int64, device="cpu")
        for label, prediction, count in self.confusion:
            matrix[label, prediction] = count
        return matrix


@dataclass(frozen=True, kw_only=True)
class DefenseScore(Score):
    """How a model fares when nobody attacks: the bare model, or one behind a defense.

    Attributes:
        name: how the report calls the defense; "none" for the bare model.
        defense: the class of the defense, or of the model.
        arguments: what it was made with, by name, and a digest of its weights where it has any.
        draws: how many times a random model was asked about each image; 1 for others.
    """

    name: str
    defense: str
    draws: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttackScore(Score):
    """How a model fares under one attack.

    Attributes:
        name: how the report calls the attack.
        attack: the attack's class.
        defense: how the report calls the defense; "none" for the bare model.
        protocol: "oblivious", "naive" or "adaptive"; None for the bare model, where the three are one.
        attacked: how many images were attacked: those that the model gets right in some draw.
        success_rate: the share of the images that the model got right before the attack, and wrong after.
        median_l0: of the successful perturbations, in features; likewise the others, in units of pixels.
        seconds_per_image: wall-clock time of the attack over the number of images attacked.
        forwards_per_image: forwards through the network for each image attacked; a surrogate that averages over ten
            draws makes ten. The forward that judges the outcome is not among them.
        backwards_per_image: backwards through it.
        arguments: the attack's hyperparameters by name, as numbers, strings, lists and None.
    """

    name: str
    attack: str
    defense: str = BARE
    protocol: str | None = None
    attacked: int
    success_rate: float
    median_l0: float
    median_l1: float
    median_l2: float
    median_linf: float
    mean_l0: float
    mean_l1: float
    mean_l2: float
    mean_linf: float
    seconds_per_image: float
    forwards_per_image: float
    backwards_per_image: float
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorstCase(_Share):
    """What all attacks together leave: an image counts only where the model is right under every one of them.

    For a random model each image has the attack that leaves the smallest share of draws right.

    Attributes:
        defense: how the report calls the defense; "none" for the bare model.
        protocol: as in `AttackScore`.
    """

    defense: str = BARE
    protocol: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Images that an error cost.

    Attributes:
        batch: the index of the batch in the loader.
        rows: the images' places in it.
        attack: the attack that raised; None where the model raised without one.
        defense: how the report calls the defense.
        protocol: as in `AttackScore`.
        error: what was raised.
    """

    batch: int
    rows: tuple[int, ...]
    attack: str | None
    defense: str
    protocol: str | None
    error: str


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """What `advkit.evaluate` found: prints as a table, and goes to Markdown, CSV and JSON, and back from JSON.

    ``report["FGSM"]`` is the bare model's score under the attack of that name; `score` finds the others.

    Attributes:
        images: how many images were evaluated.
        defenses: the bare model, named "none", and each defense, when nobody attacks.
        scores: one for each defense, attack and protocol, in the order in which they were given.
        worst: what all attacks together leave of each defense under each protocol.
        flags: reasons to doubt the numbers, a sentence each.
        failures: the images that errors cost, which are in no number.
        stop_when_fooled: whether each attack was only tried on what those before it left; its accuracy is then what
            it and those before it leave.
        seed: what the random numbers were drawn from; None if from elsewhere.
        device: where the models were, such as "cpu" or "cuda:0".
        hardware: what that is.
        data_digest: of the images and labels.
        advkit_version: the version of advkit that measured.
        torch_version: the version of torch that it ran on.
        python_version: the version of Python.
    """

    images: int
    defenses: tuple[DefenseScore, ...]
    scores: tuple[AttackScore, ...]
    worst: tuple[WorstCase, ...]
    flags: tuple[Flag, ...] = ()
    failures: tuple[Failure, ...] = ()
    stop_when_fooled: bool = False
    seed: int | None = 0
    device: str
    hardware: str
    data_digest: str
    advkit_version: str
    torch_version: str
    python_version: str

    @property
    def clean_accuracy(self) -> float:
        """The share of images that the bare model gets right when nobody attacks, in [0, 1]."""
        return self.defenses[0].accuracy

    @property
    def attacks(self) -> tuple[AttackScore, ...]:
        """The bare model's score under each attack."""
        return tuple(score for score in self.scores if score.defense == BARE)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols by which defenses were attacked."""
        return tuple(dict.fromkeys(score.protocol for score in self.scores if score.protocol))

    def __getitem__(self, name: str) -> AttackScore:
        """The bare model's score under the attack of that name."""
        return self.score(name)

    def score(self, attack: str, defense: str = BARE, protocol: str | None = None) -> AttackScore:
        """The score of one attack on one defense.

        Args:
            attack: how the report calls the attack.
            defense: how the report calls the defense; "none" for the bare model.
            protocol: "oblivious", "naive" or "adaptive"; adaptive if None. For the bare model they are one.

        Raises:
            KeyError: there is none.
        """
        wanted = None if defense == BARE else protocol or "adaptive"
        for score in self.scores:
            if (score.name, score.defense, score.protocol) == (attack, defense, wanted):
                return score
        if attack not in [score.name for score in self.attacks]:
            raise KeyError(f"no attack is called {attack!r}; the report has {[score.name for score in self.attacks]}")
        if defense not in [one.name for one in self.defenses]:
            raise KeyError(f"no defense is called {defense!r}; the report has {[one.name for one in self.defenses]}")
        raise KeyError(f"the report has no protocol {wanted!r}; it has {list(self.protocols)}")

    def __str__(self) -> str:
        """A table that fits 80 columns; names wrap where they have to. What else there is to say stands beneath it."""
        table = self._table()
        return "\n".join([*_aligned(table, names=1 if self._is_bare else 2), *self._remarks(_WIDTH)])

    def to_markdown(self, path: str | PathLike[str] | None = None) -> str:
        """The table and its remarks in Markdown, written to ``path`` as well if there is one."""
        header, *rows = self._table(intervals=True)
        names = 1 if self._is_bare else 2
        rule = ("---",) * names + ("---:",) * (len(header) - names)
        table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (header, rule, *rows)]
        return _written("\n".join([*table, *self._remarks(None), ""]), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """All the numbers, written to ``path`` as well if there is one: a line for each score.

        A line without an attack is of the model when nobody attacks, and one whose attack is "all together" of the
        worst case over attacks. ``class`` is the attack's, or the defense's. A number that nothing was measured for is
        left empty.
        """
        columns = ["defense", "attack", "protocol", "class", "draws"]
        columns += [known.name for known in fields(AttackScore) if known.name not in {*columns, "name", "confusion"}]
        text = io.StringIO()
        lines = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        lines.writeheader()
        for clean in self.defenses:
            lines.writerow(_cells(clean) | {"defense": clean.name, "attack": "", "class": clean.defense})
            scores = [score for score in self.scores if score.defense == clean.name]
            lines.writerows(_cells(score) | {"attack": score.name, "class": score.attack} for score in scores)
            lines.writerows(_cells(w) | {"attack": _TOGETHER} for w in self.worst if w.defense == clean.name)
        return _written(text.getvalue(), path)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Everything in JSON, written to ``path`` as well if there is one. NaN becomes null."""
        text = json.dumps(_without_nan({"schema": _SCHEMA, **asdict(self)}), indent=2, allow_nan=False)
        # The triples of a confusion a line each.
        return _written(re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3]", text) + "\n", path)

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
        parts: dict[str, type] = {
            "defenses": DefenseScore,
            "scores": AttackScore,
            "worst": WorstCase,
            "flags": Flag,
            "failures": Failure,
        }
        try:
            for name, kind in parts.items():
                content[name] = tuple(_read(kind, part) for part in content[name])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise InputError(f"this is no report of advkit's: {error}") from error

    @property
    def _is_bare(self) -> bool:
        return len(self.defenses) == 1

    def _table(self, *, intervals: bool = False) -> list[tuple[str, ...]]:
        """The header and the rows."""
        if self._is_bare:
            rows = [
                (BARE, *_accuracy(self.defenses[0]), *["-"] * 4),
                *((score.name, *_accuracy(score), *_costs(score)) for score in self.attacks),
                *((_TOGETHER, *_accuracy(worst), *["-"] * 4) for worst in self._together()),
            ]
            return [("attack", "accuracy", "95 % interval", "success", "L2", "Linf", "ms/image"), *rows]

        def row(defense: str, attack: str, shares: Mapping[str | None, _Share]) -> tuple[str, ...]:
            """The bare model's only number stands where the adaptive attacker's does: it is the one that counts."""
            found = [shares.get(protocol) for protocol in protocols]
            found[-1] = found[-1] or shares.get(None)
            return defense, attack, *("" if share is None else _cell(share, intervals) for share in found)

        protocols = self.protocols or ("accuracy",)
        rows = [("defense", "attack", *protocols)]
        for clean in self.defenses:
            rows.append(row(clean.name, "no attack", {None: clean}))
            for name in [score.name for score in self.attacks]:
                scores = {s.protocol: s for s in self.scores if (s.name, s.defense) == (name, clean.name)}
                rows += [row("", name, scores)] if scores else []
            together = {worst.protocol: worst for worst in self._together() if worst.defense == clean.name}
            rows += [row("", _TOGETHER, together)] if together else []
        return rows

    def _together(self) -> tuple[WorstCase, ...]:
        """The worst case over attacks, where it says something new."""
        return self.worst if len(self.attacks) > 1 else ()

    def _remarks(self, width: int | None) -> list[str]:
        """What stands beneath the table: lines, after an empty one for each paragraph."""
        paragraphs = [
            self._caption(),
            *self._unbounded(),
            *self._failures(),
            *(f"Flag, {flag}" for flag in self.flags),
        ]
        lines: list[str] = []
        for paragraph in paragraphs:
            lines += ["", *(textwrap.wrap(paragraph, width) if width else [paragraph])]
        return lines

    def _caption(self) -> str:
        versions = f"{self.images} images on {self.device}, advkit {self.advkit_version}, torch {self.torch_version}."
        if not self._is_bare:
            shares: list[_Share] = [*self.defenses, *self.scores, *self.worst]
            ends = [max(one.high - one.accuracy, one.accuracy - one.low) for one in shares if one.images]
            widest = _number(100 * max(ends, default=math.nan), ".1f")
            text = f"{versions} Accuracy over all images; 95 % intervals reach {widest} points at most to either side."
        else:
            right = round(self.clean_accuracy * self.defenses[0].images)
            text = (
                f"{versions} Only the {right} that the model gets right are attacked: success and time are over those, "
                "L2 and Linf medians over the successes, accuracy over all."
            )
        if self.stop_when_fooled:
            text += " Each attack was tried on what those above it left, and its accuracy is what they leave together."
        return text

    def _unbounded(self) -> list[str]:
        """A sentence where "all together" mixes attacks within a budget with others, which move images at will."""
        known = {score.name: score.arguments.get("eps") for score in self.attacks if score.arguments}
        free = [name for name, eps in known.items() if eps is None]
        if not free or len(free) == len(known):
            return []
        which = f"{free[0]}, which has" if len(free) == 1 else f"{', '.join(free)}, which have"
        return [
            f'"{_TOGETHER.capitalize()}" counts {which} no budget, however far the images were moved. For what is left '
            "within a budget, evaluate the attacks that have one by themselves."
        ]

    def _failures(self) -> list[str]:
        """A sentence for each error, however many images it cost."""
        lost: dict[str, int] = {}
        for failure in self.failures:
            what = "the model, without an attack," if failure.attack is None else failure.attack
            where = "" if failure.defense == BARE else f" against {failure.defense}"
            by = f" ({failure.protocol})" if failure.protocol else ""
            sentence = f"{what}{where}{by} raised {failure.error}"
            lost[sentence] = lost.get(sentence, 0) + len(failure.rows)
        return [f"{count} image{'s' if count > 1 else ''} lost: {sentence}" for sentence, count in lost.items()]


def _aligned(table: Sequence[Sequence[str]], names: int) -> list[str]:
    """The lines of a table of 80 columns: the first ``names`` columns are text that wraps, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    room = _WIDTH - sum(widths[names:]) - 2 * (len(widths) - 1)
    while sum(widths[:names]) > room:
        widths[widths.index(max(widths[:names]))] -= 1
    lines: list[str] = []
    for row in table:
        wrapped = [textwrap.wrap(cell, width, subsequent_indent="  ") for cell, width in zip(row, widths, strict=True)]
        for index in range(max(map(len, wrapped))):
            cells = [cell[index] if index < len(cell) else "" for cell in wrapped]
            padded = [cell.ljust(width) for cell, width in zip(cells[:names], widths, strict=False)]
            padded += [cell.rjust(width) for cell, width in zip(cells[names:], widths[names:], strict=True)]
            lines.append("  ".join(padded).rstrip())
        if len(lines) and row is table[0]:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


_TOGETHER = "all together"


def _accuracy(share: _Share) -> tuple[str, str]:
    """The accuracy and its interval as cells."""
    within = "-" if math.isnan(share.low) else f"{100 * share.low:.1f} to {100 * share.high:.1f}"
    return _percent(share.accuracy), within


def _cell(share: _Share, interval: bool) -> str:
    """The accuracy as a cell, and its interval in it where there is room."""
    accuracy, within = _accuracy(share)
    return f"{accuracy} ({within})" if interval else accuracy


def _costs(score: AttackScore) -> tuple[str, ...]:
    return (
        _percent(score.success_rate),
        _number(score.median_l2, ".3f"),
        _number(score.median_linf, ".4f"),
        _number(1000 * score.seconds_per_image, ".2f"),
    )


def _cells(share: _Share) -> dict[str, object]:
    """The values of a line of CSV."""
    values = {known.name: getattr(share, known.name) for known in fields(share)}
    values = {name: "" if value is None or value != value else value for name, value in values.items()}
    return values | {"arguments": json.dumps(values["arguments"])} if "arguments" in values else values


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


def _percent(value: float) -> str:
    return _number(100 * value, ".1f", " %")


def _number(value: float, style: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else format(value, style) + unit


def _written(text: str, path: str | PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
