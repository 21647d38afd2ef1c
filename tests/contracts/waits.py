"""How often the host waits for a GPU."""

import warnings
from collections.abc import Callable

import torch

__all__ = ["host_waits"]


def host_waits(call: Callable[[], object]) -> int:
    """How often it does so in a call, by torch's debug mode."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(each.message) for each in caught)
