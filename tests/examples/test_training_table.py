import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("training_table")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 128), ("test", 8)):
        arrays[f"y_{split}"] = draw.integers(2, size=count)
        arrays[f"x_{split}"] = draw.integers(256, size=(count, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", **arrays)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("images")
def test_the_rehearsal_measures_each_cell_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for part in ("0/2", "0/1"):
        options = f"--data images.npz --folder out --tiny --recipes awp,free --part {part}"
        monkeypatch.setattr(sys, "argv", ["training_table.py", *options.split()])
        script.main()
        said.append(capsys.readouterr().out)
    assert [text.count(".json {") for text in said] == [1, 1]
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert sorted(cells) == ["Free-0", "PGD+AWP-0"]
    for cell in cells.values():
        assert (cell["epochs"], cell["forwards"], cell["backwards"]) in {(2, 512, 512), (2, 768, 768)}
        assert all(0 <= cell[which]["robust"] <= cell[which]["clean"] <= 1 for which in ("last", "averaged"))
    assert said[1].count("\n| ") == 4


@pytest.mark.usefixtures("images")
def test_a_stopped_training_goes_on(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str) -> None:
        options = f"--data images.npz --folder {folder} --tiny --recipes free"
        monkeypatch.setattr(sys, "argv", ["training_table.py", *options.split()])
        script.main()

    def interrupted(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(script, "measured", interrupted)
        with pytest.raises(InterruptedError):
            run("stopped")
    cells = []
    for folder in ("stopped", "whole"):
        run(folder)
        cell = json.loads((tmp_path / folder / "Free-0.json").read_text())
        cells.append(
            [cell["epochs"], *(cell[its][what] for its in ("last", "averaged") for what in ("clean", "robust"))]
        )
    assert cells[0] == cells[1]


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


def test_compute_is_counted_as_it_is(script: ModuleType) -> None:
    batch = (torch.full((2, 4), 0.5), torch.tensor([0, 1]))
    for name, row in script.rows(steps=3, replays=4).items():
        model, defense = Answers(), row.make()
        defense.guard = None
        defense.fit(model, [batch], torch.optim.SGD(model.parameters(), 0.1), 1)
        assert (model.forwards, model.backwards) == (row.forwards, row.backwards), name
