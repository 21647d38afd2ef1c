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
        return self._moved(x, step, self.slope(x))

    def towards(self, x: Tensor, by: Tensor) -> Tensor:
        """The pixels after the step that would change them by ``by``, (n, ...), if the box were straight."""
        slope = self.slope(x)
        return self._moved(x, by / slope, slope)

    def _moved(self, x: Tensor, step: Tensor, slope: Tensor) -> Tensor:
        short = step.tanh()
        moved = x + short * slope / (1 + short * (x - self.mid) / self.reach)
        return moved.clamp(*self.bounds)
