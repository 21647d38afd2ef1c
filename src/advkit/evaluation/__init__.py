"""How well a model stands up to attacks: measured, reported and pictured."""

from advkit.evaluation.evaluate import evaluate
from advkit.evaluation.plot import picture_rows
from advkit.evaluation.report import AttackScore, RobustnessReport

__all__ = ["AttackScore", "RobustnessReport", "evaluate", "picture_rows"]
