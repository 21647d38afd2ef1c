"""Where `gpu.py` runs: the networks, how calls are timed, and how much memory they take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from networks import NETWORKS, Scene, cnn, scene
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet50

import advkit

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

    def robust(self, count: int) -> tuple[nn.Module, Tensor, Tensor]:
        """The CNN after some adversarial training, so that a verdict on it has something to do, and images."""
        model, images, labels = self.batch("cnn", count)
        some = slice(0, 2 if self.tiny else 4096)
        data = TensorDataset(*(part[some] for part in self.batch("cnn", 4096)[1:]))
        loader = DataLoader(data, batch_size=256, shuffle=True, generator=torch.Generator().manual_seed(0))
        training = advkit.defenses.AdversarialTraining(advkit.PGD(model, alpha=4 / 255, steps=3), clean_ratio=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        training.fit(model, loader, optimizer, epochs=1 if self.tiny else 10)
        return model.eval(), images, labels

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
