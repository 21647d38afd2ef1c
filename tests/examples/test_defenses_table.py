import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "defenses_table.py"
DEFENSES = "none,3 bits,crop,fgsm,ensemble,distillation"


def run(folder: Path) -> str:
    settings = "--data images.npz --folder out --images 20 --epochs 2 --eot 2 --attacks FGSM,PixelSwap --swaps 2"
    command = [sys.executable, str(SCRIPT), *settings.split(), "--defenses", DEFENSES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_measures_each_cell_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 512), ("test", 20)):
        labels = draw.integers(2, size=count)
        noise = draw.integers(100, size=(count, 8, 8, 3))
        arrays |= {f"y_{split}": labels, f"x_{split}": (labels[:, None, None, None] * 60 + noise).astype(np.uint8)}
    np.savez(tmp_path / "images.npz", **arrays)
    first = run(tmp_path)
    cells = [json.loads(line) for line in (tmp_path / "out" / "cells.jsonl").read_text().splitlines()]
    assert len(cells) == 6 * (1 + 2 * 3)
    accuracy = {(cell["defense"], cell["attack"], cell["attacker"]): cell["accuracy"] for cell in cells}
    assert accuracy["none", "clean", "none"] > 0.8
    assert accuracy["Bit depth, 3 bits", "FGSM", "naive"] == accuracy["Bit depth, 3 bits", "clean", "none"]
    assert accuracy["Bit depth, 3 bits", "FGSM", "adaptive"] <= accuracy["Bit depth, 3 bits", "FGSM", "naive"]
    assert first.count("\n| Distillation, T=20 |") == 1
    (tmp_path / "out" / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells[:-1]))
    again = run(tmp_path)
    assert "training:" not in again
    assert first.endswith(again)
    assert len((tmp_path / "out" / "cells.jsonl").read_text().splitlines()) == len(cells)


def test_transfer_says_what_is_left_of_a_strangers_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = importlib.import_module("defenses_table")

    def brighter_than(middle: float) -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        model[1].weight.data = torch.tensor([[-1.0], [1.0]]).expand(2, 4).clone()
        model[1].bias.data = torch.tensor([4.0, -4.0]) * middle
        return model.eval()

    # Eight of ten stand within 8/255 of the stranger's threshold, and cross it; another's lies elsewhere.
    brightness = torch.tensor([0.2, 0.49, 0.48, 0.49, 0.48, 0.8, 0.51, 0.52, 0.51, 0.52])
    images = brightness.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    labels = (brightness > 0.5).long()
    models = {"the stranger": brighter_than(0.5), "another": brighter_than(0.55), "none": brighter_than(1.0)}
    bench = SimpleNamespace(stranger=lambda: models["the stranger"], defended=models.__getitem__)
    options = SimpleNamespace(folder=tmp_path, batch=4, seed=0, cw_steps=1, swaps=1)
    table = script.transfer(bench, list(models), images, labels, options)
    assert table.splitlines() == [
        "| defense | FGSM | MIFGSM |",
        "| --- | --: | --: |",
        "| the stranger | 20.0 | 20.0 |",
        "| another | 60.0 | 60.0 |",
        "| none | 50.0 | 50.0 |",
        "",
        "| only the first, only the second is right; McNemar's p | FGSM | MIFGSM |",
        "| --- | --: | --: |",
        "| the stranger, another | 0, 4; 0.12 | 0, 4; 0.12 |",
        "| the stranger, none | 1, 4; 0.38 | 1, 4; 0.38 |",
        "| another, none | 1, 0; 1 | 1, 0; 1 |",
    ]
