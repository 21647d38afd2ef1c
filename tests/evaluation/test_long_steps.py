"""The first attack of "standard" in L1, and the second look there."""

import pytest
import torch
from torch import Tensor

import advkit
from advkit.evaluation import long_steps, verdict
from advkit.evaluation.long_steps import LongSteps
from advkit.evaluation.verdict import SecondLook
from contracts.scenes import trained_net


def test_long_steps_reach_the_least_that_a_linear_model_can_come_to() -> None:
    """Its distance is known: features go to the end of the box one after another, the steepest first."""
    generator = torch.Generator().manual_seed(0)
    images, slope = torch.rand(30, 40, generator=generator), torch.randn(40, generator=generator)
    heights = images @ slope
    offset = 3 - heights.min()
    order = slope.abs().argsort(descending=True)
    falls = (torch.where(slope > 0, images, 1 - images) * slope.abs())[:, order]
    before = falls.cumsum(1) - falls
    distance = ((heights + offset)[:, None] - before).clamp_min(0).minimum(falls).div(slope.abs()[order]).sum(1)

    def linear(x: Tensor) -> Tensor:
        height = x @ slope + offset
        return torch.stack([height, -height], 1)

    eps = distance * torch.tensor([1.01, 0.99]).repeat(15)
    result = LongSteps(linear, eps=eps).run(images, torch.zeros(30, dtype=torch.int64))
    assert torch.equal(result.success, eps > distance)
    assert bool((result.distance("l1") <= eps + 1e-5).all())


@pytest.mark.parametrize(("eps", "fooled"), [(14.0, 8), (0.01, 0)])
def test_in_l1_a_second_look_tries_a_minimal_attack(eps: float, fooled: int) -> None:
    """On all images where it fools some of the first; where it fools none they come back as they are."""
    model, images, labels = trained_net()
    result = SecondLook(model, norm="l1", eps=eps).run(images[:8], labels[:8])
    assert int(result.success.sum()) == fooled
    assert bool((result.distance("l1") <= eps + 1e-5).all())
    assert fooled or torch.equal(result.images, images[:8])


@pytest.mark.parametrize(("height", "looks"), [(0.9, 11 + 16), (0.701, 11 + 22), (0.55, 11 + 3 * 31)])
def test_a_run_gives_up_images_that_come_near_no_other_class(
    height: float, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a budget of 0.5, 0.4 are missing, 0.201 and 0.05: after half of a run, after 0.7 of it, and never.

    A look a step, one where a run ends, and one at the image.
    """
    monkeypatch.setattr(long_steps, "_HALF", 0.0)  # no search for small changes afterwards
    asked = []

    def linear(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.cat([x, -x], 1)

    LongSteps(linear, eps=0.5).run(torch.tensor([[height]]), torch.tensor([0]))
    assert sum(asked) == 1 + looks


def test_after_the_runs_a_search_for_small_changes_finds_what_they_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = trained_net()
    found = {}
    for half in (0.5, 0.0):
        monkeypatch.setattr(long_steps, "_HALF", half)
        result = LongSteps(model, eps=12.0, steps=8, restarts=1).run(images, labels)
        assert bool((result.distance("l1") <= 12 + 1e-5).all())
        found[half] = result.success
    assert bool((found[0.0] <= found[0.5]).all())
    assert int(found[0.5].sum()) > int(found[0.0].sum())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_second_look_comes_back_from_afar_before_it_asks_an_audit(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model is flat about its images, and its boundary near all the same."""

    def flat(x: Tensor) -> Tensor:
        height = (1 - 0.01 * x[:, 0]).minimum(1 - 10 * (x[:, 1] - 0.2).relu())
        return torch.stack([height, 0 * height], 1)

    images, labels = torch.linspace(0, 0.02, 20)[:, None].expand(20, 6), torch.zeros(20, dtype=torch.int64)
    assert not bool(advkit.MultiTargeted(flat, norm=norm, eps=0.4).run(images, labels).success.any())
    monkeypatch.setattr(verdict, "audit", lambda *_, **__: pytest.fail("nothing is left to audit"))
    result = SecondLook(flat, norm=norm, eps=0.4).run(images, labels)
    assert bool(result.success.all())
    assert bool((result.distance(norm) <= 0.4 + 1e-5).all())


def test_long_steps_keep_to_a_mask_shared_by_all_images() -> None:
    model, images, labels = trained_net()
    mask = torch.rand(images.shape[-2:], generator=torch.Generator().manual_seed(0)) > 0.3
    result = LongSteps(model, eps=14.0, mask=mask).run(images, labels)
    assert bool(result.success.any())
    assert torch.equal(result.images[..., ~mask], images[..., ~mask])
