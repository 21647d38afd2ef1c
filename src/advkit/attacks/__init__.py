"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import FGSM, IFGSM, MIFGSM, PGD, SparseL1Descent
from advkit.attacks.minimal import CW, EAD, JSMA, DeepFool
from advkit.attacks.queries import OnePixel, PixelSwap, Pixle
from advkit.attacks.transfer import (
    BSR,
    DIFGSM,
    GRA,
    NIFGSM,
    PGN,
    PIFGSM,
    PIFGSMPP,
    SIA,
    SINIFGSM,
    SSA,
    TIFGSM,
    VMIFGSM,
    VNIFGSM,
    Transfer,
)

__all__ = [
    "BSR",
    "CW",
    "DIFGSM",
    "EAD",
    "FGSM",
    "GRA",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "PGN",
    "PIFGSM",
    "PIFGSMPP",
    "SIA",
    "SINIFGSM",
    "SSA",
    "TIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "DeepFool",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SparseL1Descent",
    "Transfer",
]
