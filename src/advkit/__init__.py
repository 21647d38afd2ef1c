"""Adversarial attacks and defenses for PyTorch image classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advkit import attacks, errors, goals, losses, norms
from advkit._version import __version__
from advkit.attack import AdversarialResult, Attack
from advkit.attacks import (
    APGD,
    APGDT,
    BSR,
    CW,
    DDN,
    DIFGSM,
    EAD,
    FAB,
    FGSM,
    FMN,
    GRA,
    IFGSM,
    JSMA,
    LGV,
    MIFGSM,
    NES,
    NIFGSM,
    PDGD,
    PDPGD,
    PGD,
    PGN,
    PIFGSM,
    PIFGSMPP,
    SIA,
    SINIFGSM,
    SPSA,
    SSA,
    TIFGSM,
    TPGD,
    VMIFGSM,
    VNIFGSM,
    AutoAttack,
    BasinHopping,
    Blended,
    Blur,
    Boundary,
    BrendelBethge,
    DeepFool,
    HopSkipJump,
    Jitter,
    Minimal,
    MultiTargeted,
    Noise,
    OnePixel,
    Patch,
    PixelSwap,
    Pixle,
    RayS,
    Restarts,
    SigmaZero,
    SimBA,
    SparseFool,
    SparseL1Descent,
    Spatial,
    Square,
    SuperDeepFool,
    SurFree,
    Transfer,
    Universal,
    WorstOf,
)
from advkit.goals import Targeted, Untargeted
from advkit.model import Defended, Ensemble, Normalized
from advkit.outputs import Logits, TwoClass

if TYPE_CHECKING:
    from advkit import data, defenses, evaluation, transforms
    from advkit.defenses import Defense
    from advkit.evaluation import RobustnessReport
    from advkit.evaluation.evaluate import evaluate
    from advkit.transforms import AttackTransform, FGSMTransform

__all__ = [
    "APGD",
    "APGDT",
    "BSR",
    "CW",
    "DDN",
    "DIFGSM",
    "EAD",
    "FAB",
    "FGSM",
    "FMN",
    "GRA",
    "IFGSM",
    "JSMA",
    "LGV",
    "MIFGSM",
    "NES",
    "NIFGSM",
    "PDGD",
    "PDPGD",
    "PGD",
    "PGN",
    "PIFGSM",
    "PIFGSMPP",
    "SIA",
    "SINIFGSM",
    "SPSA",
    "SSA",
    "TIFGSM",
    "TPGD",
    "VMIFGSM",
    "VNIFGSM",
    "AdversarialResult",
    "Attack",
    "AttackTransform",
    "AutoAttack",
    "BasinHopping",
    "Blended",
    "Blur",
    "Boundary",
    "BrendelBethge",
    "DeepFool",
    "Defended",
    "Defense",
    "Ensemble",
    "FGSMTransform",
    "HopSkipJump",
    "Jitter",
    "Logits",
    "Minimal",
    "MultiTargeted",
    "Noise",
    "Normalized",
    "OnePixel",
    "Patch",
    "PixelSwap",
    "Pixle",
    "RayS",
    "Restarts",
    "RobustnessReport",
    "SigmaZero",
    "SimBA",
    "SparseFool",
    "SparseL1Descent",
    "Spatial",
    "Square",
    "SuperDeepFool",
    "SurFree",
    "Targeted",
    "Transfer",
    "TwoClass",
    "Universal",
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

# What many have no use for is imported when it is asked for. The names of modules are their own.
_LATER = {
    "AttackTransform": "transforms",
    "Defense": "defenses",
    "FGSMTransform": "transforms",
    "RobustnessReport": "evaluation",
    "data": "",
    "defenses": "",
    "evaluate": "evaluation",
    "evaluation": "",
    "transforms": "",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'advkit' has no attribute {name!r}")
    found = import_module(f"advkit.{_LATER[name] or name}")
    globals()[name] = found = getattr(found, name) if _LATER[name] else found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
