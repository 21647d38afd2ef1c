"""Every attack, with settings cheap enough to run hundreds of times. Listed here, it is held to every contract.

To put a new attack under the whole suite, add one `Case` to `CASES`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import advkit
from advkit import Attack
from advkit._base.random import uniform_like
from advkit.attacks.fitted.base import Fitted
from advkit.attacks.transfer import EnhancedMomentum, InputDiversity, Momentum
from advkit.goals import Goal

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
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
        fools: the least share of easy images that it must fool; 0 for one that may as well go the other way. None, for
            attacks that show a model other pictures than these: to one whose pixels have no neighbours they say
            nothing.
        one_way: only raises features, or only lowers them.
        variant: of another case, whose loop or parts it shares: it is held to what a search may break, and not once
            more to what is done around searches.
        parts: of an attack that is given attacks: theirs.
        shorter: what is made in its place, if that takes too long.
        spatial: takes images (N, C, H, W) alone.
        elsewhere: never asks about an image as it is, or not for a gradient.
    """

    name: str
    attack: type[Attack]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    norm: str = "linf"
    budget: float | None = None
    deterministic: bool = True
    targetable: bool = True
    per_row: tuple[str, ...] = ()
    fools: float = 1.0
    one_way: bool = False
    variant: bool = False
    parts: tuple["Case", ...] = ()
    shorter: type[Attack] | None = None
    spatial: bool = False
    elsewhere: bool = False

    @property
    def kind(self) -> str:
        if kinds := {part.kind for part in self.parts}:
            return next(kind for kind in ("budget", "minimal", "black-box") if kind in kinds)
        return self.attack.aim if self.attack.access == "gradient" else "black-box"

    @property
    def needs_gradient(self) -> bool:
        return self.kind != "black-box"

    def make(self, model: Callable[[torch.Tensor], torch.Tensor], **overrides: Any) -> Attack:
        """The attack on a model. What it draws, it draws from a generator that is fresh and seeded."""
        if not self.deterministic:
            overrides.setdefault("generator", torch.Generator().manual_seed(0))
        settings = {**self.settings, **overrides}
        if not self.parts:
            return (self.shorter or self.attack)(model, **settings)
        own = {name: settings.pop(name) for name in (*OF_THE_WHOLE, "adaptive") if name in settings}
        each = [{name: value for name, value in settings.items() if part.takes(name)} for part in self.parts]
        made = [part.make(model, **some) for part, some in zip(self.parts, each, strict=True)]
        whole: Any = self.attack
        return whole(**({"attacks": made} if whole is advkit.WorstOf else {"attack": made[0]}) | own)

    def takes(self, name: str) -> bool:
        """Whether it may be made with this argument."""
        if name == "autocast" and not self.needs_gradient:
            return False
        return any(part.takes(name) for part in self.parts) or name in {known.name for known in fields(self.attack)}

    def __str__(self) -> str:
        return self.name


def each(keep: Callable[[Case], object] = lambda case: True, *, variants: bool = False) -> Callable[[Test], Test]:
    """Run a test for every attack, or for those that ``keep`` picks; and for their ``variants``, if asked to."""

    def over_cases(test: Test) -> Test:
        test.__dict__["keep"] = keep  # for `contract`
        kept = [case for case in CASES if keep(case) and (variants or not case.variant)]
        return pytest.mark.parametrize("case", kept, ids=str)(test)

    return over_cases


each_variant = partial(each, variants=True)


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


OF_THE_WHOLE = ("attack", "attacks", "n")  # arguments of attacks that are given attacks

L1 = {"eps": 12.0, "alpha": 3.0, "steps": 8, "quantile": 0.9}
LINF = {"eps": 0.1, "alpha": 0.05, "steps": 4}
L2 = {"eps": 2.0, "alpha": 1.0, "steps": 4, "norm": "l2"}
SEARCH = {"steps": 12, "binary_search_steps": 3}
PUBLISHED = {**SEARCH, "lr": 0.05, "initial_c": 1.0, "schedule": "constant"}


class OfABatch(Fitted):
    """Fits on the batch that it attacks, from a random start, so that the suite has a fit before it."""

    def _known(self) -> Tensor:
        return torch.zeros(1)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        pattern = self._begin(images)
        pattern = pattern + 0.05 * uniform_like(pattern, self.generator)
        for share in (1.0, 0.5):
            pattern, _ = self._learned(pattern, images, goal, self.classifier, share)
        return self._applied(images, pattern)


class UniversalOfABatch(OfABatch, advkit.Universal):
    """A perturbation for one batch."""


class PatchOfABatch(OfABatch, advkit.Patch):
    """A patch for one batch."""


CASES = [
    Case("FGSM", advkit.FGSM, {"eps": 0.1}, budget=0.1, per_row=("eps",)),
    Case("IFGSM", advkit.IFGSM, LINF, budget=0.1, per_row=("eps", "alpha")),
    Case(
        "MIFGSM",
        advkit.MIFGSM,
        LINF,
        budget=0.1,
        per_row=("eps", "alpha"),
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
    Case("TPGD", advkit.TPGD, LINF, budget=0.1, deterministic=False, per_row=("eps", "alpha"), fools=0.0, variant=True),
    Case(
        "Jitter",
        advkit.Jitter,
        {**LINF, "std": 0.001, "scale": 1.0},
        budget=0.1,
        deterministic=False,
        per_row=("eps", "alpha"),
        fools=0.7,
        variant=True,
    ),
    Case(
        "BasinHopping",
        advkit.BasinHopping,
        {"eps": 0.1, "steps": 10, "searches": 6, "target_classes": 1},
        budget=0.1,
        per_row=("eps",),
        deterministic=False,
    ),
    Case("MultiTargeted", advkit.MultiTargeted, {"eps": 0.1, "steps": 5, "restarts": 1}, budget=0.1, per_row=("eps",)),
    Case(
        "MultiTargeted-L2",
        advkit.MultiTargeted,
        {"norm": "l2", "eps": 2.0, "steps": 5, "restarts": 1},
        norm="l2",
        budget=2.0,
        per_row=("eps",),
        variant=True,
    ),
    Case(
        "MultiTargeted-restarts",
        advkit.MultiTargeted,
        {"norm": "l2", "eps": 2.0, "steps": 5},
        norm="l2",
        budget=2.0,
        deterministic=False,
    ),
    Case(
        "MultiTargeted-L1",
        advkit.MultiTargeted,
        {"norm": "l1", "eps": 12.0, "restarts": 1},
        norm="l1",
        budget=12.0,
        per_row=("eps",),
        variant=True,
    ),
    Case("APGD", advkit.APGD, {"eps": 0.1, "steps": 8}, budget=0.1, deterministic=False, per_row=("eps",)),
    Case(
        "APGD-L2",
        advkit.APGD,
        {"norm": "l2", "eps": 2.0, "steps": 8, "restarts": 2},
        norm="l2",
        budget=2.0,
        deterministic=False,
        per_row=("eps",),
        variant=True,
    ),
    Case(
        "APGD-L1",
        advkit.APGD,
        {"norm": "l1", "eps": 12.0, "steps": 10},
        norm="l1",
        budget=12.0,
        deterministic=False,
        per_row=("eps",),
        variant=True,
    ),
    Case(
        "APGDT",
        advkit.APGDT,
        {"norm": "l2", "eps": 2.0, "steps": 12, "target_classes": 2},
        norm="l2",
        budget=2.0,
        deterministic=False,
        per_row=("eps",),
    ),
    Case(
        "JSMA",
        advkit.JSMA,
        {"gamma": 1.0},
        norm="l0",
        one_way=True,
    ),
    Case("JSMA-published", advkit.JSMA, {"gamma": 1.0, "pairs": 1}, norm="l0", one_way=True),
    Case("JSMA-down", advkit.JSMA, {"theta": -0.3, "gamma": 1.0}, norm="l0", one_way=True, variant=True),
    Case(
        "SparseL1Descent",
        advkit.SparseL1Descent,
        L1,
        norm="l1",
        budget=12.0,
        per_row=("eps", "alpha"),
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
    ),
    Case(
        "OnePixel",
        advkit.OnePixel,
        {"pixels": 2, "steps": 4, "popsize": 20},
        norm="l0",
        deterministic=False,
    ),
    Case(
        "Pixle",
        advkit.Pixle,
        {"restarts": 3, "iterations": 5, "patch": (1, 4)},
        norm="l0",
        deterministic=False,
    ),
    Case(
        "Square",
        advkit.Square,
        {"eps": 0.1, "max_queries": 100},
        budget=0.1,
        deterministic=False,
        per_row=("eps",),
    ),
    Case(
        "Square-L2",
        advkit.Square,
        {"norm": "l2", "eps": 2.0, "max_queries": 100},
        norm="l2",
        budget=2.0,
        deterministic=False,
        per_row=("eps",),
        variant=True,
    ),
    Case(
        "Square-L1",
        advkit.Square,
        {"norm": "l1", "eps": 12.0, "max_queries": 100},
        norm="l1",
        budget=12.0,
        deterministic=False,
        per_row=("eps",),
        variant=True,
    ),
    Case(
        "NES",
        advkit.NES,
        {"eps": 0.1, "alpha": 0.06, "steps": 8, "samples": 20},
        budget=0.1,
        deterministic=False,
        per_row=("eps", "alpha"),
    ),
    Case(
        "SPSA",
        advkit.SPSA,
        {"eps": 0.1, "lr": 0.06, "steps": 8, "samples": 20},
        budget=0.1,
        deterministic=False,
        per_row=("eps",),
        variant=True,
    ),
    Case("SimBA", advkit.SimBA, {"alpha": 0.3, "max_queries": 200}, norm="l2", deterministic=False),
    Case(
        "SimBA-dct",
        advkit.SimBA,
        {"alpha": 0.3, "basis": "dct", "frequencies": 1.0, "max_queries": 200},
        norm="l2",
        deterministic=False,
        variant=True,
    ),
    Case("Spatial", advkit.Spatial, {"rotations": 3, "translations": 3}, spatial=True, fools=0.0),
    Case(
        "Spatial-random",
        advkit.Spatial,
        {"method": "random", "samples": 4},
        deterministic=False,
        spatial=True,
        fools=0.0,
        variant=True,
    ),
    Case("Noise", advkit.Noise, {"repeats": 4}, deterministic=False, fools=0.5, variant=True),
    Case(
        "Noise-uniform", advkit.Noise, {"kind": "uniform", "repeats": 4}, deterministic=False, fools=0.0, variant=True
    ),
    Case(
        "Noise-salt",
        advkit.Noise,
        {"kind": "salt_and_pepper", "repeats": 4},
        deterministic=False,
        fools=0.0,
        variant=True,
    ),
    Case("Blended", advkit.Blended, {"steps": 5}, norm="l2", deterministic=False, fools=0.0),
    Case("Blended-grey", advkit.Blended, {"into": "grey", "steps": 5}, norm="l2", fools=0.0, variant=True),
    Case("Blur", advkit.Blur, {"steps": 5}, norm="l2", fools=0.0, variant=True),
    Case(
        "HopSkipJump",
        advkit.HopSkipJump,
        {"steps": 1, "initial_gradient_eval_steps": 10, "init_size": 20, "max_queries": 70},
        norm="l2",
        deterministic=False,
    ),
    Case(
        "HopSkipJump-Linf",
        advkit.HopSkipJump,
        {"norm": "linf", "steps": 1, "initial_gradient_eval_steps": 10, "init_size": 20, "max_queries": 60},
        deterministic=False,
        variant=True,
    ),
    Case(
        "Boundary",
        advkit.Boundary,
        {"max_queries": 40, "init_size": 20},
        norm="l2",
        deterministic=False,
        variant=True,
    ),
    Case("RayS", advkit.RayS, {"max_queries": 40}, variant=True),
    Case("SurFree", advkit.SurFree, {"max_queries": 40, "init_size": 20}, norm="l2", deterministic=False, variant=True),
    Case(
        "DeepFool",
        advkit.DeepFool,
        {"steps": 20},
        norm="l2",
    ),
    Case(
        "DeepFool-Linf",
        advkit.DeepFool,
        {"steps": 20, "norm": "linf"},
    ),
    Case("SparseFool", advkit.SparseFool, {"steps": 5}, norm="l0", variant=True),
    Case(
        "CW",
        advkit.CW,
        SEARCH,
        norm="l2",
    ),
    Case("CW-kappa", advkit.CW, {**PUBLISHED, "kappa": 0.05}, norm="l2", variant=True),
    Case("CW-published", advkit.CW, PUBLISHED, norm="l2"),
    Case(
        "EAD",
        advkit.EAD,
        SEARCH,
        norm="l1",
    ),
    Case("EAD-published", advkit.EAD, PUBLISHED, norm="l1"),
    Case("EAD-elastic", advkit.EAD, {**SEARCH, "decision_rule": "elastic"}, norm="l1", variant=True),
    Case("FAB", advkit.FAB, {"steps": 8}),
    Case("FAB-L2-all", advkit.FAB, {"steps": 3, "norm": "l2", "target_classes": None}, norm="l2", variant=True),
    Case("FAB-L1", advkit.FAB, {"steps": 8, "norm": "l1"}, norm="l1", variant=True),
    Case("FAB-eps", advkit.FAB, {"steps": 8, "norm": "l2", "eps": 4.0}, norm="l2", per_row=("eps",)),
    Case(
        "FAB-restarts", advkit.FAB, {"steps": 4, "restarts": 2, "target_classes": 2}, deterministic=False, variant=True
    ),
    Case("Transfer", advkit.Transfer, {**LINF, "parts": [Momentum()]}, budget=0.1, per_row=("eps", "alpha")),
    Case(
        "Transfer-EMI",
        advkit.Transfer,
        {**LINF, "parts": [EnhancedMomentum(samples=3), Momentum()]},
        budget=0.1,
        per_row=("eps", "alpha"),
        variant=True,
    ),
    Case(
        "Transfer-DI",
        advkit.Transfer,
        {**LINF, "parts": [InputDiversity(resize_rate=1.3), Momentum()]},
        budget=0.1,
        deterministic=False,
        spatial=True,
        fools=0.5,
        per_row=("eps", "alpha"),
    ),
    Case("DIFGSM", advkit.DIFGSM, LINF, budget=0.1, deterministic=False, spatial=True, fools=0.5, variant=True),
    Case(
        "TIFGSM",
        advkit.TIFGSM,
        {**LINF, "len_kernel": 3},
        budget=0.1,
        deterministic=False,
        spatial=True,
        fools=0.5,
        variant=True,
    ),
    Case("NIFGSM", advkit.NIFGSM, LINF, budget=0.1, per_row=("eps", "alpha"), variant=True),
    Case("SINIFGSM", advkit.SINIFGSM, {**LINF, "m": 2}, budget=0.1, per_row=("eps", "alpha"), variant=True),
    Case("VMIFGSM", advkit.VMIFGSM, {**LINF, "N": 2}, budget=0.1, deterministic=False),
    Case("VNIFGSM", advkit.VNIFGSM, {**LINF, "N": 2}, budget=0.1, deterministic=False, fools=0.5, variant=True),
    Case("PIFGSM", advkit.PIFGSM, {"eps": 0.1, "steps": 4}, budget=0.1, spatial=True, per_row=("eps",), fools=0.5),
    Case(
        "PIFGSMPP",
        advkit.PIFGSMPP,
        {"eps": 0.1, "steps": 4},
        budget=0.1,
        spatial=True,
        per_row=("eps",),
        fools=0.5,
        variant=True,
    ),
    Case("LGV", advkit.LGV, {**LINF, "epochs": 0}, budget=0.1, per_row=("eps", "alpha"), variant=True),
    Case("GRA", advkit.GRA, {**LINF, "samples": 2}, budget=0.1, deterministic=False, variant=True),
    Case("PGN", advkit.PGN, {**LINF, "samples": 2}, budget=0.1, deterministic=False, elsewhere=True),
    Case("SSA", advkit.SSA, {**LINF, "copies": 2}, budget=0.1, deterministic=False, spatial=True, elsewhere=True),
    Case(
        "SIA", advkit.SIA, {**LINF, "copies": 3}, budget=0.1, deterministic=False, spatial=True, fools=0.0, variant=True
    ),
    Case(
        "BSR",
        advkit.BSR,
        {**LINF, "copies": 3, "blocks": 1, "degrees": 5},
        budget=0.1,
        deterministic=False,
        spatial=True,
        fools=0.0,
        elsewhere=True,
        variant=True,
    ),
    Case("BrendelBethge", advkit.BrendelBethge, {"steps": 20}, norm="l2", deterministic=False, elsewhere=True),
    Case(
        "BrendelBethge-L0",
        advkit.BrendelBethge,
        {"steps": 20, "norm": "l0"},
        norm="l0",
        deterministic=False,
        elsewhere=True,
        variant=True,
    ),
    Case(
        "BrendelBethge-L1",
        advkit.BrendelBethge,
        {"steps": 20, "norm": "l1"},
        norm="l1",
        deterministic=False,
        elsewhere=True,
        variant=True,
    ),
    Case(
        "BrendelBethge-Linf",
        advkit.BrendelBethge,
        {"steps": 20, "norm": "linf"},
        deterministic=False,
        elsewhere=True,
        variant=True,
    ),
    Case("DDN", advkit.DDN, {"steps": 20}, norm="l2"),
    Case("FMN", advkit.FMN, {"steps": 25}, norm="l2"),
    Case("FMN-L0", advkit.FMN, {"steps": 100, "norm": "l0"}, norm="l0", variant=True),
    Case("FMN-L1", advkit.FMN, {"steps": 20, "norm": "l1"}, norm="l1", variant=True),
    Case("FMN-Linf", advkit.FMN, {"steps": 20, "norm": "linf"}, variant=True),
    Case("Minimal", advkit.Minimal, {"norm": "l2", "rounds": 2, "steps": 20}, norm="l2"),
    Case("Minimal-L0", advkit.Minimal, {"norm": "l0", "rounds": 2, "steps": 20}, norm="l0"),
    Case("Minimal-L1", advkit.Minimal, {"norm": "l1", "rounds": 2, "steps": 12}, norm="l1", variant=True),
    Case("Minimal-Linf", advkit.Minimal, {"norm": "linf", "rounds": 2, "steps": 20}, variant=True),
    Case("PDGD", advkit.PDGD, {"steps": 20}, norm="l2", variant=True),
    Case("PDPGD", advkit.PDPGD, {"steps": 20}),
    Case("PDPGD-L1", advkit.PDPGD, {"steps": 20, "dual_ratio": 1e-4, "norm": "l1"}, norm="l1", variant=True),
    Case("PDPGD-L2", advkit.PDPGD, {"steps": 20, "norm": "l2"}, norm="l2", variant=True),
    Case(
        "Universal",
        advkit.Universal,
        {"eps": 0.1, "alpha": 0.02},
        budget=0.1,
        deterministic=False,
        fools=0.0,
        shorter=UniversalOfABatch,
    ),
    Case(
        "Patch",
        advkit.Patch,
        {"area": 0.3},
        norm="l0",
        deterministic=False,
        spatial=True,
        fools=0.0,
        variant=True,
        shorter=PatchOfABatch,
    ),
    Case("SigmaZero", advkit.SigmaZero, {"steps": 10}, norm="l0"),
    Case("SuperDeepFool", advkit.SuperDeepFool, {"steps": 20}, norm="l2"),
]

_BY_NAME = {case.name: case for case in CASES}


def _parts(*names: str) -> dict[str, Any]:
    return {"parts": tuple(map(_BY_NAME.__getitem__, names))}


class ShortAutoAttack(advkit.AutoAttack):
    """AutoAttack in a twentieth of its steps and queries."""

    def _parts(self) -> Sequence[Attack]:
        short = {"steps": 5, "target_classes": 2, "max_queries": 30}
        parts = super()._parts()
        return [part._with(**{name: short[name] for name in short if hasattr(part, name)}) for part in parts]


RESTARTS = Case(
    "Restarts",
    advkit.Restarts,
    {**LINF, "n": 2},
    budget=0.1,
    deterministic=False,
    per_row=("eps", "alpha"),
    **_parts("PGD"),
)
CASES += [
    Case(
        "AutoAttack",
        advkit.AutoAttack,
        {"eps": 0.1},
        budget=0.1,
        deterministic=False,
        per_row=("eps",),
        shorter=ShortAutoAttack,
    ),
    RESTARTS,
    Case(
        "Restarts-minimal",
        advkit.Restarts,
        {"n": 2},
        norm="l0",
        deterministic=False,
        **_parts("OnePixel"),
        variant=True,
    ),
    Case(
        "WorstOf",
        advkit.WorstOf,
        LINF,
        budget=0.1,
        per_row=("eps", "alpha"),
        **_parts("IFGSM", "DeepFool-Linf", "PixelSwap"),
    ),
    Case("WorstOf-minimal", advkit.WorstOf, norm="l2", **_parts("DeepFool", "CW-published"), variant=True),
    Case(
        "WorstOf-queries",
        advkit.WorstOf,
        norm="l0",
        deterministic=False,
        **_parts("PixelSwap", "OnePixel"),
        variant=True,
    ),
    Case(
        "WorstOf-nested",
        advkit.WorstOf,
        LINF,
        budget=0.1,
        deterministic=False,
        per_row=("eps",),
        parts=(*_parts("FGSM")["parts"], RESTARTS),
    ),
]
