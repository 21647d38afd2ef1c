"""What is kept of a batch: a few numbers per image, and not the images."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from advkit._io.witness import Witness
from advkit.errors import NoGradientError
from advkit.evaluation.keepsakes import Picture

__all__ = ["LOST", "NORMS", "REFUSED", "Outcome", "Record", "is_refused", "vote"]

LOST = -1  # the prediction for an image that was lost to an error
NORMS = ("l0", "l1", "l2", "linf")
REFUSED = f"{NoGradientError.__name__}: "  # how an error begins that says there is no gradient to follow
_ROUNDING = 1e-4  # of a distance, that a budget forgives


@dataclass
class Outcome:
    """What a contender said of a batch of n images, with or without an attack.

    Attributes:
        predictions: int64 (draws, n), a class, or `LOST`; on the CPU.
        seconds: how long it took to predict.
        predicted: how many predictions that were, over all draws.
        errors: rows lost to an error, and the error.
        rows: the images that were attacked and judged.
        right: how many of these it got right before, by the vote of its draws.
        fooled: for each of these, whether it then got it wrong.
        distances: floating (4, m), how far each of these m was moved, in each of `NORMS`; on the CPU.
        attack_seconds: how long the attack took.
        crafted: how many images it made, which may be more than these rows.
        forwards: images that went forward through the network for that.
        backwards: images that went backward.
    """

    predictions: Tensor
    seconds: float = 0.0
    predicted: int = 0
    errors: list[tuple[list[int], str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    right: int = 0
    fooled: list[bool] = field(default_factory=list)
    distances: Tensor = field(default_factory=lambda: torch.zeros(len(NORMS), 0, device="cpu"))
    attack_seconds: float = 0.0
    crafted: int = 0
    forwards: int = 0
    backwards: int = 0

    @property
    def refused(self) -> bool:
        """Whether there was no gradient for the attack on any of these images, though it needs one."""
        return bool(self.errors) and not self.predicted and all(error.startswith(REFUSED) for _, error in self.errors)

    def within(self, norm: str, eps: float) -> Tensor:
        """Which of the n images were moved no further than that, bool (n,); those not attacked were not moved."""
        far = torch.zeros(self.predictions.shape[1], device="cpu")
        far[self.rows] = self.distances[NORMS.index(norm)].to(far)
        return far <= eps * (1 + _ROUNDING)

    def lose(self, errors: Sequence[tuple[Tensor, Exception]]) -> None:
        """Note the rows (m,) that were lost to errors."""
        for rows, error in errors:
            if len(rows):
                self.predictions[:, rows] = LOST
                self.errors.append((rows.tolist(), f"{type(error).__name__}: {error}"))


@dataclass
class Record:
    """All that is kept of a batch.

    Attributes:
        digest: of its images and labels.
        device: where the bare model was.
        labels: the class of each image.
        clean: an outcome for each contender.
        cells: an outcome for each cell of the plan, in order.
        answers: of each contender, to know it again by; none where the record is not kept.
        verified: whether each image is proved; none where nobody asked.
        pictures: a few of the images that the bare model was fooled with, where they are to be kept.
    """

    digest: str
    device: str
    labels: list[int]
    clean: list[Outcome]
    cells: list[Outcome]
    answers: list[Witness] = field(default_factory=list)
    verified: list[bool] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def to_json(self) -> str:
        """The record as text."""
        return json.dumps(asdict(self), default=Tensor.tolist)

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The record that `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        for name in ("clean", "cells"):
            for outcome in content[name]:
                outcome["predictions"] = torch.tensor(outcome["predictions"], device="cpu")
                outcome["distances"] = torch.tensor(outcome["distances"], dtype=torch.float64, device="cpu")
            content[name] = [Outcome(**outcome) for outcome in content[name]]
        content["answers"] = [Witness(**said) for said in content["answers"]]
        content["pictures"] = [Picture.from_json(one) for one in content.get("pictures", ())]
        return cls(**content)


def is_refused(outcomes: Iterable[Outcome]) -> bool:
    """Whether an attack, from its outcomes for each batch, was never carried out for want of a gradient."""
    tried = [outcome for outcome in outcomes if outcome.predicted or outcome.errors]
    return bool(tried) and all(outcome.refused for outcome in tried)


def vote(predictions: Tensor) -> Tensor:
    """What most of the draws (draws, n) say: int64 (n,)."""
    return predictions.mode(0).values
