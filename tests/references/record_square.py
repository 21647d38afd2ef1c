"""Records what AutoAttack's Square Attack does, in float64, for `test_square.py` to compare with.

``PYTHONPATH=<auto-attack> python tests/references/record_square.py``, with fra31/auto-attack at a392200. It writes
``square.json`` beside itself: the sides of the squares turn by turn; for each norm the images that it asks about when
all that it draws is given; and over many seeds how many images it fools on a small network, and with how many queries.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from autoattack.square import SquareAttack
from network import hard_images
from torch import Tensor

NORMS = {"Linf": 0.08, "L2": 0.9, "L1": 5.0}
SQUARE = [(8, 8), (28, 28), (32, 32), (33, 33), (64, 64), (224, 224)]
SIZES = {"Linf": [*SQUARE, (12, 20), (40, 9)], "L2": SQUARE}  # in L2 it fails on images that are not square
ENDS = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
TURNS = [0, 1, *(end + by for end in ENDS for by in (-1, 0, 1, 2))]
SIDE, CHANNELS, P_INIT, EPS = 10, 2, 0.1, {"Linf": 0.25, "L2": 1.0, "L1": 8.0}


class Told(SquareAttack):  # type: ignore[misc]
    """Square Attack that is told what to draw, and tells what it was asked to."""

    def told(self, seed: int, turns: Sequence[int] = range(99)) -> "Told":
        self.draws, self.log, self.turns = random.Random(seed), [], turns
        return self

    def random_int(self, low: int = 0, high: int = 1, shape: Any = None) -> Tensor:
        self.log.append(["free", high])
        self.log.append(["place", place := self.draws.randint(0, max(high - 1, 0))])
        return torch.tensor([place])

    def random_choice(self, shape: list[int]) -> Tensor:
        signs = [self.draws.choice([-1, 1]) for _ in range(int(np.prod(shape)))]
        self.log.append(["signs", signs])
        return torch.tensor(signs, dtype=torch.float64).view(shape)

    def p_selection(self, it: int) -> float:
        share: float = super().p_selection(self.turns[it])
        return share

    def eta(self, s: int) -> Tensor:
        turned = self.draws.random() > 0.5
        self.log.append(["turned", turned])
        state = torch.get_rng_state()
        for seed in range(100):  # until it draws what it is told
            torch.manual_seed(seed)
            if (torch.rand([1]).item() > 0.5) == turned:
                torch.manual_seed(seed)
                pattern: Tensor = super().eta(s)
                torch.set_rng_state(state)
                return pattern
        raise AssertionError


def sides(norm: str, size: tuple[int, int]) -> list[list[int]]:
    """The sides of squares about the turns at which they change."""
    height, width = size
    model = lambda x: torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(x), 2).clone()  # noqa: E731
    attack = Told(model, norm=norm, n_queries=len(TURNS), eps=0.1, resc_schedule=False).told(0, TURNS)
    image = torch.full((1, 1, height, width), 0.5, dtype=torch.float64)
    attack.init_hyperparam(image)
    attack.attack_single_run(image, torch.tensor([0]))
    free = [value for name, value in attack.log if name == "free"]
    found = [height - each for each in free[:: 2 if norm == "Linf" else 4]]
    return [[turn, side] for turn, side in zip(TURNS, found, strict=True)]


def trajectory(norm: str) -> dict[str, Any]:
    """What it asks about, and what it drew."""
    weights = torch.sin(torch.arange(CHANNELS * SIDE * SIDE * 3, dtype=torch.float64)).view(-1, 3) / 50
    asked: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        asked.append(x[0].flatten().clone())
        return x.flatten(1) @ weights + torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)

    attack = Told(model, norm=norm, n_queries=7, eps=EPS[norm], p_init=P_INIT, resc_schedule=False).told(5)
    image = torch.sin(3 * torch.arange(CHANNELS * SIDE * SIDE, dtype=torch.float64)).view(1, CHANNELS, SIDE, SIDE)
    image = image / 2 + 0.5
    attack.init_hyperparam(image)
    attack.attack_single_run(image, torch.tensor([0]))
    drawn = [[name, value] for name, value in attack.log if name != "free"]
    return {"eps": EPS[norm], "drawn": drawn, "asked": [[round(x, 7) for x in each.tolist()] for each in asked]}


def distribution(norm: str, seeds: int) -> dict[str, Any]:
    """How many images it fools within 500 queries, and with how many in the middle, for each seed."""
    model, images, labels = hard_images()
    fooled, queries = [], []
    for seed in range(seeds):
        attack = SquareAttack(model, norm=norm, n_queries=499, eps=NORMS[norm], resc_schedule=False)
        attack.init_hyperparam(images)
        torch.manual_seed(seed)
        spent, found = attack.attack_single_run(images, labels)
        success = model(found).argmax(1) != labels
        fooled.append(int(success.sum()))
        queries.append(float(spent.where(success, 500.0).float().mean()))
    return {"eps": NORMS[norm], "fooled": fooled, "mean queries": queries}


def main() -> None:
    with torch.no_grad():
        record = {
            "made by": "fra31/auto-attack at a392200",
            "sides": {norm: [[*size, sides(norm, size)] for size in sizes] for norm, sizes in SIZES.items()},
            "trajectories": {norm: trajectory(norm) for norm in NORMS},
            "distribution": {norm: distribution(norm, seeds=8) for norm in NORMS},
        }
    Path(__file__).with_name("square.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
