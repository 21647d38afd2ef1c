"""The training loop, by way of the simplest defense that has one."""

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, TensorDataset

import advkit
from advkit.defenses import AdversarialTraining, Epoch
from advkit.errors import DtypeError, InputError, ModelError
from contracts.scenes import conv_net, draw, flat_net, said_by


def data(count: int = 24, classes: int = 4, seed: int = 0) -> TensorDataset:
    """Images that differ in brightness from class to class."""
    labels = torch.arange(count) % classes
    return TensorDataset(0.2 * labels.view(-1, 1, 1, 1) + draw(count, 3, 8, 8, seed=seed, high=0.3), labels)


def plainly() -> AdversarialTraining:
    """Training on clean images."""
    return AdversarialTraining(advkit.FGSM(nn.Identity()), clean_ratio=1)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: object, other: object) -> bool:
    """To the bit, also inside containers."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_training_learns_and_says_so() -> None:
    torch.manual_seed(0)
    model = conv_net()
    (images, labels), defense = data().tensors, plainly()
    assert (said_by(model, images) == labels).float().mean() < 0.5
    trained = defense.fit(model, DataLoader(data(), 8, shuffle=True), torch.optim.Adam(model.parameters(), 0.03), 20)
    assert trained is model
    assert (said_by(model, images) == labels).float().mean() > 0.9
    assert len(defense.history) == 20
    assert defense.history[-1].loss < 0.5 * defense.history[0].loss
    assert all(epoch.validation_loss is None for epoch in defense.history)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_loss_of_an_epoch_is_the_mean_over_images_and_not_over_batches() -> None:
    model, (images, labels) = flat_net(192), data(10).tensors
    defense = plainly()
    defense.fit(model, DataLoader(data(10), 8), sgd(model, lr=0.0), epochs=1)
    expected = nn.functional.cross_entropy(model(images), labels).item()
    assert defense.history == [Epoch(pytest.approx(expected))]


class Noisy(Dataset):
    """Images with noise from each RNG there is, that stop coming after so many; the last of all is a shock."""

    def __init__(self, count: float = float("inf")) -> None:
        self.data, self.count = data(), count

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.count <= 0:
            raise KeyboardInterrupt
        self.count -= 1
        image, label = self.data[index]
        noise = torch.rand(()) + random.random() + np.random.random()
        return (image + 0.05 * noise.float()).clamp(0, 1), label


def scheduled(model: nn.Module) -> dict[str, object]:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    return {
        "optimizer": optimizer,
        "scheduler": MultiStepLR(optimizer, [1, 3]),
        "batch_scheduler": LinearLR(optimizer, 0.5, total_iters=7),
    }


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("epoch", range(4))
def test_stopped_and_resumed_is_as_if_never_stopped(tmp_path: Path, epoch: int, own_generator: bool) -> None:
    """Dropout, BatchNorm, a shuffling loader, random attacks, noisy data, validation: to the bit."""
    images_an_epoch = len(data())

    def run(path: Path, images: float, validate: bool = True) -> tuple[object, ...]:
        for seeded in (torch.manual_seed, random.seed, np.random.seed):
            seeded(5)
        generator = torch.Generator().manual_seed(1) if own_generator else None
        model = conv_net().train()
        attacks = [advkit.PGD(model, steps=1, generator=generator), advkit.FGSM(model)]
        defense = AdversarialTraining(attacks, clean_ratio=0.3)
        parts = scheduled(model)
        loader = DataLoader(Noisy(images), 8, shuffle=True, generator=generator)
        validation = DataLoader(data(9, seed=1), 4, shuffle=True) if validate else None
        try:
            defense.fit(model, loader, epochs=4, validation=validation, checkpoint=path, progress=False, **parts)
        finally:
            states = [parts[name].state_dict() for name in ("optimizer", "scheduler", "batch_scheduler")]
            outcome = (weights(model), states, defense.history)
        return *outcome, torch.rand(3), random.random(), np.random.random()

    whole = run(tmp_path / "whole.pt", float("inf"))
    assert len(whole[2]) == 4
    part = tmp_path / "part.pt"
    with pytest.raises(KeyboardInterrupt):
        run(part, epoch * images_an_epoch + 13)  # in the middle of the epoch
    assert part.exists() == (epoch > 0)
    (tmp_path / "part.pt.tmp").write_bytes(b"half a checkpoint")
    resumed = run(part, (4 - epoch) * images_an_epoch)  # no more than are left to do
    assert same(whole, resumed)
    assert same(whole, run(part, 0))  # nothing is left to do
    without = run(tmp_path / "without.pt", float("inf"), validate=False)
    assert [one.loss for one in without[2]] == [one.loss for one in whole[2]]


def test_a_checkpoint_is_read_without_running_code_and_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = flat_net(192)
    path = tmp_path / "runs" / "model.pt"
    loader = DataLoader(data(), 8)
    plainly().fit(model, loader, sgd(model), 1, checkpoint=path)
    assert torch.load(path, weights_only=True)["history"][0]["loss"] > 0
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]
    before = path.read_bytes()

    def breaks(content: object, stream: object) -> None:
        stream.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(OSError, match="the disk is full"):
        plainly().fit(model, loader, sgd(model), 2, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("recipe", r"is a checkpoint of AdversarialTraining\(\[FGSM\], clean_ratio=1.*but this is .*clean_ratio=0"),
        ("epochs", r"has already reached epoch 2, but only 1 epochs are requested"),
        ("model", r"(?s)belongs to another model, recipe, optimizer, scheduler or loader: .*size mismatch"),
        ("optimizer", r"belongs to another model, recipe, optimizer, scheduler or loader: "),
        ("scheduler", r"belongs to another model, recipe, optimizer, scheduler or loader: 'scheduler'"),
        ("loader", r"belongs to another model, recipe, optimizer, scheduler or loader: "),
        ("file", r"is not a checkpoint of advkit, or is damaged"),
        ("bit", r"is not a checkpoint of advkit, or is damaged \(the checksum of .* is wrong\)"),
        ("other", r"is not a checkpoint of advkit, or is damaged"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, change: str, said: str) -> None:
    path, model = tmp_path / "model.pt", flat_net(192)
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 2, checkpoint=path)
    defense = AdversarialTraining(advkit.FGSM(model), clean_ratio=0) if change == "recipe" else plainly()
    if change == "model":
        model = flat_net(192, classes=5)
    optimizer = torch.optim.Adam(list(model.parameters())[:2]) if change == "optimizer" else sgd(model)
    scheduler = MultiStepLR(optimizer, [1]) if change == "scheduler" else None
    generator = torch.Generator() if change == "loader" else None
    loader = DataLoader(data(), 8, shuffle=True, generator=generator)
    if change == "file":
        path.write_bytes(path.read_bytes()[:100])
    if change == "bit":
        content = bytearray(path.read_bytes())
        content[content.index(next(model.parameters()).detach().numpy().tobytes()) + 2] ^= 1
        path.write_bytes(content)
    if change == "other":
        torch.save({"model": model.state_dict()}, path)
    with pytest.raises(InputError, match=said):
        defense.fit(model, loader, optimizer, 1 if change == "epochs" else 3, scheduler=scheduler, checkpoint=path)


class Sloped(nn.Module):
    """Weights of the same shapes, whatever the rest is, and a counter."""

    def __init__(self, slope: float = 0.1, mean: float = 0.5, **attributes: object) -> None:
        super().__init__()
        self.model, self.slope, self.seen = advkit.Normalized(flat_net(192), mean, 0.5), slope, 0
        vars(self).update(attributes)

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return nn.functional.leaky_relu(self.model(images), self.slope)


class Otherwise(Sloped):
    pass


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Sloped(slope=0.2), "slope is 0.1 there and 0.2 here"),
        (Sloped(mean=0.4), "model.mean is .* there and .* here"),
        (Sloped(kept=None), None),
        (Otherwise(), "class is .*Sloped there and .*Otherwise here"),
    ],
)
def test_a_checkpoint_of_another_model_of_the_same_shapes_is_refused(
    tmp_path: Path, other: nn.Module, said: str | None
) -> None:
    path, model = tmp_path / "model.pt", Sloped()
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 1, checkpoint=path)
    before = weights(other)
    if said is None:  # what nobody spoke of then
        plainly().fit(other, DataLoader(data(), 8), sgd(other), 1, checkpoint=path)
        assert same(weights(other), weights(model))
        return
    with pytest.raises(InputError, match=f"{path.name} belongs to another model, .*: .*{said}.*Choose another path"):
        plainly().fit(other, DataLoader(data(), 8), sgd(other), 2, checkpoint=path)
    assert same(weights(other), before)


def test_a_checkpoint_is_taken_by_the_same_model_whatever_training_changes(tmp_path: Path) -> None:
    """Other weights to start with, a counter that went on, and the very object that was trained before."""
    path, model, again = tmp_path / "model.pt", Sloped(), Sloped()
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 1, checkpoint=path)
    assert model.seen == 24
    torch.nn.init.zeros_(again.model.net[1].weight)
    plainly().fit(again, DataLoader(data(), 8), sgd(again), 1, checkpoint=path)
    assert same(weights(again), weights(model))
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 2, checkpoint=path)
    assert model.seen == 48


class Turning(nn.Module):
    """A model that goes wrong, one way or another, at its n-th call."""

    def __init__(self, at: int, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.calls, self.at, self.how = flat_net(192), 0, at, how

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        self.calls += self.training
        return self.how(logits) if self.calls == self.at else logits


def test_a_nan_loss_stops_before_it_is_saved_or_learned(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model = Turning(at=5, how=lambda logits: logits * torch.nan)  # the second batch of the second epoch
    defense = plainly()
    with pytest.raises(ModelError, match=r"stopped in epoch 2: the loss is nan in batch 2, .*has epoch 1\."):
        defense.fit(model, DataLoader(data(), 8), sgd(model), checkpoint=path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert len(torch.load(path, weights_only=True)["history"]) == len(defense.history) == 1


def test_weights_that_the_last_step_broke_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model = Turning(at=6, how=lambda logits: logits + (logits - logits.detach()).abs().sqrt())  # its gradient is NaN
    with pytest.raises(ModelError, match=r"training stopped in epoch 2: model\.1\.weight is no longer finite"):
        plainly().fit(model, DataLoader(data(), 8), sgd(model), checkpoint=path)
    saved = torch.load(path, weights_only=True)
    assert len(saved["history"]) == 1
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())


def test_a_nan_validation_loss_stops_before_it_is_saved(tmp_path: Path) -> None:
    model = flat_net(192)
    broken = [(torch.full((2, 3, 8, 8), torch.nan), torch.tensor([0, 1]))]
    with pytest.raises(ModelError, match=r"stopped in epoch 1: the validation loss is nan; there is no checkpoint yet"):
        plainly().fit(model, DataLoader(data(), 8), sgd(model), validation=broken, checkpoint=tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_the_epoch_with_the_best_validation_loss_is_kept() -> None:
    """Labels of training and validation contradict each other, so that every epoch makes validation worse."""
    images, labels = data().tensors
    opposite = DataLoader(TensorDataset(images, (labels + 1) % 4), 8)
    model, once = flat_net(192), flat_net(192)
    defense = plainly()
    defense.fit(model, DataLoader(data(), 8), sgd(model), 6, validation=opposite)
    losses = [epoch.validation_loss for epoch in defense.history]
    best = losses.index(min(losses)) + 1
    assert best < 6
    plainly().fit(once, DataLoader(data(), 8), sgd(once), best)
    assert same(weights(model), weights(once))
    expected = nn.functional.cross_entropy(model(images), (labels + 1) % 4).item()
    assert min(losses) == pytest.approx(expected, rel=1e-5)


def test_the_best_of_a_validation_that_is_over_does_not_come_back(tmp_path: Path) -> None:
    images, labels = data().tensors
    opposite = DataLoader(TensorDataset(images, (labels + 1) % 4), 8)
    once, path = flat_net(192), tmp_path / "model.pt"
    plainly().fit(once, DataLoader(data(), 8), sgd(once), 5)
    for epochs, validation in ((4, opposite), (5, None)):
        model = flat_net(192)
        plainly().fit(model, DataLoader(data(), 8), sgd(model), epochs, validation=validation, checkpoint=path)
    assert same(weights(model), weights(once))


def test_validation_sees_the_model_in_eval_mode_and_leaves_no_trace() -> None:
    trained = []
    for validation in (None, DataLoader(data(9, seed=1), 4)):
        torch.manual_seed(0)
        model = conv_net()
        model[0].weight.requires_grad = False
        plainly().fit(model, DataLoader(data(), 8, shuffle=True), sgd(model), 1, validation=validation)
        assert not model[0].weight.requires_grad
        assert model[0].bias.requires_grad
        trained.append(weights(model))
    assert same(*trained)


@pytest.mark.parametrize("whole_in_training_mode", [True, False])
def test_flags_are_as_before_and_a_frozen_batch_norm_stays_frozen(whole_in_training_mode: bool) -> None:
    model = conv_net().train(whole_in_training_mode)
    model[1].eval()
    flags = [module.training for module in model.modules()]
    statistics = model[1].running_mean.clone()
    seen: list[tuple[bool, bool]] = []
    model[1].register_forward_pre_hook(lambda module, _: seen.append((model.training, module.training)))
    AdversarialTraining(advkit.FGSM(model)).fit(model, DataLoader(data(), 12), sgd(model), 1)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model[1].running_mean, statistics) == whole_in_training_mode
    attacked, learned = (False, False), (True, not whole_in_training_mode)
    assert set(seen) == {attacked, learned}


def test_a_wrapper_in_training_mode_around_a_model_in_eval_mode_freezes_nothing() -> None:
    net, modes = conv_net(), set()
    net[1].register_forward_pre_hook(lambda module, _: modes.add(module.training))
    model = advkit.Normalized(net, 0.5, 0.5)
    assert model.training
    plainly().fit(model, DataLoader(data(), 12), sgd(model), 1)
    assert modes == {True}
    assert model.training
    assert not net.training


def test_flags_are_as_before_after_an_error() -> None:
    model = conv_net().train()
    model[1].eval()
    with pytest.raises(InputError):
        plainly().fit(model, [], sgd(model))
    assert model.training
    assert not model[1].training


def test_schedulers_are_stepped_where_they_belong() -> None:
    model = flat_net(192)
    optimizer = sgd(model, lr=1.0)
    plainly().fit(model, DataLoader(data(), 8), optimizer, 2, scheduler=MultiStepLR(optimizer, [1, 2, 3], gamma=0.1))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    optimizer = sgd(model)
    cycle = OneCycleLR(optimizer, 0.01, total_steps=2 * 3)
    plainly().fit(model, DataLoader(data(), 8), optimizer, 2, batch_scheduler=cycle)
    assert cycle.last_epoch == 6
    for validation, worst in ((None, "loss"), (DataLoader(data(seed=1), 8), "validation_loss")):
        optimizer, defense = sgd(model, lr=0.0), plainly()
        plateau = ReduceLROnPlateau(optimizer, patience=9)
        defense.fit(model, DataLoader(data(), 8), optimizer, 1, scheduler=plateau, validation=validation)
        assert plateau.best == getattr(defense.history[0], worst)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_used_for_training_and_for_attacks_and_the_weights_stay(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = conv_net()
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    defense = AdversarialTraining(advkit.FGSM(model, eps=0.01))
    defense.fit(model, DataLoader(data(), 8), torch.optim.Adam(model.parameters(), 0.03), 15, autocast=dtype)
    assert set(seen) == {dtype}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert defense.history[-1].loss < 0.5 * defense.history[0].loss


def test_the_scale_of_halves_is_resumed(tmp_path: Path) -> None:
    outcomes = []
    for stops in ([3], [1, 3]):
        path = tmp_path / f"{len(stops)}.pt"
        for epochs in stops:
            torch.manual_seed(0)
            model = conv_net()
            plainly().fit(model, DataLoader(data(), 8), sgd(model), epochs, autocast=torch.float16, checkpoint=path)
        outcomes.append((weights(model), torch.load(path, weights_only=True)["scaler"]))
    assert outcomes[0][1]["_growth_tracker"] > 0
    assert same(*outcomes)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(context: Callable[[], object]) -> None:
    models = []
    for around in (torch.enable_grad, context):
        model = flat_net(192)
        with around():
            inputs = [(images.clone(), labels) for images, labels in DataLoader(data(), 8)]
            plainly().fit(model, inputs, sgd(model), 2)
        models.append(weights(model))
    assert same(*models)


def test_images_come_in_the_dtype_of_the_model() -> None:
    model = flat_net(192).double()
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_batches_may_be_named_or_empty() -> None:
    model, other = flat_net(192), flat_net(192)
    (images, labels), none = data(8).tensors, torch.empty(0, 3, 8, 8)
    named = [{"label": labels, "image": images}, (none, labels[:0])]
    plainly().fit(model, named, sgd(model), 1)
    plainly().fit(other, [(images, labels)], sgd(other), 1)
    assert same(weights(model), weights(other))


def test_labels_may_be_a_column_or_where_they_are_said_to_be() -> None:
    (images, labels), trained = data(8).tensors, []
    number = torch.arange(8) % 3
    for batch, where in (
        ((images, labels), None),
        ((images, labels.unsqueeze(1)), None),
        ((images, labels.unsqueeze(1).numpy()), None),
        ((images, number, labels), 2),
        ({"x": images, "number": number, "y": labels}, "y"),
        ((images, number, labels), lambda batch: batch[2]),
        ((images, torch.arange(8) + 1000, labels), None),
    ):
        model = flat_net(192)
        plainly().fit(model, [batch], sgd(model), 1, validation=[batch], labels=where)
        trained.append(weights(model))
    assert all(same(trained[0], other) for other in trained)
    with pytest.raises(InputError, match=r"not clear which of sample\[1\] and sample\[2\] is the label, .*; say which"):
        plainly().fit(model, [(images, number, labels)], sgd(model), 1)


def test_a_fixed_source_copies_data_sets_of_dicts() -> None:
    images, labels = data(8).tensors
    items = [{"x": image, "number": 1, "y": int(label)} for image, label in zip(images, labels, strict=True)]
    trained = []
    for its, where in ((data(8), None), (items, "y")):
        model, source = flat_net(192), flat_net(192, seed=1)
        defense = AdversarialTraining([advkit.FGSM(source), advkit.PGD(source, steps=1)], source=source)
        defense.fit(model, DataLoader(its, 4), sgd(model), 1, labels=where)
        trained.append(weights(model))
    assert same(*trained)


def test_a_data_set_is_no_loader() -> None:
    model = flat_net(192)
    for wrong in ({"loader": data()}, {"loader": DataLoader(data()), "validation": data()}):
        with pytest.raises(DtypeError, match=r"loader is a data set \(TensorDataset\), which yields one image"):
            plainly().fit(model, optimizer=sgd(model), **wrong)


def test_training_goes_on_wherever_the_default_device_is(tmp_path: Path) -> None:
    trained = []
    batches = list(DataLoader(data(), 8))
    for device in ("cpu", "meta"):
        model = flat_net(192)
        defense = AdversarialTraining([advkit.FGSM(model), advkit.PGD(model, steps=1, random_start=False)])
        for epochs in (1, 2):
            torch.manual_seed(0)
            with torch.device(device):
                defense.fit(model, batches, sgd(model), epochs, checkpoint=tmp_path / f"{device}.pt", average=0.5)
        trained.append(weights(model))
    assert same(*trained)


def generator_once() -> Iterator[tuple[Tensor, Tensor]]:
    yield data(8).tensors


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ([], "the loader has no images"),
        (generator_once(), "a generator that was iterated over before has none left"),
        ([torch.rand(2, 3, 8, 8)], "training needs a label for each image"),
        ([(torch.rand(2, 3, 8, 8), torch.rand(2))], "training needs a label for each image"),
        ([torch.tensor([1, 2])], r"found no image of shape \(N, ...\)"),
        ([(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))], "images must be floating"),
        ([(torch.rand(2, 3, 8, 8), torch.tensor([0, 1, 2]))], r"labels must have shape \(2,\)"),
        ([(torch.rand(2, 3, 8, 8), torch.tensor([0, -1]))], "labels must be class indices, at least 0"),
        ([(torch.rand(2, 3, 8, 8), torch.tensor([0, 4]))], r"labels must lie in \[0, 4\).*the largest is 4"),
    ],
)
def test_a_loader_that_cannot_be_trained_on_is_an_error(loader: object, said: str) -> None:
    model = flat_net(192)
    before = weights(model)
    with pytest.raises(InputError, match=said):
        plainly().fit(model, loader, sgd(model), 2)
    assert said.startswith("a generator") or same(weights(model), before)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"the model returned shape \(2, 4, 6, 6\).*needs logits of shape \(2, K\)"),
        (nn.LSTM(8, 4), "the model returned tuple"),
    ],
)
def test_a_model_without_logits_is_an_error(model: nn.Module, said: str) -> None:
    images = torch.rand(2, 3, 8) if isinstance(model, nn.LSTM) else torch.rand(2, 3, 8, 8)
    with pytest.raises(ModelError, match=said):
        plainly().fit(model, [(images, torch.tensor([0, 1]))], sgd(model))


def test_what_cannot_be_trained_is_an_error_before_anything_is_done() -> None:
    model, loader = flat_net(192), DataLoader(data(), 8)
    with pytest.raises(InputError, match="the optimizer has no trainable parameter of this model"):
        plainly().fit(model, loader, sgd(flat_net(192)))
    with pytest.raises(DtypeError, match=r"model must be an nn\.Module to be trained, got type"):
        plainly().fit(nn.Linear, loader, sgd(model))
    with pytest.raises(InputError, match="epochs must be at least 1"):
        plainly().fit(model, loader, sgd(model), 0)
    with pytest.raises(InputError, match=r"autocast must be one of None, torch\.bfloat16, torch\.float16"):
        plainly().fit(model, loader, sgd(model), autocast=torch.float32)


def test_the_bar_shows_the_epoch_and_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    model = flat_net(192)
    with warnings.catch_warnings():
        plainly().fit(model, DataLoader(data(), 8), sgd(model), 2, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 1 of 2" in shown
    assert "epoch 2 of 2 (loss " in shown
    plainly().fit(model, DataLoader(data(), 8), sgd(model), 2, progress=False)
    assert not capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_resumed_on_a_gpu(tmp_path: Path, autocast: torch.dtype | None) -> None:
    """Dropout and PGD draw from the GPU's own RNG. Its layers' kernels sum in the same order each time."""
    outcomes = []
    for stops in ([3], [1, 3]):
        path = tmp_path / f"{len(stops)}.pt"
        for epochs in stops:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Dropout(0.5), flat_net(192)).cuda()
            defense = AdversarialTraining(advkit.PGD(model, steps=1), clean_ratio=0.5)
            loader = DataLoader(data(), 8, shuffle=True)
            defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs, autocast=autocast, checkpoint=path)
        outcomes.append(weights(model))
    for one, other in zip(outcomes[0].values(), outcomes[1].values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_attacks_in_training_move_the_images_that_a_model_is_sure_of(autocast: torch.dtype | None) -> None:
    images, labels = data().tensors
    torch.manual_seed(0)
    model = flat_net(192)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        margin = advkit.losses.margin(model(images), labels).median()
        for tensor in list(model.parameters())[-2:]:
            tensor.mul_(22 / margin)
    moved: list[Tensor] = []

    class Watched(advkit.PGD):
        def __call__(self, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> Tensor:
            found = super().__call__(images, labels, targets=targets)
            moved.append((found != images).flatten(1).any(1))
            return found

    attack = Watched(model, eps=0.01, alpha=0.003, steps=3, random_start=False)
    training = AdversarialTraining(attack, clean_ratio=0)
    training.fit(model, DataLoader(data(), 8), sgd(model, lr=1e-5), epochs=1, autocast=autocast)
    assert torch.cat(moved).all()
