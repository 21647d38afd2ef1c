"""Robust evaluation in the Trainer of Hugging Face transformers."""

from itertools import islice
from typing import Any

import torch

from advkit._data.samples import LabelsGetter, check_labels_getter
from advkit._engine.checks import check_number
from advkit.errors import MissingExtraError
from advkit.integrations._batches import Given, checked, made, withstood

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "advkit.integrations.transformers needs transformers, which cannot be imported; run pip install transformers"
    ) from error

__all__ = ["RobustEvaluation"]


class RobustEvaluation(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Attacks the evaluation batches, and adds the accuracy that is left to the metrics and to the log.

    Args:
        attack: an attack on the network in training; or a function that makes one from it. Image processors
            normalise pixels, so give the range that they then have: ``bounds=(-1, 1)`` where mean and deviation are
            0.5, and ``eps`` and ``alpha`` in these units, twice as large.
        batches: how many batches of each evaluation to attack; None for all.
        labels: where the label is in a batch, as for `advkit.AttackTransform`; found by its rules if None.
        name: the name of the metric, which is in [0, 1].

    Raises:
        DtypeError: ``attack`` is neither of these.
        InputError: ``batches`` is out of its range; and, in evaluation, a batch has no images or no labels.
        MissingExtraError: on import, if transformers is not installed.

    Examples:
        >>> from advkit.integrations.transformers import RobustEvaluation
        >>> attack = advkit.PGD(advkit.Logits(model), eps=2 * 8 / 255, bounds=(-1, 1))
        >>> RobustEvaluation(attack, batches=8).name
        'eval_robust_accuracy'

        In training::

            attack = advkit.PGD(advkit.Logits(model), eps=2 * 8 / 255, bounds=(-1, 1))
            trainer = Trainer(model, arguments, eval_dataset=data, callbacks=[RobustEvaluation(attack)])
            trainer.evaluate()["eval_robust_accuracy"]
    """

    def __init__(
        self,
        attack: Given,
        *,
        batches: int | None = None,
        labels: LabelsGetter = None,
        name: str = "eval_robust_accuracy",
    ) -> None:
        if batches is not None:
            check_number("batches", batches, at_least=1, integer=True)
        check_labels_getter(labels)
        self.attack, self.batches, self.labels, self.name = checked(attack), batches, labels, name

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        model: Any,
        eval_dataloader: Any,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Attack what was evaluated; in several processes, each takes its share."""
        attack = made(self.attack, model)
        counts = torch.zeros(2, dtype=torch.int64, device=args.device)
        for batch in islice(eval_dataloader, self.batches):
            right = withstood(attack, {name: _placed(value, args.device) for name, value in batch.items()}, self.labels)
            counts += torch.stack([right.sum(), torch.full_like(right, True).sum()]).to(counts)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        right_ones, seen = counts.tolist()
        if seen:
            found = {self.name: right_ones / seen}
            state.log_history.append({**found, "step": state.global_step})
            if metrics is not None:
                metrics.update(found)


def _placed(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
