"""What each attack did to a model, image by image, from the records of the batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advkit import norms
from advkit.attack import Attack
from advkit.evaluation.flags import Ball, budget, named_norm, number, reach
from advkit.evaluation.plan import Contender, PlannedAttack, made_elsewhere
from advkit.evaluation.records import LOST, NORMS, Record, is_refused, vote
from advkit.evaluation.records import Outcome as Answers

__all__ = ["Outcome", "counted", "distances", "judged", "outcomes"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one attack did to a model, image by image.

    Attributes:
        name: what the report calls the attack.
        protocol: "adaptive", "naive", "oblivious" or "transferred"; None for a model without a defense.
        attack: the attack.
        right: bool (N,), whether the model is right on each image under attack.
        distances: by the name of a norm, floating (N,): how far each image was moved, in units of pixels.
        surrogate: what the report calls the model that transferred images were made on.
    """

    name: str
    protocol: str | None
    attack: Attack
    right: Tensor
    distances: Mapping[str, Tensor]
    surrogate: str | None = None

    @property
    def is_direct(self) -> bool:
        """Whether the images were made on the model that they are shown to."""
        return not made_elsewhere(self.protocol)

    def within(self, norm: norms.Norm, eps: float) -> Tensor:
        """Where what the attack returned lies in a ball around the original: bool (N,)."""
        return self.distances[norm.name] <= eps * (1 + 1e-4)

    def allowed(self, other: "Outcome") -> Tensor:
        """Whether this attack might have returned what the other did: bool (N,).

        A budget attack might have if that lies within its budget, and within the reach of its steps. A minimal one has
        no budget unless it was given one, and might have returned anything; but one that counts pixels stops after a
        number of them, and a black-box one when its queries end.
        """
        if ball := budget(self.attack):
            return other.within(ball[0], min(ball[1], reach(self.attack)))
        if (eps := number(self.attack, "eps")) is not None and (norm := named_norm(self.attack)) is not None:
            return other.within(norm, eps)
        return torch.full_like(other.right, self.is_free)

    def rows(self, kept: Tensor) -> "Outcome":
        """The same for some of the images, bool (N,)."""
        distances = {norm: far[kept] for norm, far in self.distances.items()}
        return replace(self, right=self.right[kept], distances=distances)

    @property
    def is_free(self) -> bool:
        """Whether the attack may change an image as it likes."""
        minimal = self.attack.aim == "minimal" and self.attack.access == "gradient"
        return minimal and getattr(self.attack, "eps", None) is None and named_norm(self.attack) is not norms.L0


def outcomes(
    records: Sequence[Record], contender: Contender, plan: Sequence[PlannedAttack]
) -> tuple[list[Outcome], Tensor]:
    """What each attack on a contender did to the N images of some records, and which of them are not lost: bool (N,).

    An image is lost where the attack or the contender raised an error. An attack that was never carried out, for want
    of a gradient, is left out.
    An attack that is the same under two protocols counts once, as the adaptive one, which comes last.
    """
    labels = torch.tensor([label for record in records for label in record.labels], device="cpu")
    cells = [(planned.attack, cell) for planned in plan for cell in planned.cells]
    places = {attack: place for place, (attack, cell) in enumerate(cells) if cell.contender is contender}
    found, kept = [], torch.ones_like(labels, dtype=torch.bool)
    for attack, place in places.items():
        cell = cells[place][1]
        after = [record.cells[place] for record in records]
        if is_refused(after):
            continue
        right, known = judged(after, labels)
        by_norm = dict(zip(NORMS, torch.cat([_moved(one) for one in after], 1), strict=True))
        found.append(Outcome(cell.attack, cell.protocol, attack, right, by_norm, cell.surrogate))
        kept = kept & known
    return found, kept


def counted(attack: Attack, answers: Answers, balls: Sequence[Ball]) -> Tensor:
    """Which images of a batch count for the worst case over attacks, whatever the model says of them: bool (n,).

    A minimal attack moves images as far as it has to, so that only those count that it moved no further than one of
    the budgets of the other attacks allows. Without any budget all of them do.
    """
    everything = torch.ones(answers.predictions.shape[1], dtype=torch.bool, device="cpu")
    if attack.aim == "budget" or not balls:
        return everything
    return torch.stack([answers.within(norm.name, eps) for norm, eps in balls]).any(0)


def judged(answers: Sequence[Answers], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether most draws are right, and whether the image was not lost to an error: bool (N,) each."""
    said = torch.cat([one.predictions for one in answers], 1)
    return vote(said) == labels, (said != LOST).all(0)


def _moved(answers: Answers) -> Tensor:
    """How far each image of a batch was moved, in each of `NORMS`: (4, n), 0 where it was not attacked."""
    far = torch.zeros(len(NORMS), answers.predictions.shape[1], device="cpu")
    far[:, answers.rows] = answers.distances.to(far)
    return far


def distances(adversarials: Tensor, images: Tensor, rows: Tensor) -> Tensor:
    """How far m rows of images (n, ...) were moved, in each of `NORMS`: (4, m), on the CPU."""
    rows = rows.to(images.device)
    work = torch.promote_types(images.dtype, torch.float32)
    after, before = adversarials[rows].to(work), images[rows].to(work)
    return torch.stack([norms.get(norm).distance(after, before) for norm in NORMS]).cpu()
