"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import APGD, APGDT, FGSM, IFGSM, MIFGSM, PGD, SparseL1Descent
from advkit.attacks.minimal import CW, EAD, JSMA, DeepFool
from advkit.attacks.queries import NES, SPSA, OnePixel, PixelSwap, Pixle, SimBA, Square

__all__ = [
    "APGD",
    "APGDT",
    "CW",
    "EAD",
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "NES",
    "PGD",
    "SPSA",
    "DeepFool",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SimBA",
    "SparseL1Descent",
    "Square",
]
