"""Attacks on gradients that look for the worst image within a budget."""

from advkit.attacks.budget.apgd import APGD, APGDT
from advkit.attacks.budget.basin_hopping import BasinHopping
from advkit.attacks.budget.fgsm import FGSM
from advkit.attacks.budget.jitter import Jitter
from advkit.attacks.budget.mifgsm import IFGSM, MIFGSM
from advkit.attacks.budget.multi_targeted import MultiTargeted
from advkit.attacks.budget.pgd import PGD
from advkit.attacks.budget.sparse_l1 import SparseL1Descent
from advkit.attacks.budget.tpgd import TPGD

__all__ = [
    "APGD",
    "APGDT",
    "FGSM",
    "IFGSM",
    "MIFGSM",
    "PGD",
    "TPGD",
    "BasinHopping",
    "Jitter",
    "MultiTargeted",
    "SparseL1Descent",
]
