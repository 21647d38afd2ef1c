"""Each attack's images on a recorded batch: what was changed in the house has not changed them.

After a change that is meant to lead elsewhere: ``PYTHONPATH=tests python tests/contracts/test_recorded.py``.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from contracts.cases import CASES, Case, each_variant
from contracts.scenes import draw, said_by
from references.network import network

RECORD = Path(__file__).with_name("recorded.npz")
SHAPE = (3, 8, 8)


@cache
def scene() -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth network in float64, so that no sign hangs on rounding, and images that it gets right."""
    with np.load(Path(__file__).parent.parent / "references" / "peers.npz", allow_pickle=False) as stored:
        weights = {
            name.removeprefix("weight_"): torch.from_numpy(stored[name]) for name in stored.files if "weight_" in name
        }
    model = network()
    model.load_state_dict(weights)
    images = draw(16384, *SHAPE, seed=11).double()
    images[::2, :, :2], images[1::2, :, :2] = 0.0, 1.0
    with torch.no_grad():
        top = model(images).topk(2).values
    images = images[(top[:, 0] - top[:, 1]).argsort()[:6]]  # hard to keep right, also for attacks that only ask
    return model, images, said_by(model, images)


def found(case: Case) -> dict[str, Tensor]:
    """The changes that a case makes, without targets and with."""
    model, images, labels = scene()
    targets = (labels + 1) % 5
    answers = {case.name: case.make(model)(images, labels) - images}
    if case.targetable:
        answers[f"{case.name}, targeted"] = case.make(model)(images, labels, targets=targets) - images
    return answers


@each_variant()
def test_the_images_are_what_they_were(case: Case) -> None:
    with np.load(RECORD, allow_pickle=False) as stored:
        for name, changes in found(case).items():
            torch.testing.assert_close(changes, torch.from_numpy(stored[name]).double(), rtol=0, atol=1e-6)
            may_fail = not case.fools or (case.fools < 1 and name != case.name)  # a target is further away
            assert changes.any() or may_fail


if __name__ == "__main__":
    np.savez_compressed(
        RECORD, **{name: changes.float().numpy() for case in CASES for name, changes in found(case).items()}
    )
