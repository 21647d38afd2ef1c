"""Agreement with torchattacks 3.5.1, from answers that ``tests/references/record_transfer.py`` has stored."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advkit
from references.network import network

HERE = Path(__file__).parents[2] / "references"
RECORD: dict[str, Any] = json.loads((HERE / "transfer.json").read_text())
MORE: dict[str, dict[str, Any]] = {"SINIFGSM": {"m": 3}, "MIFGSM": {"decay": 0.5}}
RUNS = 20


@pytest.fixture(scope="module")
def scene() -> tuple[nn.Module, dict[str, Tensor]]:
    with np.load(HERE / "peers.npz", allow_pickle=False) as stored:
        peers = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "versions"}
    model = network()
    model.load_state_dict({key.removeprefix("weight_"): peers[key] for key in peers if key.startswith("weight_")})
    return model, peers


@pytest.mark.parametrize("name", RECORD["changes in 255ths"])
def test_the_same_images(name: str, scene: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, peers = scene
    images, labels = peers["images"], peers["labels"]
    kind, _, targeted = name.partition(", ")
    if kind.startswith("PI"):
        made = getattr(advkit, kind)(copy.deepcopy(model).float(), eps=1 / 16, steps=8, amplification=4.0)
        found = made(images.float(), labels).double()
    else:
        made = getattr(advkit, kind)(model, eps=8 / 255, alpha=2 / 255, steps=10, **MORE.get(kind, {}))
        found = made(images, labels, targets=peers["targets"] if targeted else None)
    expected = torch.tensor(RECORD["changes in 255ths"][name], dtype=torch.float64).view_as(images) / 255
    torch.testing.assert_close(found - images, expected, rtol=0, atol=1e-6)
    assert expected.abs().amax() > 0.02


@pytest.mark.parametrize("name", RECORD["means"])
def test_the_same_in_the_mean(name: str, scene: tuple[nn.Module, dict[str, Tensor]]) -> None:
    """What attacks that draw come to, on the network and on another: within four standard errors of the difference."""
    model, peers = scene
    model = copy.deepcopy(model).float()
    images, labels, known = peers["images"].float(), peers["labels"], RECORD["means"][name]
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.add_(0.3 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    generator = torch.Generator().manual_seed(0)
    attack = getattr(advkit, name)(model, alpha=2 / 255, generator=generator, **known["settings"])
    with torch.no_grad():
        losses = torch.tensor(
            [
                [float(F.cross_entropy(net(found), labels)) for net in (model, other)]
                for found in (attack(images, labels) for _ in range(RUNS))
            ]
        )
    error = (losses.var(0) / RUNS + torch.tensor(known["error"]).square()).sqrt()
    assert ((losses.mean(0) - torch.tensor(known["mean"])).abs() < 4 * error).all()
