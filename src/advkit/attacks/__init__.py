"""The attacks: one paper, one file."""

from advkit.attacks.carlini_wagner import CW
from advkit.attacks.deepfool import DeepFool
from advkit.attacks.ead import EAD
from advkit.attacks.fgsm import FGSM
from advkit.attacks.jsma import JSMA
from advkit.attacks.mifgsm import IFGSM, MIFGSM
from advkit.attacks.one_pixel import OnePixel
from advkit.attacks.pgd import PGD
from advkit.attacks.pixel_swap import PixelSwap
from advkit.attacks.pixle import Pixle
from advkit.attacks.sparse_l1 import SparseL1Descent

__all__ = [
    "CW",
    "EAD",
    "FGSM",
    "IFGSM",
    "JSMA",
    "MIFGSM",
    "PGD",
    "DeepFool",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "SparseL1Descent",
]
