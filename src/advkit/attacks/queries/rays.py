"""Ray searching."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit.attack import Access
from advkit.black_box import Asking, Oracle
from advkit.hyperparameters import number
from advkit.norms import Linf, Norm, column

__all__ = ["RayS"]

_TOLERANCE = 1e-3  # of a radius in L2, as in the authors' code


@dataclass(frozen=True, eq=False)
class RayS(Asking):
    """RayS: the nearest x + r s that fools the model, over sign vectors s, changed by flipping blocks of signs (Linf).

    All signs are flipped first, then halves, quarters and so on of the features in their order, down to single ones,
    which are then gone through again and again. A flip costs one query, which tests it at the smallest radius so far,
    less the tolerance of the bisection; if it fools the model there, bisection finds its radius and the flip is kept.
    An image is done when every single sign has been flipped in vain since the last improvement, since all later queries
    would repeat earlier ones. An image on which no corner that is tried fools the model is returned unchanged. No
    gradient is estimated, no starting point is needed, and nothing is random.

    Chen & Gu, "RayS: A ray searching method for hard-label adversarial attack", KDD 2020, algorithm 3. The tolerance
    of the bisection is 1e-3 in L2, as there, but at most 1/512 of the radius, which matters to images that are near
    the boundary.
    arXiv:2006.12792.

    Args:
        model: pixels (N, ...) to logits (N, K), of which only the argmax is used; any callable, no gradient is
            needed.
        max_queries: the most forwards for one image, at least 1.
        eps: the largest change that counts, at least 0: a number, or a tensor of shape (N,). The first found within it
            is returned, and the image unchanged if there is none. None for the smallest change.
        batch_size: the most images in one call of the model, at least 1; None for as many as suit the
            device.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.RayS(model, max_queries=100).run(images, labels)
        >>> bool(result.success.any()), bool((result.queries <= 100).all())
        (True, True)
        >>> more = advkit.RayS(model, max_queries=150).run(images, labels)  # goes on from there
        >>> bool((more.distance("linf") <= result.distance("linf"))[result.success].all())
        True
    """

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = Linf

    max_queries: int = number(10_000, at_least=1, integer=True)
    _: KW_ONLY
    eps: float | Tensor | None = number(None, at_least=0, per_image=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        rays, left = _Rays(images, self.bounds, self.eps), []
        for _ in range(ask.limit):  # a query for each image, whether it tries a flip or halves a radius
            rays.see(ask.fools(rays.asked(), rays.rows))
            done = rays.done()
            if bool(done.any()):
                left.append(rays.leave(done))
                if not len(rays.rows):
                    break
        left.append(rays.leave(torch.ones_like(rays.rows, dtype=torch.bool)))
        places, found = (torch.cat(each) for each in zip(*left, strict=True))
        return found[places.argsort()]


class _Rays:
    """Where each image is in the search.

    Attributes:
        rows: int64 (n,), the place of each in the batch.
        tried: (n, D), the signs that are asked about.
        radius: (n,), how far along them.
    """

    def __init__(self, images: Tensor, bounds: tuple[float, float], eps: float | Tensor | None) -> None:
        self.images, self.bounds = images, bounds
        self.rows = torch.arange(len(images), device=images.device)
        flat = images.flatten(1)
        widest = bounds[1] - bounds[0]
        self._tolerance = _TOLERANCE * widest / flat.shape[1] ** 0.5
        self._best, self._smallest = torch.ones_like(flat), flat.new_full((len(flat),), widest)
        self._eps = None if eps is None else torch.zeros_like(self._smallest) + eps
        self._size = torch.full_like(self.rows, flat.shape[1])  # of the block that is flipped
        self._begin, self._in_vain = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self._low = torch.zeros_like(self._smallest)
        self._halving = torch.zeros_like(self._smallest, dtype=torch.bool)  # or else trying a flip
        self._fooled = self._halving
        self.tried, self.radius = -self._best, self._smallest

    def asked(self) -> Tensor:
        """The corners (n, ...) that are asked about."""
        return self._corners(self.radius, self.tried)

    def done(self) -> Tensor:
        """Which are within eps, or have had each single sign flipped since anything was gained: bool (n,)."""
        vain = self._in_vain >= self._best.shape[1]
        return vain if self._eps is None else vain | self._found()

    def leave(self, done: Tensor) -> tuple[Tensor, Tensor]:
        """Go on without some, bool (n,): their rows, and the nearest corners that fool, (m, ...), or the images."""
        nearest = self._corners(self._smallest, self._best)[done]
        left = self.rows[done], nearest.where(column(self._found()[done], nearest), self.images[done])
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[~done])
        return left

    def see(self, fools: Tensor) -> None:
        """Go on from whether the corners that were asked about fool, bool (n,)."""
        # What fools is the nearest so far, since nothing further away is asked about.
        self._best = self.tried.where(column(fools, self.tried), self._best)
        self._smallest = self.radius.where(fools, self._smallest)
        self._fooled = self._fooled | fools
        self._in_vain = (self._in_vain + (~self._halving & (self._size == 1))).where(~fools, 0)
        self._low = self.radius.where(self._halving & ~fools, self._low)
        tolerance = (self._smallest / 512).clamp_max(self._tolerance)
        self._halving = (self._halving | fools) & (self._smallest - self._low > tolerance)

        features = torch.arange(self._best.shape[1], device=fools.device)
        self._begin = self._begin.where(self._halving, self._begin + self._size)
        ended = self._begin >= len(features)
        self._size = self._size.where(~ended, (self._size + 1) // 2)
        self._begin = self._begin.where(~ended, 0)
        self._low = self._low.where(self._halving, 0)
        flip = self._smallest - tolerance * self._fooled  # or else a worse one might fool as well, within the tolerance
        self.radius = ((self._low + self._smallest) / 2).where(self._halving, flip)
        begin = self._begin[:, None]
        flipped = (features >= begin) & (features < begin + self._size[:, None]) & ~self._halving[:, None]
        self.tried = torch.where(flipped, -self._best, self._best)

    def _found(self) -> Tensor:
        """Which have something that fools, within eps if there is one: bool (n,)."""
        return self._fooled if self._eps is None else self._fooled & (self._smallest <= self._eps)

    def _corners(self, radius: Tensor, signs: Tensor) -> Tensor:
        """The images (n, ...) so far, (n,), along signs (n, D), within the bounds."""
        moved = self.images.flatten(1) + column(radius, signs) * signs
        return moved.clamp_(*self.bounds).view_as(self.images)
