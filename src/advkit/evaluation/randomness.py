"""Models that answer otherwise when they are asked again, and do not say so: found, and judged as those that do."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain

import torch
from torch import Tensor, nn

from advkit._engine.classifier import predict
from advkit._io.rng import repeatable
from advkit.defenses.base import Defense, Expectation
from advkit.evaluation.flags import ATHALYE, Flag, who
from advkit.evaluation.looks import differs
from advkit.model import Defended, Model, is_stochastic, placement

__all__ = ["Batch", "over_draws"]

Batch = tuple[int, Tensor, Tensor]
"""The index, images (n, ...) and labels (n,) of a batch."""

_FIRST = 16  # images that are asked about once more,
_FEW, _OFTEN = 2, 12  # and some so often: chance may be rare


def over_draws(
    models: Mapping[str, nn.Module], batches: Iterator[Batch], draws: int
) -> tuple[dict[str, nn.Module], Iterator[Batch], tuple[Flag, ...]]:
    """The models, those that turn out random as models with a random defense are, and a flag for each of these.

    So gradients are means over draws (EOT; Athalye, Carlini & Wagner 2018), and it takes several answers to judge.

    Args:
        models: by name, the bare one called "none".
        batches: the first of them that has images is what models are asked about, in the state they are attacked in.
        draws: by how many answers a random model is judged.

    Returns:
        The models by name, the batches from the first on, and the flags.
    """
    seen = []
    for batch in batches:
        seen.append(batch)
        if len(batch[1]):
            break
    judged, flags = dict(models), []
    for name, model in models.items():
        if not seen or is_stochastic(model):
            continue
        images = seen[-1][1][:_FIRST]
        if count := _random(model, images):
            judged[name] = Defended(model, _Undeclared(), model)
            flags.append(Flag("random outputs", _sentence(name, count, len(images), draws), ATHALYE, name))
    return judged, chain(seen, batches), tuple(flags)


class _Undeclared:
    """A defense in name only, which says that a model is random."""

    differentiable = True
    stochastic = True

    def surrogate(self, model: Model) -> Model:
        return Expectation(model, Defense.eot_samples)


def _random(model: nn.Module, images: Tensor) -> int:
    """On how many of the images (n, ...) the model was seen to answer otherwise when it was asked again."""
    changed = torch.zeros(len(images), dtype=torch.bool, device="cpu")
    with repeatable(0, "random", device=placement(model)[0] or images.device), suppress(Exception):
        # A model that raises is named as the culprit where it is judged.
        for count, times in ((_FIRST, 1), (_FEW, _OFTEN)):
            first, *others = (predict(model, images[:count]) for _ in range(1 + times))
            for other in others:
                changed[:count] |= differs(first, other).cpu()
            if bool(changed.any()):
                break
    return int(changed.sum())


def _sentence(name: str, count: int, n: int, draws: int) -> str:
    return (
        f"on {count} of {n} images {who(name)} returns different outputs when it is run again, but declares no "
        f"randomness; gradients were averaged over {Defense.eot_samples} draws, and predictions over {draws}. If that "
        "is intended, declare it with a `stochastic` defense; if not, look for dropout or noise in its forward pass "
        "that eval mode does not turn off."
    )
