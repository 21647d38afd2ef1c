"""With a mask an attack is on the pixels that may move, and the others come back to the bit."""

import torch
from torch import Tensor, nn

from contracts.cases import Case, each_variant
from contracts.scenes import IMAGE, draw, easy_images, judge, linear_net


def masks(count: int) -> Tensor:
    """Masks (N, 1, 8, 8), N at least 4: all pixels, none, and then always the same number of pixels."""
    free = draw(count, 1, 8, 8, seed=3) < 0.7
    free[0], free[1] = True, False
    for row in range(3, count):
        free[row] = free[2].roll(row, 2)
    return free


class Around(nn.Module):
    """A model of vectors (N, d) that stand at some places of an image, whose other pixels stay."""

    def __init__(self, model: nn.Module, image: Tensor, free: Tensor) -> None:
        super().__init__()
        self.model, self.image, self.free = model, image, free

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.model(
            self.image.expand(len(vectors), *IMAGE).masked_scatter(self.free.expand(len(vectors), *IMAGE), vectors)
        )
        return logits


@each_variant()
def test_an_attack_with_a_mask_is_one_on_what_is_free(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model, 5)
    labels[4] = (labels[4] + 1) % 3  # there is nothing to do for it, but for the others with as many free pixels
    attack = case.make(model, mask=masks(5))
    result = attack.run(images, labels)
    judge(case, result, images, labels, model=model)
    free = masks(5).expand_as(images)
    assert result.images[~free].equal(images[~free])
    if case.fools == 1.0:
        assert result.success[[0, 2, 3]].tolist() == [True] * 3
    if case.deterministic and not attack.spatial and not case.parts:
        alone = case.make(Around(model, images[2], free[2]))(images[2:3][free[2:3]][None], labels[2:3])
        torch.testing.assert_close(result.images[2][free[2]], alone[0], rtol=0, atol=3e-6)
