"""The model that a command line names, and its weights: importable names alone, and no code of a file is run."""

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advkit._command.written import arguments
from advkit.errors import InputError, MissingExtraError
from advkit.model import Normalized

__all__ = ["called", "load_weights", "model_named", "named"]

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def model_named(
    name: str,
    given: str = "",
    *,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    own_normalisation: bool = False,
    device: torch.device | None = None,
    surrogate: bool = False,
) -> nn.Module:
    """The model of a name such as ``my.module:make``, ready to be attacked.

    Args:
        name: what can be imported, also from the current directory: a function that makes the model, or the model.
        given: the arguments for the function, as they are written.
        weights: a file to load into it.
        mean: what the network wants its inputs normalised by; None where it takes pixels.
        std: likewise.
        own_normalisation: whether the model or its library says by what.
        device: where it goes.
        surrogate: whether it is one to transfer images from. One that is `Normalized` by itself is left as it is.
    """
    found = named(name, "--transfer-from" if surrogate else "--model")
    if not isinstance(found, nn.Module):
        found = called(found, name, given)
    if not isinstance(found, nn.Module):
        raise InputError(f"{name} returned a {type(found).__name__}, but a model must be a torch.nn.Module")
    model = found
    if weights is not None:
        load_weights(model, weights)
    if not (surrogate and isinstance(model, Normalized)):
        model = _normalised(model, mean, std, own_normalisation)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # the second where torch knows no CUDA
        raise InputError(f"the model cannot be put on {device}: {error}") from error


def called(function: Callable[..., Any], name: str, given: str = "") -> Any:
    """What a function of the user's returns, for arguments as they are written."""
    args, keywords = arguments(given)
    try:
        return function(*args, **keywords)
    except (Exception, SystemExit) as error:
        raise InputError(f"{name}({given}) raised {type(error).__name__}: {error}") from error


def named(name: str, option: str) -> Any:
    """What a name such as ``my.module:make`` stands for.

    Raises:
        InputError: it is no such name, or there is nothing of that name.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise InputError(
            f"{option} takes a name that Python can import, module:function, such as my.module:make or "
            f"torchvision.models:resnet18; got {name!r}. A file of weights goes to --weights"
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise InputError(f"there is no module {module!r}, neither installed nor in {here}") from error
        raise InputError(f"{module} imports {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{module} raised {type(error).__name__} when it was imported: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, not a function")
    return found


def load_weights(model: nn.Module, file: str) -> None:
    """Load a file of weights into a model, or into the network inside it that they belong to. None of its code runs.

    Raises:
        InputError: it is no file of weights, or one of another network: says which are missing.
        MissingExtraError: safetensors is not installed.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"there is no file {file} to load weights from")
    state = _tensors(_read(path), file)
    plain = {name: _without_prefix(state, name) for name in ("", *_PREFIXES)}
    count = len(list(model.parameters()))  # what is inside has to be all that learned, or the rest would stay random
    places = [place for place in model.modules() if len(list(place.parameters())) == count]
    for place in places:
        wanted = place.state_dict().keys()
        for candidate in plain.values():
            if candidate.keys() == wanted:
                try:
                    place.load_state_dict(candidate)
                except RuntimeError as error:
                    raise InputError(f"{file} does not fit the model: {error}") from error
                return
    wanted = model.state_dict().keys()
    missing, more = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
    raise InputError(
        f"{file} has the weights of another network: {len(missing)} are missing ({_few(missing)}), and {len(more)} are "
        f"unexpected ({_few(more)})"
    )


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingExtraError(
                f'{path} needs safetensors, which is not installed; run pip install "advkit[safetensors]"'
            ) from error
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, and loading it could run code, so it was not loaded. "
            "Save the weights alone, torch.save(model.state_dict(), ...), or as safetensors"
        ) from error
    except Exception as error:  # whatever the unpickling of junk comes to
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise InputError(f"{path} is not a file of weights that torch can read ({said})") from error


def _tensors(content: Any, file: str) -> dict[str, Tensor]:
    """The weights by name, wherever in a checkpoint they are."""
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file} has no weights by name, as torch.save(model.state_dict(), ...) writes them")
    return dict(content)


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _normalised(model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, own: bool) -> nn.Module:
    """The model behind its normalisation, so that what goes in are pixels."""
    if own:
        if mean is not None or std is not None:
            raise InputError("--own-normalisation reads mean and std from the model; omit --mean and --std")
        return Normalized.of(model)
    if (mean is None) != (std is None):
        raise InputError("a normalisation needs both --mean and --std")
    return model if mean is None or std is None else Normalized(model, mean, std)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
