"""L0, L1, L2 and Linf as objects: how far apart two images are, the ball around zero, the steepest step.

All of them measure each image of a batch on its own, over all its features: a pixel of three channels counts
as three. Tensors are (N, ...) and floating; a budget ``eps`` is a float or a tensor of shape (N,).

Examples:
    >>> adversarials = advkit.PGD(model, eps=0.5, norm="l2")(images, labels)
    >>> bool((advkit.norms.L2.distance(adversarials, images) <= 0.5 + 1e-5).all())
    True
"""

from abc import ABC, abstractmethod
from typing import overload

import torch
from torch import Tensor

from advkit._base.random import normal_like, uniform_like
from advkit.errors import InputError

__all__ = ["L0", "L1", "L2", "Linf", "Norm", "column", "get"]


@overload
def column(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def column(value: float | Tensor, like: Tensor) -> float | Tensor: ...
def column(value: float | Tensor, like: Tensor) -> float | Tensor:
    """One value for each row, shaped to broadcast over ``like``: (N,) to (N, 1, ..., 1). A number stays one.

    Examples:
        >>> advkit.norms.column(torch.tensor([0.1, 0.2]), torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1, 1, 1])
        >>> advkit.norms.column(0.1, torch.zeros(2, 3, 16, 16))
        0.1
    """
    return value.view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) and value.ndim else value


class Norm(ABC):
    """A way to measure perturbations. Use the instances `L0`, `L1`, `L2` and `Linf`.

    Examples:
        >>> point, origin = torch.tensor([[3.0, -4.0, 0.0]]), torch.zeros(1, 3)
        >>> norms = advkit.norms.L0, advkit.norms.L1, advkit.norms.L2, advkit.norms.Linf
        >>> {norm: norm.distance(point, origin).item() for norm in norms}
        {L0: 2.0, L1: 7.0, L2: 5.0, Linf: 4.0}
        >>> advkit.norms.L1.project(point, 5.0), advkit.norms.Linf.project(point, 3.5)
        (tensor([[ 2., -3.,  0.]]), tensor([[ 3.0000, -3.5000,  0.0000]]))
    """

    name: str

    def __repr__(self) -> str:
        return self.name.capitalize()

    @property
    def dual(self) -> "Norm":
        """The dual norm, that of a gradient which says how fast a loss can rise in a step of size 1: L1 for Linf.

        L0, where one feature may change by any amount, has that of L1: the largest entry says whether it can rise.
        """
        if self not in _DUALS:
            raise InputError(f"no dual norm of {self} is known")
        return _DUALS[self]

    def distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """Norm of ``images - originals`` for each image: (N, ...) and (N, ...) to (N,)."""
        return self.size(images - originals)

    @abstractmethod
    def size(self, perturbations: Tensor) -> Tensor:
        """Norm of each perturbation: (N, ...) to (N,)."""

    @abstractmethod
    def project(self, perturbations: Tensor, eps: float | Tensor) -> Tensor:
        """The closest perturbation (in L2) whose norm is at most ``eps``: (N, ...) to (N, ...)."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The perturbation of norm 1 along which a loss with this gradient rises most; 0 for a gradient of 0."""

    def sample(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Perturbations drawn uniformly from the ball of radius 1, shaped like the images: (N, ...)."""
        raise InputError(f"there is no uniform distribution over the {self} ball, which is unbounded")


class _L0(Norm):
    name = "l0"

    def size(self, perturbations: Tensor) -> Tensor:
        return perturbations.flatten(1).count_nonzero(1).to(perturbations.dtype)

    def project(self, perturbations: Tensor, eps: float | Tensor) -> Tensor:
        flat = perturbations.flatten(1)
        rank = flat.abs().argsort(dim=1, descending=True, stable=True).argsort(1)
        return flat.where(rank < column(eps, flat), 0).view_as(perturbations)

    def steepest(self, gradient: Tensor) -> Tensor:
        return _largest(gradient)


class _L1(Norm):
    name = "l1"

    def size(self, perturbations: Tensor) -> Tensor:
        return perturbations.flatten(1).abs().sum(1)

    def project(self, perturbations: Tensor, eps: float | Tensor) -> Tensor:
        # Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", ICML 2008:
        # soft thresholding, with the threshold read off the sorted magnitudes.
        flat = perturbations.flatten(1)
        magnitudes = flat.abs()
        descending = magnitudes.sort(1, descending=True).values
        excess = descending.cumsum(1) - column(eps, flat)
        count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
        kept = (descending * count > excess).sum(1, keepdim=True).clamp_min(1)
        threshold = (excess.gather(1, kept - 1) / kept).clamp_min(0)
        return (flat.sign() * (magnitudes - threshold).clamp_min(0)).view_as(perturbations)

    def steepest(self, gradient: Tensor) -> Tensor:
        return _largest(gradient)

    def sample(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        # Exponential magnitudes over the sum of one more of them are uniform on the solid simplex.
        magnitudes = -torch.log1p(-uniform_like(images, generator))
        beyond = -torch.log1p(-uniform_like(images.flatten(1)[:, 0], generator))
        signs = 1 - 2 * (uniform_like(images, generator) < 0.5).to(images.dtype)
        return signs * magnitudes / column(self.size(magnitudes) + beyond, images)


class _L2(Norm):
    name = "l2"

    def size(self, perturbations: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(perturbations.flatten(1), dim=1)
        return size

    def project(self, perturbations: Tensor, eps: float | Tensor) -> Tensor:
        size = self.size(perturbations).clamp_min(torch.finfo(perturbations.dtype).tiny)
        return perturbations * column((eps / size).clamp(max=1), perturbations)

    def steepest(self, gradient: Tensor) -> Tensor:
        # Over its largest entry first: the squares of a confident network's gradient would underflow.
        peak = gradient.flatten(1).abs().amax(1)
        scaled = gradient / column(peak.where(peak > 0, 1), gradient)
        return scaled / column(self.size(scaled).clamp_min(1), gradient)

    def sample(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        direction = self.steepest(normal_like(images, generator))
        features = images[0].numel()
        return direction * column(uniform_like(images.flatten(1)[:, 0], generator) ** (1 / features), images)


class _Linf(Norm):
    name = "linf"

    def size(self, perturbations: Tensor) -> Tensor:
        return perturbations.flatten(1).abs().amax(1)

    def project(self, perturbations: Tensor, eps: float | Tensor) -> Tensor:
        if isinstance(eps, Tensor):
            eps = column(eps, perturbations)
            return perturbations.clamp(-eps, eps)
        return perturbations.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def sample(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        return 2 * uniform_like(images, generator) - 1


def _largest(gradient: Tensor) -> Tensor:
    """The sign of each image's largest entry, and 0 elsewhere."""
    flat = gradient.flatten(1)
    where = flat.abs().argmax(1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, where, flat.gather(1, where).sign()).view_as(gradient)


L0, L1, L2, Linf = _L0(), _L1(), _L2(), _Linf()
_DUALS: dict[Norm, Norm] = {L0: Linf, L1: Linf, L2: L2, Linf: L1}
_BY_NAME: dict[str, Norm] = {norm.name: norm for norm in (L0, L1, L2, Linf)}


def get(norm: str | Norm) -> Norm:
    """The norm of that name, or the norm itself.

    Args:
        norm: "l0", "l1", "l2" or "linf" in any case, or one of this module's objects.

    Raises:
        InputError: there is no norm of that name.

    Examples:
        >>> advkit.norms.get("linf"), advkit.norms.get(advkit.norms.L2)
        (Linf, L2)
    """
    if isinstance(norm, Norm):
        return norm
    if not isinstance(norm, str) or norm.lower() not in _BY_NAME:
        raise InputError(f"there is no norm {norm!r}; the norms are {', '.join(map(repr, _BY_NAME))}")
    return _BY_NAME[norm.lower()]
