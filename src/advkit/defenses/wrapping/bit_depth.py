"""Bit depth reduction: fewer levels for each channel."""

from torch import Tensor

from advkit._engine.checks import check_number
from advkit.defenses.wrapping.pictures import PictureTransformation

__all__ = ["BitDepthReduction"]


class BitDepthReduction(PictureTransformation):
    """Bit depth reduction: pixels are rounded to the nearest of 2^bits evenly spaced values that span the bounds.

    Its gradient is zero almost everywhere, which stops an attacker who does not know the defense. One who does
    differentiates the identity in its place (BPDA).

    Guo et al., "Countering adversarial images using input transformations", ICLR 2018, section 3 (3 bits);
    Xu, Evans & Qi, "Feature squeezing", NDSS 2018, section 3.1.

    Args:
        bits: the number of bits of each channel, from 1 to 16.
        bounds: the lowest and the highest value of a pixel.

    Raises:
        InputError: ``bits`` is out of its range; or images are not of shape (N, C, H, W), when it is called.

    Examples:
        >>> advkit.defenses.BitDepthReduction(bits=1)(torch.tensor([[[[0.2, 0.7]]]]))
        tensor([[[[0., 1.]]]])
    """

    differentiable = False

    def __init__(self, bits: int = 3, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(bounds=bounds)
        check_number("bits", bits, at_least=1, at_most=16, integer=True)
        self.bits = bits

    def _transform(self, pictures: Tensor) -> Tensor:
        low, high = self.bounds
        levels = (1 << int(self.bits)) - 1
        index = ((pictures - low) * (levels / (high - low))).round()
        return index * ((high - low) / levels) + low
