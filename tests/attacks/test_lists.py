"""An attack is in every list that it belongs in; where one is missing, CONTRIBUTING.md says what to do."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import advkit
from advkit import Attack, Transfer, attacks, hyperparameters
from advkit.attacks.combined.survivors import Combined
from advkit.attacks.fitted.base import Fitted
from advkit.attacks.transfer.transfer import Shorthand
from contracts.cases import CASES

CONTRACTS = Path(__file__).parents[1] / "contracts"
MODULES = [
    importlib.import_module(known.name)
    for known in pkgutil.walk_packages(attacks.__path__, "advkit.attacks.")
    if not known.ispkg
]
ATTACKS = [
    found
    for module in MODULES
    for name, found in vars(module).items()
    if name in getattr(module, "__all__", ())
    and isinstance(found, type)
    and issubclass(found, Attack)
    and not inspect.isabstract(found)
]


def test_what_all_attacks_have_means_the_same_to_all() -> None:
    """One that had a hyperparameter ``levels`` of its own would be put on a grid of so many."""
    shared = hyperparameters.of(Attack)
    for attack in ATTACKS:
        own = hyperparameters.of(attack)
        assert {name: own[name] for name in shared} == dict(shared), attack


def test_all_attacks_are_exported_and_nothing_else() -> None:
    assert sorted(attack.__name__ for attack in ATTACKS) == sorted(attacks.__all__)
    assert len(ATTACKS) >= 12


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_is_in_every_list(attack: type[Attack]) -> None:
    name = attack.__name__
    assert getattr(advkit, name) is getattr(attacks, name) is attack
    assert name in advkit.__all__
    family = attack.aim if attack.access == "gradient" else "queries"
    family = "combined" if issubclass(attack, Combined) else family
    if issubclass(attack, (Shorthand, Transfer, advkit.LGV)):
        family = "transfer"  # with a budget on one model, for another
    family = "fitted" if issubclass(attack, Fitted) else family
    assert attack.__module__.split(".")[2] == family, "its folder is that of what it sees and looks for"
    cases = [case.name for case in CASES if case.attack is attack]
    assert cases, "tests/contracts/cases.py has no case of it"
    costs = json.loads((CONTRACTS / "costs.json").read_text())
    with np.load(CONTRACTS / "recorded.npz", allow_pickle=False) as recorded:
        assert all(case in costs and case in recorded for case in cases)
