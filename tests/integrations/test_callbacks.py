"""Callbacks for other people's trainers, where these are installed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other


class Line(nn.Module):
    """Two classes: whether the first of four features is below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([images[:, 0], -images[:, 0]], 1) * self.scale


def at_distances() -> TensorDataset:
    """Ten images of the class 0, at Linf distances 0.05, 0.15, ... 0.95."""
    return TensorDataset(torch.ones(10, 4) * (torch.arange(10)[:, None] / 10 + 0.05), torch.zeros(10).long())


def attack(model: Any) -> advkit.Attack:
    return advkit.FGSM(model, eps=0.3, bounds=(-1, 1))


def test_lightning_validates_under_attack(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from advkit.integrations.lightning import RobustValidation

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.extra = Line(), nn.BatchNorm1d(4)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: Any, index: int) -> Tensor:
            self.seen_in = self.net.training, self.extra.training
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-3)

    module, data = Module(), at_distances()
    loader = DataLoader(data, 4)  # the last batch is a smaller one
    for given in (attack(module.net), attack):
        callbacks = [RobustValidation(given), RobustValidation(given, batches=1, name="first")]
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2, callbacks=callbacks, accelerator="cpu", default_root_dir=tmp_path, **quiet
        )
        trainer.fit(module, loader, loader)
        assert module.seen_in == (True, True)
        assert trainer.callback_metrics["val_robust_accuracy"].item() == pytest.approx(0.7)
        assert trainer.callback_metrics["first"].item() == pytest.approx(0.25)
        assert trainer.callback_metrics["val_accuracy"] == 1
    with pytest.raises(advkit.errors.DtypeError, match="attack must be an advkit attack"):
        RobustValidation("PGD")


def test_transformers_evaluates_under_attack(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from advkit.integrations.transformers import RobustEvaluation

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = Line()

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.line(pixel_values)
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return transformers.modeling_outputs.ImageClassifierOutput(loss=loss, logits=logits)

    data = [{"pixel_values": image, "labels": int(label)} for image, label in at_distances()]
    model = Model()
    callback = RobustEvaluation(lambda model: attack(lambda images: model(images).logits))
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = transformers.Trainer(model, arguments, eval_dataset=data, callbacks=[callback])
    metrics = trainer.evaluate()
    assert metrics["eval_robust_accuracy"] == pytest.approx(0.7)
    assert trainer.state.log_history[-1]["eval_robust_accuracy"] == pytest.approx(0.7)
