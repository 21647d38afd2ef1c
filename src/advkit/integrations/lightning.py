"""Robust validation in Lightning."""

from typing import Any

from advkit._data.samples import LabelsGetter, check_labels_getter
from advkit._engine.checks import check_number
from advkit.errors import MissingExtraError
from advkit.integrations._batches import Given, checked, made, withstood

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError(
            "advkit.integrations.lightning needs Lightning, which cannot be imported; run pip install lightning"
        ) from error

__all__ = ["RobustValidation"]


class RobustValidation(Callback):  # type: ignore[misc, unused-ignore]
    """Attacks validation batches, and logs the accuracy that is left.

    It is logged at the end of validation as the mean over the images of all processes, so that
    ``ModelCheckpoint(monitor="val_robust_accuracy", mode="max")`` and ``EarlyStopping`` can monitor it.

    Args:
        attack: an attack on the network in training, such as ``advkit.PGD(module.net)``; or a function that makes
            one from the `LightningModule`, such as ``advkit.PGD``, if the module is made later or in other processes.
        batches: how many batches of each validation to attack; None for all.
        every_n_epochs: attack in every n-th epoch alone, at least 1.
        labels: where the label is in a batch, as for `advkit.AttackTransform`; found by its rules if None.
        name: the name under which the accuracy, in [0, 1], is logged.

    Raises:
        DtypeError: ``attack`` is neither of these.
        InputError: a number is out of its range; and, in validation, a batch has no images or no labels.
        MissingExtraError: on import, if Lightning is not installed.

    Examples:
        >>> from advkit.integrations.lightning import RobustValidation
        >>> robust = RobustValidation(advkit.PGD(model, eps=8 / 255), batches=8)
        >>> robust.name
        'val_robust_accuracy'

        In training::

            robust = RobustValidation(advkit.PGD(module.net, eps=8 / 255), batches=8)
            best = ModelCheckpoint(monitor="val_robust_accuracy", mode="max")
            L.Trainer(callbacks=[robust, best]).fit(module, train_loader, val_loader)
    """

    def __init__(
        self,
        attack: Given,
        *,
        batches: int | None = None,
        every_n_epochs: int = 1,
        labels: LabelsGetter = None,
        name: str = "val_robust_accuracy",
    ) -> None:
        super().__init__()
        if batches is not None:
            check_number("batches", batches, at_least=1, integer=True)
        check_number("every_n_epochs", every_n_epochs, at_least=1, integer=True)
        check_labels_getter(labels)
        self.attack, self.batches, self.every_n_epochs = checked(attack), batches, every_n_epochs
        self.labels, self.name = labels, name

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Attack a batch, and log the accuracy that the network keeps on it."""
        beyond = self.batches is not None and batch_idx >= self.batches
        if beyond or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        with trainer.precision_plugin.forward_context():
            right = withstood(made(self.attack, pl_module), batch, self.labels).float()
        pl_module.log(self.name, right.mean(), on_step=False, on_epoch=True, sync_dist=True, batch_size=len(right))
