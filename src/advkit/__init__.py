"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, errors, evaluation, goals, losses, norms
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import CW, EAD, FGSM, IFGSM, MIFGSM, PGD
from advkit.evaluation import RobustnessReport, evaluate
from advkit.goals import Targeted, Untargeted
from advkit.model import Normalized

__version__ = "0.1.0"

__all__ = [
    "CW",
    "EAD",
    "FGSM",
    "IFGSM",
    "MIFGSM",
    "PGD",
    "AdversarialResult",
    "Attack",
    "Normalized",
    "RobustnessReport",
    "Targeted",
    "Untargeted",
    "attacks",
    "errors",
    "evaluate",
    "evaluation",
    "goals",
    "losses",
    "norms",
]
