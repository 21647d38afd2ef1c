"""What the callbacks share: an attack for whoever trains, and what it leaves of a batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from advkit._data.attacking import check_attack
from advkit._data.samples import LabelsGetter, Sample
from advkit.attack import Attack
from advkit.errors import InputError

__all__ = ["Given", "checked", "made", "withstood"]

Given = Attack | Callable[[Any], Attack]
"""An attack, or what makes one of the model that a trainer trains."""


def checked(attack: Given) -> Given:
    """Refuse what is neither; what is made is checked when it is."""
    if isinstance(attack, Attack) or not callable(attack):
        check_attack(attack)
    return attack


def made(attack: Given, model: Any) -> Attack:
    """The attack, made of the model if it has to be."""
    if isinstance(attack, Attack):
        return attack
    found = attack(model)
    check_attack(found)
    return found


def withstood(attack: Attack, batch: Any, where: LabelsGetter) -> Tensor:
    """Which images of a batch the model still gets right under attack: bool (N,)."""
    sample = Sample(batch, batched=True, where=where)
    labels = sample.labels
    if labels is None or not labels.ndim:
        raise InputError(
            "robust validation needs batches of images and labels, but this one has no labels; if they are somewhere "
            'in it, say where, as in labels="fine"'
        )
    return ~attack.run(sample.images, labels).success
