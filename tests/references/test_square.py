"""Agreement with AutoAttack's Square Attack, from what `record_square.py` has stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import advkit
from advkit.attacks.queries import square
from references.network import hard_images

RECORD = json.loads(Path(__file__).with_name("square.json").read_text())
SIDE, CHANNELS, P_INIT = 10, 2, 0.1
NORMS = ["Linf", "L2", "L1"]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_same_sides_turn_by_turn(norm: str) -> None:
    for height, width, sides in RECORD["sides"][norm]:
        for turn, side in sides:
            ours = square._sides(square._share(0.8, turn), (height, width), {"Linf": 1, "L2": 3}[norm])
            assert ours == (side, side), (norm, height, width, turn)


class Script:
    """The draws of a recorded run in the order in which the house asks for them, as numbers of [0, 1)."""

    def __init__(self, norm: str, drawn: list[list[Any]]) -> None:
        self.norm = norm
        self.drawn = iter(drawn)
        self.turn = 0

    def take(self, name: str) -> Any:
        found, value = next(self.drawn)
        assert found == name
        return value

    def signs(self) -> Tensor:
        return torch.tensor([0.25 if sign > 0 else 0.75 for sign in self.take("signs")])

    def place(self, side: int) -> float:
        return (self.take("place") + 0.5) / (SIDE - side + 1)

    def turned(self) -> float:
        return 0.25 if self.take("turned") else 0.75

    def start(self) -> list[Tensor]:
        if self.norm == "Linf":
            return [self.signs()]
        tiles = [(self.turned(), self.signs()) for _ in range(25)]
        return [torch.tensor([each for each, _ in tiles]), torch.stack([each for _, each in tiles], 1)]

    def changed(self) -> list[Tensor]:
        places = [torch.tensor([self.place(3), self.place(3)]) for _ in range(1 if self.norm == "Linf" else 2)]
        if self.norm == "Linf":
            signs = self.signs()
            return [*places, torch.stack([signs, signs])]
        turned, signs = self.turned(), self.signs()
        return [*places, signs, torch.tensor([turned])]


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_images_for_the_same_draws(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = RECORD["trajectories"][norm]
    script, queue, asked = Script(norm, recorded["drawn"]), [], []
    queue += script.start()
    for _ in range(7):
        queue += script.changed()
    monkeypatch.setattr(square, "uniform_like", lambda images, generator: queue.pop(0).to(images).view_as(images))

    weights = torch.sin(torch.arange(CHANNELS * SIDE * SIDE * 3, dtype=torch.float64)).view(-1, 3) / 50

    def model(x: Tensor) -> Tensor:
        asked.append(x[0].flatten())
        return x.flatten(1) @ weights + torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)

    image = torch.sin(3 * torch.arange(CHANNELS * SIDE * SIDE, dtype=torch.float64)).view(1, CHANNELS, SIDE, SIDE)
    attack = advkit.Square(model, norm, recorded["eps"], 9, P_INIT)
    attack(image / 2 + 0.5, torch.tensor([0]))
    assert not queue
    assert len(asked) == 9  # and the image itself
    expected = torch.tensor(recorded["asked"], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(asked[1:]), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_as_many_images_and_queries(norm: str) -> None:
    """Over seeds: within what the means of both vary by, or better."""
    recorded = RECORD["distribution"][norm]
    model, images, labels = hard_images()
    fooled, queries = [], []
    for seed in range(3):
        attack = advkit.Square(model, norm, recorded["eps"], 501, generator=torch.Generator().manual_seed(seed))
        result = attack.run(images, labels)
        fooled.append(float(result.success.sum()))
        queries.append(float((result.queries - 1).where(result.success, 500).float().mean()))
    for ours, theirs, sign in ((fooled, recorded["fooled"], 1), (queries, recorded["mean queries"], -1)):
        mine, them = torch.tensor(ours), torch.tensor(theirs, dtype=torch.float32)
        error = them.std() * (1 / len(mine) + 1 / len(them)) ** 0.5
        assert sign * (mine.mean() - them.mean()) > -4 * error - 0.5, (ours, theirs)
