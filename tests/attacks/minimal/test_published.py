"""The published minimal attacks against closed forms: linear models in the box, and L0 by brute force."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Attack, norms
from advkit._engine.ball import L0Ball
from advkit.attacks.minimal.proximal import proximal
from advkit.norms import Norm
from contracts.scenes import Passes, draw, said_by

ATTACKS: dict[str, tuple[Callable[..., Attack], float]] = {  # and how much more than the least change it may find
    "DDN": (lambda model, **more: advkit.DDN(model, steps=300, **more), 1.01),
    "FMN-L2": (lambda model, **more: advkit.FMN(model, steps=300, **more), 1.01),
    "FMN-L1": (lambda model, **more: advkit.FMN(model, steps=500, norm="l1", **more), 1.03),
    "FMN-Linf": (lambda model, **more: advkit.FMN(model, steps=300, norm="linf", **more), 1.01),
    "PDGD": (lambda model, **more: advkit.PDGD(model, **more), 1.06),
    "PDPGD-L2": (lambda model, **more: advkit.PDPGD(model, norm="l2", **more), 1.03),
    "PDPGD-L1": (lambda model, **more: advkit.PDPGD(model, norm="l1", **more), 1.12),
    "PDPGD-Linf": (lambda model, **more: advkit.PDPGD(model, norm="linf", **more), 1.03),
    "SuperDeepFool": (lambda model, **more: advkit.SuperDeepFool(model, **more), 1.05),
}


def plane(features: int, *, seed: int = 0) -> nn.Linear:
    """Two classes and the hyperplane between them, through the middle of the box and a little beyond."""
    model = nn.Linear(features, 2)
    with torch.no_grad():
        model.weight.copy_(draw(2, features, seed=seed, low=-1, high=1))
        model.bias.copy_(-0.5 * model.weight.sum(1))
    return model


def cheapest(reach: Tensor, slope: Tensor, gap: float, norm: Norm) -> float:
    """The least size of a change with slope . change = gap, feature i of which may go as far as reach_i.

    ``slope`` is positive. What is least is to spend up to a level: t * slope in L2, t in Linf, the steepest first in
    L1, each up to its reach.
    """
    if norm is norms.L1:
        spent = 0.0
        for i in slope.argsort(descending=True).tolist():
            part = min(float(reach[i]), gap / float(slope[i]))
            spent, gap = spent + part, gap - part * float(slope[i])
            if gap <= 1e-12:
                break
        return spent
    low, high = 0.0, 1e3
    for _ in range(100):
        level = (low + high) / 2
        change = (level * slope if norm is norms.L2 else torch.full_like(slope, level)).minimum(reach)
        low, high = (low, level) if float(slope @ change) >= gap else (level, high)
    return float(norm.size(change.unsqueeze(0)))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_distance_to_a_hyperplane_in_the_box(name: str) -> None:
    make, factor = ATTACKS[name]
    model = plane(32)
    images = draw(24, 32)
    images[:8, ::3], images[8:16, 1::2] = 1.0, 0.0  # these cannot go further
    labels = said_by(model, images)
    attack = make(model)
    norm = norms.get(attack.norm)  # type: ignore[attr-defined]
    result = attack.run(images, labels)
    assert result.success.all()
    for least, found in zip(distances(model, images, labels, norm), result.distance(norm), strict=True):
        assert least * (1 - 1e-4) <= float(found) <= factor * least + 2e-4


@pytest.mark.parametrize("name", ATTACKS)
def test_the_range_of_the_pixels_changes_nothing(name: str) -> None:
    make, _ = ATTACKS[name]
    model = plane(16).double()
    images = draw(6, 16).double()
    labels = said_by(model, images)
    expected = make(model).run(images, labels)
    wide = nn.Sequential(_Scaled(), model)
    found = make(wide, bounds=(-100.0, 100.0))(images * 200 - 100, labels)
    assert expected.success.all()
    torch.testing.assert_close((found + 100) / 200, expected.images, rtol=0, atol=2e-3)


class _Scaled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images + 100) / 200


def distances(model: nn.Linear, images: Tensor, labels: Tensor, norm: str | Norm) -> Iterator[float]:
    """How far each image (N, D) is from the hyperplane of a `plane`, inside the box."""
    weight = (model.weight[1] - model.weight[0]).detach().double()
    logits = model(images).detach().double()
    for image, label, scores in zip(images.double(), labels, logits, strict=True):
        slope = weight if label == 0 else -weight
        reach = torch.where(slope > 0, 1 - image, image)
        yield cheapest(reach, slope.abs(), float((scores[label] - scores[1 - label]).abs()), norms.get(norm))


def three_classes() -> nn.Linear:
    """A linear model of seven features, few enough to try all subsets of them."""
    model = nn.Linear(7, 3)
    with torch.no_grad():
        model.weight.copy_(draw(3, 7, seed=4, low=-1, high=1))
        model.bias.copy_(-0.5 * model.weight.sum(1) + torch.tensor([1.0, 0.0, 0.0]))
    return model


def fewest(model: nn.Linear, image: Tensor, label: int) -> int:
    """The least number of features that have to change, by trying all of them at both bounds."""
    for count in range(len(image) + 1):
        for which in itertools.combinations(range(len(image)), count):
            for ends in itertools.product((0.0, 1.0), repeat=count):
                tried = image.clone()
                tried[list(which)] = torch.tensor(ends)
                if int(model(tried.unsqueeze(0)).argmax()) != label:
                    return count
    raise AssertionError("no change is enough")


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda model: advkit.SigmaZero(model, steps=300), 0.75),
        (lambda model: advkit.FMN(model, steps=300, norm="l0"), 0.75),
    ],
    ids=["SigmaZero", "FMN"],
)
def test_the_fewest_features_by_brute_force(make: Callable[..., Attack], exact: float) -> None:
    model = three_classes()
    images = draw(24, 7, seed=5)
    labels = said_by(model, images)
    result = make(model).run(images, labels)
    least = torch.tensor([fewest(model, image, int(label)) for image, label in zip(images, labels, strict=True)])
    found = result.distance("l0")
    assert result.success.all()
    assert (found >= least).all()
    assert (found <= least + 1).all()
    assert (found == least).float().mean() >= exact
    assert least.max() >= 2


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [("DDN", 5, 4), ("FMN", 5, 4), ("PDGD", 5, 4), ("PDPGD", 5, 4), ("SigmaZero", 5, 4)],
)
def test_a_step_is_a_forward_and_a_backward_for_those_that_the_model_gets_right(
    name: str, forwards: int, backwards: int
) -> None:
    model = Passes(plane(12))
    images = draw(5, 12)
    labels = said_by(model.model, images)
    labels[1] = 1 - labels[1]
    found = getattr(advkit, name)(model, steps=4)(images, labels)
    assert model.forwards == [5, 4, 4, 4, 4][:forwards]
    assert model.backwards == [5, 4, 4, 4][:backwards]
    assert found[1].equal(images[1])


def test_superdeepfool_makes_few_passes() -> None:
    """On a linear model: to see, to cross, to project, and to halve; a row leaves when it is done."""
    model = Passes(plane(12))
    images = draw(5, 12, low=0.45, high=0.55)
    labels = said_by(model.model, images)
    assert advkit.SuperDeepFool(model, search_steps=3).run(images, labels).success.all()
    assert sum(model.forwards) <= 5 * (3 + 3 + 1 + 2)
    assert sum(model.backwards) <= 5 * 4


def test_superdeepfool_is_closer_than_deepfool_where_the_boundary_bends() -> None:
    """The boundary is a circle: DeepFool lands anywhere on it, the closest point is straight ahead."""

    def model(x: Tensor) -> Tensor:
        far = (x - 0.5)[:, 0] ** 2 + 3 * (x - 0.5)[:, 1] ** 2
        return torch.stack([torch.zeros_like(far), 4 * (far - 0.1)], 1)

    images = torch.tensor([[0.62, 0.58], [0.4, 0.57], [0.6, 0.45]])
    labels = torch.zeros(3, dtype=torch.int64)
    turns = torch.linspace(0, 2 * torch.pi, 100_000, dtype=torch.float64)
    edge = 0.5 + torch.stack([0.1**0.5 * turns.cos(), (0.1 / 3) ** 0.5 * turns.sin()], 1)
    least = torch.cdist(images.double(), edge).amin(1)
    result = advkit.SuperDeepFool(model).run(images, labels)
    plain = advkit.DeepFool(model).run(images, labels)
    assert result.success.all()
    assert (result.distance("l2") <= 1.03 * least + 1e-3).all()
    assert (result.distance("l2") <= plain.distance("l2") + 1e-6).all()


@pytest.mark.parametrize("norm", [norms.L1, norms.L2, norms.Linf])
def test_the_proximal_step_is_the_least_of_what_it_minimises(norm: Norm) -> None:
    change = draw(6, 20, low=-1, high=1).double()
    scale = 10 ** draw(6, 20, seed=1, low=-2, high=1).double()
    weight = torch.tensor([1e-9, 1e-3, 0.05, 0.3, 1.0, 1e3], dtype=torch.float64)

    def value(z: Tensor) -> Tensor:
        return weight * norm.size(z) + (scale * (z - change) ** 2).sum(1) / 2

    found = proximal(norm, change, scale, weight)
    assert (found.abs() <= change.abs()).all()
    assert (found * change >= 0).all()
    for seed in range(50):
        for far in (1e-1, 1e-3):
            other = found + far * draw(6, 20, seed=seed, low=-1, high=1).double() * change.abs()
            assert (value(found) <= value(other) + 1e-9).all()
        assert (value(found) <= value(found * (0.9 + 0.004 * seed)) + 1e-9).all()
    assert found[-1].abs().max() < 1e-5  # all is shrunk
    assert found[1].abs().max() > 0.1


def test_the_l0_ball_takes_the_features_that_moved_most() -> None:
    ball = L0Ball(torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]), torch.tensor([1.0, 2.0]), (0.0, 1.0))
    moved = ball.project(torch.tensor([[0.6, -9.0, 0.2], [0.6, -9.0, 0.2]]))
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.2]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["DDN", "FMN", "PDGD", "PDPGD", "SigmaZero", "SuperDeepFool"])
def test_narrow_and_wide_images(name: str, dtype: torch.dtype) -> None:
    model = plane(16).to(dtype if dtype is torch.float64 else torch.float32)
    images = draw(6, 16).to(dtype)
    labels = said_by(model, images.to(next(model.parameters()).dtype))
    result = getattr(advkit, name)(model, steps=100).run(images, labels)
    assert result.images.dtype == dtype
    assert result.success.all()
