"""The file that a training goes on from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from advkit._io.checkpoints import check_epochs, read, write
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
        settings: gives by name what else has to be as it was.
    """

    def __init__(self, path: Path, recipe: str, model: nn.Module, settings: Callable[[], Mapping[str, object]]) -> None:
        self.path = path
        self._recipe, self._model, self._settings = recipe, model, settings
        self._before = self._described()

    def save(self, history: list[Epoch], state: dict[str, Any]) -> None:
        """Write the file.

        Args:
            history: of the training so far.
            state: of all that training changes: tensors, numbers, texts and containers of these.
        """
        now = self._described()
        unchanged = {name: text for name, text in self._before.items() if now.get(name) == text}  # no counters
        epochs = [asdict(epoch) for epoch in history]
        write(self.path, {"recipe": self._recipe, "described": unchanged, "history": epochs, **state})

    def load(self, epochs: int) -> tuple[list[Epoch], dict[str, Any]] | None:
        """The history and the state that were saved; None if nothing was. No code in the file is run.

        Raises:
            InputError: it is no checkpoint, of another training, or of one that went on for more epochs than these.
        """
        if not self.path.exists():
            return None
        content, recipe, history = read(
            self.path, "advkit", lambda its: (its, its["recipe"], [Epoch(**epoch) for epoch in its["history"]])
        )
        if recipe != self._recipe:
            raise InputError(
                f"{self.path} is a checkpoint of {recipe}, but this is {self._recipe}; choose another path, or delete "
                "it"
            )
        check_epochs(self.path, len(history), epochs)
        if others := differences(content.get("described", {}), self._before):
            raise of_another(self.path, "; ".join(others))
        return history, content

    def _described(self) -> dict[str, str]:
        texts = {name: json.dumps(value, sort_keys=True) for name, value in self._settings().items()}
        return {**description(self._model), **texts}


def of_another(path: Path, why: object) -> InputError:
    """The error of a checkpoint that fits something else than what is trained here."""
    return InputError(
        f"{path} belongs to another model, recipe, optimizer, scheduler or loader: {why}. Choose another path, or make "
        "them as they were"
    )
