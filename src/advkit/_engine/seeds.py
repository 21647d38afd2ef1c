"""Random numbers that can be had again, without a trace in torch's default generators."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b

import torch

__all__ = ["repeatable"]


@contextmanager
def repeatable(seed: int | None, *names: object, device: torch.device) -> Iterator[None]:
    """What is drawn here from the default generators depends on the seed and the names alone.

    Afterwards they go on where they were.

    Args:
        seed: where the random numbers come from; None to let the default generators run on.
        names: what the numbers are for; other names get other numbers.
        device: where they are drawn, beside the CPU.
    """
    if seed is None:
        yield
        return
    number = int.from_bytes(blake2b(repr((seed, *names)).encode(), digest_size=7).digest(), "big")
    module = getattr(torch, device.type) if device.type in ("cuda", "xpu", "mps") else None
    place = () if device.type == "mps" else (device,)  # there is one, which its functions take no argument for
    before = torch.default_generator.get_state()
    before_beside = module.get_rng_state(*place) if module else None
    try:
        torch.default_generator.manual_seed(number)
        if module:
            with nullcontext() if device.type == "mps" else module.device(device):
                module.manual_seed(number)  # of the current device
        yield
    finally:
        torch.default_generator.set_state(before)
        if module:
            module.set_rng_state(before_beside, *place)
