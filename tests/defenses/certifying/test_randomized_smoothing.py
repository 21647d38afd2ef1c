"""Against closed forms: the probability of a linear classifier under noise is known, and so is its distance."""

import json
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import advkit
from advkit.defenses import RandomizedSmoothing
from advkit.defenses.certifying.binomial import fair_coin, lower_bound
from advkit.errors import InputError, ModelError
from advkit.model import Model

NORMAL = torch.tensor([0.6, -0.8, 0.0, 0.0]).double()


def linear(images: Tensor) -> Tensor:
    """Two classes, on either side of the plane through 0; class 1 where NORMAL points."""
    side = images.flatten(1) @ NORMAL.to(images)
    return torch.stack([-side, side], 1)


def seeded(sigma: float = 0.5, **more: object) -> RandomizedSmoothing:
    return RandomizedSmoothing(sigma, generator=torch.Generator().manual_seed(0), **more)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("n", [1, 10, 1000])
@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.5])
def test_the_bound_is_that_of_clopper_and_pearson(n: int, alpha: float) -> None:
    hits = torch.linspace(0, n, 12).round().long()
    wanted = torch.tensor(stats.beta.ppf(alpha, hits.clamp_min(1), n - hits + 1)).where(hits > 0, 0)
    torch.testing.assert_close(lower_bound(hits, n, alpha), wanted, rtol=0, atol=1e-12)


def test_the_bound_of_many_draws_and_the_test_of_a_coin() -> None:
    n = 100_000
    hits = torch.tensor([n // 2, 60_000, 99_000, n - 1, n])
    wanted = torch.tensor(stats.beta.ppf(0.001, hits, n - hits + 1))
    torch.testing.assert_close(lower_bound(hits, n, 0.001), wanted, rtol=0, atol=1e-12)
    for hits, n in ((1, 1), (2, 2), (4, 7), (55, 100), (50_500, 100_000)):
        found = fair_coin(torch.tensor([hits]), torch.tensor([n]))
        assert found.item() == pytest.approx(stats.binomtest(hits, n).pvalue, abs=1e-11)


def test_the_radius_is_never_too_large_but_for_chance_and_tends_to_the_distance() -> None:
    """200 runs: with confidence 95 % a radius is below the true distance, which is that of the plane."""
    runs, distance, alpha = 200, 0.4, 0.05
    images = (distance * NORMAL).float().expand(runs, 4)
    classes, radii = seeded().certify(linear, images, n=500, alpha=alpha)
    assert classes.dtype == torch.int64
    assert radii.dtype == torch.float32
    assert classes.eq(1).all()
    wrong = int((radii > distance).sum())
    assert 0 < wrong <= stats.binom.ppf(0.999, runs, alpha)  # as exact as it claims, and not just careful
    _, radii = seeded().certify(linear, images[:1], n=200_000)
    assert distance - 0.01 < radii.item() < distance


def test_the_radius_is_that_of_the_counts() -> None:
    """All draws for one class: p is alpha ** (1 / n), whatever the noise; and of a coin's tosses nothing is proved."""
    far = torch.full((1, 4), 100.0) * NORMAL.float()
    for sigma in (0.25, 2.0):
        classes, radii = seeded(sigma).certify(linear, far, n=1000)
        assert classes.item() == 1
        assert radii.item() == pytest.approx(sigma * stats.norm.ppf(0.001 ** (1 / 1000)), rel=1e-6)
    edge = torch.zeros(20, 4)
    classes, radii = seeded().certify(linear, edge, n=1000)
    assert classes.eq(-1).all()
    assert radii.eq(0).all()
    assert seeded().predict(linear, edge, n=1000).eq(-1).all()
    assert seeded().predict(linear, torch.cat([far, -far]), n=100).tolist() == [1, 0]
    assert seeded().predict(linear, far, n=8).item() == -1  # (1/2) ** 7 is above alpha


def test_noise_is_drawn_for_each_image_in_batches_and_not_clipped() -> None:
    seen = []

    def watching(images: Tensor) -> Tensor:
        seen.append(images)
        return linear(images)

    images = torch.rand(3, 1, 2, 2)
    seeded(batch_size=64).certify(watching, images, n0=10, n=700)
    assert max(map(len, seen)) == 64
    shown = torch.cat(seen).flatten(1)
    assert len(shown) == 30 + 2100
    noise = (shown[30:].view(3, 700, 4) - images.view(3, 1, 4)) / 0.5
    assert noise.std().item() == pytest.approx(1, rel=0.03)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.001
    assert shown.min() < 0 < 1 < shown.max()
    assert len(noise.flatten(0, 1).unique(dim=0)) == 2100


def test_what_is_kept_and_what_is_refused() -> None:
    model = net().train()
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    smoothing = seeded(0.3)
    state = torch.get_rng_state()
    wrapped = smoothing.wrap(model)
    classes, radii = seeded(0.3).certify(wrapped, images, n=50)
    assert classes.equal(seeded(0.3).certify(model, images, n=50)[0])  # and not noise on noise
    assert torch.get_rng_state().equal(state)
    assert model.training
    assert (classes.shape, radii.shape) == ((4,), (4,))
    assert [len(part) for part in smoothing.certify(model, images[:0])] == [0, 0]
    assert smoothing.certify(model, images.bfloat16(), n=10)[1].dtype == torch.float32
    with pytest.raises(InputError, match=r"already smoothed with sigma=0.3"):
        RandomizedSmoothing(0.5).certify(wrapped, images, n=10)
    with pytest.raises(ModelError, match="NaN"):
        smoothing.certify(lambda pixels: model(pixels) * torch.nan, images, n=10)
    for bad, words in (({"n": 0}, "n must be at least 1"), ({"n0": 1.5}, "integer"), ({"alpha": 0.6}, "alpha must be")):
        with pytest.raises(InputError, match=words):
            smoothing.certify(model, images, **bad)
    with pytest.raises(InputError, match="sigma must be greater than 0"):
        RandomizedSmoothing(0)
    assert advkit.FGSM(wrapped)(images[:0], labels[:0]).shape == (0, 1, 2, 2)


def test_the_wrapped_model_votes_and_an_attacker_who_knows_sees_through_it() -> None:
    images = (0.3 * NORMAL).float().view(1, 1, 2, 2).expand(6, 1, 2, 2) + 0.5
    labels = torch.ones(6, dtype=torch.int64)

    def shifted(pixels: Tensor) -> Tensor:
        return linear(pixels - 0.5)

    smoothed = seeded(0.25, samples=200).wrap(shifted)
    shares = smoothed(images).softmax(1)[:, 1]
    assert shares.mean().item() == pytest.approx(stats.norm.cdf(0.3 / 0.25), abs=0.02)
    attack = advkit.PGD(smoothed, norm="l2", eps=0.45, alpha=0.1, steps=8)
    adversarials = attack(images, labels)
    assert smoothed(adversarials).argmax(1).eq(0).all()
    naive = attack.on(smoothed, adaptive=False)
    assert naive.run(images, labels).success.sum() <= 1  # it stands where it started
    # No attack within what is proved changes the class.
    classes, radii = seeded(0.25).certify(smoothed, images, n=1000)
    weaker = advkit.PGD(smoothed, norm="l2", eps=float(radii.min()), steps=8)
    assert seeded(0.25).predict(smoothed, weaker(images, labels), n=1000).eq(classes).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_an_attacker_who_knows_sees_through_votes_of_a_model_that_is_very_sure(scale: float) -> None:
    """Whose probabilities are 0 and 1 to rounding; its logits may be in a dict, and have a class that is masked."""
    images = (0.3 * NORMAL).float().view(1, 1, 2, 2).expand(6, 1, 2, 2) + 0.5

    def sure(pixels: Tensor) -> dict[str, Tensor]:
        logits = scale * linear(pixels - 0.5)
        return {"logits": torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)}

    smoothed = seeded(0.05).wrap(sure)
    attack = advkit.PGD(smoothed, norm="l2", eps=0.5, alpha=0.1, steps=8, loss="margin", random_start=False)
    assert attack.run(images, torch.ones(6, dtype=torch.int64)).success.all()


def test_training_sees_the_noise_that_is_certified() -> None:
    seen = []

    class Watching(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    model = Watching(4, 2)
    images = torch.zeros(500, 4)
    smoothing = seeded(0.5)
    loader = [(images, torch.randint(0, 2, (500,)))]
    smoothed = smoothing.fit(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), epochs=1)
    assert isinstance(smoothed, advkit.Defended)
    assert smoothed.undefended is model
    assert len(smoothing.history) == 1
    assert seen[0].std().item() == pytest.approx(0.5, rel=0.1)


def test_a_data_set_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    model, smoothing = net(), RandomizedSmoothing(0.3)
    loader = [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])) for _ in range(3)]
    whole = smoothing.certify_loader(model, loader, n=60)
    assert whole.classes.shape == whole.radii.shape == whole.labels.shape == (9,)
    certified = (whole.classes == whole.labels) & (whole.radii >= 0.1)
    assert whole.accuracy(0.1) == certified.double().mean()

    def killed() -> object:
        yield from loader[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smoothing.certify_loader(model, killed(), n=60, run_folder=tmp_path)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "batches").iterdir()}
    assert len(files) == 2
    again = smoothing.certify_loader(model, loader, n=60, run_folder=tmp_path)
    assert (again.classes.equal(whole.classes), again.radii.equal(whole.radii)) == (True, True)
    assert all(file.stat().st_mtime_ns == when for file, when in files.items())
    with pytest.raises(InputError, match="with other n: n was 60 and is 61"):
        smoothing.certify_loader(model, loader, n=61, run_folder=tmp_path)
    with pytest.raises(InputError, match="with other model: "):
        smoothing.certify_loader(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), loader, n=60, run_folder=tmp_path)
    with pytest.raises(InputError, match="batch 0 of the loader has changed since the run"):
        smoothing.certify_loader(model, loader[1:], n=60, run_folder=tmp_path)
    min(files).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is damaged"):
        smoothing.certify_loader(model, loader, n=60, run_folder=tmp_path)


class Scaled(nn.Module):
    """A network with a number that neither its layers nor its weights show."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


def test_certificates_of_another_model_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    model, smoothing = net(), RandomizedSmoothing(0.3)
    loader = [(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])) for _ in range(2)]
    pairs: list[tuple[Model, Model]] = [
        (Scaled(model, 1), Scaled(model, -1)),
        (lambda images: model(images), lambda images: -model(images)),
    ]
    for place, (one, other) in enumerate(pairs):
        folder = tmp_path / str(place)
        found = smoothing.certify_loader(one, loader, n=60, run_folder=folder)
        with pytest.raises(InputError, match="the model has the same layers and weights, but other outputs"):
            smoothing.certify_loader(other, loader, n=60, run_folder=folder)
        assert smoothing.certify_loader(one, loader, n=60, run_folder=folder).classes.equal(found.classes)
    file = folder / "batches" / "00000001.json"
    content = json.loads(file.read_text())
    content["record"]["classes"][0] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"00000001.json is damaged \(its checksum is wrong\)"):
        smoothing.certify_loader(one, loader, n=60, run_folder=folder)
    (folder / "certify.json").unlink()
    with pytest.raises(InputError, match=r"certify.json, which says which run they belong to, is missing"):
        smoothing.certify_loader(one, loader, n=60, run_folder=folder)
