"""Code that was written for torchattacks 3.5.1 runs: its names and arguments, and its results where they have to be."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit.compat.torchattacks as torchattacks
from advkit.compat.torchattacks import attack as base
from advkit.errors import AdvkitWarning, InputError
from contracts.scenes import conv_net, draw, easy_images, linear_net, said_by
from references.smooth import dyadic_images, smooth_net

RECORD = json.loads((Path(__file__).parents[1] / "references" / "torchattacks.json").read_text())
CLASSES: dict[str, Any] = RECORD["classes"]
QUICK = {  # of what takes long by default, less
    "SPSA": {"nb_sample": 4},
    "EADL1": {"max_iterations": 6, "binary_search_steps": 2, "initial_const": 1.0},
    "EADEN": {"max_iterations": 6, "binary_search_steps": 2, "initial_const": 1.0},
    "CW": {"steps": 6},
    "Square": {"n_queries": 20},
    "Pixle": {"x_dimensions": (1, 3), "y_dimensions": (1, 3), "restarts": 2, "max_iterations": 3},
    "TIFGSM": {"len_kernel": 3},
    "LGV": {"epochs": 1, "nb_models_epoch": 2, "verbose": False},
}
WITHIN = {"eps": 8 / 255, "max_epsilon": 16 / 255}  # the defaults, in Linf


@pytest.fixture(autouse=True)
def said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning that is said once has been said."""
    monkeypatch.setattr(base, "_said", True)


def make(name: str, model: nn.Module, loader: Any = (), **settings: Any) -> Any:
    kind = getattr(torchattacks, name)
    if name == "MultiAttack":
        return kind([torchattacks.FGSM(model), torchattacks.GN(model)])
    return kind(model, loader, **settings) if name == "LGV" else kind(model, **settings)


def test_the_names_are_torchattacks() -> None:
    assert torchattacks.__all__ == [*CLASSES]
    assert f"torchattacks {torchattacks.__version__}" == RECORD["version"]
    assert torchattacks.__wrapper__ == ["LGV", "MultiAttack"]
    assert [name for name in RECORD["methods"] if not hasattr(torchattacks.Attack, name)] == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_torchattacks_arguments_and_attacks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = linear_net()
    images, labels = easy_images(model, count=2)
    model.train()
    known, recorded = inspect.signature(getattr(torchattacks, name)).parameters.values(), CLASSES[name]
    needed = [each.name for each in known if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    defaults = {each.name: each.default for each in known if each.default is not each.empty}
    assert needed == recorded["needs"]
    assert [*defaults] == [*recorded["defaults"]]
    for key, expected in recorded["defaults"].items():
        expected = tuple(expected) if isinstance(expected, list) else expected
        assert getattr(defaults[key], "__name__", defaults[key]) == expected
    loader = DataLoader(TensorDataset(images, labels), batch_size=1)
    attack = make(name, model, loader, **QUICK.get(name, {}))
    assert attack.supported_mode == recorded["modes"]
    first = None
    for mode in recorded["modes"]:
        if mode == "targeted":
            attack.set_mode_targeted_random(quiet=True)
        found = attack(images, labels)
        first = found if first is None else first  # targets are drawn, and some are out of reach
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        eps = next((defaults[key] for key in WITHIN if defaults.get(key) == WITHIN[key]), 1.0)
        assert (found - images).abs().max() <= eps + 1e-6
    if name not in ("VANILA", "OnePixel", "Pixle", "Square", "SPSA", "MultiAttack"):  # of which some may fail
        assert not torch.equal(first, images)
    assert model.training
    assert str(attack).startswith(f"{name}(model_name=Sequential, device=cpu")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", RECORD["changes"])
def test_the_images_are_torchattacks(name: str) -> None:
    """Of attacks that draw nothing."""
    model, images = smooth_net(), dyadic_images(4)
    kind, _, targeted = name.partition(", ")
    attack = make(kind, model, **RECORD["settings"][kind])
    if targeted:
        attack.set_mode_targeted_least_likely(kth_min=2, quiet=True)
    expected = torch.tensor(RECORD["changes"][name], dtype=torch.float64).view_as(images)
    torch.testing.assert_close(
        attack(images, model(images).argmax(1)) - images, expected, atol=1e-4 if kind == "DeepFool" else 1e-6, rtol=0
    )
    assert expected.abs().max() > 0.01


def test_normalised_images_come_back_normalised() -> None:
    net, pixels = conv_net(), draw(4, 3, 8, 8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    shape = (1, 3, 1, 1)
    images = (pixels - mean.view(shape)) / std.view(shape)
    labels = said_by(net, images)
    attack = torchattacks.PGD(net, eps=4 / 255, random_start=False)
    attack.set_normalization_used(mean.tolist(), std.tolist())
    changed = (attack(images, labels) - images) * std.view(shape)
    expected = torchattacks.PGD(lambda x: net((x - mean.view(shape)) / std.view(shape)), 4 / 255, random_start=False)
    torch.testing.assert_close(changed, expected(pixels, labels) - pixels, atol=1e-6, rtol=0)
    assert changed.abs().max() > 3.9 / 255
    several = torchattacks.MultiAttack([attack, torchattacks.FGSM(net)])
    several.set_normalization_used(mean.tolist(), std.tolist())
    changed = (several(images, labels) - images) * std.view(shape)
    assert changed.abs().max() <= 8 / 255 + 1e-5
    with pytest.raises(InputError, match="images lie in"):
        torchattacks.PGD(net)(images, labels)
    net.to(memory_format=torch.channels_last)
    assert torchattacks.PGDL2(net)(pixels, labels).is_contiguous()


def test_modes_aim_where_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    model, images = smooth_net(), dyadic_images(6)
    labels = model(images).argmax(1)
    attack = torchattacks.BIM(model, eps=1.0, alpha=0.05, steps=60)
    seen: list[tuple[Tensor, Tensor | None]] = []

    def following(inputs: Tensor, labels: Tensor | None) -> Tensor:
        seen.append((inputs, labels))
        assert labels is not None
        return (labels + 1) % 6

    attack.set_mode_targeted_by_function(following)
    found = [attack(images, labels)]
    attack.set_mode_targeted_by_label()
    found.append(attack(images, (labels + 1) % 6))
    assert torch.equal(*found)
    assert len(seen) == 1
    reached = model(found[0]).argmax(1) == (labels + 1) % 6
    assert reached.float().mean() > 0.8
    attack.set_mode_targeted_least_likely()
    least = model(images).argmin(1)
    assert torch.equal(attack.get_target_label(images, labels), least)
    assert attack.get_mode() == "targeted(least-likely)"
    attack.set_mode_targeted_random()
    drawn = torch.stack([attack.get_target_label(images, labels) for _ in range(60)])
    assert not (drawn == labels).any()
    assert len(drawn[:, 0].unique()) == 5
    attack.set_mode_default()
    assert (model(attack(images, labels)).argmax(1) != labels).all()
    assert capsys.readouterr().out.count("Attack mode is changed to") == 5
    with pytest.raises(ValueError, match="not supported"):
        torchattacks.DeepFool(model).set_mode_targeted_random()


def test_what_is_saved_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images = conv_net(), draw(6, 3, 8, 8)
    labels = said_by(model, images)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    attack = torchattacks.FGSM(model, eps=0.1)
    for kind, close in (("float", 0.0), ("int", 0.5 / 255 + 1e-6)):
        robust, length, _ = attack.save(
            loader,
            tmp_path / "a.pt",
            return_verbose=True,
            save_predictions=True,
            save_clean_inputs=True,
            save_type=kind,
        )
        loaded = attack.load(tmp_path / "a.pt", batch_size=6, load_predictions=True, load_clean_inputs=True)
        found, classes, said, clean = next(iter(loaded))
        assert (found - attack(images, labels)).abs().max() <= close
        assert (clean - images).abs().max() <= close
        assert torch.equal(classes, labels)
        assert robust == pytest.approx(100 * float((said == labels).float().mean()))
        if robust < 100:
            assert length > 0
    assert "Robust accuracy" in capsys.readouterr().out
    attack.set_return_type("int")
    assert attack(images, labels).dtype == torch.uint8


def test_several_attacks_are_tried_on_what_is_left() -> None:
    model, images = smooth_net(), dyadic_images(8)
    labels = model(images).argmax(1)
    weak, strong = torchattacks.FGSM(model, eps=0.05), torchattacks.BIM(model, eps=0.5, alpha=0.1)
    found = torchattacks.MultiAttack([weak, strong])(images, labels)
    by_weak = model(weak(images, labels)).argmax(1) != labels
    assert 0 < by_weak.sum() < 8
    assert torch.equal(found[by_weak], weak(images, labels)[by_weak])
    assert torch.equal(found[~by_weak], strong(images, labels)[~by_weak])
    with pytest.raises(ValueError, match="one model"):
        torchattacks.MultiAttack([weak, torchattacks.FGSM(smooth_net())])


def test_lgv_saves_and_loads_its_models(tmp_path: Path) -> None:
    model, images = conv_net(), draw(4, 3, 8, 8)
    labels, before = said_by(model, images), {name: each.clone() for name, each in model.state_dict().items()}
    loader = DataLoader(TensorDataset(images, labels), batch_size=2)
    attack = torchattacks.LGV(
        model, loader, epochs=2, nb_models_epoch=2, verbose=False, attack_class=torchattacks.MIFGSM, eps=4 / 255
    )
    attack.collect_models()
    attack.save_models(tmp_path / "models")
    assert len(list((tmp_path / "models").iterdir())) == len(attack.list_models) == 4
    assert all(each.equal(before[name]) for name, each in model.state_dict().items())
    other = torchattacks.LGV(model, loader, verbose=False, n_grad=-1, eps=4 / 255)
    other.load_models(attack.list_models)
    normalised = torchattacks.LGV(model, loader, epochs=1, nb_models_epoch=1, verbose=False, eps=4 / 255)
    normalised.set_normalization_used([0.5] * 3, [0.5] * 3)
    assert 0 < (normalised(2 * images - 1, labels) - (2 * images - 1)).abs().max() <= 8 / 255 + 1e-6
    assert type(normalised.list_models[0]) is type(model)
    for each in (attack, other):
        each.set_mode_targeted_by_label(quiet=True)
        assert 0 < (each(images, (labels + 1) % 4) - images).abs().max() <= 4 / 255 + 1e-6


def test_it_says_once_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_said", False)
    with pytest.warns(AdvkitWarning, match="By design, results differ"):
        torchattacks.FGSM(conv_net())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchattacks.FGSM(conv_net())
    with pytest.warns(AdvkitWarning, match="has no effect"):
        torchattacks.FGSM(conv_net()).set_model_training_mode(model_training=True)
    with pytest.raises(InputError, match="one range of pixels"):
        torchattacks.Pixle(conv_net(), pixel_mapping="similarity")(draw(1, 3, 8, 8), torch.tensor([0]))
