"""Adversarial patches."""

import math
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.resampling import own_precision
from advkit.attacks.fitted.base import Fitted
from advkit.errors import InputError
from advkit.hyperparameters import OfRange, number

__all__ = ["Patch"]


@dataclass(frozen=True, eq=False)
class Patch(Fitted):
    """An adversarial patch: a square that fools the model wherever in an image it is pasted.

    ``fit`` learns it from a loader: p <- clip(p + alpha * sign(sum_i grad_p min(J(A(p, x_i, t_i), y_i), beta))), where
    A pastes the patch into each image under a transformation t_i, a random position, scale and angle, drawn anew each
    time. When called, the attack pastes it in the same way, once, without querying the model. A pixel is covered if its
    centre is; the others are unchanged. Patches of any size lie inside the image.

    Brown, Mané, Roy, Abadi & Gilmer, "Adversarial patch", NIPS 2017 workshop. arXiv:1712.09665. Steps are along the
    sign of the gradient, with a decaying length.

    Args:
        model: pixels (N, C, H, W) to logits (N, K).
        area: the largest fraction of an image's pixels that the patch covers, greater than 0 and at most 1. Its side is
            a whole number of pixels, and at most the shorter side of the image.
        min_scale: the side of the smallest patch relative to the largest, greater than 0 and at most 1.
        max_rotation: the largest rotation, in degrees in either direction, from 0 to 180.
        alpha: the size of the first steps, positive, in units of pixels; a twentieth of the range of ``bounds`` if not
            given.
        target: the class to be predicted for all images, as in the paper; None for any class but the label.
        loss: the loss to maximise; see `PGD`.
        beta: where the loss of each image is clipped, greater than 0.
        pattern: the patch, (C, S, S) within ``bounds``, if it is known already.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for positions, scales and angles; torch's default if None.

    Raises:
        InputError: a number is out of its range, the images are not (N, C, H, W), or the attack is called before it is
            fitted; see `Attack` for the rest.

    Examples:
        >>> attack = advkit.Patch(model, area=0.1, target=3).fit(loader, epochs=5)
        >>> attack.pattern.shape
        torch.Size([3, 5, 5])
        >>> result = attack.run(images, labels)
        >>> bool((result.distance("l0") <= 3 * 0.12 * 16 * 16).all())
        True
    """

    area: float = number(0.05, above=0, at_most=1)
    _: KW_ONLY
    min_scale: float = number(0.8, above=0, at_most=1)
    max_rotation: float = number(22.5, at_least=0, at_most=180)
    alpha: float = number(OfRange(0.05), above=0)

    def _begin(self, images: Tensor) -> Tensor:
        side = self._side(images)
        return images.new_full((images.shape[1], side, side), sum(self.bounds) / 2)

    def _side(self, images: Tensor) -> int:
        """The side of the largest patch on images (N, C, H, W), in pixels."""
        if images.ndim != 4:
            raise InputError(
                f"Patch is pasted into pictures, and needs images of shape (N, C, H, W); got {tuple(images.shape)}"
            )
        height, width = images.shape[2:]
        return max(1, min(math.isqrt(int(self.area * height * width + 1e-6)), height, width))

    def _applied(self, images: Tensor, pattern: Tensor) -> Tensor:
        side = self._side(images)
        if pattern.ndim != 3 or pattern.shape[0] not in (1, images.shape[1]):
            raise InputError(
                f"the patch has shape {tuple(pattern.shape)}, but images of shape {tuple(images.shape)} need one of "
                f"shape ({images.shape[1]}, S, S)"
            )
        chance = uniform_like(images.new_empty(len(images), 4), self.generator)
        scale = side * (self.min_scale + (1 - self.min_scale) * chance[:, 0])
        angle = math.radians(self.max_rotation) * (2 * chance[:, 1] - 1)
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        reach = scale / 2 * (angle.cos().abs() + angle.sin().abs())  # of the corners
        down, across = (_from_middle(size, reach, chance[:, 2 + axis]) for axis, size in enumerate(images.shape[2:]))
        down, across = down[:, :, None], across[:, None, :]
        half = scale[:, None, None] / 2
        place = torch.stack([cosine * across + sine * down, cosine * down - sine * across], 3) / half[..., None]
        inside = ((place >= -1) & (place < 1)).all(3)[:, None]
        with own_precision(images.device):
            patches = F.grid_sample(
                pattern.expand(len(images), -1, -1, -1), place, padding_mode="border", align_corners=False
            )
        return torch.where(inside, patches, images).clamp(*self.bounds)

    def _moved(self, pattern: Tensor, slope: Tensor, share: float) -> Tensor:
        return (pattern + share * self.alpha * slope.sign()).clamp(*self.bounds)

    def _shown(self, pattern: Tensor) -> Tensor:
        low, high = self.bounds
        return (pattern - low) / (high - low)


def _from_middle(size: int, reach: Tensor, chance: Tensor) -> Tensor:
    """Where the pixels of a side are, from the middle of a patch that has so much ``reach``, (n,): (n, size)."""
    room = size - 2 * reach
    middle = torch.where(room > 0, reach + chance * room, size / 2)
    return torch.arange(size, device=reach.device, dtype=reach.dtype) + 0.5 - middle[:, None]
