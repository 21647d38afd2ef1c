"""Block shuffle and rotation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._engine.resampling import Strips
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import AtSixteen
from advkit.hyperparameters import number

__all__ = ["BSR", "BlockShuffle"]


@dataclass(frozen=True, repr=False)
class BlockShuffle(Part):
    """The model is shown images cut at random into strips, and the strips into blocks, shuffled; strips are rotated.

    Strips are horizontal or vertical, and are rotated about their centres, filled with black. All of it is drawn for
    each image.

    Wang et al., "Boosting adversarial transferability by block shuffle and rotation", CVPR 2024.
    arXiv:2308.10299. As in the authors' code, it is the strips that are rotated.

    Args:
        copies: the number of copies of each image, at least 1.
        blocks: the number of strips, and of blocks in each, at least 1.
        degrees: the largest rotation of a strip, in either direction, at least 0.

    Examples:
        >>> from advkit.attacks.transfer import BlockShuffle, Momentum
        >>> result = advkit.Transfer(model, [BlockShuffle(copies=5), Momentum()]).run(images, labels)
    """

    spatial = True

    copies: int = number(20, at_least=1, integer=True)
    blocks: int = number(3, at_least=1, integer=True)
    degrees: float = number(24.0, at_least=0)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """Reorder, and then rotate."""
        (count, channels, height, width), lying = x.shape, ascent.uniform(len(x), 1, 1) < 0.5
        rows, columns, top, tall, tilt = _strips(count, height, width, self.blocks, ascent)
        others, lines, left, wide, lean = (each.mT for each in _strips(count, width, height, self.blocks, ascent))
        rows, columns, angle = rows.where(lying, lines), columns.where(lying, others), tilt.where(lying, lean)
        read = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
        shuffled = x.flatten(2).gather(2, read).view_as(x)
        down = _Side(height, -1, top.where(lying, 0), tall.where(lying, height))
        right = _Side(width, -2, left.where(~lying, 0), wide.where(~lying, width))
        return _turned(shuffled, down, right, angle * (self.degrees * math.pi / 180))


def _strips(count: int, outer: int, inner: int, number: int, ascent: Ascent) -> tuple[Tensor, ...]:
    """Strips across a side of ``outer`` pixels, and blocks along each of them.

    What is read there along the side and across it, where strips begin, how thick they are, how far they turn from -1
    to 1: all (count, outer, inner), or what broadcasts to it.
    """
    strips = Strips.of(ascent.uniform(count, outer), number, ascent.uniform(count, number))
    each = count * number
    blocks = Strips.of(ascent.uniform(each, inner), number, ascent.uniform(each, number))
    across = blocks.source.view(count, number, inner).gather(1, strips.number[..., None].expand(-1, -1, inner))
    turn = (2 * ascent.uniform(count, number) - 1).gather(1, strips.number)
    along, start, length, turn = (one[..., None] for one in (strips.source, strips.start, strips.length, turn))
    return along.expand_as(across), across, start, length, turn


@dataclass(frozen=True)
class _Side:
    """A side of pictures in strips: its length, the other one as torch counts it, and where each pixel's strip is."""

    size: int
    other: int
    start: Tensor  # (r, H, W), or what broadcasts to it
    length: Tensor

    @property
    def offset(self) -> Tensor:
        """How far each pixel is from the middle of its strip."""
        place = torch.arange(self.size, device=self.start.device).unsqueeze(self.other)
        return place - self._middle

    @property
    def _middle(self) -> Tensor:
        return self.start + (self.length - 1) / 2

    def found(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Places that far from the middles, as `grid_sample` counts them, and whether they are in the strip."""
        half = self.length / 2
        inside = offset.abs() <= half
        place = self._middle + offset.clamp(0.5 - half, half - 0.5)
        return (2 * place + 1) / self.size - 1, inside


def _turned(x: Tensor, down: _Side, right: _Side, angle: Tensor) -> Tensor:
    """Images (r, C, H, W) with their strips turned about the middles; from outside a strip comes black."""
    sine, cosine = angle.sin(), angle.cos()
    y, inside = down.found(cosine * down.offset - sine * right.offset)
    z, also = right.found(sine * down.offset + cosine * right.offset)
    grid = torch.stack(torch.broadcast_tensors(z, y), 3)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False) * (inside & also)[:, None]


@dataclass(frozen=True, eq=False)
class BSR(AtSixteen):
    """Block shuffle and rotation (Linf): `BlockShuffle` and `Momentum`.

    Wang et al., "Boosting adversarial transferability by block shuffle and rotation", CVPR 2024.
    arXiv:2308.10299.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        copies: passed to `BlockShuffle`, how many of each image.
        blocks: passed to `BlockShuffle`, the number of strips, and of blocks in each.
        degrees: passed to `BlockShuffle`, the largest rotation of a strip.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> result = advkit.BSR(model, copies=5).run(images, labels)
        >>> bool(result.success.float().mean() > 0.4)
        True
    """

    copies: int = number(20, at_least=1, integer=True)
    blocks: int = number(3, at_least=1, integer=True)
    degrees: float = number(24.0, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`BlockShuffle` and `Momentum`."""
        return [BlockShuffle(self.copies, self.blocks, self.degrees), Momentum(self.decay)]
