"""One pixel attack."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import normal_like, uniform_like
from advkit.black_box import BlackBox, Oracle, as_pixels, overwrite, places
from advkit.hyperparameters import number
from advkit.norms import L0, Norm

__all__ = ["OnePixel"]

_STRENGTH = 0.5  # the scale F of a difference, as in the paper


@dataclass(frozen=True, eq=False)
class OnePixel(BlackBox):
    """One pixel attack: differential evolution over the positions and colours of a few pixels (L0).

    A candidate is ``pixels`` positions with a colour each. The first ``popsize`` of them have uniform positions, and
    colours from a normal distribution around mid-grey. In each step, every candidate i has a child
    x_r1 + 0.5 * (x_r2 - x_r3), with r1, r2 and r3 random and distinct, which replaces it if the label (the target)
    is less (more) probable. An image leaves the batch as soon as a candidate fools the model; one on which the attack
    fails is returned unchanged.

    Su, Vargas & Sakurai, "One pixel attack for fooling deep neural networks", IEEE Transactions on Evolutionary
    Computation 2019, eq. (3) and (4). The paper takes ``popsize=400`` and ``steps=100``.
    arXiv:1710.08864.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        pixels: how many pixels may change, at least 1. A pixel comprises all its channels, the second dimension of
            images of four or more; images (N, H, W) have none, and each feature of a flat vector is a pixel.
        steps: how many generations after the first, at least 0.
        popsize: how many candidates an image has, at least 3.
        max_queries: the most forwards for one image, at least 1; None for no limit. One is spent on the
            image itself and ``popsize`` on each generation.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the search; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.OnePixel(model, max_queries=200).run(images, labels)
        >>> bool(result.success.any()), bool((result.queries <= 200).all())
        (True, True)
        >>> (result.images != result.originals).any(1).sum((1, 2)).max()  # pixels, of three features each
        tensor(1)
    """

    norm: ClassVar[Norm] = L0
    spatial: ClassVar[bool] = True

    pixels: int = number(1, at_least=1, integer=True)
    steps: int = number(40, at_least=0, integer=True)
    popsize: int = number(50, at_least=3, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        originals = as_pixels(images)
        answers = images.clone()

        def painted(index: Tensor, genes: Tensor) -> Tensor:
            return overwrite(originals[index], *self._phenotype(genes, images)).view(-1, *images.shape[1:])

        rows, left = torch.arange(len(images), device=images.device), ask.limit
        population = children = self._first(images)
        fitness = population.new_full(population.shape[:2], -torch.inf)
        for _ in range(self.steps + 1):
            count = min(self.popsize, left)
            if not len(rows) or not count:
                break
            children = children[:, :count]
            heights = ask(painted, rows.repeat_interleave(count), children.flatten(0, 1)).view(-1, count)
            left -= count

            top, which = heights.max(1)
            fooled = top == torch.inf
            answers[rows[fooled]] = painted(rows[fooled], children[fooled, which[fooled]])

            fitter = heights > fitness[:, :count]
            population[:, :count] = torch.where(fitter[:, :, None, None], children, population[:, :count])
            fitness[:, :count] = heights.maximum(fitness[:, :count])
            rows, population, fitness = rows[~fooled], population[~fooled], fitness[~fooled]
            children = self._children(population)
        return answers

    def _first(self, images: Tensor) -> Tensor:
        """The first genes, all of them in [0, 1]: (N, popsize, pixels, places + channels)."""
        channels = as_pixels(images).shape[1]
        shape = (len(images), self.popsize, self.pixels)
        where = uniform_like(images.new_empty(*shape, len(places(images))), self.generator)
        colours = normal_like(images.new_empty(*shape, channels), self.generator) / 2 + 0.5
        return torch.cat([where, colours.clamp(0, 1)], 3)

    def _children(self, population: Tensor) -> Tensor:
        """One child for each candidate, of three others drawn without replacement: the shape of the population."""

        def below(limit: int) -> Tensor:
            chance = uniform_like(population[:, :, 0, 0], self.generator)
            return (chance * limit).long().clamp_max(limit - 1)

        count = self.popsize
        first, second, third = below(count), 1 + below(count - 1), 1 + below(count - 2)
        third = third + (third >= second).long()  # how far from the first: neither 0 nor the same as the second
        rows = torch.arange(len(population), device=population.device)[:, None]
        x1, x2, x3 = (population[rows, (first + offset) % count] for offset in (0, second, third))
        return (x1 + _STRENGTH * (x2 - x3)).clamp_(0, 1)

    def _phenotype(self, genes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Places, int64 (m, pixels), and colours, (m, C, pixels), of genes (m, pixels, places + channels)."""
        sizes = places(images)
        place = torch.zeros_like(genes[:, :, 0], dtype=torch.int64)
        for gene, size in zip(genes.unbind(2), sizes, strict=False):
            place = place * size + (gene * size).long().clamp_max(size - 1)
        low, high = self.bounds
        return place, low + (high - low) * genes[:, :, len(sizes) :].transpose(1, 2)
