"""What an adversarial copy of a data set was made from, in a file beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from advkit._io.files import write_atomic
from advkit._io.locks import held
from advkit._io.shards import Layout, as_numpy
from advkit._io.witness import is_known
from advkit.errors import InputError

__all__ = ["ANSWERS", "FORMAT", "MANIFEST", "claim", "identity", "layout_of", "read"]

MANIFEST = "manifest.json"
FORMAT = 2  # of the files: the records of the first had no checks
ANSWERS = "answers"  # of the model, which round otherwise on other devices, and tell no copy from another
_NEEDED = {"images", "shard_size", "image shape", "image dtype"}


def claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Claim the folder for this copy, or refuse it."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"{MANIFEST}.lock") as lock:
        for stale in folder.glob(f"{MANIFEST}*.tmp") if lock.exclusive else ():
            stale.unlink(missing_ok=True)
        if (folder / MANIFEST).exists():
            _compare(folder, manifest)
            return
        others = sorted(file.name for file in folder.iterdir() if not file.name.startswith(f"{MANIFEST}."))
        if others:
            raise InputError(
                f"{folder} is not empty (it holds {others[0]}) and has no {MANIFEST}; choose a new path for the copy"
            )
        text = json.dumps(manifest, indent=2) + "\n"
        write_atomic(folder / MANIFEST, lambda file: file.write(text.encode()), own=True)


def read(folder: Path) -> dict[str, Any]:
    """What a folder's manifest says.

    Raises:
        InputError: there is none, or it makes no sense.
    """
    file = folder / MANIFEST
    if not file.exists():
        raise InputError(f"{folder} holds no adversarial data set: it has no {MANIFEST}; generate writes one")
    try:
        manifest = json.loads(file.read_bytes())
        if not isinstance(manifest, dict) or not manifest.keys() >= _NEEDED:
            raise ValueError("it lacks the shape of the data")
        layout_of(manifest)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is damaged ({error}); delete {folder} and call generate again, or choose another path if this is "
            "another program's"
        ) from error
    return manifest


def layout_of(manifest: dict[str, Any]) -> Layout:
    """Which files there are, and what is in them.

    Raises:
        ValueError: the manifest does not say.
    """
    for name, least in (("images", 1), ("shard_size", 1)):
        _check_integer(name, manifest[name], least)
    shape, name = manifest["image shape"], manifest["image dtype"]
    if not isinstance(shape, list):
        raise ValueError(f"its image shape is {shape!r}")
    for size in shape:
        _check_integer("image shape", size, 0)
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    try:
        if not isinstance(dtype, torch.dtype) or str(dtype).startswith("torch.q"):  # quantised
            raise TypeError
        as_numpy(torch.empty(0, dtype=dtype, device="cpu"))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"its image dtype is {name!r}, and no image has that") from error
    return Layout(manifest["images"], manifest["shard_size"], tuple(shape), dtype)


def identity(manifest: dict[str, Any]) -> str:
    """A digest that tells this copy from others."""
    said = {name: value for name, value in manifest.items() if name != ANSWERS}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"its {name} is {value!r}")


def _compare(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a folder with another copy in it."""
    there = read(folder)
    differences = [
        f"{name} is {there.get(name)!r} there and {manifest.get(name)!r} here"
        for name in {**there, **manifest}
        if there.get(name) != manifest.get(name) and name != ANSWERS
    ]
    if not differences and ANSWERS in there and not is_known(there[ANSWERS], manifest[ANSWERS]):
        differences = ["the model has the same layers and weights, but other outputs for the first images"]
    if differences:
        raise InputError(
            f"{folder} holds an adversarial copy made with other arguments: {'; '.join(differences)}. Choose "
            "another path, or delete that one"
        )
