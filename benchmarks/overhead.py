"""The time of transfer attacks over that of their passes alone: the forwards and backwards through the model.

python benchmarks/overhead.py [ROUNDS] [IMAGES]

By the CPU time of this process, in one thread, on the benchmarks' CNN and random images. Both are times of the same
call, so that whatever else the machine does meets both: that of the whole, and what went by inside of the model, from
pixels to logits and from their gradients back to those of pixels. Printed is the median of the ratios, and the
quartiles.
"""

import sys
from statistics import quantiles
from time import process_time

import torch
from networks import cnn
from torch import Tensor, nn

import advkit
from advkit.attacks.transfer import InputDiversity, Momentum, TranslationKernel


class Timed(nn.Module):
    """Another model, and the CPU time that was spent in it, in seconds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.spent = self.began = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, ...)."""
        seen = images.view_as(images)
        self.begin()
        logits = self.model(seen)
        self.end()
        logits = logits.view_as(logits)
        if seen.requires_grad:
            logits.register_hook(self.begin)
            seen.register_hook(self.end)
        return logits

    def begin(self, gradient: Tensor | None = None) -> None:
        """From here on the time is the model's."""
        self.began = process_time()

    def end(self, gradient: Tensor | None = None) -> None:
        """And up to here."""
        self.spent += process_time() - self.began


def main(rounds=31, count=32):
    """Print a line for each attack."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, images = cnn(3, 10).eval(), torch.rand(count, 3, 32, 32)
    net(images)  # makes its last layers
    net.requires_grad_(False)
    labels = net(images).argmax(1)
    timed = Timed(net)
    lists = {"MI": [Momentum()], "DI + TI + MI": [InputDiversity(), TranslationKernel(), Momentum()]}
    for name, parts in lists.items():
        attack, ratios = advkit.Transfer(timed, parts, steps=10), []
        for _ in range(1 + rounds):
            timed.spent, start = 0.0, process_time()
            attack(images, labels)
            ratios.append((process_time() - start) / timed.spent)
        low, middle, high = quantiles(ratios[1:], n=4)
        print(f"{name}: {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
