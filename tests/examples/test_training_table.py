import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

SCRIPT = Path(__file__).parents[2] / "examples" / "training_table.py"


def run(folder: Path, *more: str) -> str:
    command = [sys.executable, str(SCRIPT), "--data", "images.npz", "--folder", "out", "--tiny", *more]
    done = subprocess.run([*command, "--recipes", "awp,free"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rehearsal_measures_each_cell_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 128), ("test", 8)):
        arrays[f"y_{split}"] = draw.integers(2, size=count)
        arrays[f"x_{split}"] = draw.integers(256, size=(count, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", **arrays)
    first = run(tmp_path, "--part", "0/2")
    assert first.count(".json {") == 1
    second = run(tmp_path)
    assert second.count(".json {") == 1
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert sorted(cells) == ["Free-0", "PGD+AWP-0"]
    for cell in cells.values():
        assert (cell["epochs"], cell["forwards"], cell["backwards"]) in {(2, 512, 512), (2, 768, 768)}
        assert all(0 <= cell[which]["robust"] <= cell[which]["clean"] <= 1 for which in ("last", "averaged"))
    assert second.count("\n| ") == 4


class Answers(nn.Module):
    """How often a model answered, and how often an answer was differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = nn.Linear(4, 2), 0, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        self.forwards += 1
        if logits.requires_grad:
            logits.register_hook(self.differentiated)
        return logits

    def differentiated(self, gradient: Tensor) -> None:
        self.backwards += 1


def test_compute_is_counted_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    batch = (torch.full((2, 4), 0.5), torch.tensor([0, 1]))
    for name, row in importlib.import_module("training_table").rows(steps=3, replays=4).items():
        model, defense = Answers(), row.make()
        defense.guard = None
        defense.fit(model, [batch], torch.optim.SGD(model.parameters(), 0.1), 1)
        assert (model.forwards, model.backwards) == (row.forwards, row.backwards), name
