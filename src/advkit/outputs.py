"""What a network returns, as logits (N, K): from a single logit, or from an output with other things in it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advkit._base.answers import described, found_in
from advkit.errors import InputError, ModelError

__all__ = ["Logits", "TwoClass"]


class TwoClass(nn.Module):
    """A network with one logit for two classes, as a classifier: logits (-z/2, z/2), of class 0 and of class 1.

    Their softmax gives class 1 the probability sigmoid(z), and the model predicts class 1 where z is positive. Labels
    are 0 and 1.

    Args:
        net: images (N, ...) to one logit each, (N,) or (N, 1), as `torch.nn.BCEWithLogitsLoss` wants it; not a
            probability.

    Raises:
        ModelError: when called, if the network returned anything else.

    Examples:
        >>> cat_or_dog = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 1))
        >>> two = advkit.TwoClass(cat_or_dog)
        >>> z = cat_or_dog(images).squeeze(1)
        >>> torch.allclose(two(images).softmax(1)[:, 1], z.sigmoid(), atol=1e-6)
        True
        >>> advkit.DeepFool(two).run(images, (z > 0).long())
        AdversarialResult(12 of 12 successful)
    """

    def __init__(self, net: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(net):
            raise InputError(f"net must be a network with one logit; got {type(net).__name__}")
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, ...)."""
        z = found_in(self.net(images))
        if not isinstance(z, Tensor) or z.shape not in ((len(images),), (len(images), 1)):
            seen = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(
                f"TwoClass needs a network with one logit per image, (N,) or (N, 1); it returned {seen} for "
                f"{len(images)} images"
            )
        half = z.reshape(-1) / 2
        return torch.stack([-half, half], 1)


class Logits(nn.Module):
    """A network that returns more than its logits, as a model that returns them alone.

    It is not needed where the logits are recognisable: by themselves, attacks take ``output.logits`` or
    ``output["logits"]``, as in Hugging Face models and torchvision's Inception, and the first element of a tuple or
    list in which nothing else has two dimensions (N, K).

    Args:
        net: images (N, ...) to something with logits in it.
        key: where they are: their key or attribute, their index in a tuple or list, or a function of the whole output
            that returns them; None for the rule above.

    Raises:
        ModelError: when called, if nothing is there.

    Examples:
        >>> with_features = lambda pixels: {"features": pixels.flatten(1), "scores": model(pixels)}
        >>> alone = advkit.Logits(with_features, key="scores")
        >>> torch.equal(alone(images), model(images))
        True
        >>> last = advkit.Logits(with_features, key=lambda output: output["scores"].log_softmax(1))
        >>> advkit.PGD(last).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    def __init__(self, net: Callable[[Tensor], Any], key: str | int | Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        if not callable(net):
            raise InputError(f"net must be a network; got {type(net).__name__}")
        if isinstance(key, bool) or not (key is None or callable(key) or isinstance(key, (str, int))):
            raise InputError(
                f"key must be a key, an attribute, an index or a function that finds the logits; got {key!r}"
            )
        self.net, self.key = net, key

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...)."""
        output = self.net(images)
        found = found_in(output) if self.key is None else self._at(output, self.key)
        if not isinstance(found, Tensor):
            where = "by itself" if self.key is None else f"at {self.key!r}"
            raise ModelError(f"Logits found no tensor {where} in what the network returned: {described(output)}")
        return found

    def _at(self, output: Any, key: str | int | Callable[[Any], Tensor]) -> Any:
        if callable(key):
            return key(output)
        try:
            return output[key]
        except (KeyError, IndexError, TypeError):
            return getattr(output, key, None) if isinstance(key, str) else None

    def extra_repr(self) -> str:
        """The key of the logits."""
        return "" if self.key is None else f"key={self.key!r}"
