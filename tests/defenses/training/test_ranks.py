"""Training in several processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "scripts" / "ranks.py"
_spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the second process")
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """On the same batches: each on its share; stopped and resumed, too."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, (weights, history) in ranks[0].items():
        other_weights, other_history = ranks[1][name]
        assert history == other_history
        assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
        expected, its = script.alone(name, tmp_path)
        for key, tensor in expected.items():
            torch.testing.assert_close(weights[key], tensor, rtol=0, atol=1e-9)
        for one, other in zip(history, its, strict=True):
            assert {key: pytest.approx(value) for key, value in one.items()} == other
    assert "epoch 3 of 3" in (tmp_path / "bars0.txt").read_text()
    assert not (tmp_path / "bars1.txt").read_text()
    for rank in range(2):
        assert "the loader has 1, 2 batches in the processes" in (tmp_path / f"refused{rank}.txt").read_text()
