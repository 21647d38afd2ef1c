"""The file that a fit goes on from."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from advkit._io.checkpoints import check_epochs, read, write
from advkit._io.identity import attack_identity, model_identity
from advkit._io.rng import AllGenerators
from advkit._io.witness import introduced, is_known
from advkit.attack import Attack
from advkit.errors import InputError

__all__ = ["Checkpoint"]

_NEEDED = ("of", "epochs", "images", "answers")


class Checkpoint:
    """Where a fit stands, in a file that is whole or absent.

    Args:
        path: the file; its directory is made if need be.
        attack: as it was before the fit.
    """

    def __init__(self, path: Path, attack: Attack) -> None:
        self.path = path
        self._model = attack.model
        self._of = json.dumps([attack_identity(attack), model_identity(attack.model)], sort_keys=True)
        self._seen: dict[str, Any] = {}  # a few images and what the model answers to them, to know it again by

    def save(self, state: dict[str, Any], images: Tensor) -> None:
        """Write the file.

        Args:
            state: tensors, numbers, texts and containers of these; among them the count of ``epochs``.
            images: (n, ...), a few to know the model again by, n at least 1.
        """
        self._seen = self._seen or {"images": images, "answers": introduced(self._model, images)}
        write(self.path, {"of": self._of, **self._seen, **state})

    def load(self, epochs: int) -> dict[str, Any] | None:
        """The state that was saved; None if nothing was. No code in the file is run.

        Raises:
            InputError: it is no checkpoint, of another fit, or of one that went on for more epochs than these.
        """
        if not self.path.exists():
            return None
        state = read(self.path, "a fit", lambda content: {name: content[name] for name in (*_NEEDED, *content)})
        self._seen = {name: state[name] for name in ("images", "answers")}
        if state["of"] != self._of or not is_known(state["answers"], introduced(self._model, state["images"])):
            raise InputError(
                f"{self.path} is the checkpoint of another attack, or of the same on another model; choose another "
                "path, or delete it"
            )
        check_epochs(self.path, state["epochs"], epochs)
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
                f"{self.path} was written with other random generators ({error}); give the attack, the loader and its "
                "sampler the generators that they had, or choose another path"
            ) from error
