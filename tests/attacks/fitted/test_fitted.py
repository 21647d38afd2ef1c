"""What is fitted on a loader is learned once, kept, resumed, and then an attack like any other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.errors import InputError
from advkit.norms import L2
from contracts import scenes

MODEL, _, _ = scenes.trained_net()
IMAGES = (0.6 * scenes.draw(4, *scenes.IMAGE)[torch.arange(64) % 4] + scenes.draw(64, *scenes.IMAGE, high=0.4)).clamp(
    0, 1
)
LABELS = scenes.said_by(MODEL, IMAGES)
LOADER = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=16)


def fooled(attack: advkit.Attack) -> float:
    return float(attack.run(IMAGES, LABELS).success.float().mean())


def test_the_ascent_on_a_linear_model_finds_the_best_perturbation() -> None:
    """Of two classes, with labels all of one: sign(w) of the difference of weights, where no pixel is at a bound."""
    model = scenes.linear_net(classes=2)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(scenes.IMAGE)
    images = scenes.draw(6, *scenes.IMAGE, low=0.2, high=0.8)
    batches = [(images, torch.zeros(6, dtype=torch.int64))] * 2
    ascent = advkit.Universal(model, eps=0.05, beta=1e9).fit(batches, epochs=3)
    torch.testing.assert_close(ascent.pattern, 0.05 * weight.sign())
    ascent = advkit.Universal(model, eps=0.5, norm="l2", beta=1e9).fit(batches, epochs=3)
    torch.testing.assert_close(ascent.pattern, 0.5 * weight / weight.norm())
    other = advkit.Universal(model, eps=0.05, target=0).fit([(images, torch.ones(6).long())], epochs=3)
    torch.testing.assert_close(other.pattern, -0.05 * weight.sign())


def test_the_loop_of_deepfool_ends_where_all_are_fooled() -> None:
    """On a linear model of two classes what is added is along the weights, until the surest image is lost."""
    model = scenes.linear_net(classes=2)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().flatten()
    images = scenes.draw(32, *scenes.IMAGE, low=0.3, high=0.7)
    images = images[scenes.said_by(model, images) == 0]
    with torch.no_grad():
        gaps = -model(images).diff(dim=1).squeeze(1)
    attack = advkit.Universal(model, eps=10.0, norm="l2", method="deepfool")
    attack = attack.fit([(images, torch.zeros(len(images)).long())], epochs=1)
    pattern = attack.pattern.flatten()
    assert attack.run(images, torch.zeros(len(images)).long()).success.all()
    assert torch.nn.functional.cosine_similarity(pattern, weight, dim=0) > 0.9999
    assert 1 <= float(pattern.norm() / (gaps.max() / weight.norm())) < 1.03  # 2 % over the boundary, each time less


@pytest.mark.parametrize("kind", ["ascent", "deepfool"])
def test_a_masked_fit_spends_the_budget_on_what_is_free(kind: str) -> None:
    """On a linear model of two classes that is along the free weights."""
    model = scenes.linear_net(classes=2)
    mask = (torch.arange(64) % 3 == 0).view(8, 8)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().view(scenes.IMAGE) * mask
    images, labels = scenes.draw(6, *scenes.IMAGE, low=0.2, high=0.8), torch.zeros(6, dtype=torch.int64)
    unfitted = advkit.Universal(model, eps=0.5, norm="l2", method=kind, beta=1e9, mask=mask)
    attack = unfitted.fit([(images, labels)] * 2, epochs=3)
    assert not attack.pattern[:, ~mask].any()
    along = torch.nn.functional.cosine_similarity(attack.pattern.flatten(), weight.flatten(), dim=0)
    assert along > (0.9999 if kind == "ascent" else 0.98)  # which goes round by the edge of the box
    torch.testing.assert_close(attack(images, labels) - images, attack.pattern.expand_as(images))
    with pytest.raises(InputError, match="one mask for all images"):
        advkit.Universal(model, mask=torch.ones(6, 1, 8, 8)).fit([(images, labels)])


def test_a_pattern_on_a_grid_is_rounded_and_not_searched_for_again() -> None:
    """The model is asked nothing, and a patch does not grow where rounding undoes it."""
    asked = scenes.Counting(MODEL)
    images = (IMAGES * 3).round() / 3
    patch = scenes.draw(3, 4, 4, high=0.6)
    chance = torch.Generator().manual_seed(0)
    for attack, most in (
        (advkit.Universal(asked, eps=0.4, pattern=1.2 * patch.repeat(1, 2, 2) - 0.36, levels=4), 64),
        (advkit.Patch(asked, area=0.25, pattern=patch, levels=4, generator=chance), 16),
    ):
        found = attack(images, LABELS)
        assert found.equal((found * 3).round() / 3)
        assert 0 < (found != images).any(1).flatten(1).sum(1).max() <= most
        assert not asked.calls


@pytest.mark.parametrize("kind", ["ascent", "deepfool"])
def test_a_universal_perturbation_beats_noise(kind: str) -> None:
    unfitted = advkit.Universal(MODEL, eps=0.25, method=kind)
    noise = advkit.Universal(MODEL, eps=0.25, pattern=0.25 * scenes.draw(*scenes.IMAGE, low=-1.0, seed=7).sign())
    attack = unfitted.fit(LOADER, epochs=4 if kind == "ascent" else 1)
    assert fooled(attack) > max(0.5, 2 * fooled(noise))
    assert unfitted.pattern is None
    assert float(attack.pattern.abs().max()) <= 0.25 + 1e-6


def test_a_patch_leads_where_it_is_to_lead() -> None:
    where: Any = {"area": 0.7, "min_scale": 0.95, "max_rotation": 5.0}

    def taken_for_target(**changes: Any) -> float:
        attack = advkit.Patch(MODEL, **where, target=0, generator=torch.Generator().manual_seed(0), **changes)
        attack = attack.fit(LOADER, epochs=4) if attack.pattern is None else attack
        return float((attack.run(IMAGES, LABELS).predictions == 0).float().mean())

    assert taken_for_target() > 0.5
    assert taken_for_target(pattern=torch.full((3, 6, 6), 0.5)) <= 0.3  # a quarter of the images is of this class


def test_each_image_has_a_place_of_its_own() -> None:
    attack = advkit.Patch(MODEL, area=0.3, pattern=torch.ones(3, 4, 4), generator=torch.Generator().manual_seed(0))
    moved = (attack(IMAGES, LABELS) != IMAGES).any(1).flatten(1)
    assert (moved.sum(1) <= 0.3 * 64 + 2).all()  # a square that is turned may have a few pixels more
    assert (moved.sum(1) >= 6).all()
    assert len(moved.unique(dim=0)) > 20


def test_a_patch_that_is_not_turned_is_its_own_pixels() -> None:
    patch = scenes.draw(3, 3, 3, seed=4)
    images = torch.zeros(8, 3, 6, 9)
    attack = advkit.Patch(lambda x: x[:, :2, 0, 0], area=9 / 54, min_scale=1, max_rotation=0, pattern=patch)
    found = attack._applied(images, patch)
    assert ((found != 0).any(1).flatten(1).sum(1) == 9).all()
    assert found.amax() <= patch.amax()
    attack = advkit.Patch(lambda x: x[:, :2, 0, 0], area=1, min_scale=1, max_rotation=0, pattern=patch)
    torch.testing.assert_close(attack._applied(torch.zeros(1, 3, 3, 3), patch)[0], patch)  # there is one place for it


def test_what_is_not_fitted_says_so() -> None:
    with pytest.raises(InputError, match=r"Universal has no pattern yet: fit it.*attack = attack.fit\(loader\)"):
        advkit.Universal(MODEL)(IMAGES, LABELS)
    with pytest.raises(InputError, match="Patch has no pattern yet"):
        advkit.evaluate(MODEL, LOADER, [advkit.Patch(MODEL)])
    with pytest.raises(InputError, match="Patch has no pattern yet"):
        advkit.Patch(MODEL).picture()
    with pytest.raises(InputError, match="the loader has no images"):
        advkit.Universal(MODEL).fit(iter([]))
    with pytest.raises(InputError, match="the loader has no images; a generator"):
        advkit.Universal(MODEL).fit(iter(LOADER), epochs=2)
    with pytest.raises(InputError, match="all images are of class 1"):
        advkit.Universal(MODEL, target=1).fit([(IMAGES[:2], torch.tensor([1, 1]))])
    with pytest.raises(InputError, match=r"target must lie in \[0, 4\)"):
        advkit.Universal(MODEL, target=9).fit(LOADER)
    with pytest.raises(InputError, match=r"the pattern has shape \(3, 8, 8\), but images of shape \(2, 3, 8, 4\)"):
        advkit.Universal(MODEL, pattern=torch.zeros(3, 8, 8))(IMAGES[:2, ..., :4], LABELS[:2])
    with pytest.raises(InputError, match=r"the patch has shape \(2, 2, 2\)"):
        advkit.Patch(MODEL, pattern=torch.zeros(2, 2, 2))(IMAGES, LABELS)
    with pytest.raises(InputError, match="fit needs one eps for all images"):
        advkit.Universal(MODEL, eps=torch.tensor([0.1])).fit(LOADER)


def shuffled(stop_after: int | None = None) -> Any:
    class Stopping(DataLoader[Any]):
        left = stop_after

        def __iter__(self) -> Iterator[Any]:
            if self.left is not None:
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            return iter(list(super().__iter__()))

    data = TensorDataset(IMAGES, LABELS)
    return Stopping(data, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [advkit.Universal, advkit.Patch])
def test_a_fit_goes_on_where_it_was_stopped(kind: Any, tmp_path: Path) -> None:
    file = tmp_path / "new" / "fit.pt"

    def attack(**changes: Any) -> Any:
        return kind(MODEL, alpha=0.003, generator=torch.Generator().manual_seed(0), **changes)

    whole = attack().fit(shuffled(), epochs=3)
    with pytest.raises(KeyboardInterrupt):
        attack().fit(shuffled(stop_after=2), epochs=3, checkpoint=file)
    again = attack().fit(shuffled(), epochs=3, checkpoint=file)
    assert again.pattern.equal(whole.pattern)
    assert not whole.pattern.equal(attack().fit(shuffled(), epochs=2).pattern)
    assert attack().fit([], epochs=3, checkpoint=file).pattern.equal(whole.pattern)  # nothing is left to do
    for other in (attack(beta=2.0), attack().on(scenes.flat_net(192))):
        with pytest.raises(InputError, match="is the checkpoint of another attack, or of the same on another model"):
            other.fit(shuffled(), epochs=3, checkpoint=file)
    with pytest.raises(InputError, match="has already reached epoch 3, but only 2 epochs are requested"):
        attack().fit(shuffled(), epochs=2, checkpoint=file)
    with pytest.raises(InputError, match="was written with other random generators"):
        attack().fit([(IMAGES, LABELS)], epochs=4, checkpoint=file)
    for content in (bit_flipped(file, again.pattern), b"damaged"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="is not a checkpoint of a fit, or is damaged"):
            attack().fit(shuffled(), epochs=3, checkpoint=file)


def bit_flipped(file: Path, tensor: Tensor) -> bytes:
    """A file with a wrong bit in the numbers of a tensor that is in it."""
    content = bytearray(file.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 2] ^= 1
    return bytes(content)


class Scaled(nn.Module):
    """A network with a number that neither its layers nor its weights show."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.model, self.factor = MODEL, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


@pytest.mark.parametrize(
    ("one", "other"), [(Scaled(1), Scaled(-1)), (lambda images: MODEL(images), lambda images: -MODEL(images))]
)
def test_a_checkpoint_of_a_model_that_answers_otherwise_is_refused(one: Any, other: Any, tmp_path: Path) -> None:
    """It has the same layers and weights, or is a function."""
    file = tmp_path / "fit.pt"
    pattern = advkit.Universal(one).fit(LOADER, 1, checkpoint=file).pattern
    with pytest.raises(InputError, match="or of the same on another model"):
        advkit.Universal(other).fit(LOADER, 2, checkpoint=file)
    assert advkit.Universal(one).fit(LOADER, 1, checkpoint=file).pattern.equal(pattern)


def test_another_pattern_is_another_run(tmp_path: Path) -> None:
    attack = advkit.Universal(MODEL, eps=0.15).fit(LOADER, epochs=1)
    for _ in range(2):
        report = advkit.evaluate(MODEL, LOADER, [attack], run_folder=tmp_path / "run", flags=False)
        assert report["Universal(eps=0.15)"].accuracy == pytest.approx(1 - fooled(attack))
    other = attack._with(pattern=attack.pattern / 2)
    with pytest.raises(InputError, match="holds a run with other attacks"):
        advkit.evaluate(MODEL, LOADER, [other], run_folder=tmp_path / "run", flags=False)
    advkit.data.generate(attack, LOADER, tmp_path / "copy")
    with pytest.raises(InputError, match="holds an adversarial copy made with other arguments"):
        advkit.data.generate(other, LOADER, tmp_path / "copy")
    assert len(json.dumps(json.loads((tmp_path / "copy" / "manifest.json").read_text()))) < 2000
    assert torch.cat([batch for batch, _ in advkit.data.attacked(LOADER, attack)]).equal(attack(IMAGES, LABELS))
    moved, _ = advkit.AttackTransform(attack)(IMAGES[0], int(LABELS[0]))
    assert moved.equal(attack(IMAGES, LABELS)[0])
    elsewhere = attack.on(scenes.flat_net(192))
    assert elsewhere(IMAGES, LABELS).equal(attack(IMAGES, LABELS))
    curve = advkit.evaluation.security_curve(attack, IMAGES, LABELS, eps=[0.0, 0.02, 0.15])
    assert curve.accuracy[0] == 1
    assert curve.accuracy[-1] == pytest.approx(1 - fooled(attack))


def test_labels_may_be_the_models_own_and_batches_of_any_structure() -> None:
    usual = advkit.Universal(MODEL, eps=0.15).fit([(IMAGES, LABELS)], epochs=1).pattern
    for batch in (IMAGES, {"image": IMAGES, "label": LABELS}, (IMAGES, {"target": LABELS[:, None]})):
        assert advkit.Universal(MODEL, eps=0.15).fit([batch], epochs=1).pattern.equal(usual)
    assert advkit.Universal(MODEL, eps=0.15).fit([(IMAGES, 1 - LABELS, LABELS)], 1, labels=2).pattern.equal(usual)


def test_the_picture_has_grey_where_nothing_changes() -> None:
    pattern = torch.tensor([-0.02, 0.0, 0.01]).view(3, 1, 1)
    picture = advkit.Universal(MODEL, pattern=pattern).picture()
    torch.testing.assert_close(picture.flatten(), torch.tensor([0.0, 0.5, 0.75]))
    assert advkit.Universal(MODEL, pattern=0 * pattern).picture().eq(0.5).all()
    patch = advkit.Patch(MODEL, bounds=(-1.0, 1.0), pattern=torch.tensor([-1.0, 0.0, 0.5]).view(3, 1, 1))
    torch.testing.assert_close(patch.picture().flatten(), torch.tensor([0.0, 0.5, 0.75]))


def test_training_state_and_gradients_are_the_callers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(192, 4)).train()
    with torch.inference_mode():
        attack = advkit.Universal(model).fit(LOADER, epochs=1)
    assert model.training
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    assert isinstance(attack.pattern, Tensor)
    assert not attack.pattern.requires_grad
    assert not attack.pattern.is_inference()
    assert L2.size(attack.pattern[None]) > 0
