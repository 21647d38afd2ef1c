"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import FGSM, IFGSM, MIFGSM, PGD, SparseL1Descent
from advkit.attacks.minimal import (
    CW,
    DDN,
    EAD,
    FMN,
    JSMA,
    PDGD,
    PDPGD,
    DeepFool,
    SigmaZero,
    SuperDeepFool,
)
from advkit.attacks.queries import OnePixel, PixelSwap, Pixle

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
    "DeepFool",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SigmaZero",
    "SparseL1Descent",
    "SuperDeepFool",
]
