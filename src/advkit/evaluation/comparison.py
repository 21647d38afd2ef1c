"""From the records of the batches to the flags that attacks raise when they are held against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advkit.evaluation.flags import Flag, Outcome, compared
from advkit.evaluation.trial import LOST, NORMS, Assault, Contender, Record, vote
from advkit.evaluation.trial import Outcome as Answers

__all__ = ["comparison"]


def comparison(
    records: Mapping[int, Record], contenders: Sequence[Contender], plan: Sequence[Assault]
) -> tuple[Flag, ...]:
    """The flags of all contenders; see `advkit.evaluation.flags.compared`.

    An image that an error cost under one attack on a contender is left out of what is said of the contender.

    Args:
        records: of each batch, by its index in the loader, from attacks on every image that the contender gets right.
        contenders: whose outcomes the records hold.
        plan: likewise.
    """
    labels = torch.tensor([label for record in records.values() for label in record.labels], device="cpu")
    found: list[Flag] = []
    cells = [(assault.attack, cell) for assault in plan for cell in assault.cells]
    for index, contender in enumerate(contenders):
        clean, kept = _right([record.clean[index] for record in records.values()], labels)
        outcomes = []
        # An attack that is the same under two protocols counts once, as the adaptive one, which comes last.
        places = {attack: place for place, (attack, cell) in enumerate(cells) if cell.contender is contender}
        for attack, place in places.items():
            cell = cells[place][1]
            after = [record.cells[place] for record in records.values()]
            right, judged = _right(after, labels)
            by_norm = dict(zip(NORMS, torch.cat([_moved(one) for one in after], 1), strict=True))
            outcomes.append(Outcome(cell.attack, cell.protocol, attack, right, by_norm))
            kept = kept & judged
        if bool(kept.any()):
            found += compared(contender.name, clean[kept], [_rows(outcome, kept) for outcome in outcomes])
    return tuple(found)


def _right(answers: Sequence[Answers], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether most draws are right, and whether no error cost the image: bool (N,) each."""
    said = torch.cat([one.predictions for one in answers], 1)
    return vote(said) == labels, (said != LOST).all(0)


def _rows(outcome: Outcome, kept: Tensor) -> Outcome:
    """The same for some of the images, bool (N,)."""
    distances = {norm: far[kept] for norm, far in outcome.distances.items()}
    return replace(outcome, right=outcome.right[kept], distances=distances)


def _moved(answers: Answers) -> Tensor:
    """How far each image of a batch was moved, in each of `NORMS`: (4, n), 0 where it was not attacked."""
    far = torch.zeros(len(NORMS), answers.predictions.shape[1], device="cpu")
    far[:, answers.rows] = torch.tensor(answers.distances, device="cpu")
    return far
