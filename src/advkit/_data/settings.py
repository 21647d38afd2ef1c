"""How a `DataLoader` was made, for whoever makes another like it."""

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

__all__ = ["OF_WORKERS", "settings_of"]

OF_WORKERS = ("num_workers", "worker_init_fn", "multiprocessing_context", "prefetch_factor", "timeout")
_OF_BATCHES = ("batch_size", "collate_fn", "pin_memory", "drop_last", "generator", "persistent_workers")


def settings_of(loader: DataLoader[Any], names: Iterable[str] = (*OF_WORKERS, *_OF_BATCHES)) -> dict[str, Any]:
    """The arguments that a loader was made with, apart from its data set and its order, by name."""
    return {name: getattr(loader, name) for name in names}
