"""What in a report ought to make its readers suspicious."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from advkit.attack import Attack
from advkit.model import Model

if TYPE_CHECKING:
    from advkit.evaluation.report import RobustnessReport

__all__ = ["Flag", "probed", "raised"]


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a robust accuracy.

    Attributes:
        name: in a few words.
        sentence: what was seen, and what it may mean.
        paper: who says so.
    """

    name: str
    sentence: str
    paper: str


def probed(
    defense: str, model: Model, attacks: Mapping[str, Attack], images: Tensor, labels: Tensor
) -> tuple[Flag, ...]:
    """The flags that need passes of their own."""
    return ()


def raised(report: RobustnessReport) -> tuple[Flag, ...]:
    """The flags that the numbers of a finished report raise."""
    return ()
