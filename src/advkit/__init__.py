"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, data, defenses, errors, evaluation, goals, losses, norms, transforms
from advkit._version import __version__
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import (
    APGD,
    APGDT,
    CW,
    EAD,
    FAB,
    FGSM,
    IFGSM,
    JSMA,
    MIFGSM,
    PGD,
    AutoAttack,
    DeepFool,
    OnePixel,
    PixelSwap,
    Pixle,
    Restarts,
    SparseL1Descent,
    Square,
    WorstOf,
)
from advkit.defenses import Defense
from advkit.evaluation import RobustnessReport, evaluate
from advkit.goals import Targeted, Untargeted
from advkit.model import Defended, Normalized
from advkit.transforms import AttackTransform, FGSMTransform

__all__ = [
    "APGD",
    "APGDT",
    "CW",
    "EAD",
    "FAB",
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "PGD",
    "AdversarialResult",
    "Attack",
    "AttackTransform",
    "AutoAttack",
    "DeepFool",
    "Defended",
    "Defense",
    "FGSMTransform",
    "Normalized",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "Restarts",
    "RobustnessReport",
    "SparseL1Descent",
    "Square",
    "Targeted",
    "Untargeted",
    "WorstOf",
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
