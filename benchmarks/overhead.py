"""The time of transfer attacks over that of their passes alone: the same forwards and backwards, and nothing else.

python benchmarks/overhead.py [ROUNDS] [IMAGES]

By the CPU time of this process, in one thread, on the benchmarks' CNN and random images. Each round times the attack
and, twice, its passes alone, in random order, so that whatever else the machine does meets all of them; what is printed
is the median of the ratios, and the quartiles. That of the passes to themselves says how far to trust the other.
"""

import random
import sys
from functools import partial
from statistics import quantiles
from time import process_time

import torch
from networks import cnn
from passes import Counted, Replay

import advkit
from advkit.attacks.transfer import InputDiversity, Momentum, TranslationKernel


def in_turns(calls):
    """The CPU time of each call, in seconds, once each in random order."""
    spent = {}
    for name in random.sample(list(calls), len(calls)):
        start = process_time()
        calls[name]()
        spent[name] = process_time() - start
    return spent


def told(ratios):
    """Their median and quartiles."""
    low, middle, high = quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


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
        calls = {"attack": partial(attack, images, labels), "passes": alone, "again": alone}
        spent = [in_turns(calls) for _ in range(3 + rounds)][3:]
        over, itself = ([each[which] / each["passes"] for each in spent] for which in ("attack", "again"))
        print(f"{name}: {told(over)}, the passes to themselves {told(itself)}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
