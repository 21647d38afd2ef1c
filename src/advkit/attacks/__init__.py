"""The attacks: one paper, one file."""

from advkit.attacks.deepfool import DeepFool
from advkit.attacks.fgsm import FGSM
from advkit.attacks.jsma import JSMA
from advkit.attacks.mifgsm import IFGSM, MIFGSM
from advkit.attacks.one_pixel import OnePixel
from advkit.attacks.pgd import PGD
from advkit.attacks.pixel_swap import PixelSwap
from advkit.attacks.pixle import Pixle
from advkit.attacks.sparse_l1 import SparseL1Descent

__all__ = ["FGSM", "IFGSM", "JSMA", "MIFGSM", "PGD", "DeepFool", "OnePixel", "PixelSwap", "Pixle", "SparseL1Descent"]
