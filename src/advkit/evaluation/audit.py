"""Whether the gradients of a model can be trusted, for whoever plans which attacks to carry out."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advkit._io.rng import repeatable
from advkit.attack import Attack
from advkit.errors import InputError
from advkit.evaluation.flags import Flag, budget
from advkit.evaluation.kinds import has_another_loss
from advkit.evaluation.probes import examined
from advkit.evaluation.signs import Sign
from advkit.evaluation.tries import Survivors
from advkit.model import placement

__all__ = ["ANSWERS", "STRENGTH", "Audit", "audit"]

ANSWERS = frozenset(
    {
        "random outputs",
        "answers under autograd",
        "batch-dependent answers",
        "answers that changed",
        "answers that jump",
        "answers that stand still",
    }
)
"""The flags for answers that depend on more than the image: no attack on such a model is judged fairly."""
STRENGTH = frozenset({"more steps help", "another loss helps"})
"""The flags for attacks that were too weak, whose gradients may be followed further."""
_HARMLESS = frozenset({"not probed", "constant answers"})
_RIGHT, _LEFT = 64, 48  # images that are looked at

Verdict = Literal["believed", "stronger attacks", "misleading", "unstable", "unknown"]
"""What an audit concludes: gradients can be trusted; they can, but attacks along them have to be stronger; they say
little about the outputs; the outputs themselves depend on more than the image; or too little could be examined."""


@dataclass(frozen=True, eq=False)
class Audit:
    """Whether the gradients of a model can be trusted, on which images they cannot, and why.

    Attributes:
        verdict: see `Verdict`. The worst that the causes suggest.
        causes: a flag for each thing that was seen.
        doubted: bool (N,), the images on which one of the causes was seen. Only ``examined`` ones can be among them.
        fooled: bool (N,), the images among those that were left that a search of the audit fooled within the budget.
            They are no longer robust, whatever the verdict.
        examined: bool (N,), the images that were looked at.
        forwards: how many forwards of single images the model made.
        backwards: how many backwards.
    """

    verdict: Verdict
    causes: tuple[Flag, ...]
    doubted: Tensor
    fooled: Tensor
    examined: Tensor
    forwards: int
    backwards: int

    @property
    def believed(self) -> bool:
        """Whether there is nothing against following gradients."""
        return self.verdict in ("believed", "stronger attacks")

    @property
    def share(self) -> float:
        """Of the images that were examined, the share on which one of the causes was seen; NaN without images."""
        return int(self.doubted.sum()) / n if (n := int(self.examined.sum())) else math.nan


def audit(
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    left: Tensor,
    *,
    passes: float = math.inf,
    seed: int | None = 0,
) -> Audit:
    """Examine the gradients of the model that an attack was carried out on.

    At most 64 of the images are examined for general signs of masked gradients, and at most 48 of those that the
    attack left for whether gradients predict the outputs there. If nothing is wrong so far, other searches are
    tried on these.

    Args:
        attack: an attack with a budget, on the model; of several, the one that left fewest. Gradients are taken as it
            takes them: through the surrogates of the model's defenses, unless it is not ``adaptive``.
        images: floating (N, ...), images that the model gets right.
        labels: int64 (N,).
        left: bool (N,), the images that no attack has fooled within the budget.
        passes: how many forwards and backwards the audit may take while nothing is found; searches use what
            examining leaves of them, and go on where they fool more images than an honest model would lose.
        seed: the seed of the choice of images, and of a random model.

    Returns:
        The verdict, and what it rests on, image by image.

    Raises:
        InputError: the attack has no budget.
    """
    ball = budget(attack)
    if ball is None:
        raise InputError(f"an audit looks within the budget of an attack, but {attack} has none")
    generator = torch.Generator("cpu").manual_seed(seed or 0)
    order = torch.randperm(len(labels), generator=generator, device="cpu")
    kept = left.to("cpu")
    groups = [order[:_RIGHT], order[kept[order]][:_LEFT]]
    right, rest = ((images[rows.to(images.device)], labels[rows.to(labels.device)]) for rows in groups)
    survivors = [Survivors(*ball, str(attack), attack, *rest)] if len(groups[1]) else []
    device = placement(attack.model)[0] or images.device
    with repeatable(seed, "audit", device=device):
        signs, spent = examined(
            attack.model,
            *right,
            survivors,
            attack.bounds,
            called="the model",
            adaptive=attack.adaptive,
            by_logits=has_another_loss(attack),
            passes=passes,
        )
    causes = list({sign.flag.name: sign.flag for sign in reversed(signs) if sign.flag}.values())[::-1]
    doubted, fooled, seen = (torch.zeros(len(labels), dtype=torch.bool, device="cpu") for _ in range(3))
    seen[torch.cat(groups)] = True
    for sign in signs:
        if len(sign.rows):
            rows = groups[sign.group][sign.rows.cpu()]
            doubted[rows] |= sign.flag is not None
            fooled[rows] |= sign.fooled
    return Audit(_verdict(signs), tuple(causes), doubted, fooled & kept, seen, spent.forwards, spent.backwards)


def _verdict(signs: list[Sign]) -> Verdict:
    names = {sign.flag.name for sign in signs if sign.flag}
    if names & ANSWERS:
        return "unstable"
    if names - STRENGTH - _HARMLESS:
        return "misleading"
    if "not probed" in names:
        return "unknown"
    return "stronger attacks" if names & STRENGTH else "believed"
