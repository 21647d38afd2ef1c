"""The box of the pixels by a change of variable, which no step can leave."""

from torch import Tensor

__all__ = ["TanhBox"]

_MARGIN = 0.05  # tanh ends this much beyond the bounds, or no step could move a pixel that is at one


class TanhBox:
    """x = mid + reach * tanh(w), Carlini & Wagner's box.

    w is never stored. tanh(w + v) = tanh(w) + tanh(v) * (1 - tanh(w)^2) / (1 + tanh(w) * tanh(v)), so a step v is
    taken from the pixels themselves: what does not move stays what it is to the bit.

    Args:
        bounds: of the pixels.
    """

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.bounds = low, high = bounds
        self.mid = (low + high) / 2
        self.reach = (high - low) / 2 / (1 - _MARGIN)

    def slope(self, x: Tensor) -> Tensor:
        """dx/dw, (n, ...), which the margin keeps away from zero."""
        return self.reach * (1 - ((x - self.mid) / self.reach).square())

    def stepped(self, x: Tensor, step: Tensor) -> Tensor:
        """The pixels at w + step, (n, ...), inside the bounds."""
        short = step.tanh()
        return self._moved(x, short * self.slope(x), short)

    def towards(self, x: Tensor, by: Tensor) -> Tensor:
        """The pixels after the step that would change them by ``by``, (n, ...), if the box were straight."""
        slope = self.slope(x)
        short = (by / slope).tanh()
        return self._moved(x, slope.mul_(short), short)

    def _moved(self, x: Tensor, by: Tensor, short: Tensor) -> Tensor:
        """What a step of tanh ``short``, (n, ...), makes of x + ``by`` in a box that bends."""
        return (x + by / (1 + short * (x - self.mid) / self.reach)).clamp(*self.bounds)
