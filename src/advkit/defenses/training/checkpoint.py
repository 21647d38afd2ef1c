"""The file that a training goes on from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advkit._io.checkpoints import check_epochs, reading
from advkit._io.files import write_atomic
from advkit._io.fingerprint import description, differences
from advkit.defenses.training.epoch import Epoch
from advkit.errors import InputError

__all__ = ["Checkpoint", "of_another"]


class Checkpoint:
    """Where a training stands, in a file that is whole or absent.

    Args:
        path: the file; its directory is made if need be.
        recipe: how the model is trained, in words.
        model: the model, before training.
    """

    def __init__(self, path: Path, recipe: str, model: nn.Module) -> None:
        self.path = path
        self._recipe, self._model = recipe, model
        self._before = description(model)

    def save(self, history: list[Epoch], state: dict[str, Any]) -> None:
        """Write the file.

        Args:
            history: of the training so far.
            state: of all that training changes: tensors, numbers, texts and containers of these.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = description(self._model)
        unchanged = {name: text for name, text in self._before.items() if now.get(name) == text}  # no counters
        epochs = [asdict(epoch) for epoch in history]
        whole = {"recipe": self._recipe, "described": unchanged, "history": epochs, **state}
        write_atomic(self.path, lambda stream: torch.save(whole, stream))

    def load(self, epochs: int) -> tuple[list[Epoch], dict[str, Any]] | None:
        """The history and the state that were saved; None if nothing was. No code in the file is run.

        Raises:
            InputError: it is no checkpoint, of another training, or of one that went on for more epochs than these.
        """
        if not self.path.exists():
            return None
        with reading(self.path, "advkit"):
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            recipe, history = content["recipe"], [Epoch(**epoch) for epoch in content["history"]]
        if recipe != self._recipe:
            raise InputError(
                f"{self.path} is a checkpoint of {recipe}, and this is {self._recipe}; choose another path, or delete "
                "it"
            )
        check_epochs(self.path, len(history), epochs)
        if others := differences(content.get("described", {}), self._before):
            raise of_another(self.path, "; ".join(others))
        return history, content


def of_another(path: Path, why: object) -> InputError:
    """The error of a checkpoint that fits something else than what is trained here."""
    return InputError(
        f"{path} is of another model, optimizer, scheduler or loader: {why}. Choose another path, or make them as they "
        "were"
    )
