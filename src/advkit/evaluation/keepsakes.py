"""A few images that a report keeps for viewing: before and after an attack."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.classifier import predict
from advkit._io.png import png
from advkit.model import Model

__all__ = ["Picture", "chosen", "keepsakes"]

_TOP = 3


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with which an attack fooled the bare model, and its original.

    Attributes:
        attack: the name of the attack in the report.
        label: the true class.
        original: the image before the attack, as a PNG file in base64: rounded to 8 bits, for viewing only.
        adversarial: the image after it, likewise.
        before: the model's three most confident classes for the original, with its confidences: softmax, in [0, 1].
        after: likewise for the adversarial image.
        l2: the L2 norm of the perturbation, in units of pixels.
        linf: its Linf norm, likewise.

    Examples:
        >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model)], pictures=2)
        >>> picture = report.pictures[0]
        >>> picture.before[0][0] == picture.label, picture.after[0][0] == picture.label
        (True, False)
        >>> import json
        >>> advkit.evaluation.Picture.from_json(json.loads(report.to_json())["pictures"][0]) == picture
        True
    """

    attack: str
    label: int
    original: str
    adversarial: str
    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]
    l2: float
    linf: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Picture":
        """The picture that was written as JSON."""
        tops = {
            name: tuple((int(index), float(share)) for index, share in content[name]) for name in ("before", "after")
        }
        return cls(**{**content, **tops})


def keepsakes(
    attack: str,
    model: Model,
    originals: Tensor,
    adversarials: Tensor,
    labels: Tensor,
    fooled: Tensor,
    *,
    bounds: tuple[float, float],
    count: int,
) -> list[Picture]:
    """Pictures of some of the images that an attack fooled a model with, each class once before any comes again.

    Args:
        attack: how the report calls it.
        model: pixels (N, ...) to logits (N, K).
        originals: (n, C, H, W), in ``bounds``; where C is neither 1 nor 3, there is nothing to see.
        adversarials: likewise.
        labels: (n,), where they may be.
        fooled: the rows to choose from, int64 (m,).
        bounds: the lowest and the highest value of a pixel.
        count: how many at most.
    """
    if originals.ndim != 4 or originals.shape[1] not in (1, 3) or not count or not len(fooled):
        return []
    seen: Counter[int] = Counter()
    ranked = []
    for row in fooled.tolist():
        ranked.append((seen[int(labels[row])], row))
        seen[int(labels[row])] += 1
    rows = torch.tensor([row for _, row in sorted(ranked)[:count]], device=originals.device)
    sides = [side[rows].detach() for side in (originals, adversarials)]
    tops = [_tops(model, side) for side in sides]
    drawn = [[b64encode(png(image)).decode() for image in _eight_bits(side, bounds)] for side in sides]
    work = torch.promote_types(originals.dtype, torch.float32)
    far = [norms.get(norm).distance(sides[1].to(work), sides[0].to(work)).tolist() for norm in ("l2", "linf")]
    kept = zip(labels[rows.to(labels.device)].tolist(), *drawn, *tops, *far, strict=True)
    names = ("label", "original", "adversarial", "before", "after", "l2", "linf")
    return [Picture(attack=attack, **dict(zip(names, one, strict=True))) for one in kept]


def chosen(pictures: Iterable[Picture], count: int) -> tuple[Picture, ...]:
    """So many of them at most: one of each attack, and another of each, and so on."""
    by_attack: dict[str, list[Picture]] = {}
    for one in pictures:
        by_attack.setdefault(one.attack, []).append(one)
    ranked = [(place, nth, one) for nth, of_one in enumerate(by_attack.values()) for place, one in enumerate(of_one)]
    kept = sorted(ranked, key=lambda each: each[:2])[:count]
    return tuple(one for *_, one in sorted(kept, key=lambda each: (each[1], each[0])))


def _tops(model: Model, images: Tensor) -> list[tuple[tuple[int, float], ...]]:
    """The most confident classes for each image."""
    said = predict(model, images).float().softmax(1)
    values, classes = said.topk(min(_TOP, said.shape[1]))
    pairs = zip(classes.tolist(), values.tolist(), strict=True)
    return [tuple(zip(of_one, how, strict=True)) for of_one, how in pairs]


def _eight_bits(images: Tensor, bounds: tuple[float, float]) -> Sequence[Tensor]:
    low, high = bounds
    return list(((images.float() - low) / (high - low) * 255).round().clamp(0, 255).to("cpu", torch.uint8))
