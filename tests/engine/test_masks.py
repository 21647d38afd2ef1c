"""Masks: their shapes, closed forms of what is free, and who keeps them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import advkit
from advkit._engine.masks import free_pixels, is_per_image
from advkit.data import attacked
from advkit.errors import AdvkitError, InputError
from advkit.goals import Goal
from contracts.scenes import conv_net, draw, easy_images, linear_net, said_by, trained_net

EDGE = torch.zeros(8, 8, dtype=torch.bool)
EDGE[1:4, 2:7] = True


@pytest.mark.parametrize(
    ("images", "mask", "each"),
    [
        ((5, 3, 8, 8), (8, 8), False),
        ((5, 3, 8, 8), (3, 8, 8), False),
        ((5, 3, 8, 8), (1, 8, 8), False),
        ((5, 3, 8, 8), (5, 8, 8), True),
        ((5, 3, 8, 8), (5, 1, 8, 8), True),
        ((5, 3, 8, 8), (5, 3, 8, 8), True),
        ((3, 3, 8, 8), (3, 8, 8), False),
        ((3, 3, 8, 8), (3, 1, 8, 8), True),
        ((8, 1, 8, 8), (8, 8, 8), True),
        ((5, 8, 7), (8, 7), False),
        ((5, 8, 7), (5, 8, 7), True),
        ((5, 7), (7,), False),
        ((5, 7), (5, 7), True),
        ((5, 2, 4, 8, 7), (4, 8, 7), False),
        ((5, 2, 4, 8, 7), (2, 4, 8, 7), False),
        ((5, 2, 4, 8, 7), (5, 4, 8, 7), True),
    ],
)
def test_shapes(images: tuple[int, ...], mask: tuple[int, ...], each: bool) -> None:
    values = draw(*mask).round()
    wanted = values
    if each and len(mask) < len(images):
        wanted = values.unsqueeze(1)
    assert is_per_image(values, torch.zeros(images)) == each
    assert free_pixels(values, torch.zeros(images)).equal(wanted.bool().expand(images))


@pytest.mark.parametrize("shape", [(7, 8), (8,), (2, 8, 8), (4, 3, 8, 8), (5, 2, 8, 8), (1, 1, 1, 1, 1)], ids=str)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    attack = advkit.PGD(conv_net(), mask=torch.ones(shape))
    words = (
        f"mask has shape {shape}, but for images of shape (5, 3, 8, 8) it must have one of the shapes (8, 8), "
        "(3, 8, 8), (5, 8, 8), (5, 3, 8, 8)"
    )
    with pytest.raises(InputError, match=re.escape(words)):
        attack(draw(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_the_closed_form_on_what_is_free(norm: str) -> None:
    """On a linear model the distance to the boundary is the gap over the dual norm of the free weights."""
    model = linear_net(classes=2)
    images, labels = easy_images(model, count=3)
    weights = model[1].weight[1] - model[1].weight[0]
    free = weights.where(EDGE.expand(3, 8, 8).flatten(), 0).abs().double()
    gap = (model(images)[:, 1] - model(images)[:, 0]).detach().abs().double()
    found = advkit.Minimal(model, norm=norm, mask=EDGE).run(images, labels)
    assert found.success.all()
    if norm == "l0":
        room = torch.stack([images, 1 - images]).amax(0).flatten(1)[:, EDGE.expand(3, 8, 8).flatten()]
        assert (found.distance(norm) >= (gap / (free.max() * room.max())).ceil()).all()
        assert (found.distance(norm) <= 3).all()
    else:
        slope = {"l1": free.max(), "l2": free.norm(), "linf": free.sum()}[norm]
        torch.testing.assert_close(found.distance(norm).double(), gap / slope, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_budget_is_spent_on_what_is_free(norm: str) -> None:
    model = linear_net(classes=2)
    images, labels = draw(4, 3, 8, 8, low=0.4, high=0.6), torch.zeros(4, dtype=torch.int64)
    weights = (model[1].weight[1] - model[1].weight[0]).view(3, 8, 8).where(EDGE, 0)
    best = {"linf": weights.sign(), "l2": weights / weights.norm()}[norm] * 0.1
    found = advkit.PGD(model, eps=0.1, alpha=0.1, norm=norm, random_start=False, mask=EDGE)(images, labels)
    torch.testing.assert_close(found - images, best.expand_as(images), rtol=0, atol=1e-6)


def test_a_random_start_is_drawn_among_what_is_free() -> None:
    """In a ball of few dimensions: drawn in all of them, it would be half as far away."""
    images = torch.full((200, 3, 8, 8), 0.5)
    attack = advkit.PGD(conv_net(), eps=0.1, alpha=1e-9, norm="l2", steps=1, mask=EDGE)
    far = attack.run(images, torch.zeros(200, dtype=torch.int64)).distance("l2")
    assert far.mean() > 0.09


@pytest.mark.parametrize("each", [False, True])
def test_a_mask_of_all_changes_nothing(each: bool) -> None:
    model, images = conv_net(), draw(4, 3, 8, 8)
    labels = said_by(model, images)
    mask = torch.ones(4, 3, 8, 8) if each else torch.ones(8, 8)
    for attack in (advkit.CW(model), advkit.PGD(model, generator=torch.Generator()), advkit.DIFGSM(model)):
        runs = []
        for one in (attack, dataclasses.replace(attack, mask=mask)):
            torch.manual_seed(0)
            if one.generator is not None:
                one.generator.manual_seed(0)
            runs.append(one(images, labels))
        assert runs[0].equal(runs[1])


@pytest.mark.parametrize("attack", [advkit.PGD, advkit.CW, advkit.Square, advkit.NES, advkit.DIFGSM])
def test_a_mask_of_nothing_leaves_images_alone(attack: Any) -> None:
    model, images = conv_net(), draw(4, 3, 8, 8)
    labels = (said_by(model, images) + torch.tensor([0, 1, 0, 0])) % 4
    few = {"max_queries": 20} if attack in (advkit.Square, advkit.NES) else {}
    result = attack(model, mask=torch.zeros(8, 8), **few).run(images, labels)
    assert result.images.equal(images)
    assert result.success.tolist() == [False, True, False, False]


def test_queries_are_those_of_the_image_whatever_its_mask() -> None:
    """Images are attacked in the order of how many pixels are free, which is not theirs."""
    images, labels = draw(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64)
    masks = torch.zeros(3, 1, 8, 8)
    masks[0, :, :2], masks[2, :, :1] = 1, 1

    def unmoved(x: Tensor) -> Tensor:
        """No pixel matters, so that each is tried both ways."""
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    found = advkit.SimBA(unmoved, mask=masks).run(images, labels)
    assert found.queries.tolist() == [1 + 2 * 48, 0, 1 + 2 * 24]


def test_rounding_to_levels_mends_some_of_the_images() -> None:
    """Few levels undo much of what is found; the images that it undid, and no others, are asked about again."""
    model, images, labels = trained_net()
    images = (images * 15).round() / 15
    masks = torch.zeros(8, 1, 8, 8)
    masks[:4, :, 2:6], masks[4:] = 1, 1
    attack = advkit.SparseL1Descent(model, eps=12.0, steps=8, quantile=0.9, mask=masks)
    result = dataclasses.replace(attack, levels=16).run(images, labels)
    assert result.images.equal(((result.images * 15).round() / 15).where(masks.bool(), images))
    assert (result.success >= attack.run(images, labels).success).all()
    assert result.success.any()


@pytest.mark.parametrize("attack", [advkit.RayS, advkit.OnePixel, advkit.Noise])
def test_the_model_is_asked_about_what_a_mask_leaves_as_it_was(attack: Any) -> None:
    """Beside pixels on levels there are those outside, which are not on them and on which it depends."""
    images = torch.full((1, 1, 4, 4), 0.3)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        total = batch.flatten(1).sum(1)
        return torch.stack([torch.full_like(total, 14 * 0.3 + 0.5), total], 1)  # two pixels on black, or one of them

    mask = torch.zeros(4, 4)
    mask[1, 1:3] = 1
    chance = torch.Generator().manual_seed(0)
    settings = {"kind": "uniform", "amount": 1.0} if attack is advkit.Noise else {}
    few = {"max_queries": 60, "mask": mask, "levels": 2, "generator": chance}
    result = attack(model, **few, **settings).run(images, torch.tensor([0]))
    assert result.success.all()
    assert result.images[0, 0][mask == 0].eq(images[0, 0, 0, 0]).all()
    for batch in seen:
        assert batch[:, 0][:, mask == 0].eq(images[0, 0, 0, 0]).all()


def test_an_attack_that_does_not_say_which_images_it_asks_about() -> None:
    class Halved(advkit.Attack):
        def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
            self.classifier.logits(images[:1])
            return images

    images, labels = draw(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(AdvkitError, match="queried the model with 1 of 3 images without saying which"):
        Halved(conv_net(), mask=EDGE)(images, labels)


class TestWhoKeepsIt:
    def test_copies_and_text(self) -> None:
        attack = advkit.PGD(conv_net(), eps=0.1, mask=EDGE, levels=256)
        other = dataclasses.replace(attack.on(conv_net(seed=1)), steps=3)
        assert other.mask is EDGE
        assert str(other) == "PGD(mask=[15 of 64], levels=256, eps=0.1, steps=3)"

    def test_parts_that_see_the_rest_of_a_batch(self) -> None:
        """With a mask for each image; three images of three channels, so that a cut of it may look like one for all."""
        model = linear_net()
        images, labels = easy_images(model, count=4)
        masks = torch.zeros(4, 8, 8)
        masks[:, :4], masks[3], masks[0] = 1, 0, 0
        attack = advkit.WorstOf([advkit.FGSM(model, eps=1e-6), advkit.DeepFool(model), advkit.FGSM(model, eps=0.1)])
        result = dataclasses.replace(attack, mask=masks).run(images, labels)
        assert result.success.tolist() == [False, True, True, False]
        assert result.images[:, :, 4:].equal(images[:, :, 4:])

    def test_masks_that_differ(self) -> None:
        model = conv_net()
        with pytest.raises(InputError, match="must have the same mask, and these have different ones"):
            advkit.WorstOf([advkit.FGSM(model, mask=EDGE), advkit.PGD(model, mask=~EDGE)])

    def test_pipelines(self) -> None:
        model, images = conv_net(), (draw(4, 3, 8, 8) * 255).byte()
        attack = advkit.PGD(model, mask=EDGE)
        labels = said_by(model, images / 255)
        for moved in (
            advkit.AttackTransform(attack)(images),
            next(iter(attacked([(images / 255, labels)], attack)))[0],
        ):
            before = images if moved.dtype == torch.uint8 else images / 255
            changed = (moved != before).any(0).any(0)
            assert changed.any()
            assert not (changed & ~EDGE).any()
        per_image = advkit.PGD(model, mask=torch.ones(4, 1, 8, 8))
        for refused in (
            lambda: advkit.AttackTransform(per_image)(images),
            lambda: next(iter(attacked([(images / 255, labels)], per_image))),
        ):
            with pytest.raises(InputError, match="PGD has one mask for each image of one batch"):
                refused()

    def test_a_run_of_evaluate(self, tmp_path: Path) -> None:
        model, images = conv_net(), draw(4, 3, 8, 8)
        batches = [(images, said_by(model, images))]

        def evaluated(mask: Tensor) -> None:
            attacks = {"masked": advkit.FGSM(model, eps=0.1, mask=mask)}
            advkit.evaluate(model, batches, attacks, run_folder=tmp_path, flags=False)

        evaluated(EDGE)
        evaluated(EDGE.clone())
        with pytest.raises(AdvkitError, match="mask"):
            evaluated(~EDGE)
        with pytest.raises(InputError, match="one mask for each image of one batch"):
            advkit.evaluate(model, batches, [advkit.FGSM(model, mask=torch.ones(4, 1, 8, 8))], flags=False)
