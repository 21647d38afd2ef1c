"""How well a model withstands attacks: measured, reported and plotted.

Examples:
    >>> report = advkit.evaluation.evaluate(model, loader, "standard", eps=8 / 255)  # advkit.evaluate for short
    >>> report.robust_accuracy
    0.0
"""

from advkit.evaluation.evaluate import PROTOCOLS, evaluate
from advkit.evaluation.flags import Flag
from advkit.evaluation.keepsakes import Picture
from advkit.evaluation.plot import accuracy_bars, confusion_matrix, picture_rows, security_curves
from advkit.evaluation.report import AttackScore, DefenseScore, Failure, RobustnessReport, Score, WorstCase
from advkit.evaluation.security import SecurityCurve, security_curve
from advkit.evaluation.verify import margin_bounds, verify
from advkit.evaluation.versus import Comparison

__all__ = [
    "PROTOCOLS",
    "AttackScore",
    "Comparison",
    "DefenseScore",
    "Failure",
    "Flag",
    "Picture",
    "RobustnessReport",
    "Score",
    "SecurityCurve",
    "WorstCase",
    "accuracy_bars",
    "confusion_matrix",
    "evaluate",
    "margin_bounds",
    "picture_rows",
    "security_curve",
    "security_curves",
    "verify",
]
