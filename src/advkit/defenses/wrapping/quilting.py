"""Image quilting: images reassembled from patches of clean images."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Self

from advkit._base.random import uniform_like
from advkit._engine.checks import check_number
from advkit.defenses.base import Behind
from advkit.defenses.wrapping.pictures import PictureTransformation, check_pictures
from advkit.defenses.wrapping.seams import quilt
from advkit.errors import InputError
from advkit.model import Model

__all__ = ["ImageQuilting"]

_SOFT_NEIGHBORS, _SOFTNESS = 10, 0.3  # of the gradient of quilting; the softness is a share of the mean distance
_TABLE = 2**22  # pairs of patches that are in memory at once


class ImageQuilting(PictureTransformation):
    """Image quilting: each image is reassembled from patches of clean images.

    On a grid, each patch of the image is replaced by its nearest neighbour (L2) among ``patches``, or by a random one
    of its nearest ones; patches overlap, and are cut where the seam shows least (Efros & Freeman, "Image quilting for
    texture synthesis and transfer", SIGGRAPH 2001). No pixel of the attacked image itself reaches the model. An
    attacker who knows the defense differentiates a soft choice among the ten nearest patches in place of the hard one,
    which is BPDA with a closer approximation than the identity, and averages over draws if there are any (EOT). Images
    that the grid does not fit are mirrored at the bottom and on the right, and cropped afterwards.

    Guo et al., "Countering adversarial images using input transformations", ICLR 2018, section 3.3: patches of 5x5
    pixels, a million of them.

    The search costs N * cells * P * C * size^2 multiplications, and is done for about 4 million pairs at a time.

    Args:
        patches: clean patches of the same range as the images, floating (P, C, size, size); see `from_images`. It is
            a buffer: it moves with the module, and is saved with it.
        overlap: how many pixels neighbouring patches share, from 1 to half the size; None for half the size.
        neighbors: how many of the nearest patches to draw from. With 1 nothing is drawn, and the defense is not
            ``stochastic``.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the choice of patches; torch's default if None.
        eot_samples: the number of draws over which an attacker averages, at least 1.

    Raises:
        InputError: ``patches`` are not square patches, or a number is out of its range; or, when it is called, images
            are not of shape (N, C, H, W), have other channels than the patches, or are too small to be mirrored.

    Examples:
        >>> quilting = advkit.defenses.ImageQuilting.from_images(images, count=500, neighbors=3)
        >>> quilting.stochastic
        True
        >>> quilting.wrap(model)(images).shape
        torch.Size([12, 10])
    """

    differentiable = False
    patches: Tensor

    def __init__(
        self,
        patches: Tensor,
        overlap: int | None = None,
        neighbors: int = 1,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
        eot_samples: int = 10,
    ) -> None:
        super().__init__(bounds=bounds)
        check_pictures(patches)
        size = patches.shape[-1]
        if patches.shape[-2] != size or size < 2 or not len(patches):
            raise InputError(f"patches must have shape (P, C, size, size), size at least 2, got {tuple(patches.shape)}")
        overlap = size // 2 if overlap is None else overlap
        check_number("overlap", overlap, at_least=1, at_most=size // 2, integer=True)
        check_number("neighbors", neighbors, at_least=1, at_most=len(patches), integer=True)
        check_number("eot_samples", eot_samples, at_least=1, integer=True)
        self.register_buffer("patches", patches.detach().clone())
        self.overlap = overlap
        self.neighbors = neighbors
        self.generator = generator
        self.eot_samples = eot_samples
        self.stochastic = neighbors > 1

    @classmethod
    def from_images(
        cls,
        images: Tensor,
        count: int = 10_000,
        size: int = 5,
        overlap: int | None = None,
        neighbors: int = 1,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
        eot_samples: int = 10,
    ) -> Self:
        """A defense whose patches are cut from clean images, at uniformly random positions.

        Args:
            images: clean images, floating (N, C, H, W), N at least 1.
            count: how many patches to cut, at least 1.
            size: the side of a patch, at least 2 and at most that of the images.
            overlap: see `ImageQuilting`.
            neighbors: see `ImageQuilting`.
            bounds: see `ImageQuilting`.
            generator: random generator for the positions, and later for the choice of patches.
            eot_samples: see `ImageQuilting`.

        Raises:
            InputError: an argument is out of its range.
        """
        check_pictures(images)
        check_number("count", count, at_least=1, integer=True)
        check_number("size", size, at_least=2, at_most=min(images.shape[-2:]), integer=True)
        if not len(images):
            raise InputError("there are no images to cut patches from")
        draws = uniform_like(images.new_empty(3, count, dtype=torch.float32), generator)
        room = (len(images), images.shape[-2] - size + 1, images.shape[-1] - size + 1)
        which, top, left = (
            (row * choices).long().clamp(max=choices - 1) for row, choices in zip(draws, room, strict=True)
        )
        step = torch.arange(size, device=images.device)
        rows, cols = (top[:, None] + step)[:, :, None], (left[:, None] + step)[:, None]
        patches = images.detach()[which[:, None, None], :, rows, cols].movedim(-1, 1)
        return cls(patches, overlap, neighbors, bounds=bounds, generator=generator, eot_samples=eot_samples)

    def _transform(self, pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return self._sewn(pictures, self._replaced)

    def _one_draw(self, model: Model) -> Model:
        return Behind(_SoftlyQuilted(self), model)

    def _sewn(self, pictures: Tensor, replaced: Callable[[Tensor], Tensor]) -> Tensor:
        """Quilts (N, C, H, W), where ``replaced`` takes patches of the pictures (Q, d) to those that are laid."""
        count, channels, *sides = pictures.shape
        size, stride = self.patches.shape[-1], self.patches.shape[-1] - self.overlap
        if self.patches.shape[1] != channels:
            raise InputError(f"the patches have {self.patches.shape[1]} channels, but the images have {channels}")
        cells = [1 + max(0, -(-(side - size) // stride)) for side in sides]
        below, beside = (size + (n - 1) * stride - side for n, side in zip(cells, sides, strict=True))
        if below >= sides[0] or beside >= sides[1]:
            raise InputError(f"images of {sides[0]}x{sides[1]} pixels are too small for patches of {size}x{size}")
        padded = pad(pictures, (0, beside, 0, below), mode="reflect") if below or beside else pictures
        queries = padded.unfold(2, size, stride).unfold(3, size, stride).movedim(1, 3).flatten(0, 2).flatten(1)
        laid = replaced(queries).view(count, *cells, channels, size, size)
        return quilt(laid, self.overlap)[..., : sides[0], : sides[1]]

    def _replaced(self, queries: Tensor) -> Tensor:
        """The patch of the bank for each query, (Q, d): the nearest, or one of the nearest."""
        nearest = self._nearest(queries, int(self.neighbors))
        return self.patches.flatten(1).to(queries)[self._drawn(nearest, queries)]

    def _softly_replaced(self, queries: Tensor) -> Tensor:
        """The same, with the gradient of the mean of the nearest patches, weighted by their distances."""
        near = self._nearest(queries.detach(), min(max(int(self.neighbors), _SOFT_NEIGHBORS), len(self.patches)))
        bank = self.patches.flatten(1).to(queries)
        distances = (queries[:, None] - bank[near]).square().sum(2)
        scale = _SOFTNESS * distances.detach().mean(1, keepdim=True).clamp_min(torch.finfo(queries.dtype).tiny)
        soft = ((-distances / scale).softmax(1)[:, :, None] * bank[near]).sum(1)
        return bank[self._drawn(near[:, : self.neighbors], queries)] + (soft - soft.detach())

    def _drawn(self, nearest: Tensor, queries: Tensor) -> Tensor:
        """One index of each row of int64 (Q, neighbors)."""
        if self.neighbors == 1:
            return nearest[:, 0]
        place = uniform_like(queries.detach()[:, :1], self.generator) * self.neighbors
        return nearest.gather(1, place.long().clamp(max=self.neighbors - 1)).squeeze(1)

    def _nearest(self, queries: Tensor, count: int) -> Tensor:
        """Which patches are nearest to each query (Q, d), the nearest first: int64 (Q, count)."""
        # Nearest is where q . p - |p|^2 / 2 is largest: one product, with a column for the norm.
        bank = self.patches.flatten(1).to(queries)
        bank = torch.cat([bank, bank.square().sum(1, keepdim=True) / -2], 1).T.contiguous()
        queries = torch.cat([queries, torch.ones_like(queries[:, :1])], 1)
        found = []
        for some in queries.split(max(1, _TABLE // bank.shape[1])):
            likeness = some @ bank
            found.append(likeness.argmax(1, keepdim=True) if count == 1 else likeness.topk(count).indices)
        return torch.cat(found)


class _SoftlyQuilted(PictureTransformation):
    """`ImageQuilting`, the same to the bit, with a gradient: that of soft choices between the nearest patches.

    The identity says that the quilt follows the image wherever it goes, where it can only go from patch to patch. On
    a CIFAR-10 CNN, MIFGSM by way of the identity leaves an accuracy of 44 %, and by way of this 8 %.
    """

    def __init__(self, quilting: ImageQuilting) -> None:
        super().__init__(bounds=quilting.bounds)
        self.quilting = quilting

    def _transform(self, pictures: Tensor) -> Tensor:
        return self.quilting._sewn(pictures, self.quilting._softly_replaced)
