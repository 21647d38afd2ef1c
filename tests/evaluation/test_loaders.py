"""What `evaluate` and `security_curve` take: batches of any structure, on whatever device torch makes tensors."""

import importlib
import json
import subprocess
import sys
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import advkit
from advkit import errors
from advkit.evaluation import confusion_matrix, security_curve
from advkit.evaluation.runs import Ranks
from contracts.cases import each
from contracts.scenes import trained_net

evaluate_module = importlib.import_module("advkit.evaluation.evaluate")  # whose name is its function's
Fields = namedtuple("Fields", ["pixels", "label", "place"])


@pytest.fixture
def scene():
    net, images, labels = trained_net()
    labels = labels.clone()
    labels[5] = (labels[5] + 1) % 4  # one that is wrong to begin with
    return net, images, labels


def same(report, expected):
    return [score.accuracy for score in (*report.defenses, *report.scores)] == [
        score.accuracy for score in (*expected.defenses, *expected.scores)
    ]


STRUCTURES = {
    "dict": lambda images, labels: {"image": images, "label": labels},
    "dict, label first": lambda images, labels: {"labels": labels, "pixel_values": images},
    "dict with more": lambda images, labels: {"id": ["a"] * len(images), "image": images, "target": labels},
    "triple": lambda images, labels: (images, labels, ["name"] * len(images)),
    "list": lambda images, labels: [images, labels, torch.rand(len(images), 4)],
    "nested": lambda images, labels: ({"image": images}, {"label": labels, "weight": torch.rand(len(images))}),
    "named tuple": lambda images, labels: Fields(images, labels, None),
    "column": lambda images, labels: (images, labels.unsqueeze(1)),
    "bytes in a column": lambda images, labels: (images, labels.to(torch.uint8).unsqueeze(1)),
    "column in a dict": lambda images, labels: {"image": images, "label": labels.int().unsqueeze(1)},
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_batches_of_any_structure(structure, scene):
    net, images, labels = scene
    attacks = [advkit.FGSM(net, eps=0.1), advkit.DeepFool(net)]
    plain = list(zip(images.split(3), labels.split(3), strict=True))
    loader = [structure(*pair) for pair in plain]
    expected = advkit.evaluate(net, plain, attacks)
    found = advkit.evaluate(net, loader, attacks)
    assert same(found, expected)
    assert found.clean_accuracy == 7 / 8
    curve = security_curve(advkit.FGSM(net), loader, eps=[0.0, 0.05, 0.1])
    assert curve.right.equal(security_curve(advkit.FGSM(net), plain, eps=[0.0, 0.05, 0.1]).right)
    assert curve.accuracy[0] == 7 / 8


def test_a_column_of_labels_beside_a_tensor(scene):
    net, images, labels = scene
    expected = security_curve(advkit.FGSM(net), images, labels, eps=[0.1]).right
    assert security_curve(advkit.FGSM(net), images, labels.unsqueeze(1), eps=[0.1]).right.equal(expected)


def test_a_data_set_is_no_loader(scene):
    net, images, labels = scene

    class Vectors(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return images[index].flatten(), int(labels[index])

    grey = TensorDataset(images[:, :1], labels)  # of which an image could pass for a batch of one
    for data in (TensorDataset(images, labels), grey, Vectors()):
        for run in (
            lambda data=data: advkit.evaluate(net, data, [advkit.FGSM(net)]),
            lambda data=data: security_curve(advkit.FGSM(net), data, eps=[0.1]),
        ):
            with pytest.raises(errors.DtypeError, match=r"is a data set \(\w+\), which yields one.*DataLoader"):
                run()
    with pytest.raises(errors.DtypeError, match=r"batch 0 is a tuple of Tensor, int \(is it a single image"):
        advkit.evaluate(net, [(images[0], 1)], [])
    whole = advkit.evaluate(net, DataLoader(TensorDataset(images, labels), 3), [advkit.FGSM(net)])
    assert whole.images == 8

    class Stream(IterableDataset):  # which may well give batches
        def __iter__(self):
            yield images, labels

    assert same(advkit.evaluate(net, Stream(), [advkit.FGSM(net)]), whole)


def test_batches_without_labels(scene):
    net, images, _ = scene
    for batch in ({"image": images}, (images, torch.rand(8, 4)), (images, ["a"] * 8), {"label": torch.arange(8)}):
        with pytest.raises(errors.DtypeError, match=r"must yield batches of images and labels.*batch 0 is a"):
            advkit.evaluate(net, [batch], [])


@pytest.fixture
def elsewhere():
    """torch makes tensors on another device than the model's: one that cannot compute, so that none may be used."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


class Rounding(advkit.defenses.InputTransformation):
    differentiable = False
    stochastic = True

    def forward(self, images):
        return (images * 7).round() / 7


@each()
def test_attacks_wherever_torch_makes_tensors(case, scene, request):
    """In `evaluate` too, which draws random numbers for each batch anew."""
    net, images, labels = scene
    attacks, loader = [case.make(net)], [(images, labels)]
    expected = advkit.evaluate(net, loader, attacks, flags=False)
    request.getfixturevalue("elsewhere")
    found = advkit.evaluate(net, loader, attacks, flags=False)
    assert [found.scores[0].accuracy, found.scores[0].mean_l2] == pytest.approx(
        [expected.scores[0].accuracy, expected.scores[0].mean_l2], nan_ok=True
    )


@pytest.mark.parametrize("name", ["FGSM", "PGD", "DeepFool", "MultiTargeted", "OnePixel"])
def test_evaluate_wherever_torch_makes_tensors(name, scene, tmp_path, request):
    net, images, labels = scene
    attacks = [getattr(advkit, name)(net)]
    loader = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    arguments = {"defenses": [Rounding()], "draws": 2}
    expected = advkit.evaluate(net, loader, attacks, **arguments)
    request.getfixturevalue("elsewhere")
    assert same(advkit.evaluate(net, loader, attacks, **arguments, run_folder=tmp_path), expected)
    again = advkit.evaluate(net, loader, attacks, **arguments, run_folder=tmp_path)
    assert same(again, expected)
    assert again.defenses[0].confusion_matrix().tolist() == expected.defenses[0].confusion_matrix().tolist()
    pytest.importorskip("matplotlib")
    shown = confusion_matrix(again.defenses[0]).axes[0].images[0].get_array()
    assert np.nansum(np.asarray(shown)) == pytest.approx(4)


def test_a_verdict_wherever_torch_makes_tensors(scene, request):
    net, images, labels = scene
    expected = advkit.evaluate(net, [(images, labels)], "standard", eps=0.02, flags=False)
    request.getfixturevalue("elsewhere")
    found = advkit.evaluate(net, [(images, labels)], "standard", eps=0.02, flags=False)
    assert found.robust.equal(expected.robust)
    assert 0 < expected.robust_accuracy < 1


@pytest.mark.parametrize("name", ["FGSM", "PGD", "DeepFool", "CW", "PixelSwap"])
def test_security_curve_wherever_torch_makes_tensors(name, scene, request):
    net, images, labels = scene
    state = torch.get_rng_state()
    attack = getattr(advkit, name)(net)
    eps = [0.0, 0.05, 0.1]
    expected = security_curve(attack, images, labels, eps=eps, norm="l2" if name == "PixelSwap" else None)
    torch.set_rng_state(state)
    request.getfixturevalue("elsewhere")
    found = security_curve(attack, images, labels, eps=eps, norm="l2" if name == "PixelSwap" else None)
    assert found.right.equal(expected.right)
    assert found.accuracy == expected.accuracy
    assert found.worst == expected.worst
    assert str(found) == str(expected)


class Holder(torch.Tensor):
    """A tensor without storage of its own, which numpy does not take; as quantised weights are."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=held.device)

    def __init__(self, held):
        self.held = held

    def __tensor_flatten__(self):
        return ["held"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def held(tree):
            return torch.utils._pytree.tree_map_only(cls, lambda one: one.held, tree)

        return function(*held(args), **(held(kwargs or {})))


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.net = trained_net()[0]
        self.register_buffer("factor", Holder(torch.tensor(factor)))

    def forward(self, images):
        return self.net(images) * self.factor.held


def test_weights_that_numpy_does_not_take(scene, tmp_path):
    net, images, labels = scene
    loader = [(images, labels)]
    expected = advkit.evaluate(net, loader, [advkit.FGSM(net)])
    digests = []
    for factor in (1.0, 2.0):
        model = Scaled(factor)
        report = advkit.evaluate(model, loader, [advkit.FGSM(model)], run_folder=tmp_path / str(factor))
        assert same(report, expected)
        digests.append(report.defenses[0].arguments["weights"])
    assert digests[0] != digests[1]
    model = Scaled(1.0)
    with pytest.raises(errors.InputError, match=r"other models: models\['none'\]\['weights'\]"):
        advkit.evaluate(model, loader, [advkit.FGSM(model)], run_folder=tmp_path / "2.0")


def test_models_that_torch_distributed_has_changed(tmp_path):
    """fully_shard, whose weights numpy does not take, and DDP inside of another module."""
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    script = Path(__file__).parent / "scripts" / "sharded.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fsdp"] == found["plain"]
    assert found["ddp"]["scores"] == found["plain"]["scores"]
    assert all(forwards > 0 for _, forwards, _ in found["ddp"]["scores"])


def test_a_sharded_model_needs_all_processes_at_each_batch(scene, monkeypatch):
    net, images, labels = scene

    class Mesh:
        def size(self):
            return 2

    model = Scaled(1.0)
    model.factor.device_mesh = Mesh()
    monkeypatch.setattr(evaluate_module, "together", lambda share: nullcontext(Ranks(0, 2)))
    with pytest.raises(errors.InputError, match=r"a model is sharded over processes.*share=False"):
        advkit.evaluate(model, [(images, labels)], [advkit.FGSM(net)])
