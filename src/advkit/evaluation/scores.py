"""The numbers of a report: how a model fares without an attack, under each attack, and under all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["BARE", "AttackScore", "DefenseScore", "Failure", "Score", "Share", "WorstCase"]

BARE = "none"  # what the report calls the bare model, among the defenses


@dataclass(frozen=True, kw_only=True)
class Share:
    """An accuracy: the share of images that a model gets right. Numbers for which nothing was measured are NaN.

    Attributes:
        images: how many images it is a share of: those that were evaluated and not lost to errors.
        accuracy: the share of them that the model gets right, in [0, 1]. For a random model, the mean over its draws.
        low: the lower end of the 95 % interval of the accuracy; see `advkit.evaluation.metrics.wilson`.
        high: its upper end.

    Examples:
        >>> worst = advkit.evaluate(model, loader, [advkit.FGSM(model)]).worst[0]
        >>> worst.images, worst.accuracy, worst.interval == (worst.low, worst.high)
        (12, 0.0, True)
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
            over images. Under attack it includes the attack.
        confusion: (label, prediction, count) for each pair that occurs; a random model counts in every draw.

    Examples:
        >>> score = advkit.evaluate(model, loader, [advkit.FGSM(model)])["FGSM"]
        >>> isinstance(score, advkit.evaluation.Score), score.low <= score.accuracy <= score.high
        (True, True)
        >>> int(score.confusion_matrix().sum())  # each image once
        12
    """

    precision: float
    recall: float
    f1: float
    prediction_seconds: float
    confusion: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)

    def confusion_matrix(self) -> Tensor:
        """How often an image of class i was predicted as class j: int64 (K, K), K - 1 being the largest class seen."""
        classes = 1 + max((max(label, prediction) for label, prediction, _ in self.confusion), default=-1)
        matrix = torch.zeros(classes, classes, dtype=torch.int64, device="cpu")
        for label, prediction, count in self.confusion:
            matrix[label, prediction] = count
        return matrix


@dataclass(frozen=True, kw_only=True)
class DefenseScore(Score):
    """How a model fares without an attack: the bare model, or one behind a defense.

    Attributes:
        name: the name of the defense in the report; "none" for the bare model.
        defense: the class of the defense, or of the model.
        arguments: what it was made with, by name, and a digest of its weights if it has any.
        draws: how many times a random model was run on each image; 1 for others.

    Examples:
        >>> defenses = {"crops": advkit.defenses.RandomCropRescale()}
        >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model)], defenses, draws=5)
        >>> [(score.name, score.defense, score.draws) for score in report.defenses]
        [('none', 'Normalized', 1), ('crops', 'RandomCropRescale', 5)]
    """

    name: str
    defense: str
    draws: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AttackScore(Score):
    """How a model fares under one attack.

    Attributes:
        name: the name of the attack in the report.
        attack: the attack's class.
        defense: the name of the defense in the report; "none" for the bare model.
        protocol: "oblivious", "naive" or "adaptive"; None for the bare model, where the three are the same. Or
            "transferred", for images that were made on another model, the surrogate.
        surrogate: the name of the surrogate in the report; None for other protocols.
        attacked: how many images were attacked: those that the model gets right in some draw.
        first_to_fool: on how many images this attack was the first in the list to fool the model, within the budgets
            that `WorstCase` counts; they sum to all images that were fooled. None in a report of an older advkit.
        success_rate: of the images that the model got right before the attack, the share that it got wrong after it.
        median_l0: the median L0 norm of the successful perturbations, in features; likewise the others, in units of
            pixels.
        seconds_per_image: wall-clock time of the attack divided by the number of images attacked.
        forwards_per_image: forwards through the network per image attacked; a surrogate that averages over ten draws
            makes ten. The forward that judges the outcome is not included.
        backwards_per_image: backwards through it, likewise.
        arguments: the attack's hyperparameters by name, as numbers, strings, lists and None.

    Examples:
        >>> score = advkit.evaluate(model, loader, [advkit.PGD(model, steps=5)])["PGD(steps=5)"]
        >>> score.attacked, score.success_rate, score.forwards_per_image, score.arguments["steps"]
        (12, 1.0, 5.0, 5)
    """

    name: str
    attack: str
    defense: str = BARE
    protocol: str | None = None
    surrogate: str | None = None
    attacked: int
    first_to_fool: int | None = None
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
    """The worst case over all attacks: an image counts as right only if the model is right under every one of them.

    For a random model, the attack that counts for an image is the one that leaves the smallest share of draws right.
    Where some attacks have a budget, the success of a minimal attack counts only if the image was moved no further than
    a budget allows.

    Transferred images count for the bare model, and for the adaptive attacker, who is free to use them.

    Attributes:
        defense: the name of the defense in the report; "none" for the bare model.
        protocol: as in `AttackScore`; "transferred" for images from surrogates alone.
        within: for each norm by name, the largest budget of an attack in it, in units of pixels.

    Examples:
        >>> attacks = [advkit.FGSM(model, eps=1 / 255), advkit.PGD(model, eps=1 / 255)]
        >>> report = advkit.evaluate(model, loader, attacks)
        >>> report.worst[0].accuracy <= min(score.accuracy for score in report.attacks)
        True
    """

    defense: str = BARE
    protocol: str | None = None
    within: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Images lost to an error.

    Attributes:
        batch: the index of the batch in the loader.
        rows: the indices of the images in it.
        attack: the attack that raised; None if the model raised without one.
        defense: the name of the defense in the report.
        protocol: as in `AttackScore`.
        error: the exception, as text.
        surrogate: as in `AttackScore`.

    Examples:
        >>> class Picky(advkit.FGSM):
        ...     def _perturb(self, images, goal):
        ...         if len(images) < 8:
        ...             raise RuntimeError("not for so few")
        ...         return super()._perturb(images, goal)
        >>> (lost,) = advkit.evaluate(model, loader, [Picky(model)]).failures
        >>> lost.batch, lost.rows, lost.error
        (1, (0, 1, 2, 3), 'RuntimeError: not for so few')
    """

    batch: int
    rows: tuple[int, ...]
    attack: str | None
    defense: str
    protocol: str | None
    error: str
    surrogate: str | None = None
