"""Options, and which contests they make.

pytest benchmarks --benchmark-json=results.json
python benchmarks/table.py results.json
"""

import os
import shlex
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from contests import CONTESTS, Contender, Contest
from networks import NETWORKS, Scene, scene


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("advkit benchmarks")
    group.addoption("--data", help="an .npz file as examples/quickstart.py takes it; shapes are drawn without one")
    group.addoption("--networks", default=",".join(NETWORKS), help="which to attack, with commas between (%(default)s)")
    group.addoption("--batch-sizes", default="1,32,256", help="how many images, with commas between (%(default)s)")
    group.addoption("--device", default="cpu", help="where, such as cuda (%(default)s)")
    group.addoption("--seconds", type=float, default=1.0, help="to repeat each contender for (%(default)s)")
    group.addoption("--all-images", action="store_true", help="whole batches also for slow attacks, as on a GPU")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.getoption
    sizes = [int(size) for size in option("--batch-sizes").split(",")]
    whole = option("--all-images") or option("--device") != "cpu"
    entries = [
        pytest.param(network, count, contest, contender, id=f"{network}-{count}-{contest.name}-{contender}")
        for network in option("--networks").split(",")
        for contest in CONTESTS
        for count in _counts(sizes, contest, network, whole)
        for contender in contest.contenders
    ]
    metafunc.parametrize(("network", "count", "contest", "contender"), entries)


def _counts(sizes: list[int], contest: Contest, network: str, whole: bool) -> list[int]:
    """The batch sizes, each cut to what the contest allows, once each."""
    most = max(sizes) if whole else contest.most.get(network, 0)
    return sorted({min(size, most) for size in sizes} - {0})


@pytest.fixture
def stage(network: str, contender: Contender, request: pytest.FixtureRequest) -> Scene:
    """The network under attack and the images, or a skip where the library is not installed."""
    if not contender.installed:
        pytest.skip(f"{contender.library} is not installed")
    return _scene(network, request.config.getoption("--data"), request.config.getoption("--device"))


_scene = cache(scene)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    device = torch.device(config.getoption("--device"))
    machine_info["advkit"] = {
        "command": shlex.join(["pytest", *config.invocation_params.args]),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "data": config.getoption("--data") or "shapes",
        "versions": {"python": sys.version.split()[0], **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("advkit", "torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
