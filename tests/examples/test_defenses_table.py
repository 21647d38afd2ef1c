import json
import subprocess
import sys
from pathlib import Path

import numpy as np

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
