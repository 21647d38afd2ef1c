"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, errors, goals, losses, norms
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import FGSM, IFGSM, MIFGSM, PGD, DeepFool
from advkit.goals import Targeted, Untargeted
from advkit.model import Normalized

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "IFGSM",
    "MIFGSM",
    "PGD",
    "AdversarialResult",
    "Attack",
    "DeepFool",
    "Normalized",
    "Targeted",
    "Untargeted",
    "attacks",
    "errors",
    "goals",
    "losses",
    "norms",
]
