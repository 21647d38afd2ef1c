"""Attacks on gradients that look for the closest image that fools the model."""

from advkit.attacks.minimal.brendel_bethge import BrendelBethge
from advkit.attacks.minimal.cw import CW
from advkit.attacks.minimal.ddn import DDN
from advkit.attacks.minimal.deepfool import DeepFool
from advkit.attacks.minimal.ead import EAD
from advkit.attacks.minimal.fab import FAB
from advkit.attacks.minimal.fmn import FMN
from advkit.attacks.minimal.jsma import JSMA
from advkit.attacks.minimal.minimal import Minimal
from advkit.attacks.minimal.pdpgd import PDGD, PDPGD
from advkit.attacks.minimal.sigma_zero import SigmaZero
from advkit.attacks.minimal.sparsefool import SparseFool
from advkit.attacks.minimal.superdeepfool import SuperDeepFool

__all__ = [
    "CW",
    "DDN",
    "EAD",
    "FAB",
    "FMN",
    "JSMA",
    "PDGD",
    "PDPGD",
    "BrendelBethge",
    "DeepFool",
    "Minimal",
    "SigmaZero",
    "SparseFool",
    "SuperDeepFool",
]
