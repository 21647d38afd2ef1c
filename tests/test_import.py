"""advkit where torchvision is broken: a CPU torch beside a CUDA torchvision fails when it is imported."""

import subprocess
import sys

BROKEN_TORCHVISION = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

sys.meta_path.insert(0, Broken())

import torch
import advkit

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 1])
for name in advkit.attacks.__all__:
    attack = getattr(advkit, name)
    assert issubclass(attack, advkit.Attack)
assert not advkit.FGSM(model).run(images, labels).images.equal(images)
assert "torchvision" not in sys.modules
"""


def test_torchvision_is_not_needed() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN_TORCHVISION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    import advkit

    for name in advkit.__all__:
        assert hasattr(advkit, name)
    assert set(advkit.attacks.__all__) <= set(advkit.__all__)


COUNTED = """
import sys
import numpy, torch

before = set(sys.modules)
import advkit

more = set(sys.modules) - before
print(*sorted(more))
assert advkit.evaluate is advkit.evaluation.evaluate and advkit.Defense is advkit.defenses.Defense
from advkit import FGSMTransform, data
"""


def test_an_import_brings_no_more_than_attacks() -> None:
    """What takes long is counted by its modules: nothing that only some need, and few files."""
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    packages = {name.partition(".")[0] for name in modules}
    assert packages.isdisjoint({"torchvision", "matplotlib", "PIL", "pandas", "tqdm", "safetensors", "scipy"})
    parts = {".".join(name.split(".")[:2]) for name in modules if name.startswith("advkit.")}
    assert parts.isdisjoint({"advkit.cli", "advkit._command", "advkit.evaluation", "advkit.defenses", "advkit.data"})
    assert len([name for name in modules if not name.startswith("advkit")]) <= 10
