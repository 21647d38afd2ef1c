"""What somebody outside the house writes on its public parts keeps the promises of the house."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import advkit
from contracts import scenes, test_errors, test_outcome, test_rows, test_untouched, test_variety
from contracts.cases import Case, contract
from strangers import attacks
from strangers.attacks import APGD, DITIMI, Shift, Square, Universal

MODEL = scenes.linear_net()
PATTERN = 0.1 * scenes.draw(*scenes.IMAGE, seed=7, low=-1.0).sign()
CASES = [
    Case("APGD", APGD, {"eps": 0.1, "steps": 10}, budget=0.1, deterministic=False, per_row=()),
    Case("DITIMI", DITIMI, {"eps": 0.1, "alpha": 0.05, "steps": 6, "sigma": 0.4}, budget=0.1, deterministic=False),
    Case("Square", Square, {"eps": 0.1, "max_queries": 40}, budget=0.1, deterministic=False),
]
FITTED = [Case("Shift", Shift, {"perturbation": PATTERN}, targetable=False, fools=0.0)]
trained = test_outcome.trained  # a fixture
vars().update(contract([test_outcome, test_rows, test_untouched, test_errors, test_variety], CASES))
vars().update({f"{name}_fitted": test for name, test in contract([test_untouched], FITTED)})


def lines(written: list[type]) -> int:
    """How many an attack has, without its documentation."""
    count = 0
    for one in written:
        source = inspect.getsource(one)
        count += sum(bool(line.strip()) for line in source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                text = source.splitlines()[node.body[0].lineno - 1 : node.body[0].end_lineno]
                count -= sum(bool(line.strip()) for line in text)
    return count


@pytest.mark.parametrize(
    "written", [[attacks._Run, APGD], [Square], [Shift, Universal], [attacks._WithMomentum, DITIMI]], ids=str
)
def test_an_attack_is_at_most_forty_lines(written: list[type]) -> None:
    assert lines(written) <= 40


def test_apgd_is_stronger_than_pgd() -> None:
    model, images, labels = scenes.trained_net()
    logits = model(APGD(model, eps=0.05, steps=30, generator=torch.Generator().manual_seed(0))(images, labels))
    other = model(advkit.PGD(model, eps=0.05, steps=30, generator=torch.Generator().manual_seed(0))(images, labels))
    reached, before = (advkit.losses.margin(each, labels) for each in (logits, other))
    assert ((reached <= 0) == (before <= 0)).all() or (reached <= 0).sum() > (before <= 0).sum()
    assert (reached[before > 0] < before[before > 0] + 0.05).all()


def test_a_universal_perturbation_works_wherever_attacks_do(tmp_path: Path) -> None:
    model, _, _ = scenes.trained_net()
    images = (
        0.6 * scenes.draw(4, *scenes.IMAGE)[torch.arange(64) % 4] + scenes.draw(64, *scenes.IMAGE, high=0.4)
    ).clamp(0, 1)
    labels = scenes.said_by(model, images)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    attack = Universal(model, eps=0.15, alpha=0.02).fit(loader)
    noise = Shift(model, 0.15 * scenes.draw(*scenes.IMAGE, low=-1.0).sign())
    assert attack.run(images, labels).success.sum() > 2 * noise.run(images, labels).success.sum()
    assert (attack.run(images, labels).distance("linf") <= 0.15 + 1e-6).all()
    for _ in range(2):  # the second time what the folder has is taken for this attack's
        report = advkit.evaluate(model, loader, {"one for all": attack}, run_folder=tmp_path, flags=False)
        assert report["one for all"].accuracy == pytest.approx(
            1 - float(attack.run(images, labels).success.float().mean())
        )
    batches = list(advkit.data.attacked(loader, attack))
    assert torch.cat([batch for batch, _ in batches]).equal(attack(images, labels))
    moved, _ = advkit.AttackTransform(attack)(images[0], int(labels[0]))
    assert moved.equal(attack(images, labels)[0])
