"""The state of all that random numbers come from: read, put back, and set by a seed."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["AllGenerators", "DefaultGenerators", "repeatable"]


class DefaultGenerators:
    """torch's default generators: the CPU's, and that of an accelerator beside it.

    Args:
        device: where numbers are drawn besides the CPU; None for nowhere.
    """

    def __init__(self, device: torch.device | None) -> None:
        kind = "cpu" if device is None else device.type
        self._device = device
        self._accelerator = None if kind == "cpu" else getattr(torch, kind, None)  # none for "meta"
        self._place = () if kind == "mps" else (device,)  # there is only one, and its functions take none

    def state(self) -> dict[str, Tensor | None]:
        """The state, in tensors on the CPU."""
        beside = None if self._accelerator is None else self._accelerator.get_rng_state(*self._place)
        return {"torch": torch.default_generator.get_state(), "accelerator": beside}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        torch.default_generator.set_state(state["torch"])
        if self._accelerator is not None and state["accelerator"] is not None:
            self._accelerator.set_rng_state(state["accelerator"], *self._place)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """What is drawn here depends on the seed alone; afterwards the generators go on where they were."""
        before = self.state()
        try:
            torch.default_generator.manual_seed(seed)
            if self._accelerator is not None:
                with self._accelerator.device(self._device) if self._place else nullcontext():
                    self._accelerator.manual_seed(seed)  # of the current device
            yield
        finally:
            self.restore(before)


class AllGenerators:
    """All that random numbers come from: the default generators of torch, numpy and Python, and further ones.

    Args:
        device: as for `DefaultGenerators`.
        generators: the further ones; None and repetitions are left out.
    """

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator | None]) -> None:
        self._defaults = DefaultGenerators(device)
        self._others = list({id(one): one for one in generators if one is not None}.values())

    def state(self) -> dict[str, Any]:
        """The state, in tensors, numbers and lists, which can be read without running any code."""
        name, keys, *rest = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [name, np.asarray(keys).tolist(), *rest],
            **self._defaults.state(),
            "generators": [generator.get_state() for generator in self._others],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(state["numpy"]))
        self._defaults.restore(state)
        for generator, its in zip(self._others, state["generators"], strict=True):
            generator.set_state(its)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """What is drawn here is drawn again afterwards."""
        before = self.state()
        try:
            yield
        finally:
            self.restore(before)


@contextmanager
def repeatable(seed: int | None, *names: object, device: torch.device) -> Iterator[None]:
    """What is drawn here from torch's default generators depends on the seed and the names alone.

    Afterwards they go on where they were.

    Args:
        seed: where the random numbers come from; None to let the default generators run on.
        names: what the numbers are for; other names get other numbers.
        device: where they are drawn besides the CPU.
    """
    if seed is None:
        yield
        return
    number = int.from_bytes(blake2b(repr((seed, *names)).encode(), digest_size=7).digest(), "big")
    with DefaultGenerators(device).seeded(number):
        yield
