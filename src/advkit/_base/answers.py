"""What a model returns, and what it says of itself: its logits among other things, and the images that it wants."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

from advkit.errors import InputError

__all__ = ["described", "found_in", "stated"]


def found_in(output: Any) -> Any:
    """The logits in what a model returned, where there is no doubt which they are; otherwise the output itself.

    They are what stands under ``logits``, as a key or as an attribute; or the first of a tuple or list, if that is a
    floating tensor (N, K), and nothing beside it is.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, (tuple, list)):
        flat = [_is_flat(part) for part in output]
        if flat[:1] == [True] and not any(flat[1:]):
            return output[0]
    return output


def stated(source: Any) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation that a network or its weights say images are to be normalised with.

    Raises:
        InputError: they say none.
    """
    makes = None if isinstance(source, nn.Module) else getattr(source, "transforms", None)
    said = makes() if callable(makes) else source  # torchvision's weights make theirs
    for name in ("pretrained_cfg", "default_cfg"):  # timm's; the second in old versions
        said = getattr(said, name, said)
    mean: Any
    std: Any
    for names in (("mean", "std"), ("image_mean", "image_std")):
        mean, std = (said.get(name) if isinstance(said, Mapping) else getattr(said, name, None) for name in names)
        if _are_numbers(mean) and _are_numbers(std):
            return mean, std
    raise InputError(
        f"{type(source).__name__} does not say what images it wants: it has no pretrained_cfg (as models of timm have) "
        "and no transforms() (as weights of torchvision have) with a mean and a std; give them yourself: "
        "advkit.Normalized(net, mean, std)"
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and len(values) > 0 and all(isinstance(one, Real) for one in values)


def described(output: Any) -> str:
    """What a model returned, in words."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(repr, output)) or 'nothing'}"
    if isinstance(output, (tuple, list)):
        return f"{type(output).__name__} of {', '.join(map(described, output)) or 'nothing'}"
    return type(output).__name__


def _is_flat(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()
