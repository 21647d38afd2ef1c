"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import FGSM, IFGSM, MIFGSM, PGD, MultiTargeted, SparseL1Descent
from advkit.attacks.minimal import CW, EAD, JSMA, DeepFool
from advkit.attacks.queries import OnePixel, PixelSwap, Pixle

__all__ = [
    "CW",
    "EAD",
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "PGD",
    "DeepFool",
    "MultiTargeted",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SparseL1Descent",
]
