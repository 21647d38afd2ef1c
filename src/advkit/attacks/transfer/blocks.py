"""Block transformations: a different one for each block of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.resampling import Strips
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import AtSixteen
from advkit.hyperparameters import number

_NOISE = 16 / 255  # the authors'

__all__ = ["SIA", "BlockTransforms"]


@dataclass(frozen=True, repr=False)
class BlockTransforms(Part):
    """The model is shown images cut at random into blocks, each with one of seven transformations.

    A block is shifted vertically or horizontally with wrap-around, flipped in either direction or both, darkened, or
    has noise of +-16/255 added: blocks, transformations and their parameters are drawn for each image.

    Wang et al., "Structure invariant transformation for better adversarial transferability", ICCV 2023.
    arXiv:2309.14700. The paper's resizing, DCT and dropout of blocks are left out.

    Args:
        copies: the number of copies of each image, at least 1.
        blocks: the number of blocks along each side, at least 1.

    Examples:
        >>> from advkit.attacks.transfer import BlockTransforms, Momentum
        >>> result = advkit.Transfer(model, [BlockTransforms(copies=5), Momentum()]).run(images, labels)
    """

    spatial = True

    copies: int = number(20, at_least=1, integer=True)
    blocks: int = number(3, at_least=1, integer=True)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """Shifts and flips, by reading other pixels, then the rest."""
        (count, channels, height, width), blocks = x.shape, (len(x), self.blocks, self.blocks)
        down = Strips.of(ascent.uniform(count, height), self.blocks)
        right = Strips.of(ascent.uniform(count, width), self.blocks)
        place = torch.arange(count, device=x.device)[:, None, None], down.number[:, :, None], right.number[:, None]
        what, amount = ascent.integers(*blocks, below=7)[place], ascent.uniform(*blocks)[place]
        rows = _read(down, -1, amount, what == 0, (what == 2) | (what == 4))
        columns = _read(right, -2, amount, what == 1, (what == 3) | (what == 4))
        read = (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)
        moved, what, amount = x.flatten(2).gather(2, read).view_as(x), what[:, None], amount[:, None]
        noisy = (moved + _NOISE * (2 * ascent.uniform(*x.shape) - 1)).clamp(0, 1)
        return torch.where(what == 6, noisy, moved * amount.where(what == 5, 1))


def _read(strips: Strips, dim: int, amount: Tensor, shifted: Tensor, flipped: Tensor) -> Tensor:
    """Which pixel of a side is read where blocks are shifted around by an amount, or flipped: all (r, H, W)."""
    start, length, place = (each.unsqueeze(dim) for each in (strips.start, strips.length, strips.source))
    around = start + (place - start + (amount * length).long()) % length
    return around.where(shifted, (2 * start + length - 1 - place).where(flipped, place))


@dataclass(frozen=True, eq=False)
class SIA(AtSixteen):
    """Structure invariant attack (Linf): `BlockTransforms` and `Momentum`.

    Wang et al., "Structure invariant transformation for better adversarial transferability", ICCV 2023.
    arXiv:2309.14700.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        copies: passed to `BlockTransforms`, how many of each image.
        blocks: passed to `BlockTransforms`, how many along each side.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> advkit.SIA(model, copies=5).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    copies: int = number(20, at_least=1, integer=True)
    blocks: int = number(3, at_least=1, integer=True)

    @property
    def parts(self) -> Sequence[Part]:
        """`BlockTransforms` and `Momentum`."""
        return [BlockTransforms(self.copies, self.blocks), Momentum(self.decay)]
