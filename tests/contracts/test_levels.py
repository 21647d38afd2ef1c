"""With levels an attack gives back what pixels of 8 bits can hold, and fools with it where it fools without."""

import torch

import advkit
from contracts.cases import Case, each_variant
from contracts.scenes import easy_images, judge, linear_net, said_by


@each_variant()
def test_what_comes_back_is_on_the_grid_and_fools(case: Case) -> None:
    model = linear_net()
    images = (easy_images(model)[0] * 255).round() / 255
    labels = said_by(model, images)
    result = case.make(model, levels=256).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.images.equal((result.images * 255).round() / 255)
    assert (result.images != images).any()
    fooled = case.make(model).run(images, labels).success
    assert (result.success | ~fooled).all()


def test_a_budget_counts_from_images_that_are_not_on_the_grid() -> None:
    model = linear_net()
    levels = (easy_images(model)[0] * 255).round().clamp(1, 254)
    images = (levels + 0.4) / 255
    generator = torch.Generator().manual_seed(0)
    attack = advkit.Square(model, norm="l1", eps=4.0, max_queries=100, levels=256, generator=generator)
    result = attack.run(images, said_by(model, images))
    assert result.success.any()
    assert result.images.equal((result.images * 255).round() / 255)
    assert (result.distance("l1") <= 4 + 1e-6).all()
