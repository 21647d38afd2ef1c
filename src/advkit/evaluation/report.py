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

__all__ = ["AttackScore", "DefenseScore", "Failure", "RobustnessReport", "Score", "WorstCase"]

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
        matrix = torch.zeros(classes, classes, dtype=torch.int64)
        for label, prediction, count in self.confusion:
            matrix[label, prediction] = count
        return matrix


@dataclass(frozen=True, kw_only=True)
class DefenseScore(Score):
    """How a model fares when nobody attacks: the bare model, or one behind a defense.

    Attributes:
        name: how the report calls the defense; "none" for the bare model.
        defense: the class of the defense, or of the model.
        arguments: its numbers by name.
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
    defense: str = "none"
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

    defense: str = "none"
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
        model_digest: of the bare model's weights.
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
    model_digest: str
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
        return tuple(score for score in self.scores if score.defense == self.defenses[0].name)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols by which defenses were attacked."""
        return tuple(dict.fromkeys(score.protocol for score in self.scores if score.protocol))

    def __getitem__(self, name: str) -> AttackScore:
        """The bare model's score under the attack of that name."""
        return self.score(name)

    def score(self, attack: str, defense: str = "none", protocol: str | None = None) -> AttackScore:
        """The score of one attack on one defense.

        Args:
            attack: how the report calls the attack.
            defense: how the report calls the defense; "none" for the bare model.
            protocol: "oblivious", "naive" or "adaptive"; adaptive if None. For the bare model they are one.

        Raises:
            KeyError: there is none.
        """
        wanted = None if defense == "none" else protocol or "adaptive"
        for score in self.scores:
            if (score.name, score.defense, score.protocol) == (attack, defense, wanted):
                return score
        if attack not in [score.name for score in self.attacks]:
            raise KeyError(f"no attack is called {attack!r}; the report has {[score.name for score in self.attacks]}")
        if defense not in [one.name for one in self.defenses]:
            raise KeyError(f"no defense is called {defense!r}; the report has {[one.name for one in self.defenses]}")
        raise KeyError(f"the report has no protocol {wanted!r}; it has {list(self.protocols)}")
