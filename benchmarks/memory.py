"""How much memory attacks take, each in a process of its own.

    python benchmarks/memory.py                                 # all contests, 256 images: a Markdown table
    python benchmarks/memory.py --flat                          # 100,000 images through evaluate and generate

What is measured is the largest resident size of the process over that before the attack, whatever holds the memory.
An attack is stopped after ``--seconds``: by then a loop has done all that it will do again. How an allocator's heap is
cut up is a matter of luck, so that the median of ``--repeats`` processes is told. For Linux.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low

import torch
from contests import CONTESTS, seed
from networks import scene
from torch import Tensor, nn
from torch.utils.data import Dataset

import advkit

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """What the process has in memory now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


def most() -> float:
    """The most it ever had, in MB. Its ru_maxrss would be the parent's where that is larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def measure(contest: str, contender: str, stage: str, seconds: float) -> None:
    """One attack in this process, which ends when the time is up."""
    (found,) = (each for each in CONTESTS if each.name == contest)
    (entry,) = (each for each in found.contenders if str(each) == contender)
    model, images, labels = torch.load(stage, weights_only=False)
    run = entry.start(model)
    seed()
    before = resident()

    def report() -> None:
        print(f"{most() - before:.0f}", flush=True)
        os._exit(0)

    threading.Timer(seconds, report).start()
    run(images, labels)
    report()


def table(options: argparse.Namespace) -> None:
    """Peaks of all contenders, in MB."""
    print(f"| attack | library | MB, {options.images} images |\n| --- | --- | --: |", flush=True)
    found = scene(options.network, options.data, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        stage = f"{folder}/stage.pt"  # without the data set, whose loading would be the peak
        torch.save((found.model, *found.batch(options.images)), stage)
        for contest in CONTESTS:
            if options.only and contest.name not in options.only.split(","):
                continue
            for contender in filter(lambda each: each.installed, contest.contenders):
                arguments = ["--one", contest.name, str(contender), stage, "--seconds", str(options.seconds)]
                print(f"| {contest.name} | {contender} | {_median(arguments, options.repeats)} |", flush=True)


def _median(arguments: list[str], repeats: int) -> str:
    """Of what processes with these arguments say, in MB; or how one of them failed, which costs no other row."""
    peaks = []
    for _ in range(repeats):
        run = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        if run.returncode:
            return f"failed: {run.stderr[-200:]}"
        peaks.append(int(run.stdout.split()[-1]))
    return str(median_low(peaks))


class Noise(Dataset[tuple[Tensor, int]]):
    """Images that are drawn when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """How many there are."""
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image of 3 x 8 x 8 pixels, and its label."""
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index)), index % 10

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them, as a generator."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.count // size):
            yield torch.rand(size, 3, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator)


def flat(count: int) -> None:
    """Resident memory along a run over ``count`` images through `advkit.evaluate` and `advkit.data.generate`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    attack = advkit.PGD(model, steps=2)
    line: list[float] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            if self.calls % 500 == 0:
                line.append(resident())
            self.calls += 1
            logits: Tensor = self.model(images)
            return logits

    watched = Watched()
    advkit.evaluate(watched, Noise(count).batches(100), [attack], progress=False)
    print("evaluate, MB:", " ".join(f"{each:.0f}" for each in line), flush=True)
    line.clear()
    with tempfile.TemporaryDirectory() as folder:
        advkit.data.generate(attack.on(watched), Noise(count), Path(folder) / "copy", batch_size=100, progress=False)
        written = sum(file.stat().st_size for file in (Path(folder) / "copy").iterdir()) / 2**20
    print(f"generate, MB, of a copy of {written:.0f} MB:", " ".join(f"{each:.0f}" for each in line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How much memory attacks take.")
    parser.add_argument("--data", help="an .npz file as examples/quickstart.py takes it; shapes are drawn without one")
    parser.add_argument("--network", default="cnn")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="after which an attack is stopped (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is told (%(default)s)")
    parser.add_argument("--flat", type=int, nargs="?", const=100_000, help="go through so many images instead")
    parser.add_argument("--only", help="names of attacks, with commas between")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(*options.one, options.seconds)
    elif options.flat:
        flat(options.flat)
    else:
        table(options)


if __name__ == "__main__":
    main()
