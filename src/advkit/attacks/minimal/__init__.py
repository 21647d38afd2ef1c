"""Gradients in, the closest image that fools out."""

from advkit.attacks.minimal.cw import CW
from advkit.attacks.minimal.deepfool import DeepFool
from advkit.attacks.minimal.ead import EAD
from advkit.attacks.minimal.fab import FAB
from advkit.attacks.minimal.jsma import JSMA

__all__ = ["CW", "EAD", "FAB", "JSMA", "DeepFool"]
