"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import FGSM, IFGSM, MIFGSM, PGD, SparseL1Descent
from advkit.attacks.minimal import CW, EAD, JSMA, DeepFool
from advkit.attacks.queries import OnePixel, PixelSwap, Pixle
from advkit.attacks.transfer import DIFGSM, NIFGSM, SINIFGSM, TIFGSM, Transfer

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
    "DeepFool",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SparseL1Descent",
    "Transfer",
]
