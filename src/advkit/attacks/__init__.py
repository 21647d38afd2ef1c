"""The attacks: one paper, one file."""

from advkit.attacks.deepfool import DeepFool
from advkit.attacks.fgsm import FGSM
from advkit.attacks.mifgsm import IFGSM, MIFGSM
from advkit.attacks.pgd import PGD

__all__ = ["FGSM", "IFGSM", "MIFGSM", "PGD", "DeepFool"]
