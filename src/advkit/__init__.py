"""Adversarial attacks and defenses for PyTorch image classifiers."""

from advkit import attacks, data, defenses, errors, evaluation, goals, losses, norms, transforms
from advkit._version import __version__
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import (
    CW,
    DDN,
    EAD,
    FGSM,
    FMN,
    IFGSM,
    JSMA,
    MIFGSM,
    PDGD,
    PDPGD,
    PGD,
    DeepFool,
    OnePixel,
    PixelSwap,
    Pixle,
    SigmaZero,
    SparseL1Descent,
    SuperDeepFool,
)
from advkit.defenses import Defense
from advkit.evaluation import RobustnessReport, evaluate
from advkit.goals import Targeted, Untargeted
from advkit.model import Defended, Normalized
from advkit.transforms import AttackTransform, FGSMTransform

__all__ = [
    "CW",
    "DDN",
    "EAD",
    "FGSM",
    "FMN",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
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
    "SigmaZero",
    "SparseL1Descent",
    "SuperDeepFool",
    "Targeted",
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
