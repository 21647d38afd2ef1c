"""Scores or decisions in, without a gradient; an image that fools out."""

from advkit.attacks.queries.nes import NES
from advkit.attacks.queries.one_pixel import OnePixel
from advkit.attacks.queries.pixel_swap import PixelSwap
from advkit.attacks.queries.pixle import Pixle
from advkit.attacks.queries.simba import SimBA
from advkit.attacks.queries.spsa import SPSA
from advkit.attacks.queries.square import Square

__all__ = ["NES", "SPSA", "OnePixel", "PixelSwap", "Pixle", "SimBA", "Square"]
