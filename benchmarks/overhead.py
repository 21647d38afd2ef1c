"""The time of transfer attacks over that of their passes alone: the same forwards and backwards, and nothing else.

python benchmarks/overhead.py [ROUNDS] [IMAGES]

By the CPU time of this process, in one thread, on the benchmarks' CNN and random images. Each round times one call of
both, in turns, so that whatever else the machine does meets both; what is printed is the median of the ratios, and
the quartiles.
"""

import sys
from statistics import quantiles
from time import process_time

import torch
from networks import cnn
from passes import Counted, Replay

import advkit
from advkit.attacks.transfer import InputDiversity, Momentum, TranslationKernel


def timed(call, *arguments):
    """The CPU time of a call, in seconds."""
    start = process_time()
    call(*arguments)
    return process_time() - start


def main(rounds=31, count=32):
    """Print a line for each attack."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, images = cnn(3, 10).eval(), torch.rand(count, 3, 32, 32)
    net(images)  # makes its last layers
    net.requires_grad_(False)
    labels = net(images).argmax(1)
    lists = {"MI": [Momentum()], "DI + TI + MI": [InputDiversity(), TranslationKernel(), Momentum()]}
    for name, parts in lists.items():
        counted = Counted(net)
        advkit.Transfer(counted, parts, steps=10)(images, labels)
        attack, alone = advkit.Transfer(net, parts, steps=10), Replay(net, images, counted.passes)
        ratios = [timed(attack, images, labels) / timed(alone) for _ in range(3 + rounds)][3:]
        low, middle, high = quantiles(ratios, n=4)
        print(f"{name}: {middle:.3f} ({low:.3f} to {high:.3f}), {len(counted.passes)} passes of {count} images")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
