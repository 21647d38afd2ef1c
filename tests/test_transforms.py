import copy
import hashlib
import importlib.util
import pickle
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import datasets, transforms, tv_tensors
from torchvision.transforms import v2

import advkit
from advkit import FGSM, PGD, AttackTransform, FGSMTransform, Normalized
from advkit.errors import AdvkitError, DtypeError, InputError

EPS = 8 / 255


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4 * 16 * 16, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class CNNLSTM(CNN):
    """The rows of the feature map as a sequence, as in paper 3."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4 * 16, 8, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.lstm(self.body(x).permute(0, 2, 1, 3).flatten(2))[0][:, -1])


@pytest.fixture(params=[CNN, CNNLSTM])
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normalized(request.param(), [0.49, 0.48, 0.45], [0.25, 0.24, 0.26])


@pytest.fixture
def cnn():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Normalized(CNN(), [0.49, 0.48, 0.45], [0.25, 0.24, 0.26])


def pixels(n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 32, 32, generator=generator)


LABELS = torch.tensor([3, 1, 4, 1, 5, 9])
PIXELS = pixels()


def answers(model, images):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images).argmax(1)


def moved(a, b):
    return not torch.equal(a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor))


@pytest.fixture
def cifar(tmp_path):
    """torchvision's own CIFAR-10 class on files in its own format, twelve made-up images in all."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sums = {}
    for name, content in {
        "data_batch_1": {"data": rng.integers(0, 256, (12, 3072), dtype=np.uint8), "labels": [*range(10), 3, 7]},
        "batches.meta": {"label_names": [str(number) for number in range(10)]},
    }.items():
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()

    class TinyCIFAR10(datasets.CIFAR10):
        train_list = [["data_batch_1", sums["data_batch_1"]]]  # noqa: RUF012
        test_list = []  # noqa: RUF012
        meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}  # noqa: RUF012

    return lambda **how: TinyCIFAR10(tmp_path, train=True, **how)


def clean_and_labels(data):
    images = torch.stack([transforms.ToTensor()(image) for image, _ in data])
    return images, torch.tensor([label for _, label in data])


class TestThroughTorchvision:
    def composes(self, *last):
        return [
            transforms.Compose([transforms.ToTensor(), *last]),
            v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *last]),
        ]

    def test_image_alone_is_attacked_at_the_models_own_answer(self, model, cifar):
        images, _ = clean_and_labels(cifar())
        expected = FGSM(model, EPS)(images, answers(model, images))
        assert moved(expected, images)
        for compose in self.composes(FGSMTransform(model, EPS)):
            found = torch.stack([image for image, _ in cifar(transform=compose)])
            torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, rtol=0, atol=1e-6)

    def test_label_of_the_data_set(self, model, cifar):
        images, labels = clean_and_labels(cifar())
        expected = FGSM(model, EPS)(images, labels)
        assert moved(expected, FGSM(model, EPS)(images, answers(model, images)))
        v1, second = self.composes(FGSMTransform(model, EPS))

        data = cifar()
        data.transforms = second
        found, kept = zip(*datasets.wrap_dataset_for_transforms_v2(data), strict=True)
        assert list(kept) == labels.tolist()
        assert all(isinstance(image, tv_tensors.Image) for image in found)
        torch.testing.assert_close(torch.stack(found).as_subclass(torch.Tensor), expected, rtol=0, atol=1e-6)

        as_tuple = transforms.Compose([lambda pair: (transforms.ToTensor()(pair[0]), pair[1]), v1.transforms[1]])
        found, kept = zip(*(as_tuple(pair) for pair in cifar()), strict=True)
        assert list(kept) == labels.tolist()
        torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-6)

    def test_stands_before_normalize(self, cnn, cifar):
        images, _ = clean_and_labels(cifar())
        for normalize, compose in [
            (transforms.Normalize([0.5] * 3, [0.2] * 3), transforms.Compose),
            (v2.Normalize([0.5] * 3, [0.2] * 3), v2.Compose),
        ]:
            through = compose([FGSMTransform(cnn, EPS), normalize])
            torch.testing.assert_close(through(images[0]), normalize(FGSMTransform(cnn, EPS)(images[0])))


class TestStructures:
    """Whatever surrounds the image comes back as it was, and the right label is used."""

    IMAGE, LABEL = pixels()[0], 7

    def check(self, cnn, structure, label, find=lambda out: out):
        expected = FGSM(cnn, EPS)(self.IMAGE[None], torch.as_tensor(label).reshape(1))[0]
        out = FGSMTransform(cnn, EPS)(structure)
        torch.testing.assert_close(find(out).as_subclass(torch.Tensor), expected, rtol=0, atol=1e-6)
        assert moved(find(out), self.IMAGE)
        assert type(out) is type(structure)
        return out

    @pytest.mark.parametrize(
        "label", [7, np.int64(7), torch.tensor(7), torch.tensor([7]), torch.tensor(7, dtype=torch.uint8)]
    )
    def test_pairs(self, cnn, label):
        out = self.check(cnn, (self.IMAGE, label), 7, lambda out: out[0])
        assert out[1] is label
        out = self.check(cnn, [self.IMAGE, label], 7, lambda out: out[0])
        assert out[1] is label
        two = FGSMTransform(cnn, EPS)(self.IMAGE, label)
        assert isinstance(two, tuple)
        assert torch.equal(two[0], out[0])
        assert two[1] is label

    @pytest.mark.parametrize("key", ["label", "labels", "target"])
    def test_dicts(self, cnn, key):
        sample = OrderedDict({"index": 3, "image": self.IMAGE, "name": "cat", key: 7, "weight": 0.5})
        out = self.check(cnn, sample, 7, lambda out: out["image"])
        assert {name: value for name, value in out.items() if name != "image"} == {
            "index": 3,
            "name": "cat",
            key: 7,
            "weight": 0.5,
        }

    def test_nested_structure_of_v2(self, cnn):
        boxes = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(32, 32))
        mask = tv_tensors.Mask(torch.zeros(32, 32, dtype=torch.int64))
        image = tv_tensors.Image(self.IMAGE)
        # The integers before the image, the pure tensor that could be an image, and the id are not what is sought.
        sample = (5, torch.zeros(3, 32, 32), {"id": 2, "image": image, "mask": mask}, {"boxes": boxes, "label": 7})
        out = self.check(cnn, sample, 7, lambda out: out[2]["image"])
        assert isinstance(out[2]["image"], tv_tensors.Image)
        assert out[0] == 5
        assert out[1] is sample[1]
        assert out[2]["id"] == 2
        assert out[2]["mask"] is mask
        assert out[3]["boxes"] is boxes

    def test_two_views(self, cnn):
        views = tuple(map(tv_tensors.Image, pixels()[:2]))
        first, second, _ = FGSMTransform(cnn, EPS)(*views, 7)
        expected = FGSM(cnn, EPS)(pixels()[:2], torch.tensor([7, 7]))
        torch.testing.assert_close(torch.stack([first, second]).as_subclass(torch.Tensor), expected, rtol=0, atol=1e-6)

    def test_named_tuples(self, cnn):
        Pair = namedtuple("Pair", "image label")
        self.check(cnn, Pair(self.IMAGE, 7), 7, lambda out: out.image)
        Other = namedtuple("Other", "image index label")
        self.check(cnn, Other(self.IMAGE, 2, 7), 7, lambda out: out.image)

    @pytest.mark.parametrize(
        "rest",
        [
            (),
            (torch.tensor([0.0, 1.0]),),  # a soft label
            (True, "cat", None, 0.5),
            ({"id": 3},),
            (torch.zeros(32, 32, dtype=torch.int64),),
        ],
    )
    def test_no_label(self, cnn, rest):
        own = answers(cnn, self.IMAGE[None])
        assert own != 7
        self.check(cnn, (self.IMAGE, *rest), own, lambda out: out[0])

    @pytest.mark.parametrize("label", [np.array([7]), np.array(7), np.array([7], dtype=np.uint8)])
    def test_arrays_are_labels(self, cnn, label):
        self.check(cnn, (self.IMAGE, label), 7, lambda out: out[0])

    def test_several_integers(self, cnn):
        for sample in ((self.IMAGE, "cat", 7, 2), {"image": self.IMAGE, "label": 7, "target": 2}):
            with pytest.raises(InputError, match=r"not clear which of sample\[.*\] and sample\[.*\] is the label"):
                FGSMTransform(cnn, EPS)(sample)
        first = FGSMTransform(cnn, EPS)(self.IMAGE, 7)[0]
        assert moved(first, FGSMTransform(cnn, EPS)(self.IMAGE, 2)[0])
        assert torch.equal(FGSMTransform(cnn, EPS)(self.IMAGE, 7, 7)[0], first)
        # What is beyond the ten classes is the number of an image, and stays it where it is small.
        transform = FGSMTransform(cnn, EPS)
        assert torch.equal(transform(self.IMAGE, 1234, 7)[0], first)
        assert torch.equal(transform(self.IMAGE, 2, 7)[0], first)

    @pytest.mark.parametrize(
        ("where", "sample"),
        [
            (2, (IMAGE, 2, 7)),
            (-1, [IMAGE, 2, 7]),
            ("y", {"x": IMAGE, "index": 2, "y": 7}),
            ("y", {"x": IMAGE, "index": 2, "about": {"y": torch.tensor([7])}}),
            ("fine", namedtuple("Sample", "image coarse fine")(IMAGE, 2, 7)),
            (lambda sample: sample[1]["classes"][1], (IMAGE, {"classes": [2, 7]}, 3)),
        ],
    )
    def test_label_where_it_is_said_to_be(self, cnn, where, sample):
        out = FGSMTransform(cnn, EPS, labels=where)(sample)
        image = out["x"] if isinstance(sample, dict) else out[0]
        assert torch.equal(image, FGSMTransform(cnn, EPS)(self.IMAGE, 7)[0])
        again = AttackTransform(FGSM(cnn, EPS), labels=where)(sample)
        assert torch.equal(again["x"] if isinstance(sample, dict) else again[0], image)

    def test_label_is_not_where_it_is_said_to_be(self, cnn):
        with pytest.raises(InputError, match=r"labels='z' is not in a sample that has the keys 'x', 'y'; say where"):
            FGSMTransform(cnn, labels="z")({"x": self.IMAGE, "y": 7})
        with pytest.raises(InputError, match=r"labels=2 is not in a sample that has 2 entries without keys"):
            FGSMTransform(cnn, labels=2)(self.IMAGE, 7)
        with pytest.raises(DtypeError, match=r"labels= finds at 1 float, but a label must be an integer class index"):
            FGSMTransform(cnn, labels=1)(self.IMAGE, 7.0)
        with pytest.raises(DtypeError, match=r"labels must be the key or the index of the label .*; got 1.5"):
            FGSMTransform(cnn, labels=1.5)

    def test_a_function_may_ask_for_the_models_own_answer(self, cnn):
        own = FGSMTransform(cnn, EPS)(self.IMAGE)
        assert torch.equal(FGSMTransform(cnn, EPS, labels=lambda sample: None)(self.IMAGE, 7, 2)[0], own)

    def test_label_column(self, model):
        expected = FGSM(model, EPS)(pixels(), LABELS)
        for column in (LABELS.unsqueeze(1), LABELS.unsqueeze(1).numpy(), LABELS.unsqueeze(1).to(torch.uint8)):
            assert torch.equal(FGSMTransform(model, EPS)(pixels(), column)[0], expected)
        some = FGSMTransform(model, EPS, p=0.999)
        torch.manual_seed(0)
        assert torch.equal(some(pixels(), LABELS.unsqueeze(1))[0], expected)

    def test_batch(self, model):
        attacked = FGSM(model, EPS)(pixels(), LABELS)
        out, labels = FGSMTransform(model, EPS)(pixels(), LABELS)
        assert torch.equal(out, attacked)
        assert labels is LABELS
        alone = FGSMTransform(model, EPS)(tv_tensors.Image(pixels()))
        assert isinstance(alone, tv_tensors.Image)
        own = FGSM(model, EPS)(pixels(), answers(model, pixels()))
        assert torch.equal(alone.as_subclass(torch.Tensor), own)

    def test_one_label_for_a_batch_is_refused(self, cnn):
        with pytest.raises(InputError, match=r"labels must have shape \(6,\), one class for each of the images"):
            FGSMTransform(cnn)(pixels(), 7)
        with pytest.raises(InputError, match=r"labels must have shape \(6,\)"):
            FGSMTransform(cnn, p=0.5)(pixels(), [1, 2, 3, 4, 5, 6])

    def test_label_that_the_model_does_not_know(self, cnn):
        with pytest.raises(InputError, match=r"labels must lie in \[0, 10\)"):
            FGSMTransform(cnn)(pixels()[0], 10)

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, cnn, context):
        image = pixels()[0]
        with context():
            out = FGSMTransform(cnn, EPS)(image.clone(), 7)[0]
            some = FGSMTransform(cnn, EPS, p=0.999)(image.clone(), 7)[0]
        assert torch.equal(out, some)
        assert torch.equal(out, FGSM(cnn, EPS)(image[None], torch.tensor([7]))[0])

    def test_general_attack_and_other_bounds(self, cnn):
        attack = PGD(cnn, 0.1, 0.05, steps=3, random_start=False, bounds=(-1.0, 1.0))
        image = 2 * self.IMAGE - 1
        out, _ = AttackTransform(attack)(image, 7)
        assert torch.equal(out, attack(image[None], torch.tensor([7]))[0])
        wide, _ = FGSMTransform(cnn, EPS, bounds=(-1.0, 1.0))(image, 7)
        assert torch.equal(wide, FGSM(cnn, EPS, bounds=(-1.0, 1.0))(image[None], torch.tensor([7]))[0])

    def test_image_stays_as_it_was(self, cnn):
        image = self.IMAGE.clone().requires_grad_()
        out = FGSMTransform(cnn, p=0.5)(image)
        assert not out.requires_grad
        assert image.requires_grad
        assert image.grad is None
        assert torch.equal(image.detach(), self.IMAGE)


class TestBytes:
    def images(self):
        return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))

    def test_fgsm_moves_by_whole_levels(self, model):
        images = self.images()
        out, _ = FGSMTransform(model, EPS)(images, LABELS)
        assert out.dtype == torch.uint8
        in_floats = FGSM(model, EPS)(images / 255, LABELS)
        torch.testing.assert_close(out.float(), (in_floats * 255).round(), rtol=0, atol=0)
        assert (out.int() - images.int()).abs().max() == 8

    @settings(max_examples=25)
    @given(eps=st.floats(0, 0.2), low=st.sampled_from([0.0, -1.0, -2.5]), width=st.sampled_from([1.0, 2.0, 255.0]))
    def test_change_is_that_of_floats_rounded_down(self, eps, low, width):
        net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        bounds, eps = (low, low + width), eps * width
        images = self.images()
        pixels = (low + images / 255 * width).clamp(*bounds)
        out, _ = FGSMTransform(net, eps, bounds=bounds)(images, LABELS)
        change = (out.double() - images) * width / 255
        wanted = (FGSM(net, eps, bounds=bounds)(pixels, LABELS) - pixels).double()
        slack = 1e-6 * width
        assert change.abs().max() <= eps + slack
        assert (change * wanted >= 0).all()
        assert (change.abs() <= wanted.abs() + slack).all()
        assert (change.abs() >= wanted.abs() - width / 255 - slack).all()

    def test_rounded_towards_the_image(self, cnn):
        out, _ = FGSMTransform(cnn, 3.9 / 255)(self.images(), LABELS)
        assert (out.int() - self.images().int()).abs().max() == 3

    def test_levels_that_bytes_do_not_have(self, model):
        attacked = AttackTransform(PGD(model, steps=1, eps=64 / 255, levels=16))((self.images(), LABELS))[0]
        assert attacked.dtype == torch.uint8
        assert (attacked % 17 == 0).all()  # 255 / 15
        for levels in (17, 1000):  # most of which would have to be rounded again
            with pytest.raises(InputError, match=f"levels={levels} has others: .* 4, 6, 16, 18, 52, 86, 256, or omit"):
                AttackTransform(PGD(model, levels=levels))((self.images(), LABELS))

    @pytest.mark.parametrize("attack", [advkit.DeepFool, advkit.CW, advkit.EAD, advkit.JSMA, advkit.PixelSwap])
    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
    def test_other_attacks_fool_on_the_levels_or_change_nothing(self, attack, bounds):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10))
        with torch.no_grad():
            for index in (1, 3):
                generator = torch.Generator().manual_seed(index)
                net[index].weight.copy_(torch.randn(net[index].weight.shape, generator=generator) / 10)
                net[index].bias.zero_()
        images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

        def in_floats(levels):
            low, high = bounds
            return (low + levels.float() / 255 * (high - low)).clamp(low, high)

        def say(levels):
            return net(in_floats(levels)).argmax(1)

        labels = say(images)
        out, _ = AttackTransform(attack(net, bounds=bounds))(images, labels)
        fooled = say(out) != labels
        assert fooled.sum() >= 28  # as in floats
        assert torch.equal(out[~fooled], images[~fooled])
        far = attack(net, bounds=bounds).run(in_floats(images), labels).distance("l2").mean()
        assert advkit.norms.L2.distance(in_floats(out), in_floats(images)).mean() < 1.5 * far

    def test_no_level_fools(self):
        """A model that is fooled between levels only: the image comes back as it was."""

        class Between(nn.Module):
            def forward(self, x):
                level = x.flatten(1)[:, 0] * 255
                off = 1 - 2 * (level - level.round()).abs().clamp(max=0.4)
                return torch.stack([off - 0.5, 0.5 - off], 1)

        images = torch.full((2, 1, 2, 2), 100, dtype=torch.uint8)

        @dataclass(frozen=True, eq=False)
        class Nudge(advkit.Attack):
            kind = "minimal"

            def _perturb(self, images, goal):
                return images + 0.4 / 255

        net = Between()
        assert (Nudge(net).run(images / 255, torch.zeros(2, dtype=torch.int64)).predictions == 1).all()
        out, _ = AttackTransform(Nudge(net))(images, torch.zeros(2, dtype=torch.int64))
        assert torch.equal(out, images)

    def test_tv_tensor(self, cnn):
        out, _ = FGSMTransform(cnn)(tv_tensors.Image(self.images()[0]), 3)
        assert isinstance(out, tv_tensors.Image)
        assert out.dtype == torch.uint8
        assert moved(out, self.images()[0])

    def test_without_label(self, cnn):
        own = answers(cnn, self.images() / 255)
        assert torch.equal(FGSMTransform(cnn)(self.images()), FGSMTransform(cnn)(self.images(), own)[0])


class TestProbability:
    def test_each_image_on_its_own(self, cnn):
        transform = FGSMTransform(cnn, EPS, p=0.5)
        images = pixels(64)
        labels = torch.arange(64) % 10
        torch.manual_seed(0)
        out, _ = transform(images, labels)
        chosen = (out != images).flatten(1).any(1)
        torch.manual_seed(0)
        assert torch.equal(chosen, torch.rand(64) < 0.5)
        assert 10 < chosen.sum() < 54
        expected = FGSM(cnn, EPS)(images, labels)
        torch.testing.assert_close(out[chosen], expected[chosen], rtol=0, atol=1e-6)
        torch.manual_seed(0)
        assert torch.equal(transform(images, labels)[0], out)
        assert not torch.equal(transform(images, labels)[0], out)

    def test_single_images(self, cnn):
        transform = FGSMTransform(cnn, p=0.25)
        torch.manual_seed(0)
        share = sum(moved(transform(image), image) for image in pixels(200)) / 200
        assert 0.15 < share < 0.35

    def test_without_labels(self, cnn):
        torch.manual_seed(0)
        out = FGSMTransform(cnn, p=0.5)(pixels())
        expected = FGSMTransform(cnn)(pixels())
        chosen = (out != pixels()).flatten(1).any(1)
        assert 0 < chosen.sum() < 6
        torch.testing.assert_close(out[chosen], expected[chosen], rtol=0, atol=1e-6)

    def test_never_and_always(self, cnn):
        assert torch.equal(FGSMTransform(cnn, p=0)(pixels()), pixels())
        state = torch.get_rng_state()
        assert moved(FGSMTransform(cnn, p=1)(pixels()), pixels())
        assert torch.equal(torch.get_rng_state(), state)

    def test_wherever_the_default_device_is(self, cnn):
        """The meta device stands in for another, since nothing drawn there could be read."""
        transform = FGSMTransform(cnn, EPS, p=0.5)
        torch.manual_seed(0)
        expected = transform(pixels(), LABELS)[0]
        torch.manual_seed(0)
        with torch.device("meta"):
            found = transform(PIXELS, LABELS)[0]
            alone = FGSMTransform(cnn, EPS)(PIXELS[0], 3)[0]
        assert torch.equal(found, expected)
        assert torch.equal(alone, FGSM(cnn, EPS)(PIXELS[:1], LABELS[:1])[0])

    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_out_of_range(self, cnn, p):
        with pytest.raises(InputError, match="p must be at least 0 and at most 1"):
            FGSMTransform(cnn, p=p)


class TestModule:
    def test_keeps_the_model_out(self, model):
        transform = FGSMTransform(model)
        assert list(transform.parameters()) == []
        assert list(transform.buffers()) == []
        assert list(transform.children()) == []
        assert transform.state_dict() == {}
        model.train()
        nn.Sequential(transform).eval()
        assert all(module.training for module in model.modules())
        model.eval()
        transform.train()
        assert not any(module.training for module in model.modules())

    def test_leaves_the_model_alone(self, model):
        model.train()
        model.net.body[1].eval()
        model.net.head.weight.requires_grad_(False)
        flags = [module.training for module in model.modules()]
        asks = [parameter.requires_grad for parameter in model.parameters()]
        state = copy.deepcopy(model.state_dict())
        FGSMTransform(model, p=0.5)(pixels(), LABELS)
        with pytest.raises(InputError):
            FGSMTransform(model)(pixels() + 1, LABELS)
        assert flags == [module.training for module in model.modules()]
        assert asks == [parameter.requires_grad for parameter in model.parameters()]
        assert all(parameter.grad is None for parameter in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])

    def test_pickles_and_copies(self, model):
        transform = FGSMTransform(model, 0.1, p=0.999)
        expected = transform(pixels(), LABELS)[0]
        for other in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
            assert other.p == 0.999
            assert other.attack.model is not model
            assert torch.equal(other(pixels(), LABELS)[0], expected)
        assert isinstance(pickle.loads(pickle.dumps(AttackTransform(PGD(model)))), AttackTransform)

    def test_prints_like_a_transform(self, cnn):
        assert repr(FGSMTransform(cnn)) == "FGSMTransform(eps=8/255, p=1.0)"
        assert repr(FGSMTransform(cnn, 0.5, p=0.5)) == "FGSMTransform(eps=0.5, p=0.5)"
        assert repr(AttackTransform(PGD(cnn, steps=40))) == "AttackTransform(PGD(steps=40), p=1.0)"
        inside = "    ToTensor()\n    FGSMTransform(eps=8/255, p=1.0)\n"
        assert repr(transforms.Compose([transforms.ToTensor(), FGSMTransform(cnn)])) == f"Compose(\n{inside})"

    def test_refuses_what_is_no_attack(self, cnn):
        with pytest.raises(DtypeError, match=r"attack must be an advkit attack, such as advkit.PGD\(model\); got Norm"):
            AttackTransform(cnn)
        with pytest.raises(InputError, match="FGSM has one eps for each image of a batch, but a pipeline has many"):
            FGSMTransform(cnn, torch.tensor([0.1, 0.2]))
        with pytest.raises(InputError, match="eps must be at least 0"):
            FGSMTransform(cnn, -1.0)
        points = advkit.HopSkipJump(cnn, starting_points=torch.rand(2, 3, 32, 32))
        with pytest.raises(InputError, match=r"one starting_points for each .* omit starting_points"):
            AttackTransform(points)

    def test_importing_advkit_needs_no_torchvision(self):
        code = """
import sys
sys.modules["torchvision"] = sys.modules["PIL"] = None  # importing them fails
import torch, advkit
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
image = torch.full((3, 2, 2), 0.5)
assert not torch.equal(advkit.FGSMTransform(net)(image, 1)[0], image)
"""
        subprocess.run([sys.executable, "-c", code], check=True)


class TestWrongSamples:
    def test_pil_image_names_the_missing_transform(self, cnn):
        image = Image.new("RGB", (32, 32))
        message = r"this sample holds a PIL image; put ToTensor\(\) before .* ToImage\(\) and ToDtype\("
        for sample in (image, (image, 3), {"image": image, "other": pixels()[0]}):
            with pytest.raises(DtypeError, match=message):
                FGSMTransform(cnn)(sample)

    @pytest.mark.parametrize(
        ("sample", "seen"),
        [
            (np.zeros((32, 32, 3)), "ndarray"),
            ((torch.zeros(32, 32), 3), r"Tensor of shape \(32, 32\), int"),
            ((), "nothing"),
            ({"label": torch.tensor(3)}, r"Tensor of shape \(\)"),
        ],
    )
    def test_no_image(self, cnn, sample, seen):
        with pytest.raises(
            InputError, match=rf"no image of shape \(C, H, W\) or \(N, C, H, W\) among {seen}; put ToTensor"
        ):
            FGSMTransform(cnn)(sample)

    def test_integers_that_are_no_bytes(self, cnn):
        with pytest.raises(DtypeError, match=r"images must be floating, got torch.int64; scale integer pixels first"):
            FGSMTransform(cnn)(torch.zeros(3, 32, 32, dtype=torch.int64))

    def test_normalised_images(self, cnn):
        calls = []
        handle = cnn.register_forward_hook(lambda *_: calls.append(1))
        with pytest.raises(InputError, match=r"outside bounds=\(0, 1\).*advkit.Normalized"):
            FGSMTransform(cnn)(pixels()[0] - 0.5)
        handle.remove()
        assert not calls


def collate(transform):
    return lambda items: transform(default_collate(items))


class Transformed(torch.utils.data.Dataset):
    """Images and labels through a transform, as torchvision's data sets do it."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return self.transform((pixels(24)[index], index % 10))


class TestLoader:
    def test_in_workers(self, model):
        plain = DataLoader(Transformed(FGSMTransform(model)), batch_size=5)
        workers = DataLoader(
            Transformed(FGSMTransform(model)), batch_size=5, num_workers=2, multiprocessing_context="fork"
        )
        expected = FGSM(model)(pixels(24), torch.arange(24) % 10)
        for loader in (plain, workers):
            torch.testing.assert_close(torch.cat([images for images, _ in loader]), expected, rtol=0, atol=1e-6)

    def test_reproducible_with_persistent_workers(self, cnn):
        def epochs():
            loader = DataLoader(
                Transformed(AttackTransform(PGD(cnn, steps=1), p=0.5)),
                batch_size=4,
                shuffle=True,
                num_workers=2,
                persistent_workers=True,
                multiprocessing_context="fork",
                generator=torch.Generator().manual_seed(5),
            )
            return [torch.cat([images for images, _ in loader]) for _ in range(2)]

        first, again = epochs(), epochs()
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert not torch.equal(first[0].sort(0).values, first[1].sort(0).values)

    def test_in_collate_fn(self, model):
        data = TensorDataset(pixels(), LABELS)
        loader = DataLoader(data, batch_size=4, collate_fn=collate(FGSMTransform(model)))
        expected = [FGSM(model)(pixels()[:4], LABELS[:4]), FGSM(model)(pixels()[4:], LABELS[4:])]
        for (images, labels), wanted in zip(loader, expected, strict=True):
            assert torch.equal(images, wanted)
            assert labels.dtype == torch.int64

    def test_model_on_an_accelerator_in_a_forked_worker(self, cnn):
        # The meta device stands in for CUDA: neither can be used there.
        loader = DataLoader(Transformed(FGSMTransform(cnn.to("meta"))), num_workers=1, multiprocessing_context="fork")
        with pytest.raises(
            AdvkitError,
            match=r"the model is on meta, which a forked DataLoader worker cannot use. Attack whole batches after "
            r"collate instead, with advkit.data.attacked\(loader, attack\); or give the transform a copy of the model",
        ):
            next(iter(loader))

    def test_autograd_refuses_after_a_fork(self, cnn):
        def refuse(*_):
            raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")

        cnn.register_forward_hook(refuse)
        with pytest.raises(
            AdvkitError, match=r"forked after this process had run a backward.*multiprocessing_context="
        ):
            FGSMTransform(cnn)(pixels())

    def test_other_errors_pass(self, cnn):
        def fail(*_):
            raise RuntimeError("out of luck")

        cnn.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            FGSMTransform(cnn)(pixels())


def test_example(monkeypatch, capsys):
    path = Path(__file__).parent.parent / "examples" / "fgsm_transform.py"
    spec = importlib.util.spec_from_file_location("fgsm_transform_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "IMAGES", 100)
    monkeypatch.setattr(example, "EPOCHS", 1)
    example.main()
    out = capsys.readouterr().out
    assert [line[:4] for line in out.splitlines()] == ["no a", "FGSM", "FGSM", "The "]


def test_public_names():
    assert advkit.transforms.FGSMTransform is FGSMTransform
    assert advkit.transforms.AttackTransform is AttackTransform
