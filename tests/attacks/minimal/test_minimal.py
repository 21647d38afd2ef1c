"""advkit's own search against closed forms: linear models in the box, and L0 by brute force."""

import pytest
import torch
from torch import nn

import advkit
from advkit._engine.classifier import Classifier
from advkit.attacks.minimal import tangents
from advkit.attacks.minimal.closest import Closest
from advkit.attacks.minimal.pruning import pruned
from advkit.goals import Goal
from attacks.minimal.test_published import distances, fewest, plane, three_classes
from contracts.scenes import Passes, draw, said_by


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_distance_to_a_hyperplane_in_the_box(norm: str) -> None:
    model, images = plane(32), draw(24, 32)
    images[:8, ::3], images[8:16, 1::2] = 1.0, 0.0  # these cannot go further
    labels = said_by(model, images)
    result = advkit.Minimal(model, norm=norm).run(images, labels)
    assert result.success.all()
    for least, found in zip(distances(model, images, labels, norm), result.distance(norm), strict=True):
        assert least * (1 - 1e-4) <= float(found) <= 1.01 * least + 1e-5


def test_the_fewest_features_by_brute_force() -> None:
    model, images = three_classes(), draw(24, 7, seed=5)
    labels = said_by(model, images)
    result = advkit.Minimal(model, norm="l0").run(images, labels)
    least = [fewest(model, image, int(label)) for image, label in zip(images, labels, strict=True)]
    assert result.success.all()
    assert result.distance("l0").tolist() == least
    moved = result.images[result.images != images]  # to the ends, but where a clamp still lets gradients through
    assert (moved.minimum(1 - moved) > 0).all()
    assert (moved.minimum(1 - moved) < 1e-6).all()


def test_few_features_that_do_much_together_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:  # class 1 by the first ten, or by three of the next four
        lead = x[:, :10].sum(1) + 2 * x[:, 10:14].sum(1).square() + 0.01 * x[:, 14:].sum(1) - 9.7
        return torch.stack([-lead, lead], 1)

    monkeypatch.setattr(tangents, "looked_again", lambda *_: None)
    result = advkit.Minimal(model, norm="l0").run(torch.full((2, 400), 0.01), torch.tensor([0, 0]))
    assert result.distance("l0").tolist() == [3.0, 3.0]


def test_what_is_not_needed_is_put_back() -> None:
    model, before = plane(16), draw(8, 16)
    labels = said_by(model, before)
    slope = (model.weight[1] - model.weight[0]).detach() * (1 - 2 * labels)[:, None]
    found = (slope > 0).float()  # every feature at the end where the other class is
    assert (said_by(model, found) != labels).all()
    fewer = pruned(Classifier(model), found, before, advkit.Untargeted(labels), rounds=2, tries=5)
    changed = fewer != before
    assert (said_by(model, fewer) != labels).all()
    assert torch.equal(fewer[changed], found[changed])
    gains = (slope * (found - before)).sort(1, descending=True).values.cumsum(1)
    with torch.no_grad():
        gap = -advkit.losses.margin(model(before), labels).abs()
    needed = 1 + (gains <= gap.abs()[:, None]).sum(1)
    assert torch.equal(changed.sum(1), needed)


def test_in_l2_it_is_what_cw_does() -> None:
    model, images = plane(32), draw(8, 32)
    labels = said_by(model, images)
    same = advkit.Minimal(model, norm="l2", rounds=5, steps=50)(images, labels)
    assert torch.equal(same, advkit.CW(model)(images, labels))


class Hidden(nn.Module):
    """Class 1 where one feature is large, which a gradient sees, or where another is a little larger than 0.2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = (x[:, 0] - 0.9).maximum(30 * torch.relu(x[:, 1] - 0.2) - 0.9)
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize("attack", [advkit.CW, advkit.Minimal])
def test_a_boundary_that_no_gradient_at_the_image_shows(attack: type[advkit.Attack]) -> None:
    model, images = Hidden(), torch.zeros(3, 8)
    images[1, 0], images[2, 2:] = 0.85, 0.5  # the first of these has the other boundary nearer
    result = attack(model).run(images, torch.zeros(3, dtype=torch.int64))
    assert result.success.all()
    assert result.distance("l2").allclose(torch.tensor([0.23, 0.05, 0.23]), rtol=0.02)


def test_a_short_search_has_no_long_audit() -> None:
    """A walk finds what the search overlooked, and as many more follow as take no longer than the searches may."""
    for rounds, steps in ((1, 10), (3, 10), (5, 50)):
        model = Passes(Hidden())
        advkit.CW(model, binary_search_steps=rounds, steps=steps)(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))
        once = min(steps, 21)
        walks = min(9, rounds * steps // once)
        assert once * walks < len(model.forwards) <= 2 + rounds * steps + once * walks, (rounds, steps)


class Inside(nn.Module):
    """Class 1 where the first features are large together, which a gradient sees; or two others, by rather less."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = (x[:, :6].sum(1) - 4.5).maximum(30 * torch.relu(x[:, 6:8].sum(1) - 1.2) - 4.5)
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize(("norm", "distance"), [("l0", 2.0), ("l1", 1.35)])
def test_nor_in_l1_and_l0(norm: str, distance: float) -> None:
    result = advkit.Minimal(Inside(), norm=norm).run(torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    assert result.distance(norm).allclose(torch.tensor(distance), rtol=0.02)


def test_a_second_look_has_to_undercut_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:  # class 1 by two of the first eight, or by three of the others
        lead = (x[:, :8].sum(1).square() - 6).maximum(100 * (x[:, 8:].sum(1) - 3.45))
        return torch.stack([-lead, lead], 1)

    def walk(model: Classifier, place: torch.Tensor, goal: Goal, closest: Closest, *_: int) -> None:
        assert (closest.least == 2).all()  # a search of two steps comes to four, of which two are put back

    monkeypatch.setattr(tangents, "looked_again", walk)
    result = advkit.Minimal(model, norm="l0", rounds=1, steps=2).run(torch.full((2, 16), 0.1), torch.tensor([0, 0]))
    assert result.distance("l0").tolist() == [2.0, 2.0]


@pytest.mark.parametrize("attack", [advkit.CW, advkit.EAD, advkit.Minimal])
def test_a_class_behind_two_whose_logits_are_about_0(attack: type[advkit.Attack]) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        nothing = 0 * x[:, 0]
        return torch.stack([nothing + 1e-6, nothing, x[:, 0] - 0.3], 1)

    result = attack(model).run(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    assert result.success.all()
    assert result.distance("l2").allclose(torch.tensor(0.3), rtol=0.05)
