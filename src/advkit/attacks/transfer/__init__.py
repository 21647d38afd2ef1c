"""Gradients of a stand-in, for another model: one loop, and parts that compose.

A part is one idea: `Transfer` puts a list of them together. The shorthands are such lists under their papers' names.
"""

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.diversity import DIFGSM, InputDiversity
from advkit.attacks.transfer.momentum import EnhancedMomentum, Momentum, Nesterov
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.scale import NIFGSM, SINIFGSM, Admix, ScaleCopies
from advkit.attacks.transfer.start import RandomStart
from advkit.attacks.transfer.transfer import Transfer
from advkit.attacks.transfer.translation import TIFGSM, TranslationKernel

__all__ = [
    "DIFGSM",
    "NIFGSM",
    "SINIFGSM",
    "TIFGSM",
    "Admix",
    "Ascent",
    "EnhancedMomentum",
    "InputDiversity",
    "Momentum",
    "Nesterov",
    "Part",
    "RandomStart",
    "ScaleCopies",
    "Transfer",
    "TranslationKernel",
]
