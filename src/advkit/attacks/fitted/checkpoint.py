"""The file that a fit goes on from."""

import json
from pathlib import Path
from typing import Any

import torch

from advkit._io.checkpoints import check_epochs, reading
from advkit._io.files import write_atomic
from advkit._io.identity import attack_identity, model_identity
from advkit._io.rng import AllGenerators
from advkit.attack import Attack
from advkit.errors import InputError

__all__ = ["Checkpoint"]


class Checkpoint:
    """Where a fit stands, in a file that is whole or absent.

    Args:
        path: the file; its directory is made if need be.
        attack: as it was before the fit.
    """

    def __init__(self, path: Path, attack: Attack) -> None:
        self.path = path
        self._of = json.dumps([attack_identity(attack), model_identity(attack.model)], sort_keys=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write the file: tensors, numbers, texts and containers of these; among them the count of ``epochs``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, lambda stream: torch.save({"of": self._of, **state}, stream))

    def load(self, epochs: int) -> dict[str, Any] | None:
        """The state that was saved; None if nothing was. No code in the file is run.

        Raises:
            InputError: it is no checkpoint, of another fit, or of one that went on for more epochs than these.
        """
        if not self.path.exists():
            return None
        with reading(self.path, "a fit"):
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            of, behind = state["of"], state["epochs"]
        if of != self._of:
            raise InputError(
                f"{self.path} is the checkpoint of another attack, or of the same on another model; choose another "
                "path, or delete it"
            )
        check_epochs(self.path, behind, epochs)
        return state

    def restore(self, chance: AllGenerators, state: dict[str, Any]) -> None:
        """Have random numbers go on where they were.

        Raises:
            InputError: there are other generators.
        """
        try:
            chance.restore(state["chance"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"{self.path} was written with other generators of random numbers ({error}); give the attack, the "
                "loader and its sampler generators as they had, or choose another path"
            ) from error
