"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, errors, goals, losses, norms
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import FGSM, IFGSM, JSMA, MIFGSM, PGD, OnePixel, PixelSwap, Pixle, SparseL1Descent
from advkit.goals import Targeted, Untargeted
from advkit.model import Normalized

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "PGD",
    "AdversarialResult",
    "Attack",
    "Normalized",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SparseL1Descent",
    "Targeted",
    "Untargeted",
    "attacks",
    "errors",
    "goals",
    "losses",
    "norms",
]
