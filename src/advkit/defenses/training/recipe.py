"""What one way of training has of its own. The loop around it is the same for all, see `loop`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit.defenses.training.network import Network

__all__ = ["Batch", "Recipe"]


@dataclass(frozen=True)
class Batch:
    """What a model is trained on in one step, on the model's device.

    Attributes:
        images: floating (N, ...), N at least 1.
        labels: int64 (N,).
        turn: which batch it is: one more than the batch before, and one more at the start of each epoch than at the
            start of the epoch before. What takes turns does so in epochs of any length.

    Examples:
        >>> from advkit.defenses.training import Batch
        >>> Batch(images, labels).turn
        0
    """

    images: Tensor
    labels: Tensor
    turn: int = 0


class Recipe(ABC):
    """A way of training: what the loss of a batch is, what stands around the network meanwhile, and how often.

    For each batch the loop does this, ``replays`` times:

        with recipe.around(network, batch):
            recipe.loss(network, batch).backward()
        optimizer.step()

    Attributes:
        replays: how often a batch is trained on before the next one comes.

    Examples:
        >>> from torch.nn.functional import cross_entropy
        >>> class OnNoise(advkit.defenses.training.Recipe):
        ...     def loss(self, network, batch):
        ...         return cross_entropy(network(batch.images + 0.1 * torch.randn_like(batch.images)), batch.labels)
        >>> OnNoise().replays
        1
    """

    replays: int = 1

    def __repr__(self) -> str:
        """The name and the numbers, by which a checkpoint knows its recipe."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, (bool, int, float, str))}
        shown = ", ".join(f"{name}={value!r}" for name, value in numbers.items() if not name.startswith("_"))
        return f"{type(self).__name__}({shown})"

    @abstractmethod
    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar to be differentiated.

        Validation asks for it too, in eval mode and without `around`: ``network.training`` tells.

        Args:
            network: the model in training, images (N, ...) to logits (N, K). Attacks may be pointed at it.
            batch: what it is trained on.
        """

    def around(self, network: Network, batch: Batch) -> AbstractContextManager[None]:
        """What stands around the network while the loss is computed and differentiated; nothing by default.

        It is entered before `loss` and left after the backward pass, with gradients in place, before the optimizer's
        step. Whatever it does to the weights it has to undo, also after an exception.

        Args:
            network: as for `loss`.
            batch: as for `loss`.
        """
        return nullcontext()

    def generators(self) -> Sequence[torch.Generator | None]:
        """Where the loss draws random numbers from, besides the default generators: checkpoints have their state."""
        return ()
