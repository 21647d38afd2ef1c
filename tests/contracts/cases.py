"""Every attack, with settings cheap enough to run hundreds of times. Listed here, it is held to every contract.

To put a new attack under the whole suite, add one `Case` to `CASES`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeVar

import pytest
import torch

import advkit
from advkit import Attack

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Case:
    """One attack and what to expect of it.

    Attributes:
        name: shown in the test's id.
        attack: its class.
        settings: keyword arguments that keep it quick on images of 8x8.
        norm: the one that the budget, or the search, is about.
        budget: the radius of the ball, for the kind "budget".
        deterministic: draws no random numbers. The others are given a seeded generator.
        targetable: takes ``targets``.
        per_row: hyperparameters that may be tensors of shape (N,).
        bad: hyperparameters out of their range, each with words that the error must have.
        fools: the least share of easy images that it must fool.
        one_way: only raises features, or only lowers them.
    """

    name: str
    attack: type[Attack]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    norm: str = "linf"
    budget: float | None = None
    deterministic: bool = True
    targetable: bool = True
    per_row: tuple[str, ...] = ()
    bad: tuple[tuple[Mapping[str, Any], str], ...] = ()
    fools: float = 1.0
    one_way: bool = False

    @property
    def kind(self) -> str:
        return self.attack.aim if self.attack.access == "gradient" else "black-box"

    @property
    def needs_gradient(self) -> bool:
        return self.kind != "black-box"

    def make(self, model: Callable[[torch.Tensor], torch.Tensor], **overrides: Any) -> Attack:
        """The attack on a model. What it draws, it draws from a generator that is fresh and seeded."""
        if not self.deterministic:
            overrides.setdefault("generator", torch.Generator().manual_seed(0))
        return self.attack(model, **{**self.settings, **overrides})

    def __str__(self) -> str:
        return self.name


def each(keep: Callable[[Case], object] = lambda case: True) -> Callable[[Test], Test]:
    """Run a test for every attack, or for those that ``keep`` picks."""

    def over_cases(test: Test) -> Test:
        test.__dict__["keep"] = keep  # for `contract`
        return pytest.mark.parametrize("case", [case for case in CASES if keep(case)], ids=str)(test)

    return over_cases


def contract(modules: Iterable[ModuleType], cases: Sequence[Case]) -> Iterator[tuple[str, Callable[..., None]]]:
    """The tests of these modules that are run for every attack, by name, for other attacks than the house's."""
    for module in modules:
        for name, test in vars(module).items():
            kept = [case for case in cases if keep(case)] if (keep := getattr(test, "keep", None)) else []
            if name.startswith("test_") and kept:
                again = FunctionType(test.__code__, test.__globals__, name, test.__defaults__, test.__closure__)
                again.__dict__.update(vars(test))
                again.__annotations__ = test.__annotations__
                marks = [mark for mark in test.pytestmark if mark.name != "parametrize" or mark.args[0] != "case"]
                again.pytestmark = [*marks, pytest.mark.parametrize("case", kept, ids=str).mark]  # type: ignore[attr-defined]
                yield name, again


BAD_EPS = (
    ({"eps": -0.1}, "eps must be at least 0, got -0.1"),
    ({"eps": float("nan")}, "eps must be at least 0, got nan"),
    ({"eps": float("inf")}, "eps must be at least 0, got inf"),
    ({"eps": "8/255"}, "eps must be a number, got '8/255'"),
    ({"eps": True}, "eps must be a number, got True"),
    ({"eps": torch.tensor([0.1, -0.1])}, "eps must be at least 0 and finite for every image"),
    ({"eps": torch.tensor([0.1, torch.nan])}, "eps must be at least 0 and finite for every image"),
    ({"eps": torch.tensor([1, 2])}, "eps must be a number, or a floating tensor of shape (N,)"),
    ({"eps": torch.zeros(2, 1)}, "eps must be a number, or a floating tensor of shape (N,)"),
)
BAD_STEPS = (
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": 2.0}, "steps must be an integer, got 2.0"),
    ({"steps": True}, "steps must be an integer, got True"),
)
BAD_ALPHA = (
    ({"alpha": 0.0}, "alpha must be greater than 0"),
    ({"alpha": -0.1}, "alpha must be greater than 0"),
    ({"alpha": torch.tensor([-0.1, 0.1])}, "alpha must be at least 0 and finite for every image"),
)
BAD_QUERIES = (
    ({"max_queries": 0}, "max_queries must be at least 1, got 0"),
    ({"max_queries": 10.5}, "max_queries must be an integer, got 10.5"),
)
L1 = {"eps": 12.0, "alpha": 3.0, "steps": 8, "quantile": 0.9}
LINF = {"eps": 0.1, "alpha": 0.05, "steps": 4}
L2 = {"eps": 2.0, "alpha": 1.0, "steps": 4, "norm": "l2"}
SEARCH = {"steps": 12, "binary_search_steps": 3}
PUBLISHED = {**SEARCH, "lr": 0.05, "initial_c": 1.0, "schedule": "constant"}
BAD_SEARCH = (
    *BAD_STEPS,
    ({"kappa": -1}, "kappa must be at least 0, got -1"),
    ({"initial_c": 0.0}, "initial_c must be greater than 0"),
    ({"initial_c": 1e11}, "initial_c must be greater than 0 and at most 1e+10"),
    ({"binary_search_steps": 0}, "binary_search_steps must be at least 1, got 0"),
    ({"lr": 0.0}, "lr must be greater than 0"),
    ({"schedule": "linear"}, "schedule must be one of 'cosine', 'constant'; got 'linear'"),
)


CASES = [
    Case("FGSM", advkit.FGSM, {"eps": 0.1}, budget=0.1, per_row=("eps",), bad=BAD_EPS),
    Case("IFGSM", advkit.IFGSM, LINF, budget=0.1, per_row=("eps", "alpha")),
    Case(
        "MIFGSM",
        advkit.MIFGSM,
        LINF,
        budget=0.1,
        per_row=("eps", "alpha"),
        bad=(
            *BAD_EPS,
            *BAD_STEPS,
            *BAD_ALPHA,
            ({"decay": -1}, "decay must be at least 0, got -1"),
            ({"accumulate": "signs"}, "accumulate must be one of 'gradient', 'sign'; got 'signs'"),
        ),
    ),
    Case("MIFGSM-early", advkit.MIFGSM, {**LINF, "early_stop": True}, budget=0.1, per_row=("eps", "alpha")),
    Case("MIFGSM-sign", advkit.MIFGSM, {**LINF, "accumulate": "sign"}, budget=0.1, per_row=("eps", "alpha")),
    Case(
        "PGD",
        advkit.PGD,
        LINF,
        budget=0.1,
        deterministic=False,
        per_row=("eps", "alpha"),
        bad=(
            *BAD_EPS,
            *BAD_STEPS,
            *BAD_ALPHA,
            ({"norm": "l1"}, "norm must be one of Linf, L2; got L1"),
            ({"norm": "max"}, "there is no norm 'max'"),
        ),
    ),
    Case("PGD-centre", advkit.PGD, {**LINF, "random_start": False}, budget=0.1, per_row=("eps", "alpha")),
    Case("PGD-early", advkit.PGD, {**LINF, "early_stop": True}, budget=0.1, deterministic=False, per_row=("eps",)),
    Case("PGD-L2", advkit.PGD, L2, norm="l2", budget=2.0, deterministic=False, per_row=("eps", "alpha")),
    Case(
        "PGD-L2-early",
        advkit.PGD,
        {**L2, "random_start": False, "early_stop": True},
        norm="l2",
        budget=2.0,
        per_row=("eps", "alpha"),
    ),
    Case(
        "JSMA",
        advkit.JSMA,
        {"gamma": 1.0},
        norm="l0",
        one_way=True,
        bad=(
            ({"theta": 0}, "theta must be positive, to raise features, or negative, to lower them; got 0"),
            ({"theta": float("inf")}, "theta must be finite, got inf"),
            ({"gamma": 0.0}, "gamma must be greater than 0 and at most 1, got 0.0"),
            ({"gamma": 1.1}, "gamma must be greater than 0 and at most 1, got 1.1"),
            ({"pairs": 0}, "pairs must be at least 1, got 0"),
            ({"pairs": 1.5}, "pairs must be an integer, got 1.5"),
        ),
    ),
    Case("JSMA-published", advkit.JSMA, {"gamma": 1.0, "pairs": 1}, norm="l0", one_way=True),
    Case("JSMA-down", advkit.JSMA, {"theta": -0.3, "gamma": 1.0}, norm="l0", one_way=True),
    Case(
        "SparseL1Descent",
        advkit.SparseL1Descent,
        L1,
        norm="l1",
        budget=12.0,
        per_row=("eps", "alpha"),
        bad=(
            *BAD_EPS,
            *BAD_STEPS,
            *BAD_ALPHA,
            ({"quantile": 1.1}, "quantile must be at least 0 and at most 1, got 1.1"),
        ),
    ),
    Case(
        "SparseL1Descent-random",
        advkit.SparseL1Descent,
        {**L1, "random_start": True, "early_stop": True},
        norm="l1",
        budget=12.0,
        deterministic=False,
        per_row=("eps",),
    ),
    Case(
        "PixelSwap",
        advkit.PixelSwap,
        norm="l0",
        fools=0.5,
        bad=(
            ({"max_swaps": 0}, "max_swaps must be at least 1, got 0"),
            ({"max_swaps": 1.5}, "max_swaps must be an integer, got 1.5"),
            *BAD_QUERIES,
        ),
    ),
    Case(
        "OnePixel",
        advkit.OnePixel,
        {"pixels": 2, "steps": 4, "popsize": 20},
        norm="l0",
        deterministic=False,
        bad=(
            ({"pixels": 0}, "pixels must be at least 1, got 0"),
            ({"steps": -1}, "steps must be at least 0, got -1"),
            ({"popsize": 2}, "popsize must be at least 3, got 2"),
            *BAD_QUERIES,
        ),
    ),
    Case(
        "Pixle",
        advkit.Pixle,
        {"restarts": 3, "iterations": 5, "patch": (1, 4)},
        norm="l0",
        deterministic=False,
        bad=(
            ({"restarts": 0}, "restarts must be at least 1, got 0"),
            ({"iterations": 0}, "iterations must be at least 1, got 0"),
            ({"patch": 3}, "patch must be a pair, the smallest and the largest side; got 3"),
            ({"patch": (0, 2)}, "patch[0] must be at least 1, got 0"),
            ({"patch": (3, 2)}, "patch[1] must be at least 3, got 2"),
            *BAD_QUERIES,
        ),
    ),
    Case(
        "DeepFool",
        advkit.DeepFool,
        {"steps": 20},
        norm="l2",
        bad=(
            *BAD_STEPS,
            ({"overshoot": -0.1}, "overshoot must be at least 0, got -0.1"),
            ({"overshoot": float("nan")}, "overshoot must be at least 0, got nan"),
            ({"candidates": 1}, "candidates must be at least 2, got 1"),
            ({"candidates": 2.0}, "candidates must be an integer, got 2.0"),
            ({"norm": "l1"}, "norm must be one of L2, Linf; got L1"),
        ),
    ),
    Case(
        "DeepFool-Linf",
        advkit.DeepFool,
        {"steps": 20, "norm": "linf"},
    ),
    Case(
        "CW",
        advkit.CW,
        SEARCH,
        norm="l2",
        bad=BAD_SEARCH,
    ),
    Case("CW-kappa", advkit.CW, {**SEARCH, "kappa": 0.05}, norm="l2"),
    Case("CW-published", advkit.CW, PUBLISHED, norm="l2"),
    Case(
        "EAD",
        advkit.EAD,
        SEARCH,
        norm="l1",
        bad=(
            *BAD_SEARCH,
            ({"beta": -1e-3}, "beta must be at least 0, got -0.001"),
            ({"decision_rule": "l2"}, "decision_rule must be one of 'l1', 'elastic'; got 'l2'"),
        ),
    ),
    Case("EAD-published", advkit.EAD, PUBLISHED, norm="l1"),
    Case("EAD-elastic", advkit.EAD, {**SEARCH, "decision_rule": "elastic"}, norm="l1"),
]
