"""The rehearsal of what is to be run on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_the_rehearsal_of_the_run_on_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    parts = {path.stem: json.loads(path.read_text())["rows"] for path in tmp_path.glob("*.json")}
    assert set(parts) == {"tests", "waits", "graphs", "verdicts", "speed", "overhead"}
    assert {row["attack"]: (row["allowed"], row["kept"]) for row in parts["waits"]} == {
        "MIFGSM": (0, True),
        "DDN": (1, True),
    }
    verdict = parts["verdicts"][0]
    assert verdict["verdict"] == 'advkit, "standard"'
    assert verdict["passes"] > 1
    assert {row["outcome"] for row in parts["tests"]} == {"passed"}
    assert {row["network"] for row in parts["speed"] if row["library"] == "advkit" and row["ms"] > 0} == {
        "cnn",
        "resnet18",
        "resnet50",
    }
    assert (tmp_path / "gpu.md").read_text() in done.stdout

    cut = json.loads((tmp_path / "speed.json").read_text())
    (tmp_path / "speed.json").write_text(json.dumps({**cut, "whole": False, "rows": []}))
    before = (tmp_path / "tests.json").stat().st_mtime_ns
    subprocess.run([*command, "--only", "tests,speed", "--minutes", "0"], check=True, capture_output=True)
    assert (tmp_path / "tests.json").stat().st_mtime_ns == before
    assert not json.loads((tmp_path / "speed.json").read_text())["rows"], "nothing is begun after the time is up"
