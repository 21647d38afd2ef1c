"""More of what somebody outside the house writes keeps the promises, and finds what the house finds."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import advkit
from contracts import scenes, test_errors, test_outcome, test_rows, test_untouched, test_variety
from contracts.cases import Case, contract
from strangers import more_attacks
from strangers.more_attacks import DDN, FMN, MIM, Bisection, soft_margin
from strangers.test_strangers import lines

CASES = [
    Case("DDN", DDN, {"steps": 12}, norm="l2"),
    Case("FMN", FMN, {"steps": 14}, norm="l2"),
    Case("MIM", MIM, {"eps": 0.1, "alpha": 0.05, "steps": 4, "loss": soft_margin}, budget=0.1),
    Case(
        "Bisection",
        Bisection,
        {"tries": 2, "halvings": 3, "max_queries": 9},
        norm="l2",
        deterministic=False,
        fools=0.0,  # noise is of any class
    ),
]
trained = test_outcome.trained  # a fixture
vars().update(contract([test_outcome, test_rows, test_untouched], CASES))
vars().update(contract([test_errors, test_variety], [CASES[1], CASES[3]]))  # of gradients, and of decisions


@pytest.mark.parametrize(
    "written",
    [
        [more_attacks._OnSphere, DDN],
        [more_attacks._InBall, FMN],
        [more_attacks._WithMomentum, MIM],
        [Bisection],
        [more_attacks.Overlay, more_attacks.Worst],
    ],
    ids=str,
)
def test_an_attack_is_at_most_forty_lines(written: list[type]) -> None:
    assert lines(written) <= 40


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_the_closest_images_are_those_of_the_house(norm: str) -> None:
    model, images, labels = scenes.trained_net()
    expected = advkit.FMN(model, norm=norm, steps=40).run(images, labels).distance(norm)
    found = FMN(model, norm=norm, steps=40, alpha=10.0 if norm == "linf" else 1.0).run(images, labels)
    assert found.success.all()
    assert found.distance(norm).median() < 1.1 * expected.median()


def test_the_direction_alone_finds_them_as_well() -> None:
    model, images, labels = scenes.trained_net()
    found = DDN(model, steps=40).run(images, labels)
    assert found.success.all()
    assert found.distance("l2").median() < 1.1 * advkit.DDN(model, steps=40).run(images, labels).distance("l2").median()


def test_momentum_by_hand_is_momentum() -> None:
    model, images, labels = scenes.trained_net()
    given = {"eps": 0.1, "steps": 5, "loss": soft_margin}
    assert torch.allclose(MIM(model, **given)(images, labels), advkit.MIFGSM(model, **given)(images, labels), atol=1e-6)


def test_what_runs_out_of_queries_returns_the_closest() -> None:
    model, images, labels = scenes.trained_net()
    found = []
    for count in (40, 200):
        draws = torch.Generator().manual_seed(0)
        result = Bisection(model, tries=50, max_queries=count, generator=draws).run(images, labels)
        assert (result.queries == count).all()
        found.append(result.distance("l2").where(result.success, torch.inf))
    assert found[1].isfinite().all()
    assert (found[1] <= found[0]).all()  # the same draws, and more of them
    assert (found[1] < found[0]).any()


def test_a_pattern_is_fitted() -> None:
    model, images, labels = scenes.trained_net()
    loader = DataLoader(TensorDataset(images, labels), batch_size=3)
    attack = more_attacks.Worst(model, share=0.5).fit(loader)
    others = [more_attacks.Overlay(model, image, 0.5).run(images, labels).success.sum() for image in images]
    assert attack.run(images, labels).success.sum() == max(others) > 0
