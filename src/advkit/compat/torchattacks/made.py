"""How a row of the table, from torchattacks' arguments to an attack of advkit, becomes a class."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from advkit import attack
from advkit.compat.torchattacks.attack import Attack

__all__ = ["Made", "drawing", "named", "row", "untargeted"]

Row = Callable[..., attack.Attack]
_ANYHOW = inspect.Parameter.POSITIONAL_OR_KEYWORD
_SAME: Mapping[str, str] = MappingProxyType({})


class Made(Attack):
    """An attack that wraps one of advkit's, made anew for each batch: its numbers may be changed in between.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> attack = torchattacks.PGD(model, steps=5)
        >>> attack.eps = 4 / 255
        >>> bool(((attack(images, labels) - images).abs() <= 4 / 255 + 1e-6).all())
        True
    """

    __signature__: ClassVar[inspect.Signature]
    made: ClassVar[Row]  # from a model that is shown pixels, and the numbers
    modes: ClassVar[tuple[str, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self.__signature__.bind(*args, **kwargs)
        given.apply_defaults()
        super().__init__(type(self).__name__, given.arguments.pop("model"))
        self.supported_mode = list(self.modes)
        self._numbers = tuple(given.arguments)
        vars(self).update(given.arguments)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pixels to pixels, on the attack's device."""
        images, targets = inputs.detach().to(device=self.device), None
        if self.targeted:
            targets = self.get_target_label(inputs, labels).to(images.device)
            labels = (targets == 0).to(targets)  # any other class: only the targets matter
        elif labels is None:
            labels = self.get_output_with_eval_nograd(images).argmax(1)
        numbers = {name: getattr(self, name) for name in self._numbers}
        found = self.made(self.on_pixels, **numbers)(images, labels.to(images.device), targets=targets)
        return found.contiguous()  # for who takes a view of it: a model in channels last leaves its layout on it


def row(made: Row, modes: tuple[str, ...] = ("default", "targeted")) -> type[Made]:
    """The class that has the name and the arguments of a function, which makes an attack of advkit of them."""
    contents = {
        "__doc__": made.__doc__,
        "__module__": made.__module__,
        "__signature__": inspect.signature(made),
        "made": staticmethod(made),
        "modes": modes,
    }
    made_of: type[Made] = type(made.__name__, (Made,), contents)
    return made_of


def untargeted(made: Row) -> type[Made]:
    """The same for an attack that torchattacks does not aim at a class."""
    return row(made, ("default",))


def named(
    name: str,
    made: Row,
    defaults: Mapping[str, Any],
    *,
    renamed: Mapping[str, str] = _SAME,
    unread: Sequence[str] = (),
    aimed: bool = True,
) -> type[Made]:
    """The class of a row that only renames.

    Args:
        name: torchattacks' name.
        made: makes the attack, from the model and the numbers.
        defaults: torchattacks' arguments after the model, in order.
        renamed: what ``made`` calls an argument that has another name there.
        unread: arguments that say nothing to advkit.
        aimed: whether torchattacks aims it at a class.
    """

    def making(model: Any, **numbers: Any) -> attack.Attack:
        return made(model, **{renamed.get(key, key): numbers[key] for key in numbers if key not in unread})

    parameters = [inspect.Parameter("model", _ANYHOW)]
    parameters += [inspect.Parameter(key, _ANYHOW, default=value) for key, value in defaults.items()]
    making.__name__, making.__signature__ = name, inspect.Signature(parameters)  # type: ignore[attr-defined]
    return row(making) if aimed else untargeted(making)


def drawing(seed: int | None) -> torch.Generator | None:
    """Where an attack with a seed draws from: the same numbers each time, and nobody else's."""
    return None if seed is None else torch.Generator().manual_seed(seed)
