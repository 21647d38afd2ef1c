"""What each attack costs, held to ``costs.json``: passes and memory, which a busy machine does not change.

After a change that is meant to cost more, or that costs less: ``PYTHONPATH=tests python tests/contracts/test_cost.py``
records what there is now.
"""

import json
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from contracts.cases import CASES, Case, each_variant
from contracts.scenes import Passes, trained_net

RECORD = Path(__file__).with_name("costs.json")
SLACK = 1.1  # another machine rounds otherwise, and a search may take a step more


class Memory(TorchDispatchMode):
    """The most bytes that the tensors made inside take up at a time, among them those that a graph keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {each.untyped_storage()._cdata for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)}
        output = func(*args, **(kwargs or {}))
        for made in tree_iter(output):
            if not isinstance(made, Tensor):
                continue
            storage = made.untyped_storage()
            if storage._cdata not in before and storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                self.total += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.total)
        return output

    def _gone(self, storage: int) -> None:
        self.total -= self.alive.pop(storage)


def costs(case: Case) -> dict[str, float]:
    """Forwards and backwards for an image, and the memory for it over its own."""
    network, images, labels = trained_net()
    model = Passes(network)
    case.make(model)(images, labels)
    with Memory() as memory:
        case.make(network)(images, labels)
    return {
        "forwards": sum(model.forwards) / len(images),
        "backwards": sum(model.backwards) / len(images),
        "memory": round(memory.peak / images.nbytes, 2),
    }


@each_variant()
def test_no_attack_costs_more_than_it_did(case: Case) -> None:
    recorded = json.loads(RECORD.read_text())[case.name]
    for name, cost in costs(case).items():
        assert cost <= SLACK * recorded[name], f"{name}: {cost:g}, and it was {recorded[name]:g}"


def test_memory_is_what_lives_at_a_time() -> None:
    images = torch.zeros(1000)
    with Memory() as memory:
        images.view(10, 100).add_(1)
        assert memory.peak == 0
        for _ in range(3):
            images = images + 1
        assert memory.peak == 2 * images.nbytes
        leaf = images.requires_grad_()
        (gradient,) = torch.autograd.grad(leaf.square().exp().sum(), leaf)
        del gradient
        assert sum(memory.alive.values()) == images.nbytes
    assert memory.peak >= 5 * images.nbytes


if __name__ == "__main__":
    RECORD.write_text(json.dumps({case.name: costs(case) for case in CASES}, indent=2) + "\n")
