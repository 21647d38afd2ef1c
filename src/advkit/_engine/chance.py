"""Everything that training draws random numbers from, to be saved and put back."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["Chance"]


class Chance:
    """The state of all that random numbers come from: torch's, numpy's and Python's RNGs, and generators."""

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator | None]) -> None:
        self.generators = list({id(one): one for one in generators if one is not None}.values())
        self.accelerator = None if device.type == "cpu" else getattr(torch, device.type)
        self.place = () if device.type == "mps" else (device,)  # there is only one, and its functions take none

    def state(self) -> dict[str, Any]:
        """The state, in tensors, numbers and lists, which can be read without running any code."""
        name, keys, *rest = np.random.get_state(legacy=True)
        return {
            "python": random.getstate(),
            "numpy": [name, np.asarray(keys).tolist(), *rest],
            "torch": torch.get_rng_state(),
            "accelerator": None if self.accelerator is None else self.accelerator.get_rng_state(*self.place),
            "generators": [generator.get_state() for generator in self.generators],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(state["numpy"]))
        torch.set_rng_state(state["torch"])
        if self.accelerator is not None and state["accelerator"] is not None:
            self.accelerator.set_rng_state(state["accelerator"], *self.place)
        for generator, its in zip(self.generators, state["generators"], strict=True):
            generator.set_state(its)

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """What is drawn inside is drawn again afterwards."""
        before = self.state()
        try:
            yield
        finally:
            self.restore(before)
