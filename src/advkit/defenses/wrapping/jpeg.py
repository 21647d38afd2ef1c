"""JPEG compression in front of the model."""

import warnings

import torch
from torch import Tensor

from advkit._engine.checks import check_number
from advkit.defenses.wrapping.pictures import PictureTransformation
from advkit.errors import InputError

__all__ = ["JPEGCompression"]


class JPEGCompression(PictureTransformation):
    """JPEG compression: each image is compressed and decompressed by torchvision, as bytes on the CPU.

    It has no gradient; an attacker who knows the defense differentiates the identity in its place (BPDA).

    Guo et al., "Countering adversarial images using input transformations", ICLR 2018, section 3, after
    Dziugaite, Ghahramani & Roy, "A study of the effect of JPG compression on adversarial images", 2016.

    Args:
        quality: from 1 to 100; 75 in the paper.
        bounds: the lowest and the highest value of a pixel, which become 0 and 255.

    Raises:
        InputError: ``quality`` is out of its range; or, when it is called, images are not of shape (N, 1, H, W) or
            (N, 3, H, W).

    Examples:
        >>> defended = advkit.defenses.JPEGCompression(quality=75).wrap(model)
        >>> adversarials = advkit.FGSM(defended)(images, labels)  # straight through the codec
    """

    differentiable = False

    def __init__(self, quality: int = 75, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(bounds=bounds)
        check_number("quality", quality, at_least=1, at_most=100, integer=True)
        self.quality = quality

    @torch.no_grad()
    def _transform(self, pictures: Tensor) -> Tensor:
        from torchvision.io import decode_jpeg, encode_jpeg

        if pictures.shape[1] not in (1, 3):
            raise InputError(f"JPEG is for images of 1 or 3 channels, got images of shape {tuple(pictures.shape)}")
        low, high = self.bounds
        scaled = (pictures - low) * (255 / (high - low))
        seen = scaled.round().clamp(0, 255).to("cpu", torch.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The image decoding and encoding", DeprecationWarning)  # from 0.29 on
            for image in seen:  # the codec takes one image at a time
                image.copy_(decode_jpeg(encode_jpeg(image, int(self.quality))))
        return seen.to(pictures) * ((high - low) / 255) + low
