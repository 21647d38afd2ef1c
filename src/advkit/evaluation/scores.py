"""The numbers of a report: how a model fares when nobody attacks, under each attack, and under all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["BARE", "AttackScore", "DefenseScore", "Failure", "Score", "Share", "WorstCase"]

BARE = "none"  # what the report calls the bare model, among the defenses


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of images that a model gets right. A number that nothing was measured for is NaN.

    Attributes:
        images: how many images it is of: those that were evaluated and not lost to errors.
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
class Score(Share):
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
class WorstCase(Share):
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
    """Images lost to an error.

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
