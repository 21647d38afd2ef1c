"""Attacks that learn one pattern for all images from a loader; after that, attacks like any other."""

from advkit.attacks.fitted.patch import Patch
from advkit.attacks.fitted.universal import Universal

__all__ = ["Patch", "Universal"]
