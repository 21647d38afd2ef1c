import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advkit import JSMA
from advkit.attacks.minimal.saliency import Jacobian, PairMover, Saliency
from advkit.attacks.minimal.skyline import best_pair
from advkit.errors import InputError
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
@settings(max_examples=20)
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
    rows = Saliency(images, images, Targeted(target))
    alpha = jacobian[target]
    beta = jacobian.sum(0) - alpha
    mover = PairMover(theta, 1.0, (0.0, 1.0))
    with torch.no_grad():
        mover.move(rows, Jacobian(alpha, beta, torch.zeros(6, 2)), most)
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


class Score(nn.Module):
    """A network with one logit, as the two of a classifier: (first * z, second * z)."""

    def __init__(self, network: nn.Module, first: float, second: float) -> None:
        super().__init__()
        self.network, self.first, self.second = network, first, second

    def forward(self, x: Tensor) -> Tensor:
        score = self.network(x)
        return torch.cat([self.first * score, self.second * score], 1)


def scores(hidden: int) -> nn.Module:
    """A network of one logit, linear where nothing is hidden."""
    layers = [nn.Linear(30, hidden), nn.ReLU(), nn.Linear(hidden, 1)] if hidden else [nn.Linear(30, 1)]
    network = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
        layers[-1].bias.sub_(network(draw(64, 30)).median())
    return network.eval()


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("pairs", [None, 1])
@pytest.mark.parametrize("theta", [1.0, -0.3])
@pytest.mark.parametrize(("first", "second"), [(0.0, 1.0), (-1.0, 0.0), (2.0, 3.0)])
def test_two_logits_of_one_score_have_one_answer(
    hidden: int, pairs: int | None, theta: float, first: float, second: float
) -> None:
    network, images = scores(hidden), draw(64, 30)
    middle = Score(network, -0.5, 0.5)
    labels = said_by(middle, images)
    expected = JSMA(middle, theta, 1.0, pairs=pairs).run(images, labels)
    assert expected.success.all()
    found = JSMA(Score(network, first, second), theta, 1.0, pairs=pairs)(images, labels)
    torch.testing.assert_close(found, expected.images)


def test_three_logits_that_all_rise_have_a_pair() -> None:
    """Each logit rises with each feature, so that the sum of the others never falls; less their mean they do."""
    common = nn.Linear(40, 1)
    apart = linear(3, 40, seed=2)
    with torch.no_grad():
        common.weight.fill_(20.0)
        common.bias.zero_()

    def model(x: Tensor) -> Tensor:
        return apart(x) + common(x)

    images = draw(16, 40, seed=4)
    labels = said_by(model, images)
    result = JSMA(model, gamma=1.0).run(images, labels)
    assert result.success.all()
    assert (result.distance("l0") >= 2).all()


@pytest.mark.parametrize(("shape", "gamma", "allowed", "enough"), [((12,), 0.1, 1, 0.17), ((1, 2, 3), 0.2, 1, 0.34)])
def test_a_gamma_that_allows_no_pair_is_an_error(
    shape: tuple[int, ...], gamma: float, allowed: int, enough: float
) -> None:
    images = draw(4, *shape)
    features = images[0].numel()
    network = nn.Sequential(nn.Flatten(), linear(3, features, seed=1))
    with pytest.raises(InputError, match=f"gamma={gamma} lets {allowed} of the {features} features") as caught:
        JSMA(network, gamma=gamma)(images, said_by(network, images))
    assert f"a gamma of {enough} at least" in str(caught.value)
    assert JSMA(network, gamma=enough).run(images, said_by(network, images)).images.shape == images.shape


def test_one_feature_is_no_pair() -> None:
    model, images = linear(2, 1, seed=1), draw(2, 1)
    for gamma in (0.1, 1.0):
        assert JSMA(model, gamma=gamma)(images, said_by(model, images)).equal(images)


def test_small_steps_come_to_as_many_successes() -> None:
    network, images, labels = trained_net()
    labels_of_images = (labels, None), (labels, (labels + 1) % 4)
    for of, targets in labels_of_images:
        published = JSMA(network, theta=0.1, gamma=1.0, pairs=1).run(images, of, targets=targets)
        result = JSMA(network, theta=0.1, gamma=1.0).run(images, of, targets=targets)
        assert published.success.any()
        assert result.success.equal(published.success)


def test_a_search_of_a_hundred_jacobians() -> None:
    """Every step of a slow climb is looked at: the pairs that a Jacobian may give have long outgrown any integer."""

    def model(x: Tensor) -> Tensor:
        up = x[:, :2].sum(1)
        return torch.stack([torch.full_like(up, 1.9), up, -10 * up], 1)

    images = torch.zeros(1, 40)
    result = JSMA(model, theta=0.01, gamma=0.05).run(images, torch.tensor([0]))
    assert result.success.all()
    assert result.distance("l0").tolist() == [2.0]
    levels = JSMA(lambda x: model(x / 255), theta=1, gamma=0.05, bounds=(0, 255)).run(images, torch.tensor([0]))
    assert levels.success.all()
