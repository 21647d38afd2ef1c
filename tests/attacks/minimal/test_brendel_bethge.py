"""Brendel & Bethge's attack against closed forms, and the step that it takes against a solver for any such problem."""

import pytest
import torch

import advkit
from advkit import norms
from advkit.attacks.minimal.trust_region import rule
from advkit.errors import InputError
from attacks.minimal.test_minimal import Hidden
from attacks.minimal.test_published import distances, fewest, plane, three_classes
from contracts.scenes import draw, said_by


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_the_distance_to_a_hyperplane_in_the_box(norm: str) -> None:
    model, images = plane(32), draw(24, 32)
    images[:8, ::3], images[8:16, 1::2] = 1.0, 0.0  # these cannot go further
    labels = said_by(model, images)
    attack = advkit.BrendelBethge(model, norm=norm, steps=100, lr=0.03, generator=torch.Generator().manual_seed(0))
    result = attack.run(images, labels)
    assert result.success.all()
    for least, found in zip(distances(model, images, labels, norm), result.distance(norm), strict=True):
        assert least * (1 - 1e-4) <= float(found) <= 1.01 * least


def test_nearly_the_fewest_features() -> None:
    model, images = three_classes(), draw(24, 7, seed=5)
    labels = said_by(model, images)
    attack = advkit.BrendelBethge(model, norm="l0", steps=60, lr=0.2, generator=torch.Generator().manual_seed(0))
    result = attack.run(images, labels)
    least = torch.tensor([fewest(model, image, int(label)) for image, label in zip(images, labels, strict=True)])
    assert result.success.all()
    assert (result.distance("l0") == least).float().mean() > 0.8


@pytest.mark.parametrize(("norm", "powers"), [("l2", 2), ("l1", 1)])
def test_the_closest_point_in_the_trust_region(norm: str, powers: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    originals, x, slope = draw(6, 5), draw(6, 5, seed=1), draw(6, 5, seed=2, low=-1, high=1)
    gap, radius = draw(6, seed=3, low=-0.1, high=0.1), torch.full((6,), 0.2)
    found = rule(norms.get(norm), (0.0, 1.0)).step(x, originals, slope, gap, radius)
    for image, where, direction, left, ours in zip(originals, x, slope, gap, found, strict=True):
        start, ends, normal = where.double().numpy(), image.double().numpy(), direction.double().numpy()
        beyond = {"type": "ineq", "fun": lambda z, n=normal, s=start, g=float(left): -g - n @ (z - s)}
        near = {"type": "ineq", "fun": lambda z, s=start: 0.04 - ((z - s) ** 2).sum()}
        best = optimize.minimize(
            lambda z, e=ends: ((abs(z - e) ** 2 + 1e-12) ** (powers / 2)).sum(),
            start,
            bounds=[(0, 1)] * 5,
            constraints=[beyond, near],
            method="SLSQP",
            options={"maxiter": 500},
        )
        got = ours.double().numpy()
        assert beyond["fun"](got) > -1e-3
        assert near["fun"](got) > -1e-5
        assert (abs(got - ends) ** powers).sum() < best.fun * 1.03 + 1e-3


def test_each_walk_begins_where_it_is_told() -> None:
    model, images = Hidden(), torch.zeros(70, 4)  # more than are attacked at once
    images[:, 2:] = 0.5
    starts = images.clone()
    starts[::2, 0], starts[1::2, 1] = 1.0, 1.0
    labels = torch.zeros(70, dtype=torch.int64)
    result = advkit.BrendelBethge(model, steps=20, starting_points=starts).run(images, labels)
    expected = torch.tensor([0.9, 0.23]).repeat(35)
    assert result.distance("l2").allclose(expected, rtol=0.01)
    for wrong, says in ((starts[:3], "shape"), (starts + 1, "within bounds"), (starts[:, :2], "shape")):
        with pytest.raises(InputError, match=says):
            advkit.BrendelBethge(model, steps=20, starting_points=wrong)(images, labels)
