"""The attacks: one paper, one file."""

from advkit.attacks.carlini_wagner import CW
from advkit.attacks.ead import EAD
from advkit.attacks.fgsm import FGSM
from advkit.attacks.mifgsm import IFGSM, MIFGSM
from advkit.attacks.pgd import PGD

__all__ = ["CW", "EAD", "FGSM", "IFGSM", "MIFGSM", "PGD"]
