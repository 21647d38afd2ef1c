"""TPGD against torch's own divergence."""

import torch
import torch.nn.functional as F

import advkit
from references.smooth import dyadic_images, smooth_net


def test_steps_are_along_the_divergence_from_the_answer_to_the_image() -> None:
    model, images = smooth_net(), dyadic_images(6)
    labels = model(images).argmax(1)
    noise = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(3))
    x = (images + 0.001 * noise).clamp(0, 1)
    for _ in range(5):
        x.requires_grad_()
        said = F.log_softmax(model(images), 1)
        loss = F.kl_div(F.log_softmax(model(x), 1), said, reduction="sum", log_target=True)
        (gradient,) = torch.autograd.grad(loss, x)
        x = images + (x.detach() + 0.05 * gradient.sign() - images).clamp(-0.2, 0.2)
        x = x.clamp(0, 1)
    for classes in (labels, (labels + 1) % 6):  # which have no part in it
        attack = advkit.TPGD(model, 0.2, 0.05, 5, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(attack(images, classes), x)
    assert (model(x).argmax(1) != labels).any()
    targets = model(x).argmin(1)
    aimed = advkit.TPGD(model, 0.2, 0.05, 5)(images, (targets + 1) % 6, targets=targets)
    assert (F.cross_entropy(model(aimed), targets) < F.cross_entropy(model(images), targets)).all()


def test_a_class_that_is_masked_has_no_part_in_the_divergence() -> None:
    model, images = smooth_net(), dyadic_images(4)
    mask = torch.tensor([0.0, 0.0, -torch.inf, 0.0, 0.0, 0.0])
    labels = (model(images) + mask).argmax(1)
    found = advkit.TPGD(lambda x: model(x) + mask, eps=0.2, alpha=0.05)(images, labels)
    before, after = ((model(x) + mask).log_softmax(1)[:, mask == 0] for x in (images, found))
    assert (F.kl_div(after, before, reduction="none", log_target=True).sum(1) > 0.01).all()
