"""How well a model stands up to attacks: measured, reported and pictured."""

from advkit.evaluation.evaluate import PROTOCOLS, evaluate
from advkit.evaluation.flags import Flag
from advkit.evaluation.plot import picture_rows
from advkit.evaluation.report import AttackScore, DefenseScore, Failure, RobustnessReport, Score, WorstCase

__all__ = [
    "PROTOCOLS",
    "AttackScore",
    "DefenseScore",
    "Failure",
    "Flag",
    "RobustnessReport",
    "Score",
    "WorstCase",
    "evaluate",
    "picture_rows",
]
