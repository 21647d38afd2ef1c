"""All that needs a GPU, checked and measured by one command in nine minutes.

    python benchmarks/gpu.py --data cifar10.npz --out runs/gpu      # on a GPU; shapes are drawn without --data
    python benchmarks/gpu.py --device cpu --tiny --out runs/gpu     # a rehearsal, wherever you are

The parts run in the order of what matters most. Each leaves ``PART.json`` in the folder, so that the same command goes
on after a stop; ``gpu.md`` has the tables of all that are there. It needs torch, torchvision and pytest, and measures
the peers (torchattacks, foolbox) that are installed. Times are medians, by CUDA events.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

from contests import CONTESTS, Contender, Contest, seed  # noqa: E402
from networks import NETWORKS, Scene, cnn, scene  # noqa: E402

import advkit  # noqa: E402, this checkout's

SPEED = ("FGSM", "MIFGSM", "PGD", "DeepFool", "CW")
TOO_SLOW = {("CW", "foolbox")}  # nine searches of a thousand steps
Row = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """Where it all runs.

    Attributes:
        device: the GPU, or a CPU for a rehearsal.
        tiny: a rehearsal: a few images, small networks, once each.
        data: an .npz file as examples/quickstart.py takes it; None for shapes.
        until: when to begin nothing more, in seconds of `time.monotonic`.
    """

    device: torch.device
    tiny: bool
    data: str | None
    until: float

    def network(self, name: str) -> Scene:
        """A trained network and images that it gets right, or an untrained one of the shapes of ImageNet."""
        if self.tiny:
            torch.manual_seed(0)
            net = cnn(3, 10)
            images = torch.rand(4, 3, 32, 32)
            net(images)
            return self._scene(net, images)
        if name in NETWORKS:
            return scene(name, self.data, str(self.device))
        torch.manual_seed(0)
        return self._scene(resnet50(num_classes=1000), torch.rand(256, 3, 224, 224))

    def _scene(self, net: nn.Module, images: Tensor) -> Scene:
        net, images = net.eval().to(self.device), images.to(self.device)
        with torch.no_grad():
            return Scene(net, images, net(images).argmax(1))

    def batch(self, name: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
        """As many images as asked for: those of the network, again and again."""
        there = self.network(name)
        count = 2 if self.tiny else count
        index = torch.arange(count, device=self.device) % len(there.images)
        return there.model, there.images[index], there.labels[index]

    def milliseconds(self, call: Callable[[], object]) -> tuple[float, int]:
        """The median time of a call, and of how many: once, if that takes more than two seconds."""
        times = [self._once(call)]
        if times[0] < 2000 and not self.tiny:
            times = [self._once(call)]  # the first was to warm up
            while len(times) < 15 and sum(times) < 1000:
                times.append(self._once(call))
        return median(times), len(times)

    def _once(self, call: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            begin = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - begin)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    @contextmanager
    def peak(self, into: Row) -> Iterator[None]:
        """Notes the most memory over that before, in MB; nothing on a CPU."""
        if self.device.type == "cpu":
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        torch.cuda.synchronize()
        into["MB"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)


def tests(stage: Stage) -> Iterator[Row]:
    """The tests that are marked ``cuda``."""
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"advkit-gpu-{os.getpid()}.xml"
    cores = str(min(4, os.cpu_count() or 1))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", f"--junitxml={log}"]
    command += ["-n", "0", "-k", "test_evaluate"] if stage.tiny else ["-n", cores]
    place = "cuda" if stage.device.type == "cuda" else "cpu"
    paths = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*command, str(HERE.parent / "tests")],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": paths, "ADVKIT_TEST_DEVICE": place},
        stdout=sys.stderr,
    )
    for case in ET.parse(log).getroot().iter("testcase"):
        problem = case.find("failure") if case.find("failure") is not None else case.find("error")
        outcome = "failed" if problem is not None else "skipped" if case.find("skipped") is not None else "passed"
        text = "" if problem is None else f"{problem.get('message')}\n{problem.text}"
        yield {"test": f"{case.get('classname')}::{case.get('name')}", "outcome": outcome, "text": text[-3000:]}
    log.unlink()


def speed(stage: Stage) -> Iterator[Row]:
    """Attacks beside their peers', and the most memory that each takes."""
    for network, counts, names in (
        ("cnn", (256, 1024), SPEED),
        ("resnet18", (256,), ("MIFGSM", "PGD", "DeepFool")),
        ("resnet50", (256,), ("MIFGSM",)),
    ):
        for count in counts[:1] if stage.tiny else counts:
            model, images, labels = stage.batch(network, count)
            for contest in (each for each in CONTESTS if each.name in names):
                for contender in contest.contenders:
                    if contender.installed and contender.library != "ART":
                        row = {"network": network, "images": len(images), "attack": contest.name}
                        yield {**row, **_contended(stage, contest, contender, model, images, labels)}


def _contended(
    stage: Stage, contest: Contest, contender: Contender, model: nn.Module, images: Tensor, labels: Tensor
) -> Row:
    if (contest.name, contender.library) in TOO_SLOW or time.monotonic() > stage.until:
        return {"library": str(contender), "ms": None}
    count = min(contender.most or len(images), len(images))
    run, images, labels = contender.start(model), images[:count], labels[:count]
    row: Row = {"library": str(contender), "given": count}
    seed()
    with stage.peak(row):
        found = run(images, labels)
    with torch.no_grad():
        row["success"] = round(contest.success(model(found), labels).float().mean().item(), 3)
    row["ms"], row["rounds"] = stage.milliseconds(lambda: run(images, labels))
    return row


def overhead(stage: Stage) -> Iterator[Row]:
    """What a step costs over the forward and backward that it must make, and where the GPU waits for the host."""
    for network in ("cnn", "resnet18"):
        model, images, labels = stage.batch(network, 256)

        def passes(model: nn.Module = model, images: Tensor = images, labels: Tensor = labels) -> None:
            for _ in range(10):
                x = images.detach().requires_grad_()
                torch.autograd.grad(nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)

        for parameter in model.parameters():
            parameter.requires_grad_(False)
        alone, _ = stage.milliseconds(passes)
        for make in (advkit.IFGSM, advkit.MIFGSM, advkit.PGD):
            attack = make(model, steps=10)
            whole, rounds = stage.milliseconds(lambda: attack(images, labels))  # noqa: B023, called at once
            yield {
                "network": network,
                "images": len(images),
                "attack": make.__name__,
                "ms": whole,
                "passes alone, ms": alone,
                "ratio": round(whole / alone, 3),
                "rounds": rounds,
                "GPU busy": _busy(stage, lambda: attack(images, labels)),  # noqa: B023, called at once
            }


def graphs(stage: Stage) -> Iterator[Row]:
    """Attacks as they are, and as `advkit.Attack.compile` makes them."""
    for count in (1, 256):
        model, images, labels = stage.batch("cnn", count)
        one_graph = (advkit.FGSM, advkit.IFGSM, advkit.MIFGSM, advkit.PGD, advkit.SparseL1Descent)
        for make in one_graph if count == 1 else (*one_graph, advkit.CW):
            attack = make(model)
            plain, rounds = stage.milliseconds(lambda: attack(images, labels))  # noqa: B023, called at once
            row: Row = {"network": "cnn", "images": len(images), "attack": str(attack), "ms": plain, "rounds": rounds}
            if stage.device.type == "cuda":
                with torch._functorch.config.patch(donated_buffer=False):
                    faster = attack.compile()
                    for _ in range(2):
                        faster(images, labels)
                    row["compiled, ms"], _ = stage.milliseconds(lambda: faster(images, labels))  # noqa: B023
                row["ratio"] = round(plain / row["compiled, ms"], 2)
            yield row


def _busy(stage: Stage, call: Callable[[], object]) -> float | None:
    """The share of a call in which a kernel runs."""
    if stage.device.type == "cpu":
        return None
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    return round(sum(each.self_device_time_total for each in found.key_averages()) / 1e6 / wall, 3)


PARTS = {part.__name__: part for part in (tests, graphs, overhead, speed)}


def tables(out: Path) -> str:
    """All that was measured, as Markdown."""
    lines = []
    for path in sorted(out.glob("*.json"), key=lambda path: [*PARTS].index(path.stem)):
        found = json.loads(path.read_text())
        lines += [f"## {path.stem}", "", f"{found['on']}; {found['seconds']:.0f} s", ""]
        rows = found["rows"]
        if path.stem == "tests":
            outcomes = [row["outcome"] for row in rows]
            lines.append(", ".join(f"{outcomes.count(each)} {each}" for each in ("passed", "failed", "skipped")))
            rows = [{"failed": row["test"]} for row in rows if row["outcome"] == "failed"]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            lines += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a few images, once each")
    parser.add_argument("--data", help="an .npz file as examples/quickstart.py takes it; shapes are drawn without one")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where the results go (%(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing more is begun (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "a CPU"
    stage = Stage(device, options.tiny, options.data, time.monotonic() + 60 * options.minutes)
    for part in options.only.split(","):
        path = options.out / f"{part}.json"
        if path.exists() or time.monotonic() > stage.until:
            continue
        begin = time.monotonic()
        rows = []
        for row in PARTS[part](stage):
            rows.append(row)
            if part != "tests":
                print(part, row, file=sys.stderr, flush=True)
        on = f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
        text = json.dumps({"on": on, "seconds": time.monotonic() - begin, "rows": rows}, indent=1)
        path.with_suffix(".tmp").write_text(text)
        path.with_suffix(".tmp").replace(path)
        (options.out / "gpu.md").write_text(tables(options.out))
    print(tables(options.out))


if __name__ == "__main__":
    main()
