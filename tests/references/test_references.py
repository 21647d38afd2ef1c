"""Agreement with torchattacks 3.5.1 and foolbox 3.3.4, from answers that `record.py` has stored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import advkit
from advkit import Attack
from references.network import network

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10
ATTACKS: dict[str, Callable[..., Attack]] = {
    "fgsm": lambda model: advkit.FGSM(model, eps=EPS),
    "mifgsm": lambda model: advkit.MIFGSM(model, eps=EPS, alpha=ALPHA, steps=STEPS, decay=1.0),
    "pgd": lambda model: advkit.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False),
    "pgd_l2": lambda model: advkit.PGD(model, eps=0.5, alpha=0.1, steps=STEPS, random_start=False, norm="l2"),
}
RECORDED = [
    *(f"torchattacks_{name}" for name in ATTACKS),
    *(f"torchattacks_{name}_targeted" for name in ATTACKS),
    "foolbox_pgd",
    "foolbox_pgd_l2",
]


@pytest.fixture(scope="module")
def peers() -> dict[str, Tensor]:
    with np.load(Path(__file__).with_name("peers.npz"), allow_pickle=False) as stored:
        assert stored["versions"].tolist()[:2] == ["torchattacks 3.5.1", "foolbox 3.3.4"]
        return {name: torch.from_numpy(stored[name]) for name in stored.files if name != "versions"}


@pytest.mark.parametrize("name", RECORDED)
def test_the_same_images(name: str, peers: dict[str, Tensor]) -> None:
    model = network()
    weights = {key.removeprefix("weight_"): value for key, value in peers.items() if key.startswith("weight_")}
    model.load_state_dict(weights)
    attack = ATTACKS[name.removesuffix("_targeted").split("_", 1)[1]](model)
    targets = peers["targets"] if name.endswith("targeted") else None
    found = attack(peers["images"], peers["labels"], targets=targets)
    torch.testing.assert_close(found, peers[name], rtol=0, atol=1e-6)
    assert (found - peers["images"]).abs().amax() > 0.01
