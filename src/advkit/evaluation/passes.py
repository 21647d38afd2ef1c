"""How often a network is asked and differentiated, whatever stands around it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advkit.attack import Attack
from advkit.evaluation.flags import number
from advkit.model import Model, defended

__all__ = ["Asked", "Passes", "counting", "foreseen"]

_USUAL = 50  # forwards per image, of an attack that does not say how many it takes


class Asked(nn.Module):
    """Any callable as a module, which hooks can be put on."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = (model,)  # where no module looks for submodules: a callable may be a module's method

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, ...)."""
        return self._model[0](images)


@dataclass
class Passes:
    """Passes of single images through a network: a batch of n counts n.

    Attributes:
        forwards: how many images it answered.
        backwards: how many answers were differentiated, each as often as that was done.
    """

    forwards: int = 0
    backwards: int = 0


def foreseen(attack: Attack) -> float:
    """About how many forwards an attack may take for an image, from what it was made with: for a bar, not a number."""
    of = {name: value for name in ("max_queries", "steps", "restarts", "n") if (value := number(attack, name))}
    return of.get("max_queries") or of.get("steps", _USUAL) * of.get("restarts", of.get("n", 1))


@contextmanager
def counting(model: nn.Module, passes: Passes, counted: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Add the passes through the network at the heart of a model to ``passes`` while this lasts.

    That is the model itself, or what the defenses in it defend: a surrogate that averages over ten draws asks it ten
    times.

    Args:
        model: the model.
        passes: what to add them to.
        counted: called after each forward.
    """

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            passes.forwards += output.shape[:1].numel()  # 1 of a scalar, which is for others to refuse
            if output.requires_grad:
                output.register_hook(differentiated)
        counted()

    def differentiated(gradient: Tensor) -> None:
        passes.backwards += gradient.shape[:1].numel()

    with ExitStack() as hooks:
        for network in _networks(model) or [model]:
            hooks.callback(network.register_forward_hook(note).remove)
        yield


def _networks(model: Model | Callable[..., object], within: tuple[object, ...] = ()) -> list[nn.Module]:
    """The undefended networks in a model, each once, as far as hooks can be put on them.

    A network that is counted already has a hook, through which it may be seen to hold what it is ``within``.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module  # which is what is attacked, without a word to the other processes
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return []
    found = [] if any(model is one for one in within) else defended(model)
    if not found:
        return [model]
    inside = (*within, model)
    return list(dict.fromkeys(network for one in found for network in _networks(one.undefended, inside)))
