"""What attacks on decisions declare that begin with an image that fools."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit._engine.decisions import starts
from advkit.attack import Access
from advkit.black_box import Asking, Oracle
from advkit.hyperparameters import ImageEach, declared, number

__all__ = ["Starting"]


@dataclass(frozen=True, eq=False)
class Starting(Asking):
    """Base of attacks that go from an image that fools, far away, towards the original."""

    access: ClassVar[Access] = "decisions"

    _: KW_ONLY
    starting_points: Tensor | None = declared(None, ImageEach(optional=True))
    init_size: int = number(100, at_least=1, integer=True)

    def _starts(self, ask: Oracle, images: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that have an image to begin with, int64 (m,), and that image, (m, ...)."""
        return starts(ask, images, self.starting_points, self.init_size, self.bounds, self.generator)
