"""Random crops, scaled back to the size of the image."""

import torch
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.checks import check_number
from advkit.defenses.wrapping.pictures import PictureTransformation

__all__ = ["RandomCropRescale"]


class RandomCropRescale(PictureTransformation):
    """A random crop of each image, scaled back to the image's size, by torchvision's bilinear resize.

    The position is drawn uniformly, for each image separately. Given the position, the transformation is linear: an
    attacker who knows the defense differentiates it, and averages over draws (EOT). The paper averages a prediction
    over 30 crops; that is ``Expectation(defense.wrap(model), 30)`` with `advkit.defenses.base.Expectation`, which
    attacks see through.

    Guo et al., "Countering adversarial images using input transformations", ICLR 2018, section 3. Their crops are
    90 of 224 pixels wide (scale=0.4), for models trained on such crops.

    Args:
        scale: the side of the crop as a fraction of the image's, above 0 and at most 1. 0.875 is 28 of 32 pixels.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the positions of crops; torch's default if None.
        eot_samples: the number of draws over which an attacker averages, at least 1.

    Raises:
        InputError: a number is out of its range; or images are not of shape (N, C, H, W), when it is called.

    Examples:
        >>> defended = advkit.defenses.RandomCropRescale(scale=0.75).wrap(model)
        >>> adversarials = advkit.FGSM(defended)(images, labels)  # averaged over ten draws
    """

    stochastic = True

    def __init__(
        self,
        scale: float = 0.875,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
        eot_samples: int = 10,
    ) -> None:
        super().__init__(bounds=bounds)
        check_number("scale", scale, above=0, at_most=1)
        check_number("eot_samples", eot_samples, at_least=1, integer=True)
        self.scale = scale
        self.generator = generator
        self.eot_samples = eot_samples

    def _transform(self, pictures: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import resize

        count, _, *sides = pictures.shape
        places = uniform_like(pictures[:, 0, 0, :1].expand(count, 2), self.generator)
        crops = pictures
        for dim, side, place in zip((2, 3), sides, places.unbind(1), strict=True):
            length = max(1, round(self.scale * side))
            start = (place * (side - length + 1)).long().clamp(max=side - length)
            index = start[:, None] + torch.arange(length, device=pictures.device)
            shape = [count, 1, 1, 1]
            shape[dim] = length
            wanted = list(crops.shape)
            wanted[dim] = length
            crops = crops.gather(dim, index.view(shape).expand(wanted))
        if not count:
            return pictures
        resized: Tensor = resize(crops, sides, antialias=True)
        return resized
