"""Black-box attacks, on scores or on decisions alone; no gradients."""

from advkit.attacks.queries.blended import Blended
from advkit.attacks.queries.blur import Blur
from advkit.attacks.queries.boundary import Boundary
from advkit.attacks.queries.hop_skip_jump import HopSkipJump
from advkit.attacks.queries.nes import NES
from advkit.attacks.queries.noise import Noise
from advkit.attacks.queries.one_pixel import OnePixel
from advkit.attacks.queries.pixel_swap import PixelSwap
from advkit.attacks.queries.pixle import Pixle
from advkit.attacks.queries.rays import RayS
from advkit.attacks.queries.simba import SimBA
from advkit.attacks.queries.spatial import Spatial
from advkit.attacks.queries.spsa import SPSA
from advkit.attacks.queries.square import Square
from advkit.attacks.queries.surfree import SurFree

__all__ = [
    "NES",
    "SPSA",
    "Blended",
    "Blur",
    "Boundary",
    "HopSkipJump",
    "Noise",
    "OnePixel",
    "PixelSwap",
    "Pixle",
    "RayS",
    "SimBA",
    "Spatial",
    "Square",
    "SurFree",
]
