"""One pattern for all images, fitted on a loader; then an attack like any other."""

from advkit.attacks.fitted.patch import Patch
from advkit.attacks.fitted.universal import Universal

__all__ = ["Patch", "Universal"]
