"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, data, defenses, errors, evaluation, goals, losses, norms, transforms
from advkit._version import __version__
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import (
    CW,
    DIFGSM,
    EAD,
    FGSM,
    IFGSM,
    JSMA,
    MIFGSM,
    NIFGSM,
    PGD,
    SINIFGSM,
    TIFGSM,
    DeepFool,
    OnePixel,
    PixelSwap,
    Pixle,
    SparseL1Descent,
    Transfer,
)
from advkit.defenses import Defense
from advkit.evaluation import RobustnessReport, evaluate
from advkit.goals import Targeted, Untargeted
from advkit.model import Defended, Normalized
from advkit.transforms import AttackTransform, FGSMTransform

__all__ = [
    "CW",
    "DIFGSM",
    "EAD",
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "SINIFGSM",
    "TIFGSM",
    "AdversarialResult",
    "Attack",
    "AttackTransform",
    "DeepFool",
    "Defended",
    "Defense",
    "FGSMTransform",
    "Normalized",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "RobustnessReport",
    "SparseL1Descent",
    "Targeted",
    "Transfer",
    "Untargeted",
    "__version__",
    "attacks",
    "data",
    "defenses",
    "errors",
    "evaluate",
    "evaluation",
    "goals",
    "losses",
    "norms",
    "transforms",
]
