import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


def run(folder, *arguments):
    command = [sys.executable, str(QUICKSTART), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)], ids=["grey", "RGB"])
def test_on_a_file(tmp_path, shape):
    """Five classes that differ in brightness: real images in miniature."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 200), ("test", 50)):
        labels = draw.integers(5, size=count)
        noise = draw.integers(20, size=(count, *shape))
        arrays[f"y_{split}"] = labels
        arrays[f"x_{split}"] = (50 * labels.reshape(-1, *[1] * len(shape)) + noise).astype(np.uint8)
    np.savez(tmp_path / "images.npz", **arrays)
    done = run(tmp_path, "--data", "images.npz", "--epochs", 2, "--images", 20, "--names", "a,b,c,d,e")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["none", "FGSM", "MIFGSM", "PGD"]
    assert "20 images on" in done.stdout
    assert max(map(len, lines)) <= 80
    for name in ("quickstart.png", "quickstart-accuracy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # matplotlib says there that it looks for fonts, the first time that it is used, if that takes long.
    assert not [line for line in done.stderr.splitlines() if "atplotlib" not in line]


def test_shapes_are_ten_and_within_a_pixel():
    import importlib.util

    import torch

    spec = importlib.util.spec_from_file_location("quickstart", QUICKSTART)
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    images, labels = quickstart.draw(300)
    assert (images.shape, images.dtype, labels.dtype) == ((300, 3, 32, 32), torch.float32, torch.int64)
    assert labels.unique().tolist() == list(range(10)) == list(range(len(quickstart.SHAPES)))
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    spread = images.flatten(2).std(2).amax(1)
    assert float(spread.min()) > 0.05  # more than the noise: every picture has a shape in it
    assert any(not torch.equal(one, other) for one, other in zip(images, quickstart.draw(300)[0], strict=True))


def test_a_data_set_that_is_not_there(tmp_path):
    done = run(tmp_path, "--dataset", "mnist")
    assert done.returncode == 1
    assert "torchvision cannot load mnist" in done.stderr
    assert "--download" in done.stderr
    assert "Traceback" not in done.stderr
