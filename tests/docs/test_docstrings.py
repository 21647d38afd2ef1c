"""The examples in public docstrings run, and say what comes out."""

import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType, NoneType

import pytest
import torch

import advkit
import advkit.evaluation
import advkit.integrations
from advkit.hyperparameters import OfEps, OfRange
from docs.reader import readers_own

ROOT = Path(__file__).parents[2]
# What has no example, and why that is.
WITHOUT = {
    **dict.fromkeys(("Access", "Aim", "Confusion", "Loss", "Model"), "a type, which the text beneath it explains"),
    **dict.fromkeys(("BARE", "PROTOCOLS", "__version__"), "a value, which the text beneath it explains"),
    **dict.fromkeys(("L0", "L1", "L2", "Linf"), "an object, which the example of Norm shows"),
}
# Whose public methods are held to it as well: each is in an example of its own, or in that of its class.
WITH_METHODS = (
    advkit.Attack,
    advkit.AdversarialResult,
    advkit.Defense,
    *(thing for name in advkit.evaluation.__all__ if inspect.isclass(thing := getattr(advkit.evaluation, name))),
)


def imported(name: str) -> ModuleType | None:
    """A module of advkit's; None for one that is for a library which is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if not name.startswith("advkit.integrations."):
            raise
        return None


@cache
def modules() -> dict[str, ModuleType]:
    """advkit's modules, but for those that are for a library which is not installed."""
    found = {one.name: imported(one.name) for one in pkgutil.walk_packages(advkit.__path__, "advkit.")}
    return {"advkit": advkit, **{name: module for name, module in found.items() if module}}


def public() -> dict[str, object]:
    """What advkit's modules without an underscore name in ``__all__``, by where it is defined."""
    found = {}
    for name, module in modules().items():
        if not any(part.startswith("_") for part in name.split(".")):
            found |= {where(module, one): getattr(module, one) for one in getattr(module, "__all__", ())}
    return found


def where(module: ModuleType, name: str) -> str:
    """The full name of something in a module: that of its definition, if it has one."""
    thing = getattr(module, name)
    if inspect.ismodule(thing):
        return thing.__name__
    defined = inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing))
    return f"{thing.__module__}.{thing.__qualname__}" if defined else f"{module.__name__}.{name}"


def documented() -> list[str]:
    """What users are told of: all of the modules that they import from, and what else the reference shows."""
    shown = {name: None for name in modules() if name.count(".") < 2 and "._" not in name}
    shown |= dict.fromkeys(("advkit.attacks.transfer", "advkit.compat.torchattacks"))
    shown |= {name: None for name in modules() if name.startswith("advkit.integrations.") and "._" not in name}
    for page in sorted((ROOT / "docs" / "api").glob("**/*.md")):
        for name, options in re.findall(r"^::: (\S+)((?:\n  .*)*)", page.read_text(encoding="utf-8"), re.MULTILINE):
            members = re.search(r"members: \[(.*)\]", options)
            if name in modules() and name not in shown and "members: false" not in options:
                shown[name] = members[1].split(", ") if members else None
    return sorted(
        {
            where(modules()[module], name)
            for module, names in shown.items()
            for name in names or getattr(modules()[module], "__all__", ())
        }
    )


PUBLIC = public()
EXAMPLES = {
    name: doctest.DocTestFinder(recurse=False).find(inspect.unwrap(thing), name, globs={})[0]
    for name, thing in PUBLIC.items()
    if (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing)))
    and thing.__doc__
    and ">>>" in thing.__doc__
}
METHODS = {
    f"{kind.__module__}.{kind.__qualname__}.{name}": (kind, getattr(thing, "fget", getattr(thing, "__func__", thing)))
    for kind in WITH_METHODS
    for name, thing in vars(kind).items()
    if (name == "__call__" or not name.startswith("_")) and isinstance(thing, (FunctionType, classmethod, property))
}
EXAMPLES |= {
    name: doctest.DocTestFinder(recurse=False).find(thing, name, globs={})[0]
    for name, (_, thing) in METHODS.items()
    if ">>>" in (thing.__doc__ or "")
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where an example that saves something may leave it
    run(EXAMPLES[name])


@pytest.mark.parametrize(
    ("name", "library", "base"),
    [("lightning", "lightning.pytorch", "Callback"), ("transformers", "transformers", "TrainerCallback")],
)
def test_the_example_of_a_callback_runs(name: str, library: str, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its library is not installed: it needs no more of it than the base of its class."""
    if (module := imported(inside := f"advkit.integrations.{name}")) is None:
        for stand_in in dict.fromkeys((library.partition(".")[0], library)):
            monkeypatch.setitem(sys.modules, stand_in, ModuleType(stand_in))
        setattr(sys.modules[library], base, object)
        monkeypatch.setitem(sys.modules, inside, ModuleType(inside))  # so that what is imported now is gone afterwards
        monkeypatch.setattr(advkit.integrations, name, None, raising=False)
        del sys.modules[inside]
        module = importlib.import_module(inside)
    (thing,) = (getattr(module, one) for one in module.__all__)
    run(doctest.DocTestFinder(recurse=False).find(thing, name, globs={})[0])


def run(example: doctest.DocTest) -> None:
    """Run the examples of a docstring."""
    example.globs.update(readers_own(), advkit=advkit, torch=torch)
    said: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


def test_each_public_name_has_an_example() -> None:
    """Or stands among those `WITHOUT`."""
    names = documented()
    assert {"advkit.attacks.budget.pgd.PGD", "advkit.attacks.transfer.start.RandomStart", "advkit.goals"} <= {*names}
    bare = [name for name in names if ">>>" not in (inspect.getdoc(PUBLIC[name]) or "")]
    assert [name for name in bare if name.rpartition(".")[2] not in WITHOUT] == []
    assert {name.rpartition(".")[2] for name in bare} == {*WITHOUT}


def test_each_public_method_has_an_example() -> None:
    assert {"advkit.attack.Attack.run", "advkit.evaluation.report.RobustnessReport.from_json"} <= {*METHODS}
    shown = {
        name: re.findall(r"^ *(?:>>>|\.\.\.) .*", inspect.getdoc(kind) or "", re.M)
        for name, (kind, _) in METHODS.items()
    }
    bare = [
        name
        for name, lines in shown.items()
        if name not in EXAMPLES and not any(re.search(rf"\.{name.rpartition('.')[2]}\b", line) for line in lines)
    ]
    assert bare == ["advkit.attack.Attack.compile"]  # which imports torch's compiler; tests/contracts has it


def test_signatures_say_what_calls_get() -> None:
    """Numbers and names, and not the field that declares them, or the factory that makes them."""
    kinds = [getattr(advkit, name) for name in advkit.__all__]
    signatures = [inspect.signature(kind) for kind in kinds if inspect.isclass(kind)]
    assert len(signatures) > 50
    usual = [one.default for signature in signatures for one in signature.parameters.values()]
    plain = (bool, int, float, str, tuple, dict, NoneType)
    factory = inspect.signature(advkit.evaluation.WorstCase).parameters["within"].default  # which help shows as {}
    assert {type(one) for one in usual if one not in (inspect.Parameter.empty, factory)} <= {*plain, OfRange, OfEps}
    assert inspect.signature(advkit.PGD).parameters["eps"].default == 8 / 255
