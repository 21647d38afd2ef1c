"""What a run in a folder may go on with, and what it refuses: other models, other attacks, and damaged files."""

import functools
import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import advkit
from advkit import errors
from advkit._io.witness import Witness, agree, asked, spread
from advkit.attack import Attack
from advkit.defenses import InputTransformation
from contracts.scenes import trained_net


@pytest.fixture
def loader():
    _, images, labels = trained_net()
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def black_box(model):
    return [advkit.PixelSwap(model, max_queries=2)]


def gradient(model):
    return [advkit.FGSM(model)]


def network(layer):
    """Layers by their seed, with this one among them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), layer, nn.Linear(16, 4)).eval()


class Scaled(nn.Module):
    """A network whose answers are multiplied by an attribute, which its layers do not show."""

    def __init__(self, factor):
        super().__init__()
        self.net = trained_net()[0]
        self.factor = factor

    def forward(self, images):
        return self.factor * self.net(images)


class Bent(nn.Module):
    """A network that answers alike and lets a gradient pass or not."""

    def __init__(self, passes):
        super().__init__()
        self.net = trained_net()[0]
        self.passes = passes

    def forward(self, images):
        seen = images.detach()
        return self.net(images + (seen - images).detach() if self.passes else seen + 0 * images)


class Kept(nn.Module):
    """A network beside a buffer that no state_dict has."""

    def __init__(self, value):
        super().__init__()
        self.net = trained_net()[0]
        self.register_buffer("value", torch.tensor(value), persistent=False)

    def forward(self, images):
        return self.net(images)


def scaled(factor, images):
    return factor * trained_net()[0](images)


class Object:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, images):
        return scaled(self.factor, images)

    def method(self, images):
        return scaled(self.factor, images)


def hooked(factor):
    net = network(nn.ReLU())
    net.register_forward_hook(lambda module, inputs, output: factor * output)
    return net


def masked(value):
    """Logits of which one class is out of the race, whose size must not hide the others."""
    return lambda images: torch.cat([scaled(value, images), torch.full((len(images), 1), -1e9)], 1)


MODELS = {
    "slope": lambda which: network(nn.LeakyReLU((0.01, -3.0)[which])),
    "momentum": lambda which: network(nn.BatchNorm1d(16, momentum=(0.1, 0.2)[which])),
    "weights": lambda which: trained_net(seed=which)[0],
    "attribute": lambda which: Scaled((1.0, 1.02)[which]),
    "gradient": lambda which: Bent(bool(which)),
    "buffer": lambda which: Kept(float(which)),
    "lambda": lambda which: lambda images: scaled((1.0, -1.0)[which], images),
    "partial": lambda which: functools.partial(scaled, (1.0, 0.9)[which]),
    "object": lambda which: Object((1.0, 0.9)[which]),
    "method": lambda which: Object((1.0, 0.9)[which]).method,
    "hook": lambda which: hooked((1.0, 0.9)[which]),
    "masked": lambda which: masked((1.0, 0.9)[which]),
}


@pytest.mark.parametrize("attacks", [gradient, black_box])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gradient"])
def test_another_model_is_refused(name, attacks, loader, tmp_path):
    one, other = map(MODELS[name], (0, 1))
    first = advkit.evaluate(one, loader, attacks(one), run_folder=tmp_path, flags=False)
    with pytest.raises(errors.InputError, match="holds a run with other models") as refusal:
        advkit.evaluate(other, loader, attacks(other), run_folder=tmp_path, flags=False)
    assert len(str(refusal.value)) < 1000
    same = MODELS[name](0)
    assert advkit.evaluate(same, loader, attacks(same), run_folder=tmp_path, flags=False) == first


def test_a_model_with_another_gradient_is_refused(loader, tmp_path):
    """Where attacks go by it: the answers are the same."""
    one, other = map(MODELS["gradient"], (1, 0))
    advkit.evaluate(one, loader, gradient(one), run_folder=tmp_path, flags=False)
    with pytest.raises(errors.InputError, match="holds a run with other models"):
        advkit.evaluate(other, loader, gradient(other), run_folder=tmp_path, flags=False)


class Dimmed(InputTransformation):
    """A defense with an attribute of the kind that is looked at, or one that only its answers show."""

    def __init__(self, factor=0.9, hidden=0.0):
        super().__init__()
        self.factor = factor
        self._hidden = hidden

    def forward(self, images):
        return self.factor * images + self._hidden


@pytest.mark.parametrize("other", [Dimmed(0.8), Dimmed(hidden=0.05)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_another_defense_is_refused(other, wrapped, loader, tmp_path):
    """Each contender is asked, also where the bare model is the same; and a defense inside of a model is looked at."""
    net, _, _ = trained_net()
    one, other = (defense.wrap(net) if wrapped else defense for defense in (Dimmed(), other))
    first = advkit.evaluate(net, loader, gradient(net), {"dimmed": one}, run_folder=tmp_path)
    with pytest.raises(errors.InputError, match=r"other models.*dimmed"):
        advkit.evaluate(net, loader, gradient(net), {"dimmed": other}, run_folder=tmp_path)
    assert advkit.evaluate(net, loader, gradient(net), {"dimmed": one}, run_folder=tmp_path) == first


def test_a_surrogate_of_a_defense_in_the_model_is_looked_at(loader, tmp_path):
    """It changes no answer, and what the attacks make of it."""

    class Averaged(Dimmed):
        stochastic = True

        def __init__(self, samples):
            super().__init__()
            self.eot_samples = samples

    net, _, _ = trained_net()
    one, other = (Averaged(samples).wrap(net) for samples in (1, 3))
    advkit.evaluate(one, loader, gradient(one), run_folder=tmp_path, draws=2, flags=False)
    with pytest.raises(errors.InputError, match="other models"):
        advkit.evaluate(other, loader, gradient(other), run_folder=tmp_path, draws=2, flags=False)


class Noisy(nn.Module):
    """A random model that nobody declares to be one."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.net = trained_net()[0]
        self.shift = shift

    def forward(self, images):
        logits = self.net(images)
        return logits + 0.1 * torch.randn(logits.shape) + self.shift * torch.eye(4)[0]


@pytest.mark.parametrize("seed", [0, None])
def test_a_random_model_is_known_again(seed, loader, tmp_path):
    """By the seed, or by the mean of its answers where there is none."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        arguments = {"run_folder": tmp_path, "seed": seed, "flags": False}
        first = advkit.evaluate(Noisy(), loader, gradient(Noisy()), **arguments)
        for _ in range(5):
            assert advkit.evaluate(Noisy(), loader, gradient(Noisy()), **arguments) == first
        with pytest.raises(errors.InputError, match="other models: the model has the same layers and weights"):
            advkit.evaluate(Noisy(shift=2.0), loader, gradient(Noisy()), **arguments)


def test_rounding_is_no_other_model():
    def witness(*logits):
        return Witness([[list(row) for row in logits]] * 2)

    before = witness((1.0, -2.0, -1e9), (0.0, 3.0, -torch.inf))
    assert agree(before, witness((1.0005, -2.0, -1.0001e9), (1e-4, 3.0, -torch.inf)), alike=True)
    assert not agree(before, witness((1.01, -2.0, -1e9), (0.0, 3.0, -torch.inf)), alike=True)
    assert agree(before, witness((1.01, -2.0, -1e9), (0.0, 3.0, -torch.inf)), alike=False)  # as another device may say
    assert not agree(before, witness((1.2, -2.0, -1e9), (0.0, 3.0, -torch.inf)), alike=False)
    assert not agree(before, witness((1.0, -2.0, -1e9), (0.0, 3.0, -5.0)), alike=False)
    assert not agree(before, witness((1.0, -2.0), (0.0, 3.0)), alike=True)
    assert agree(before, Witness(), alike=True)


def test_few_numbers_are_kept():
    wide = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    images = torch.rand(64, 3, 2, 2)
    said = asked(wide, images, seed=0, device=torch.device("cpu"), adaptive=(False,))
    assert torch.tensor(said.logits).shape == (2, 1, 1000)
    assert torch.tensor(said.gradients).shape == (1, 8, 12)
    assert spread([]) == set()
    assert spread([3, 4, 5, 9, 10]) == {3, 4, 9}


@dataclass(frozen=True, eq=False)
class Moves(Attack):
    """An attack of a stranger's, of whom anything may be another."""

    by: float = 0.1
    change: object = field(default=None, repr=False)

    def _perturb(self, images, goal):
        found = self.change(images) if callable(self.change) else images + self.by
        return found if found.shape == images.shape else images - self.by


STEP = 0.1


def strangers():
    """Attacks that print alike, in pairs that are not."""
    helper = trained_net()[0], trained_net(seed=3)[0]
    twins = []
    for amount in (0.1, 0.2):

        class Attribute(Moves):
            power = amount

        twins.append(Attribute)

    class One(Moves):
        def _perturb(self, images, goal):
            return images - 0.1

    class Other(Moves):
        def _perturb(self, images, goal):
            return images - 0.2

    for kind in (One, Other):
        kind.__name__ = kind.__qualname__ = "Mine"

    def on_object(value):
        attack = Moves(helper[0])
        object.__setattr__(attack, "power", value)
        return attack

    def with_function(value):
        return Moves(helper[0], change=lambda images: images + value)

    return {
        "a field that does not print": [Moves(helper[0], change=one) for one in (torch.relu, torch.sigmoid)],
        "a network": [Moves(helper[0], change=one) for one in helper],
        "a tensor": [Moves(helper[0], change=[torch.full((100,), value)]) for value in (0.1, 0.2)],
        "a function's closure": [with_function(value) for value in (0.1, 0.2)],
        "a function's code": [Moves(helper[0], change=one) for one in (lambda x: x + 0.1, lambda x: x - 0.1)],
        "an attribute of the class": [kind(helper[0]) for kind in twins],
        "an attribute of the object": [on_object(value) for value in (0.1, 0.2)],
        "the code of the class": [kind(helper[0]) for kind in (One, Other)],
    }


@pytest.mark.parametrize("what", strangers())
def test_another_attack_is_refused(what, loader, tmp_path):
    net, _, _ = trained_net()
    one, other = strangers()[what]
    first = advkit.evaluate(net, loader, {"mine": one}, run_folder=tmp_path, flags=False)
    with pytest.raises(errors.InputError, match="holds a run with other attacks: attacks"):
        advkit.evaluate(net, loader, {"mine": other}, run_folder=tmp_path, flags=False)
    again = strangers()[what][0]
    assert advkit.evaluate(net, loader, {"mine": again}, run_folder=tmp_path, flags=False) == first


def test_a_constant_of_the_script_is_part_of_an_attack(loader, tmp_path, monkeypatch):
    class Mine(Moves):
        def _perturb(self, images, goal):
            return images + STEP

    net, _, _ = trained_net()
    advkit.evaluate(net, loader, [Mine(net)], run_folder=tmp_path, flags=False)
    monkeypatch.setitem(globals(), "STEP", 0.2)
    with pytest.raises(errors.InputError, match="other attacks"):
        advkit.evaluate(net, loader, [Mine(net)], run_folder=tmp_path, flags=False)


def test_nothing_is_added_to_a_run_by_another_model(loader, tmp_path):
    """Though the first batch is missing, and would be done before the model is known to be another."""
    one, other = map(MODELS["attribute"], (0, 1))
    first = advkit.evaluate(one, loader, black_box(one), run_folder=tmp_path, flags=False)
    missing = tmp_path / "batches" / "00000000.json"
    missing.unlink()
    with pytest.raises(errors.InputError, match="other outputs for batch 1"):
        advkit.evaluate(other, loader, black_box(other), run_folder=tmp_path, flags=False)
    assert not missing.exists()
    again = advkit.evaluate(one, loader, black_box(one), run_folder=tmp_path, flags=False)
    assert (again.scores[0].accuracy, again.images) == (first.scores[0].accuracy, 8)
    assert missing.exists()


@pytest.fixture
def folder(loader, tmp_path):
    """A run that is done, and what calls it again."""
    net, _, _ = trained_net()
    path = tmp_path / "run"

    def run():
        return advkit.evaluate(net, loader, gradient(net), run_folder=path, flags=False)

    return path, run, run()


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_text(path.read_text()[:-20]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "nothing in it": lambda path: path.write_text("{}"),
    "a field missing": lambda path: changed(path, lambda content: content["record"].pop("labels")),
    "a number changed": lambda path: changed(path, lambda content: content["record"]["labels"].__setitem__(0, 2)),
    "of version 1": lambda path: path.write_text(json.dumps(json.loads(path.read_text())["record"])),
    "of another batch": lambda path: shutil.copy(path.with_name("00000000.json"), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_batch_is_named_and_done_anew(damage, folder, tmp_path):
    path, run, first = folder
    good, broken = (path / "batches" / f"0000000{index}.json" for index in (0, 1))
    untouched = good.read_bytes()
    DAMAGES[damage](broken)
    with pytest.raises(errors.InputError, match=r"00000001.json is damaged .*; move it elsewhere and call again"):
        run()
    assert broken.exists()
    broken.rename(tmp_path / "elsewhere.json")
    again = run()
    assert (again.images, again.scores[0].accuracy) == (first.images, first.scores[0].accuracy)
    assert good.read_bytes() == untouched
    assert broken.exists()


@pytest.mark.parametrize("name", ["notes.json", "1.json", "00000001 (copy).json", "._00000001.json"])
def test_a_foreign_file_is_named(name, folder):
    path, run, first = folder
    (path / "batches" / name).write_text("{}")
    with pytest.raises(errors.InputError, match="is not a file of this run") as refusal:
        run()
    assert name in str(refusal.value)
    (path / "batches" / name).unlink()
    assert run() == first


@pytest.mark.parametrize("text", ["{", "", "[]", "3", "\x00"])
def test_a_damaged_description_is_named(text, folder):
    path, run, first = folder
    whole = (path / "run.json").read_text()
    (path / "run.json").write_text(text)
    with pytest.raises(errors.InputError, match=r"run.json is damaged \(.*; restore a copy of it"):
        run()
    (path / "run.json").write_text(whole)
    assert run() == first


def test_batches_that_nothing_describes_are_refused(folder):
    path, run, first = folder
    whole = (path / "run.json").read_text()
    (path / "run.json").unlink()
    with pytest.raises(
        errors.InputError,
        match=r"holds batches, such as 00000000.json, but .*run.json, which says which run they belong to, is missing",
    ):
        run()
    assert not (path / "run.json").exists()
    (path / "run.json").write_text(whole)
    assert run() == first


def test_a_run_of_another_version_is_refused(folder):
    path, run, _ = folder
    changed(path / "run.json", lambda content: content.pop("format"))
    with pytest.raises(errors.InputError, match="was written by another version of advkit"):
        run()


@pytest.mark.parametrize("where", ["run", "run/batches"])
def test_a_file_where_a_folder_is_due(where, loader, tmp_path):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("mine")
    net, _, _ = trained_net()
    with pytest.raises(errors.InputError, match=r"run.* is not a folder, so no run can be kept there"):
        advkit.evaluate(net, loader, gradient(net), run_folder=tmp_path / "run")
    assert (tmp_path / where).read_text() == "mine"
