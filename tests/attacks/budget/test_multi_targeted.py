"""MultiTargeted: against closed forms on linear models, and what it costs and finds on others."""

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import norms
from advkit._engine.boundaries import dual_size


class Linear(nn.Module):
    """Logits w x + b, counted."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = nn.functional.linear(x.flatten(1), self.weight, self.bias)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self.differentiated)
        return logits

    def differentiated(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def scene(classes: int = 5, count: int = 8, features: int = 12) -> tuple[Linear, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(classes, features, generator=random, dtype=torch.float64)
    model = Linear(weight, -0.4 * weight.sum(1))  # which brings the boundaries near to grey images
    images = 0.5 + 0.02 * torch.randn(count, features, generator=random, dtype=torch.float64)
    return model, images, model(images).argmax(1)


def distances(model: Linear, images: Tensor, labels: Tensor, norm: norms.Norm) -> Tensor:
    """How far each class is from each image, in closed form: (N, K), the label infinitely."""
    logits = model(images)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = torch.stack([dual_size(model.weight[labels] - weight, norm) for weight in model.weight], 1)
    return (gaps / slopes).scatter(1, labels[:, None], torch.inf)


@pytest.mark.parametrize("norm", [norms.Linf, norms.L2, norms.L1], ids=str)
@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_linear_model_exactly_what_can_be_fooled_is(norm: norms.Norm, targeted: bool) -> None:
    model, images, labels = scene(2 if targeted else 5)  # where a target of more leads has no closed form
    targets = 1 - labels if targeted else None
    nearest = distances(model, images, labels, norm).amin(1)
    assert (nearest < 0.4).all()  # the box is no matter
    for share, fooled in ((0.99, False), (1.01, True)):
        attack = advkit.MultiTargeted(model, norm=norm, eps=share * nearest)
        assert attack.run(images, labels, targets=targets).success.tolist() == [fooled] * len(images)


@pytest.mark.parametrize("steepness", [3, 10, 30, 100])
def test_the_end_of_a_bent_valley_is_found(steepness: float) -> None:
    """Rosenbrock's, whose floor the first steps reach; they are too long to follow it to where the model is fooled."""

    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(x)
        along, across = ((x - 0.5) / eps).unbind(1)
        gap = (0.9 - along) ** 2 + steepness * (across - along**2) ** 2 - 0.01
        return torch.stack([gap, torch.zeros_like(gap)], 1)

    eps, steps, image, label = 0.4, 20, torch.full((1, 2), 0.5), torch.tensor([0])
    result = advkit.MultiTargeted(model, eps=eps, steps=steps, restarts=1).run(image, label)
    assert result.success.all()
    assert steps + 2 < len(asked) < 12 * steps  # after the first steps, and once


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_class_that_is_far_behind_two_logits_about_zero_is_tried(norm: str, targeted: bool) -> None:
    """-2 is thousands of times as far behind as the two largest are large, and yet no mask. -1e9 is one."""
    _, images, _ = scene(3)
    slopes = torch.eye(3, 12, dtype=torch.float64)
    slopes[:2] = 0  # only the third class can win
    labels = torch.zeros(len(images), dtype=torch.int64)
    for behind, fooled in ((-0.2, True), (-1e9, False), (-torch.inf, False)):
        model = Linear(slopes, torch.tensor([1e-9, 0.0, behind], dtype=torch.float64) - slopes @ images[0])
        attack = advkit.MultiTargeted(model, norm=norm, eps=0.4)
        result = attack.run(images, labels, targets=labels + 2 if targeted else None)
        assert result.success.tolist() == [fooled] * len(images)
        if not fooled and targeted:
            assert model.backwards <= len(images), "a look, and no step"
        assert attack.within_reach(images, labels).tolist() == [fooled] * len(images)


def test_what_is_within_reach_of_the_pixels_that_may_move() -> None:
    """On a linear model: the gap over the dual norm of the weights that a mask leaves, of each image another."""
    model, images, labels = scene(2)
    masks = (torch.arange(12) % 4 < torch.tensor([1, 2, 3, 2, 0, 4, 1, 3])[:, None]).double()
    slopes = ((model.weight[1] - model.weight[0]).abs() * masks).sum(1)
    far = model(images).diff(dim=1).abs().squeeze(1) / slopes  # infinite where nothing may move
    eps = far.nan_to_num(posinf=0.4) * torch.tensor([0.99, 1.01]).repeat(4)
    attack = advkit.MultiTargeted(model, eps=eps, mask=masks)
    assert attack.within_reach(images, labels).tolist() == [False, True, False, True, False, True, False, True]


def test_what_it_costs() -> None:
    """One look, one Jacobian; then the nearest class with all steps, the next with half of them, a third, the least."""
    model, images, labels = scene()
    nearest = distances(model, images, labels, norms.Linf).amin(1)
    model.forwards = model.backwards = 0
    advkit.MultiTargeted(model, eps=0.1 * nearest, steps=12)(images, labels)  # too far from all for a restart
    steps = 12 + 6 + 4 + 3
    assert model.forwards == len(images) * (2 + steps + 4)  # after the last of each a look
    assert model.backwards == len(images) * (4 + steps)


def test_images_that_are_wrong_to_begin_with_cost_one_forward() -> None:
    model, images, labels = scene()
    wrong = (labels + 1) % 5
    model.forwards = model.backwards = 0
    assert advkit.MultiTargeted(model)(images, wrong).equal(images)
    assert (model.forwards, model.backwards) == (len(images), 0)


def test_the_nearest_class_goes_first_and_not_the_one_with_the_largest_logit() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.01, 0.0], [0.0, 10.0]])  # the second is behind by less, and further away
    model = Linear(weight, torch.tensor([1.0, 0.9, -4.5]))
    image, label = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    assert model(image).argsort(descending=True).tolist() == [[0, 1, 2]]
    model.forwards = model.backwards = 0
    assert bool(advkit.MultiTargeted(model, eps=0.11).run(image, label).success)
    assert model.forwards <= 5  # the look, the Jacobian, the first place, the step over the boundary, `run`


def test_no_more_classes_than_asked_for() -> None:
    model, images, labels = scene(classes=50)
    nearest = distances(model, images, labels, norms.Linf).amin(1)
    model.forwards = model.backwards = 0
    advkit.MultiTargeted(model, eps=0.01 * nearest, steps=3, target_classes=4)(images, labels)
    assert model.backwards == len(images) * (4 + 4 * 3)


class Deaf(nn.Module):
    """Class 1 hears of a feature only what is beyond 0.7: at grey images it has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        heard = (x.flatten(1) - 0.7).relu().sum(1)
        return torch.stack([torch.full_like(heard, 0.35), heard], 1)


def test_restarts_find_what_is_flat_about_the_image() -> None:
    images, labels = torch.full((6, 1, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    random = torch.Generator().manual_seed(0)
    once, again = (
        advkit.MultiTargeted(Deaf(), norm="l2", eps=1.2, restarts=restarts, generator=random) for restarts in (1, 3)
    )
    assert not once.run(images, labels).success.any()
    assert again.run(images, labels).success.all()  # two features at 1 are enough, all of them by 0.22 are as well


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network of six classes of noisy pictures, trained for a second."""
    random = torch.Generator().manual_seed(1)
    centres = torch.rand(6, 1, 8, 8, generator=random)
    labels = torch.arange(6).repeat(40)
    images = (centres[labels] + 0.45 * torch.randn(240, 1, 8, 8, generator=random)).clamp(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 6)
        )
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        noisy = (images + 0.1 * torch.randn(images.shape, generator=random)).clamp(0, 1)
        loss = nn.functional.cross_entropy(net(noisy), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval(), images, labels


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.06), ("l2", 0.35)])
def test_it_leaves_no_more_than_pgd_at_the_same_passes(norm: str, eps: float) -> None:
    net, images, labels = trained()
    passes = advkit.evaluation.passes.Passes()
    with advkit.evaluation.passes.counting(net, passes):
        found = advkit.MultiTargeted(net, norm=norm, eps=eps, restarts=1)(images, labels)
    left = (net(found).argmax(1) == labels).sum()
    steps = max(1, round((passes.forwards + passes.backwards) / 2 / len(images)))
    random = torch.Generator().manual_seed(0)
    pgd = advkit.PGD(net, norm=norm, eps=eps, steps=steps, generator=random).run(images, labels)
    clean = (net(images).argmax(1) == labels).sum()
    assert 0 < left < (~pgd.success).sum() < clean


RECORDED = [
    ("linf", 0.05, [-0.3195, -0.2332, -0.1109, 0.2622, 0.3583, -0.2642]),
    ("l2", 0.2, [-0.4030, -0.3086, -0.1651, 0.2002, 0.2262, -0.3520]),
    ("l1", 0.5, [-0.5068, -0.4125, -0.1727, 0.1182, -0.0540, -0.4210]),
]


def test_a_recorded_case() -> None:
    """The margins that are left, as recorded when it was written: a change of these is a change of the attack."""
    random = torch.Generator().manual_seed(5)
    hidden, last = torch.randn(20, 16, generator=random) / 4, torch.randn(4, 20, generator=random) / 4
    images = torch.rand(6, 16, generator=random)

    def model(x: Tensor) -> Tensor:
        return torch.tanh((x - 0.5) @ hidden.T * 2) @ last.T

    labels = model(images).argmax(1)
    for norm, eps, expected in RECORDED:
        found = advkit.MultiTargeted(model, norm=norm, eps=eps, restarts=1)(images, labels)
        seen = advkit.losses.margin(model(found), labels)
        print([round(v, 4) for v in seen.tolist()])
        torch.testing.assert_close(seen, torch.tensor(expected), atol=1e-3, rtol=0)
