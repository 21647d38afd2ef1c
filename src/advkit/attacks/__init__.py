"""The attacks: one paper, one file; in folders by what an attacker sees and gives back."""

from advkit.attacks.budget import APGD, APGDT, FGSM, IFGSM, MIFGSM, PGD, MultiTargeted, SparseL1Descent
from advkit.attacks.combined import AutoAttack, Restarts, WorstOf
from advkit.attacks.minimal import CW, EAD, FAB, JSMA, DeepFool
from advkit.attacks.queries import NES, SPSA, OnePixel, PixelSwap, Pixle, SimBA, Square

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
    "NES",
    "PGD",
    "SPSA",
    "AutoAttack",
    "DeepFool",
    "MultiTargeted",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "Restarts",
    "SimBA",
    "SparseL1Descent",
    "Square",
    "WorstOf",
]
