import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advkit import JSMA
from advkit._engine.skyline import best_pair
from advkit.attacks import jsma
from advkit.goals import Targeted
from contracts.scenes import Counting, Passes, Shifted, conv_net, draw, easy_images, linear_net, said_by, trained_net


def linear(classes: int, features: int, seed: int) -> nn.Linear:
    model = nn.Linear(features, classes)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, features, generator=torch.Generator().manual_seed(seed)))
        model.bias.copy_(-0.5 * model.weight.sum(1))
    return model.eval()


def by_hand(model: nn.Linear, x: Tensor, label: int, target: int, theta: float, most: int, targeted: bool) -> Tensor:
    """Papernot et al.'s algorithm 3 on a linear model, all pairs tried at each step."""
    x, start = x.clone(), x.clone()
    alpha = model.weight[target]
    beta = model.weight.sum(0) - alpha
    sign = 1.0 if theta > 0 else -1.0
    while True:
        said = int(model(x[None]).argmax())
        if (said == target) if targeted else (said != label):
            return x
        best, pair = 0.0, None
        for p, q in itertools.combinations(range(len(x)), 2):
            at_bound = any(x[i] >= 1 if theta > 0 else x[i] <= 0 for i in (p, q))
            changed = set((x != start).nonzero().flatten().tolist())
            within = len(changed) + 2 <= most or {p, q} <= changed
            a, b = sign * float(alpha[p] + alpha[q]), -sign * float(beta[p] + beta[q])
            if not at_bound and within and a > 0 and b > 0 and a * b > best:
                best, pair = a * b, (p, q)
        if pair is None:
            return start
        for i in pair:
            x[i] = (x[i] + theta).clamp(0, 1)


@pytest.mark.parametrize("theta", [1.0, 0.4, -1.0, -0.3])
@pytest.mark.parametrize("gamma", [1.0, 0.4])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("pairs", [None, 1])
def test_every_step_takes_the_pair_that_brute_force_takes(
    theta: float, gamma: float, targeted: bool, pairs: int | None
) -> None:
    model = linear(4, 12, seed=7)
    images = draw(30, 12, seed=3)
    with torch.no_grad():
        ranked = model(images).argsort(1, descending=True)
    labels, targets = ranked[:, 0], ranked[:, 2] if targeted else ranked[:, 1]
    result = JSMA(model, theta, gamma, pairs=pairs).run(images, labels, targets=targets if targeted else None)
    most = int(gamma * 12 + 1e-6) // 2 * 2
    with torch.no_grad():
        expected = torch.stack(
            [
                by_hand(model, image, int(label), int(target), theta, most, targeted)
                for image, label, target in zip(images, labels, targets, strict=True)
            ]
        )
    torch.testing.assert_close(result.images, expected)
    assert (result.distance("l0") <= most).all()
    assert (result.distance("l0") > 0).equal(result.success)
    assert result.success.any()


def test_two_backwards_a_step_and_rows_leave() -> None:
    network = linear_net(7)
    images, labels = easy_images(network, count=6)
    model, backwards = Counting(network), []

    def counted(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: backwards.append(len(gradient)))
        return logits

    result = JSMA(counted, theta=0.01, gamma=1.0, pairs=1).run(images, labels)
    assert result.success.all()
    forwards = model.rows[:-1]  # without the judge
    assert forwards[0] == 6
    assert len(set(forwards)) > 1
    assert forwards == sorted(forwards, reverse=True)
    assert len(backwards) == 2 * (len(forwards) - 1)


@pytest.mark.parametrize(("theta", "value"), [(1.0, 0.0), (-1.0, 1.0)])
def test_saturated_images_move_the_other_way(theta: float, value: float) -> None:
    model = linear(3, 20, seed=1)
    with torch.no_grad():
        model.bias.copy_(-value * model.weight.sum(1))
        model.bias.add_(torch.tensor([0.1, 0.0, 0.0]))
    images = torch.full((2, 20), value)
    result = JSMA(model, theta, 1.0).run(images, torch.tensor([0, 0]))
    assert result.success.all()
    assert (result.distance("l0") == 2).all()


def test_a_step_too_small_to_count_comes_to_an_end() -> None:
    model = linear(3, 8, seed=1)
    images = draw(3, 8, low=0.5)
    result = JSMA(model, theta=1e-9, gamma=1.0).run(images, said_by(model, images))
    assert result.images.equal(images)


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_only_raises_and_stays_in_its_share(seed: int, classes: int) -> None:
    model = conv_net(1, classes, seed)
    images = draw(4, 1, 5, 6, seed=seed)
    result = JSMA(model, theta=0.5, gamma=0.3).run(images, said_by(model, images))
    assert (result.images >= images).all()
    assert (result.distance("l0") <= 9).all()


@pytest.mark.parametrize("theta", [1.0, 0.1, -0.5])
@pytest.mark.parametrize("targeted", [True, False])
def test_many_pairs_of_a_jacobian_are_the_best_one_after_the_other(theta: float, targeted: bool) -> None:
    network, images, labels = linear(4, 200, seed=7), draw(6, 200, seed=3), torch.tensor([0, 1, 2, 3, 0, 1])
    jacobian = network.weight
    target = (labels + 1) % 4
    most = 16
    rows = jsma._Saliency(images, images, Targeted(target), target)
    alpha = jacobian[target]
    beta = jacobian.sum(0) - alpha
    attack = JSMA(network, theta, gamma=1.0)
    with torch.no_grad():
        attack._move(rows, alpha, beta, torch.zeros(6, 2), most)
        expected = images.clone()
        for _ in range(most):
            moved = (expected + theta).clamp(0, 1)
            sign = 1 if theta > 0 else -1
            pair, exists = best_pair(sign * alpha, -sign * beta, moved != expected)
            assert exists.all()
            expected = expected.scatter(1, pair, moved.gather(1, pair))
    torch.testing.assert_close(rows.x, expected)


def test_features_that_are_not_needed_are_put_back() -> None:
    network, images, labels = trained_net()
    targets = (labels + 1) % 4
    network = Shifted(network, lambda logits: 5 * (logits / 5).tanh())
    model = Passes(network)
    result = JSMA(model, gamma=1.0).run(images, labels, targets=targets)
    passes = sum(model.forwards) + sum(model.backwards)
    paper = Passes(network)
    published = JSMA(paper, gamma=1.0, pairs=1).run(images, labels, targets=targets)
    assert result.success.equal(published.success)
    assert result.success.any()
    assert result.distance("l0").sum() < published.distance("l0").sum()
    assert passes < sum(paper.forwards) + sum(paper.backwards)
    changed = (result.images != images).flatten(1)
    assert (result.images >= images).all()
    assert (changed.sum(1) > 0).equal(result.success)


def test_what_many_pairs_miss_is_done_again_with_one() -> None:
    """Class 1 is said where two features are up, and less and less where more are."""

    def bump(x: Tensor) -> Tensor:
        up = x.sum(1)
        score = up - 1.5 - 50 * (up - 2.5).clamp_min(0)
        return torch.stack([-score, score], 1)

    images = torch.zeros(2, 40)
    result = JSMA(bump, gamma=1.0).run(images, torch.tensor([0, 0]))
    assert result.success.all()
    assert (result.distance("l0") == 2).all()


def test_what_is_wrong_already_needs_one_forward() -> None:
    network, images, labels = trained_net()
    model = Passes(network)
    assert JSMA(model)(images, (labels + 1) % 4).equal(images)
    assert (model.forwards, model.backwards) == ([8], [])
