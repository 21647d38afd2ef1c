import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

import advkit
from advkit import FGSM, PGD, Attack, HopSkipJump
from advkit.data import AdversarialDataset, attacked, augment, generate, load
from advkit.errors import DtypeError, InputError


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4 * 4 * 4, 5)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x) if torch.is_grad_enabled() else 0  # else it is asked whether it is the same model
        return self.head(self.conv(x).relu().flatten(1))


class CNNLSTM(CNN):
    """The rows of the feature map as a sequence, as in paper 3."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4 * 4, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        self.seen += len(x) if torch.is_grad_enabled() else 0  # else it is asked whether it is the same model
        return self.head(self.lstm(self.conv(x).relu().permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def seeded(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


@pytest.fixture(params=[CNN, CNNLSTM])
def any_model(request):
    return seeded(request.param)


@pytest.fixture
def model():
    return seeded(CNN)


N = 22
PIXELS = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(N) * 7 % 5
DATA = TensorDataset(PIXELS, LABELS)
SMALL = {"batch_size": 4, "shard_size": 6}  # batches of 4 and 2, the last shard of 4


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class TestAttacked:
    def test_gives_attacked_batches_again_and_again(self, any_model):
        attack = FGSM(any_model)
        loader = attacked(DataLoader(DATA, batch_size=4), attack)
        assert len(loader) == 6
        for _ in range(2):
            images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
            assert not torch.equal(images, PIXELS)
            close(images, attack(PIXELS, LABELS))
            assert torch.equal(labels, LABELS)

    def test_keeps_the_structure(self, model):
        items = [{"image": image, "label": int(label), "name": "x"} for image, label in DATA]
        batch = next(iter(attacked(DataLoader(items, batch_size=4), FGSM(model))))
        assert torch.equal(batch["image"], FGSM(model)(PIXELS[:4], LABELS[:4]))
        assert torch.equal(batch["label"], LABELS[:4])
        assert batch["name"] == ["x"] * 4

    def test_first_dimension_is_the_batch(self):
        flat = TensorDataset(PIXELS.flatten(1), LABELS)
        model = nn.Linear(192, 5)
        images, _ = next(iter(attacked(DataLoader(flat, batch_size=N), FGSM(model))))
        assert torch.equal(images, FGSM(model)(PIXELS.flatten(1), LABELS))
        grey = TensorDataset(PIXELS[:, 0], LABELS)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        images, _ = next(iter(attacked(DataLoader(grey, batch_size=N), FGSM(model))))
        assert torch.equal(images, FGSM(model)(PIXELS[:, 0], LABELS))

    def test_some_of_the_images(self, model):
        loader = attacked(DataLoader(DATA, batch_size=N), FGSM(model), p=0.5)
        torch.manual_seed(0)
        images, _ = next(iter(loader))
        changed = (images != PIXELS).flatten(1).any(1)
        assert 0 < changed.sum() < N
        close(images[changed], FGSM(model)(PIXELS, LABELS)[changed])

    def test_batches_are_on_the_models_device(self, model):
        class Elsewhere(FGSM):
            def __call__(self, images, labels, *, targets=None):
                assert images.device == labels.device == torch.device("meta")
                return images

        batch = next(iter(attacked(DataLoader(DATA, batch_size=4), Elsewhere(model.to("meta")))))
        assert [tensor.device.type for tensor in batch] == ["meta", "meta"]

    def test_a_callable_has_no_device(self, model):
        images, _ = next(iter(attacked(DataLoader(DATA, batch_size=4), FGSM(lambda x: model(x)))))
        assert torch.equal(images, FGSM(model)(PIXELS[:4], LABELS[:4]))

    def test_errors(self, model):
        loader = DataLoader(DATA)
        with pytest.raises(InputError, match="p must be at least 0 and at most 1, got 2"):
            attacked(loader, FGSM(model), p=2)
        with pytest.raises(DtypeError, match="attack must be an advkit attack"):
            attacked(loader, model)
        with pytest.raises(InputError, match="many batches; omit starting_points"):
            generate(HopSkipJump(model, starting_points=PIXELS), DATA)
        with pytest.raises(InputError, match="FGSM has one eps for each image of a batch"):
            attacked(loader, FGSM(model, torch.tensor([0.1])))


class TestGenerate:
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_is_the_attack_in_batches(self, any_model, tmp_path, on_disk):
        any_model.train()
        path = tmp_path / "deep" / "copy" if on_disk else None
        copy = generate(FGSM(any_model), DATA, path, **SMALL)
        assert any_model.seen == N
        assert any_model.training
        assert len(copy) == N
        close(copy.images, FGSM(any_model)(PIXELS, LABELS))
        assert not torch.equal(copy.images, PIXELS)
        assert torch.equal(copy.labels, LABELS)
        for index in (0, 5, 6, 21, -1):
            image, label = copy[index]
            assert torch.equal(image, copy.images[index])
            assert label == LABELS[index]
            assert type(label) is int
        assert repr(copy) == f"AdversarialDataset(22 images {f'at {path}' if path else 'in memory'})"
        with pytest.raises(IndexError, match="index 22 is out of range for 22"):
            copy[22]

    def test_files_are_what_memory_holds(self, model, tmp_path):
        attack = PGD(model, steps=2)
        copy, again = generate(attack, DATA, **SMALL), generate(attack, DATA, tmp_path, **SMALL)
        assert torch.equal(copy.images, again.images)
        assert sorted(files(tmp_path)) == ["manifest.json", *(f"shard-0000{number}.npy" for number in range(4))]
        assert [len(np.load(file)) for file in sorted(tmp_path.glob("*.npy"))] == [6, 6, 6, 4]

    def test_a_loader_gives_its_settings(self, model):
        seen = []

        def collate(items):
            seen.append(len(items))
            return {"image": torch.stack([item[0] for item in items]), "target": [0] * len(items), "label": LABELS[:1]}

        with pytest.raises(InputError, match=r"labels must have shape \(8,\)"):
            generate(FGSM(model), DataLoader(DATA, batch_size=5, collate_fn=collate))
        loader = DataLoader(DATA, batch_size=5, drop_last=True, num_workers=1, multiprocessing_context="fork")
        copy = generate(FGSM(model), loader)
        assert len(copy) == N
        close(copy.images, FGSM(model)(PIXELS, LABELS))
        assert seen == [8]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_dtype_of_the_images_is_kept(self, model, tmp_path, dtype):
        images = (PIXELS * 255).to(dtype) if dtype == torch.uint8 else PIXELS.to(dtype)
        copy = generate(FGSM(model), TensorDataset(images, LABELS), tmp_path, **SMALL)
        expected = advkit.FGSMTransform(model)(images, LABELS)[0]
        assert copy.images.dtype == copy[0][0].dtype == dtype
        assert not torch.equal(copy.images, images)
        torch.testing.assert_close(copy.images, expected)
        assert torch.equal(copy[7][0], copy.images[7])

    def test_random_numbers_depend_on_the_seed_and_the_place(self, model):
        attack = PGD(model, eps=0.2, steps=1)
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first = generate(attack, DATA, **SMALL).images
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(4)
        assert torch.equal(generate(attack, DATA, **SMALL).images, first)
        assert not torch.equal(generate(attack, DATA, seed=1, **SMALL).images, first)
        same = TensorDataset(PIXELS[:1].expand(8, -1, -1, -1), LABELS[:1].expand(8))
        copy = generate(attack, same, batch_size=1, shard_size=2).images
        assert len({image.numpy().tobytes() for image in copy}) == 8

    def test_a_model_that_draws_is_resumable_too(self, model, tmp_path):
        noisy = nn.Sequential(Noise(), model)
        generate(FGSM(noisy), DATA, tmp_path, **SMALL)
        before = files(tmp_path)
        (tmp_path / "shard-00002.npy").unlink()
        state = torch.get_rng_state()
        generate(FGSM(noisy), DATA, tmp_path, **SMALL)
        assert files(tmp_path) == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_goes_on_where_it_stopped(self, model, tmp_path):
        attack = PGD(model, steps=2)
        generate(attack, DATA, tmp_path, **SMALL)
        before = files(tmp_path)
        model.seen = 0
        generate(attack, DATA, tmp_path, **SMALL)
        assert model.seen == 0
        (tmp_path / "shard-00001.npy").unlink()
        (tmp_path / "shard-00003.npy").unlink()
        (tmp_path / "shard-00003.npy.tmp").write_bytes(b"half")
        generate(attack, DATA, tmp_path, **SMALL)
        assert model.seen == 2 * (6 + 4)
        assert files(tmp_path) == before

    @pytest.mark.parametrize("kind", ["attribute", "function"])
    def test_a_copy_of_another_model_is_not_gone_on_with(self, model, tmp_path, kind):
        """One with the same layers and weights, which only its answers tell apart."""

        class Scaled(nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.model, self.factor = model, factor

            def forward(self, x):
                return self.factor * self.model(x)

        one, other = (Scaled(1), Scaled(-1)) if kind == "attribute" else (lambda x: model(x), lambda x: -model(x))
        generate(FGSM(one), DATA, tmp_path, **SMALL)
        with pytest.raises(InputError, match="the same layers and weights, but other outputs for the first images"):
            generate(FGSM(other), DATA, tmp_path, **SMALL)
        assert torch.equal(generate(FGSM(one), DATA, tmp_path, **SMALL).images, load(tmp_path).images)

    def test_stops_when_the_model_raises(self, model, tmp_path):
        def fail(*_):
            if model.seen > 12:
                raise KeyboardInterrupt

        handle = model.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            generate(FGSM(model), DATA, tmp_path, **SMALL)
        handle.remove()
        assert sorted(files(tmp_path)) == ["manifest.json", "shard-00000.npy", "shard-00001.npy"]
        with pytest.raises(InputError, match=r"is incomplete: 2 of its 4 shards are there; call generate again"):
            load(tmp_path)
        generate(FGSM(model), DATA, tmp_path, **SMALL)
        assert torch.equal(load(tmp_path).images, generate(FGSM(model), DATA, **SMALL).images)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"attack": lambda model: FGSM(model)}, "attack is 'PGD' there and 'FGSM' here"),
            ({"attack": lambda model: PGD(model, 0.5)}, r"attack.eps is 0.0313\d* there and 0.5 here"),
            ({"attack": lambda model: PGD(model, bounds=(-1.0, 1.0))}, r"attack.bounds is \[0.0, 1.0\] there and \[-1"),
            ({"attack": lambda model: PGD(model, norm=advkit.norms.L2)}, "attack.norm is 'linf' there and 'L2' here"),
            ({"attack": lambda model: PGD(seeded(CNNLSTM))}, "model is 'CNN' there and 'CNNLSTM' here"),
            ({"attack": lambda model: PGD(nudged(model))}, r"model's weights is '\w{16}' there and '\w{16}' here"),
            ({"attack": lambda model: PGD(restrided(model))}, r"model's layers is '\w{16}' there"),
            ({"data": TensorDataset(PIXELS[:-1], LABELS[:-1])}, "images is 22 there and 21 here"),
            (
                {"data": TensorDataset(PIXELS[..., :4], LABELS)},
                r"image shape is \[3, 8, 8\] there and \[3, 8, 4\] here",
            ),
            ({"data": TensorDataset(PIXELS.double(), LABELS)}, "image dtype is 'float32' there and 'float64' here"),
            ({"data": TensorDataset(PIXELS.flip(0), LABELS)}, "first images is"),
            ({"data": TensorDataset(PIXELS, LABELS.flip(0))}, "first images is"),
            ({"batch_size": 5}, "batch_size is 4 there and 5 here"),
            ({"shard_size": 7}, "shard_size is 6 there and 7 here"),
            ({"seed": 1}, "seed is 0 there and 1 here"),
        ],
    )
    def test_other_arguments_are_refused(self, model, tmp_path, change, named):
        generate(PGD(model), DATA, tmp_path, **SMALL)
        before = files(tmp_path)
        attack = change.pop("attack", PGD)(model)
        data = change.pop("data", DATA)
        with pytest.raises(InputError, match=f"holds an adversarial copy made with other arguments:.*{named}"):
            generate(attack, data, tmp_path, **{**SMALL, **change})
        assert files(tmp_path) == before

    def test_another_version_is_refused(self, model, tmp_path, monkeypatch):
        generate(FGSM(model), DATA, tmp_path, **SMALL)
        monkeypatch.setattr("advkit._data.copies.__version__", "99.0")
        with pytest.raises(InputError, match=r"arguments: advkit is '.*' there and '99.0' here. Choose another path"):
            generate(FGSM(model), DATA, tmp_path, **SMALL)

    def test_all_differences_are_named(self, model, tmp_path):
        generate(FGSM(model), DATA, tmp_path, **SMALL)
        with pytest.raises(InputError, match=r"attack.eps is .* here; seed is 0 there and 2 here\. Choose"):
            generate(FGSM(model, 0.5), DATA, tmp_path, seed=2, **SMALL)

    def test_other_peoples_files_are_refused(self, model, tmp_path):
        (tmp_path / "thesis.tmp").write_text("precious")
        with pytest.raises(
            InputError, match=r"is not empty \(it holds thesis.tmp\) and has no manifest.json; choose a"
        ):
            generate(FGSM(model), DATA, tmp_path)
        assert files(tmp_path) == {"thesis.tmp": b"precious"}

    @pytest.mark.parametrize(
        ("loader", "named"),
        [
            (DataLoader(DATA, batch_size=4, shuffle=True), "RandomSampler"),
            (DataLoader(DATA, sampler=RandomSampler(DATA)), "RandomSampler"),
            (DataLoader(DATA, sampler=SubsetRandomSampler([1, 2])), "SubsetRandomSampler"),
            (DataLoader(DATA, batch_sampler=[[1, 2], [3]]), "list"),
        ],
    )
    def test_shuffling_loaders_are_refused(self, model, tmp_path, loader, named):
        with pytest.raises(
            InputError, match=f"so that it can be resumed, but this loader uses a {named}; pass the data"
        ):
            generate(FGSM(model), loader, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    def test_data_that_cannot_be_copied(self, model):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(DATA)

        for data in (Stream(), DataLoader(Stream())):
            with pytest.raises(InputError, match=r"a data set with a length, whose images .* a Stream is not one"):
                generate(FGSM(model), data)
        with pytest.raises(InputError, match="the data set is empty"):
            generate(FGSM(model), TensorDataset(PIXELS[:0], LABELS[:0]))
        with pytest.raises(InputError, match="generate needs a label for each image"):
            generate(FGSM(model), TensorDataset(PIXELS))
        pictures = [(Image.new("RGB", (8, 8)), 0)]
        with pytest.raises(DtypeError, match=r"do not form a batch \(.*PIL.*\); put ToTensor\(\) before"):
            generate(FGSM(model), pictures)
        with pytest.raises(DtypeError, match=r"do not form a batch \(stack expects"):
            generate(FGSM(model), [(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 8), 0)])
        narrow = [*[(torch.zeros(3, 8, 8), 0)] * 18, (torch.zeros(3, 8, 9), 0)]
        with pytest.raises(DtypeError, match=r"image 18 has shape \(3, 8, 9\), and image 16 has \(3, 8, 8\); give"):
            generate(FGSM(model), narrow, batch_size=8)
        with pytest.raises(InputError, match=r"needs a label for each image, but image 9 of the data set has none"):
            generate(FGSM(model), [*[(torch.zeros(3, 8, 8), 0)] * 9, (torch.zeros(3, 8, 8), None)], batch_size=5)
        with pytest.raises(InputError, match=r"needs a label for each image, but image 0 of the data set has none"):
            generate(FGSM(model), [(torch.zeros(3, 8, 8), None)])
        with pytest.raises(InputError, match=r"not clear which of sample\[1\] and sample\[2\] is the label"):
            generate(FGSM(model), TensorDataset(PIXELS, LABELS, LABELS.flip(0)))
        changing = [*DATA, (torch.zeros(1, 8, 8), 1)]
        with pytest.raises(
            InputError, match=r"images 22 to 22 of the data set are torch.float32 of shape \(1, 1, 8, 8\)"
        ):
            generate(FGSM(model), changing, batch_size=11)

    def test_arguments_out_of_range(self, model):
        with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
            generate(FGSM(model), DATA, batch_size=0)
        with pytest.raises(InputError, match="shard_size must be at least 1, got 0"):
            generate(FGSM(model), DATA, shard_size=0)
        with pytest.raises(InputError, match="seed must be at least 0, got -1"):
            generate(FGSM(model), DATA, seed=-1)
        with pytest.raises(InputError, match=r"omit the attack's generator and give generate\(..., seed=...\)"):
            generate(PGD(model, generator=torch.Generator()), DATA)
        with pytest.raises(DtypeError, match="attack must be an advkit attack"):
            generate(model, DATA)

    def test_progress(self, model, tmp_path, capsys):
        generate(FGSM(model), DATA, progress=True, **SMALL)
        assert "FGSM: 100%" in capsys.readouterr().err
        generate(FGSM(model), DATA, **SMALL)
        assert capsys.readouterr().err == ""

    def test_hyperparameters_of_other_attacks(self, model, tmp_path):
        """Functions and objects are told by what they print, without the address that differs between runs."""
        generate(Odd(model, hook=len, parts=(1, torch.tensor(2.0))), DATA, tmp_path, **SMALL)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["attack.hook"] == "<built-in function len>"
        assert manifest["attack.parts"] == [1, 2.0]
        generate(Odd(lambda x: model(x), hook=object()), DATA, tmp_path / "other", **SMALL)
        manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
        assert manifest["attack.hook"] == "<object object>"
        assert "lambda" in manifest["model"]
        assert " at 0x" not in str(manifest)


@dataclass(frozen=True, eq=False)
class Odd(Attack):
    hook: object = None
    parts: tuple = ()

    def _perturb(self, images, goal):
        return 1 - images


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def nudged(model):
    with torch.no_grad():
        model.head.bias[0] += 1e-3
    return model


def restrided(model):
    """Other layers, the same weights and the same shapes."""
    model.conv.padding_mode = "circular"
    return model


def test_wherever_the_default_device_is(model, tmp_path):
    """The meta device stands in for another: what is made there by mistake cannot be read."""
    attack, items = PGD(model, steps=2), [(image, int(label)) for image, label in DATA]
    expected = generate(attack, DATA, **SMALL)
    with torch.device("meta"):
        copies = [generate(attack, data, path, **SMALL) for data in (DATA, items) for path in (None, tmp_path)]
        copies.append(load(tmp_path))
        image, label = augment(items, copies[-1])[N + 3]
    for copy in copies:
        assert torch.equal(copy.images, expected.images)
        assert torch.equal(copy.labels, LABELS)
    assert torch.equal(image, expected.images[3])
    assert label == LABELS[3]


class TestLoad:
    @pytest.fixture
    def path(self, model, tmp_path):
        generate(FGSM(model), DATA, tmp_path, **SMALL)
        return tmp_path

    def test_is_mapped_and_travels_by_its_path(self, path):
        data = load(str(path))
        assert isinstance(data, AdversarialDataset)
        big = pickle.dumps(data)
        assert len(big) < 500
        assert torch.equal(pickle.loads(big).images, data.images)
        loader = DataLoader(data, batch_size=7, num_workers=2, multiprocessing_context="fork")
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert torch.equal(images, data.images)
        assert torch.equal(labels, LABELS)

    def test_memory_pickles_whole(self, model):
        data = generate(FGSM(model), DATA, **SMALL)
        assert torch.equal(pickle.loads(pickle.dumps(data)).images, data.images)

    def test_images_may_be_written_to(self, path):
        data = load(path)
        before = files(path)
        image, _ = data[3]
        image.zero_()
        data.images.zero_()
        assert data[3][0].any()
        assert files(path) == before

    def test_nothing_there(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no adversarial data set: it has no manifest.json; generate"):
            load(tmp_path)

    def test_unfinished(self, path):
        (path / "shard-00001.npy").unlink()
        with pytest.raises(InputError, match=r"incomplete: 3 of its 4 shards are there; call generate again with the"):
            load(path)

    @pytest.mark.parametrize(
        "harm",
        [
            lambda raw: raw[:-10],
            lambda raw: b"",
            lambda raw: b"\0" * len(raw),
            lambda raw: raw.replace(b"(6,)", b"(5,)"),
            lambda raw: raw.replace(b"<f4", b"<i4"),
        ],
    )
    def test_damaged_shard(self, path, model, harm):
        before = files(path)
        file = path / "shard-00001.npy"
        file.write_bytes(harm(file.read_bytes()))
        with pytest.raises(InputError, match=r"shard-00001.npy is damaged \(.*\); delete it and call generate again"):
            load(path)
        file.unlink()
        generate(FGSM(model), DATA, path, **SMALL)
        assert files(path) == before

    def test_pickles_are_not_read(self, path):
        class Trap:
            def __reduce__(self):
                return os._exit, (1,)

        np.save(path / "shard-00001.npy", np.array([Trap()], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match=r"shard-00001\.npy is damaged"):
            load(path)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("image dtype", "float31", "its image dtype is 'float31', and no image has that"),
            ("image dtype", "nn", "its image dtype is 'nn'"),
            ("image dtype", "qint8", "its image dtype is 'qint8'"),
            ("image dtype", 3, "its image dtype is 3"),
            ("image shape", "3", "its image shape is '3'"),
            ("image shape", [3, -1, 8], "its image shape is -1"),
            ("images", "22", "its images is '22'"),
            ("images", 0, "its images is 0"),
            ("shard_size", 0, "its shard_size is 0"),
            ("shard_size", True, "its shard_size is True"),
        ],
    )
    def test_manifest_that_makes_no_sense(self, path, name, value, said):
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, name: value}))
        with pytest.raises(InputError, match=rf"manifest.json is damaged \({said}.*\); delete .* call generate again"):
            load(path)

    def test_manifest_of_another_format(self, path):
        manifest = json.loads((path / "manifest.json").read_text())
        del manifest["format"]
        (path / "manifest.json").write_text(json.dumps({**manifest, "advkit": "0.0.1"}))
        with pytest.raises(InputError, match=r"was made by another version of advkit \(0.0.1\), whose files this one"):
            load(path)

    def test_manifest_that_cannot_be_read(self, path):
        (path / "manifest.json").unlink()
        (path / "manifest.json").mkdir()
        with pytest.raises(InputError, match=r"manifest.json cannot be read \(.+\)$"):
            load(path)

    def test_other_files_beside_the_shards(self, path, model):
        for name in ("notes.txt", "shard-00001.npy.bak", "shard-99999.npy", "shard-abc.npy"):
            (path / name).write_text("mine")
        assert len(load(path)) == len(generate(FGSM(model), DATA, path, **SMALL)) == N
        assert (path / "notes.txt").read_text() == "mine"

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"images": 3}'])
    def test_damaged_manifest(self, path, model, text):
        (path / "manifest.json").write_text(text)
        for use in (load, lambda path: generate(FGSM(model), DATA, path, **SMALL)):
            with pytest.raises(InputError, match=r"manifest.json is damaged \(.*\); delete .* and call generate again"):
                use(path)


class TestAugment:
    def test_is_the_one_and_then_the_other(self, model):
        adversarial = generate(FGSM(model), DATA, **SMALL)
        both = augment(DATA, adversarial)
        assert len(both) == 2 * N
        images, labels = next(iter(DataLoader(both, batch_size=2 * N, shuffle=False)))
        assert torch.equal(images, torch.cat([PIXELS, adversarial.images]))
        assert torch.equal(labels, torch.cat([LABELS, LABELS]))
        # Tensors and integers as labels make a batch in any order.
        _, labels = next(iter(DataLoader(both, batch_size=2 * N, shuffle=True)))
        assert labels.sum() == 2 * LABELS.sum()

    @pytest.mark.parametrize(
        ("item", "labels"),
        [
            (lambda image, label: {"image": image, "label": label}, None),
            (lambda image, label: {"label": torch.tensor([label]), "name": "x", "image": image}, None),
            (lambda image, label: (image, label, "cat", 0.5), None),
            (lambda image, label: (image, np.array([label])), None),
            (lambda image, label: (image, 1, label), 2),
            (lambda image, label: (image, 1, label), lambda item: item[2]),
            (lambda image, label: {"image": image, "id": 3, "y": label}, "y"),
        ],
    )
    @pytest.mark.parametrize("shape", [(3, 8, 8), (192,)])
    def test_takes_what_the_others_take(self, item, labels, shape):
        clean = [item(image.view(shape), int(label)) for image, label in DATA]
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
        adversarial = generate(FGSM(net), clean, labels=labels, **SMALL)
        close(adversarial.images, FGSM(net)(PIXELS.view(N, *shape), LABELS))
        images, found = next(iter(DataLoader(augment(clean, adversarial, labels=labels), batch_size=2 * N)))
        assert torch.equal(images, torch.cat([PIXELS.view(N, *shape), adversarial.images]))
        assert torch.equal(found, torch.cat([LABELS, LABELS]))

    def test_errors(self, model):
        with pytest.raises(InputError, match=r"clean images are torch.float64 of .* adversarial ones torch.float32 of"):
            augment(TensorDataset(PIXELS.double(), LABELS), DATA)
        with pytest.raises(InputError, match=r"ones torch.float32 of shape \(3, 8, 4\); give both data sets the same"):
            augment(DATA, TensorDataset(PIXELS[..., :4], LABELS))
        with pytest.raises(
            DtypeError, match=r"data sets of \(tensor, label\), but the clean one returns \['Image', 'int'\]"
        ):
            augment([(Image.new("RGB", (8, 8)), 0)], DATA)
        with pytest.raises(DtypeError, match=r"but the adversarial one returns \['Tensor'\]"):
            augment(DATA, TensorDataset(PIXELS))
        with pytest.raises(InputError, match="the length of the clean data set must be at least 1, got 0"):
            augment(TensorDataset(PIXELS[:0], LABELS[:0]), DATA)


KILLED = """
    # Runs generate in a fork that is killed (SIGKILL, by itself) at a random line of what generate executes, in advkit
    # and in numpy's writing of files; then in another that finishes. Reports what each of them found and did.
    import json, os, random, signal, sys
    from pathlib import Path

    import numpy as np
    import torch
    from torch.utils.data import TensorDataset

    import advkit.data
    from advkit import PGD

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    data = TensorDataset(torch.rand(46, 3, 4, 4), torch.arange(46) % 5)
    root = Path(sys.argv[1])
    watched = ("advkit/data.py", "numpy/lib/_format_impl.py", "numpy/lib/format.py")


    def forked(folder, log, kill_at=None):
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        lines = 0

        def trace(frame, event, _):
            nonlocal lines
            if not frame.f_code.co_filename.endswith(watched):
                return None
            lines += event == "line"
            if lines == kill_at:
                for file in folder.glob("*.tmp"):  # what was written may have reached the disk in part only
                    os.truncate(file, os.path.getsize(file) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        with open(log, "a") as attacked:
            def note(module, inputs):
                if torch.is_grad_enabled():  # else it is asked whether it is the same model
                    print(len(inputs[0]), file=attacked, flush=True)

            net.register_forward_pre_hook(note)
            advkit.data.load = lambda path: None  # by then all is written
            sys.settrace(trace)
            advkit.data.generate(PGD(net, steps=1), data, folder, batch_size=4, shard_size=6)
            sys.settrace(None)
            print("lines", lines, file=attacked, flush=True)
        os._exit(0)


    def files(folder):
        return {file.name: file.read_bytes() for file in folder.iterdir()}


    def images(log):
        return sum(int(line) for line in log.read_text().split("\\n") if line.isdigit())


    assert forked(root / "whole", root / "whole.log") == 0
    whole, total = files(root / "whole"), int((root / "whole.log").read_text().split()[-1])
    rng = random.Random(int(sys.argv[2]))
    report = []
    for turn in range(10):
        folder, log = root / f"copy{turn}", root / f"log{turn}"
        at = rng.randint(1, total)
        folder.mkdir()
        status = forked(folder, log, at)
        survived = files(folder)
        rest = root / f"rest{turn}"
        assert forked(folder, rest) == 0
        shards = [name for name in survived if name.endswith(".npy")]
        report.append({
            "killed": status == signal.SIGKILL,
            "whole_or_absent": all(survived[name] == whole[name] for name in shards),
            "same": files(folder) == whole,
            "kept": sum(len(np.load(folder / name)) for name in shards),
            "attacked_before": images(log),
            "attacked_after": images(rest),
            "half": any(name.endswith(".tmp") for name in survived),
        })
    # Once more in one folder, killed again and again until it is finished.
    folder, often = root / "often", []
    while not often or often[-1] and len(often) < 30:
        often.append(forked(folder, root / "often.log", rng.randint(total * 2 // 5, total // 2)))
    print(json.dumps({"report": report, "often": often, "often_same": files(folder) == whole}))
"""


def test_killed_at_ten_random_points(tmp_path):
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), "1"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(out.stdout)
    assert len(found["report"]) == 10
    for run in found["report"]:
        assert run["killed"]
        assert run["whole_or_absent"]
        assert run["same"]
        # Nothing is lost, nothing is repeated: what was written is not attacked again, and all else is.
        assert run["attacked_after"] == 46 - run["kept"]
        assert 0 <= run["attacked_before"] - run["kept"] <= SMALL["shard_size"]
    assert any(run["half"] for run in found["report"])
    assert len({run["kept"] for run in found["report"]}) > 4
    *killed, last = found["often"]
    assert killed == [signal.SIGKILL] * len(killed)
    assert len(killed) > 1
    assert last == 0
    assert found["often_same"]
