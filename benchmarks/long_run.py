"""A verdict on very many images: what it holds in memory, killed half-way, gone on with, shared by two processes.

    python benchmarks/long_run.py --images 100000 --folder runs/long --kill-after 60     # ends by a kill
    python benchmarks/long_run.py --images 100000 --folder runs/long                     # goes on from there
    torchrun --nproc-per-node 2 benchmarks/long_run.py --images 100000 --folder runs/two # the same, by two processes

The network is a ResNet-18 of an eighth of the width, untrained, and the images are noise of 3 x 8 x 8 pixels, drawn as
they are asked for, with the labels that the network gives them. ``eps`` is such that nearly all fall at once: what
grows with the images is the same, and the passes are few. It prints what the process has in memory as it goes, and a
digest of the report without its times. For Linux.
"""

import argparse
import json
import os
import signal
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import torch
from memory import most, resident
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

import advkit


def network() -> nn.Module:
    """A ResNet-18 whose layers have 8 to 64 channels."""
    torch.manual_seed(0)

    class Thin(ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
            return super()._make_layer(block, planes // 8, blocks, stride, dilate)

    net = Thin(BasicBlock, [2, 2, 2, 2])
    net.fc = nn.Linear(64, 4)
    return net.eval()


class Batches:
    """Noise in batches, each drawn when it is asked for, and how much memory the process has by then."""

    def __init__(self, model: nn.Module, count: int, size: int, kill_after: int | None) -> None:
        self.model, self.count, self.size, self.kill_after = model, count, size, kill_after
        self.line: list[float] = []

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(len(self)):
            self.line.append(resident())
            if index == self.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            images = torch.rand(self.size, 3, 8, 8, generator=torch.Generator().manual_seed(index))
            with torch.no_grad():
                yield images, self.model(images).argmax(1)


def without_times(value: object) -> object:
    """A report as JSON has it, without what clocks say."""
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if "seconds" not in name}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--folder", type=Path, required=True, help="where the results of the batches are kept")
    parser.add_argument("--kill-after", type=int, help="batches after which the process kills itself")
    options = parser.parse_args()
    model = network()
    batches = Batches(model, options.images, options.batch_size, options.kill_after)
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    report = advkit.evaluate(
        model, batches, "standard", norm="linf", eps=options.eps, run_folder=options.folder, progress=False
    )
    some = batches.line[:: max(1, len(batches.line) // 8)]
    print(f"process {os.environ.get('RANK', 0)}, MB:", " ".join(f"{each:.0f}" for each in [*some, resident()]))
    print(f"at most {most():.0f} MB; {len(os.listdir('/proc/self/fd'))} files open at the end")
    shown = json.dumps(without_times(json.loads(report.to_json())), sort_keys=True)
    print(f"{report.images:,} images, {100 * report.robust_accuracy:.2f} % left")
    print(f"digest {blake2b(shown.encode(), digest_size=8).hexdigest()}")


if __name__ == "__main__":
    main()
