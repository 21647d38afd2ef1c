"""Attacks made of attacks."""

from advkit.attacks.combined.auto_attack import AutoAttack
from advkit.attacks.combined.restarts import Restarts
from advkit.attacks.combined.worst_of import WorstOf

__all__ = ["AutoAttack", "Restarts", "WorstOf"]
