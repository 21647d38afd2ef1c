"""What `evaluate(..., certify=True)` adds: a lower bound beside the upper one, image by image."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit.errors import AdvkitWarning, InputError
from advkit.evaluation.verify import Verifier

Loader = list[tuple[Tensor, Tensor]]


def line() -> nn.Module:
    """Two classes on either side of sum(x) = 0, whose distances are known."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))
    return net


def at_distances() -> Loader:
    """Images of four features at Linf distances 0.05 to 0.5, the last of them of a label that the model misses."""
    images = (torch.arange(1, 11)[:, None] / 20).expand(10, 4)
    labels = torch.zeros(10, dtype=torch.int64)
    labels[9] = 1
    return [(images[:6], labels[:6]), (images[6:], labels[6:])]


def curved() -> tuple[nn.Module, Loader]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    images = torch.rand(24, 6)
    labels = net(images).argmax(1)
    return net, list(zip(images.split(8), labels.split(8), strict=True))


def test_the_truth_lies_between() -> None:
    report = advkit.evaluate(
        line(), at_distances(), "standard", eps=0.22, bounds=(-1.0, 1.0), certify=True, flags=False
    )
    assert report.verified.tolist() == report.robust.tolist() == [False] * 4 + [True] * 5 + [False]
    assert report.verified_accuracy == report.robust_accuracy == 0.5
    assert "the truth lies between 50.0 and 50.0 %." in " ".join(str(report).split())
    assert "the truth lies between 50.0 and 50.0 %." in report.to_html()
    assert report.to_dict()["verified_accuracy"] == 0.5
    assert advkit.RobustnessReport.from_json(report.to_json()) == report
    without = advkit.evaluate(line(), at_distances(), [advkit.FGSM(line(), eps=0.22, bounds=(-1.0, 1.0))], flags=False)
    assert math.isnan(without.verified_accuracy)
    assert without.verified.shape == (0,)
    assert "between" not in str(without)
    assert without.robust.equal(report.robust)
    assert "verified_accuracy" not in without.to_dict()
    ((images, labels),) = [tuple(map(torch.cat, zip(*at_distances(), strict=True)))]
    halves = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    attacks = [advkit.FGSM(line(), eps=0.22, bounds=(-1.0, 1.0))]
    assert without.compare(advkit.evaluate(line(), halves, attacks, flags=False)).p_value == 1.0
    turned = [(images.flip(0), labels.flip(0))]
    with pytest.raises(InputError, match="in the same order"):
        without.compare(advkit.evaluate(line(), turned, attacks, flags=False))


def test_attacks_that_are_given_and_an_image_in_two_balls() -> None:
    net, loader = curved()
    attacks = [advkit.PGD(net, eps=0.03), advkit.PGD(net, norm="l2", eps=0.03), advkit.DeepFool(net)]
    report = advkit.evaluate(net, loader, attacks, certify=True, flags=False)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    in_linf, in_l2 = (advkit.evaluation.verify(net, images, labels, norm, 0.0301) for norm in ("linf", "l2"))
    assert report.verified.equal(in_linf & in_l2)
    assert in_l2.sum() > in_linf.sum() > 0
    assert not (report.verified & ~report.robust).any()


def test_a_run_goes_on_with_what_was_proved(tmp_path: Path) -> None:
    net, loader = curved()
    attacks = [advkit.PGD(net, eps=0.03)]
    report = advkit.evaluate(net, loader, attacks, certify=True, run_folder=tmp_path)
    sorted((tmp_path / "batches").iterdir())[1].unlink()
    again = advkit.evaluate(net, loader, attacks, certify=True, run_folder=tmp_path)
    assert again.proved == report.proved
    assert len(report.proved) == 24
    with pytest.raises(InputError, match="a run with other certify"):
        advkit.evaluate(net, loader, attacks, run_folder=tmp_path)


def test_a_contradiction_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verifier, "__call__", lambda self, images, labels: torch.ones(len(images), dtype=torch.bool))
    with pytest.warns(AdvkitWarning, match=r"4 images are proved to be safe .* \(at 0, 1, 2, 3 in the loader's order"):
        report = advkit.evaluate(
            line(), at_distances(), [advkit.FGSM(line(), eps=0.22, bounds=(-1, 1))], certify=True, flags=False
        )
    assert [flag.name for flag in report.flags] == ["verified and yet fooled"]
    assert report.flags[0].doubts("none", "FGSM(eps=0.22)", None)
    assert "Flag, verified and yet fooled" in str(report)


def test_what_cannot_be_proved_is_refused_before_any_work() -> None:
    net, loader = curved()
    asked: list[int] = []
    tanh = nn.Sequential(net, nn.Tanh())
    net.register_forward_pre_hook(lambda module, inputs: asked.append(1))
    with pytest.raises(InputError, match=r"cannot be propagated through Tanh \(1\)"):
        advkit.evaluate(nn.Sequential(curved()[0], nn.Tanh()), loader, [advkit.FGSM(tanh)], certify=True)
    with pytest.raises(InputError, match="none of these attacks has one"):
        advkit.evaluate(net, loader, [advkit.DeepFool(net)], certify=True)
    assert not asked
