"""APGD and APGDT: step by step what the reference does, and what it has no answer to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advkit
from advkit import losses
from advkit.attacks.budget import apgd, apgd_l1
from advkit.attacks.budget.apgd_l1 import phases
from contracts.scenes import IMAGE, Passes, Shifted, conv_net, draw, easy_images, linear_net, said_by, trained_net
from references.smooth import dyadic_images, smooth_net

RECORD = json.loads((Path(__file__).parents[2] / "references" / "apgd.json").read_text())
RUNS = {f"{run['norm']}-{run['loss']}": run for run in RECORD["runs"]}


class Recorder(nn.Module):
    """A model that keeps what it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


def recorded(name: str) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """A run of the reference's, the images, their labels, and the targets that it went for."""
    images = dyadic_images(4)[1:]
    ranked = smooth_net()(images).argsort(1, descending=True)
    return RUNS[name], images, ranked[:, 0], ranked[:, 2]


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("name", RUNS)
def test_each_step_is_the_references(name: str, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, images, labels, targets = recorded(name)
    one = slice(row, row + 1)
    images, labels = images[one], labels[one]
    noise = torch.tensor(run["noise"], dtype=torch.float64).view(3, *images.shape[1:])[one]
    monkeypatch.setattr(apgd, "uniform_like", lambda like, generator: (noise + 1) / 2)
    monkeypatch.setattr(apgd, "normal_like", lambda like, generator: noise)
    lengths: list[float] = []
    for kind in (apgd._Halving, apgd_l1.Sparse):
        monkeypatch.setattr(kind, "advance", watched(kind.advance, lengths))  # type: ignore[attr-defined]

    model = Recorder(smooth_net())
    if run["loss"] == "targeted":  # the third class is the second that it goes for
        monkeypatch.setattr(advkit.Untargeted, "rivals", lambda goal, logits, count: targets[one, None])
        attack: advkit.Attack = advkit.APGDT(model, norm=run["norm"], eps=run["eps"])
    else:
        attack = advkit.APGD(model, norm=run["norm"], eps=run["eps"], loss=run["loss"])
    found = attack(images, labels)

    looks = model.seen[1:]
    assert len(looks) == len(run["losses"]) or bool(said_by(smooth_net(), found) != labels)
    climbed: dict[str, Callable[[Tensor], Tensor]] = {
        "ce": lambda z: losses.cross_entropy(z, labels),
        "dlr": lambda z: losses.dlr(z, labels),
        "targeted": lambda z: losses.targeted_dlr(z, labels, targets[one]),
    }
    seen = torch.stack([climbed[run["loss"]](smooth_net()(x))[0] for x in looks])
    expected = torch.tensor([each[row] for each in run["losses"]], dtype=torch.float64)
    torch.testing.assert_close(seen, expected[: len(seen)], rtol=0, atol=1e-5)
    length = None
    for step, here in enumerate(lengths):
        length = run["lengths"].get(str(step), length)
        assert here == pytest.approx(length[row], abs=1e-7), f"step {step}"
    for look, places in run["places"].items():
        if int(look) < len(looks):
            place = torch.tensor(places, dtype=torch.float64).view(3, *images.shape[1:])[one]
            torch.testing.assert_close(looks[int(look)], place, rtol=0, atol=1e-5)


def watched(advance: Callable[[Any, Any], Tensor], lengths: list[float]) -> Callable[[Any, Any], Tensor]:
    def watching(rows: Any, look: Any) -> Tensor:
        moved = advance(rows, look)
        lengths.append(rows.alpha.item())
        return moved

    return watching
