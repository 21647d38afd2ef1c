"""With levels an attack gives back what pixels of 8 bits can hold, and fools with it where it fools without."""

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
