"""The examples in public docstrings run, and say what comes out."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

import advkit
from docs.reader import readers_own

# Where each public class and function has an example.
COMPLETE = (
    "advkit.attack",
    "advkit.data",
    "advkit.defenses",
    "advkit.transforms",
    # The attacks, and what they stand on.
    "advkit.attacks",
    "advkit.black_box",
    "advkit.goals",
    "advkit.losses",
    "advkit.norms",
    # Models, numbers, reports.
    "advkit.errors",
    "advkit.evaluation",
    "advkit.hyperparameters",
    "advkit.model",
    "advkit.outputs",
    # Of which advkit.parts has all.
    "advkit._engine.ball",
    "advkit._engine.iterate",
    "advkit._engine.keeps",
    "advkit._engine.looks",
    "advkit._engine.rows",
)


def imported(name: str) -> ModuleType | None:
    """A module of advkit's; None for one that is for a library which is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if not name.startswith("advkit.integrations."):
            raise
        return None


def public() -> dict[str, object]:
    """The classes and functions that advkit's modules name in ``__all__``, by where they are defined."""
    found = {}
    for module in [
        advkit,
        *filter(None, (imported(one.name) for one in pkgutil.walk_packages(advkit.__path__, "advkit."))),
    ]:
        if any(part.startswith("_") for part in module.__name__.split(".")):
            continue
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


PUBLIC = public()
EXAMPLES = {
    name: doctest.DocTestFinder(recurse=False).find(thing, name, globs={})[0]
    for name, thing in PUBLIC.items()
    if thing.__doc__ and ">>>" in thing.__doc__
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where an example that saves something may leave it
    example = EXAMPLES[name]
    example.globs.update(readers_own(), advkit=advkit, torch=torch)
    said: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.parametrize("module", COMPLETE)
def test_each_public_class_and_function_has_an_example(module: str) -> None:
    things = [getattr(importlib.import_module(module), name) for name in importlib.import_module(module).__all__]
    names = [
        f"{one.__module__}.{one.__qualname__}" for one in things if inspect.isclass(one) or inspect.isfunction(one)
    ]
    assert names
    assert [name for name in names if name not in EXAMPLES] == []
