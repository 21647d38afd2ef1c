"""Attacks made of attacks: who is tried on what, what counts, and what comes back."""

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit import Attack, Restarts, WorstOf, norms
from advkit.errors import AdvkitError, DtypeError, InputError
from advkit.goals import Goal
from advkit.hyperparameters import number
from contracts.scenes import Passes, Rounding, conv_net, easy_images, linear_net, said_by, trained_net


@dataclass(frozen=True, eq=False)
class Push(Attack):
    """Adds a constant to the first feature."""

    norm: ClassVar[norms.Norm] = norms.Linf

    by: float | Tensor = number(0.1, per_image=True)
    eps: float | Tensor = number(0.5, at_least=0, per_image=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found = images.clone()
        found[:, 0] += self.by
        self.classifier.logits(found)
        return found


@dataclass(frozen=True, eq=False)
class Nearest(Push):
    """The same, as one that looks for the closest: an image that it fails on stays as it is."""

    aim = "minimal"
    eps: float | Tensor = number(0.0, at_least=0)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found = super()._perturb(images, goal)
        fooled = goal.success(self.classifier.logits(found))
        return found.where(fooled[:, None], images)


class Line(nn.Module):
    """Class 0 below a half, class 1 from there to 0.8, then class 2; by the first feature."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0]
        return torch.stack([0.5 - first, torch.zeros_like(first), 10 * (first - 0.8)], 1)


LINE = Line()
IMAGES = torch.tensor([[0.45, 0.0], [0.3, 0.0], [0.1, 0.0], [0.6, 0.0]])
LABELS = torch.zeros(4, dtype=torch.int64)  # the last is wrong as it is


def test_what_is_fooled_does_not_go_on() -> None:
    model = Passes(LINE)
    attack = WorstOf([Push(model, 0.1), Push(model, 0.25), Push(model, 0.3), Push(model, 0.2)])
    result = attack.run(IMAGES, LABELS)
    assert model.forwards == [4, 3, 3, 2, 2, 1, 1, 1, 4]
    assert result.fooled_by is not None
    assert result.fooled_by.dtype == torch.int64
    assert result.fooled_by.tolist() == [0, 1, -1, -1]
    assert result.success.tolist() == [True, True, False, True]
    torch.testing.assert_close(result.images[:, 0], torch.tensor([0.55, 0.55, 0.3, 0.6]))  # as the last left it
    assert [(stage.tried, stage.forwards, stage.backwards, stage.queries) for stage in result.stages] == [
        (3, 4 + 3 + 3, 0, None),
        (2, 2 + 2, 0, None),
        (1, 1 + 1, 0, None),
        (1, 1, 0, None),
    ]
    assert [stage.attack for stage in result.stages] == ["Push", "Push(by=0.25)", "Push(by=0.3)", "Push(by=0.2)"]
    model.forwards.clear()
    assert attack(IMAGES, LABELS).equal(result.images)
    assert model.forwards == [4, 3, 3, 2, 2, 1, 1, 1]


def test_when_none_is_left_nothing_is_asked() -> None:
    model = Passes(LINE)
    attack = WorstOf([Push(model, 0.45), Push(model, 0.1)])
    result = attack.run(IMAGES, LABELS)
    assert model.forwards == [4, 3, 3, 4]
    assert result.fooled_by is not None
    assert result.fooled_by.tolist() == [0, 0, 0, -1]
    assert [stage.tried for stage in result.stages] == [3, 0]
    wrong = attack.run(IMAGES, LABELS + 2)
    assert wrong.images.equal(IMAGES)
    assert wrong.fooled_by is not None
    assert wrong.fooled_by.tolist() == [-1] * 4


def test_targets() -> None:
    attack = WorstOf([Push(LINE, 0.1), Push(LINE, 0.4), Push(LINE, 0.6, eps=1.0)])
    result = attack.run(IMAGES, LABELS, targets=torch.full((4,), 2))
    assert result.fooled_by is not None
    assert result.fooled_by.tolist() == [1, 2, -1, 1]
    assert attack.run(IMAGES, LABELS, targets=torch.tensor([2, 2, 2, 1])).fooled_by.tolist()[3] == -1  # type: ignore[union-attr]


def test_what_has_no_budget_counts_within_that_of_others() -> None:
    found = Nearest(LINE, 0.3)
    for eps, counts in ((0.31, True), (0.29, False)):
        for parts in ([Push(LINE, 0.0, eps=eps), found], [found, Push(LINE, 0.0, eps=eps)]):
            result = WorstOf(parts).run(IMAGES, LABELS)
            assert result.success.tolist() == [counts, counts, False, True]
            assert result.images[2].equal(IMAGES[2])
            assert bool((result.distance("linf") <= eps).all())
    each = WorstOf([Push(LINE, 0.0, eps=torch.tensor([0.1, 0.5, 0.5, 0.5])), found])
    assert each.run(IMAGES, LABELS).success.tolist() == [False, True, False, True]
    several = WorstOf([Push(LINE, 0.0, eps=0.1), Restarts(Push(LINE, 0.0, eps=0.4)), found])
    assert several.run(IMAGES, LABELS).success.tolist() == [True, True, False, True]


def test_the_closest_of_all() -> None:
    near, far = Nearest(LINE, 0.21), Nearest(LINE, 0.45)
    for parts in ([near, far], [far, near]):
        model = Passes(LINE)
        attack = WorstOf(parts).on(model)
        assert attack.aim == "minimal"
        result = attack.run(IMAGES, LABELS)
        torch.testing.assert_close(result.images[:, 0], torch.tensor([0.66, 0.51, 0.55, 0.6]))
        assert result.fooled_by is not None
        assert result.fooled_by.tolist() == [parts.index(near), parts.index(near), parts.index(far), -1]
        model.forwards.clear()
        attack(IMAGES, LABELS)
        # Only what is closer has to fool, and the last only where something stands already.
        assert model.forwards == ([4, 3, 3, 2, 3, 3] if parts[0] is near else [4, 3, 3, 3, 3, 3, 2])


@dataclass(frozen=True, eq=False)
class Liar(Nearest):
    """Gives back what does not fool."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return images + 1e-3


def test_what_does_not_fool_is_not_the_closest() -> None:
    for parts in ([Liar(LINE), Nearest(LINE, 0.3)], [Nearest(LINE, 0.3), Liar(LINE)]):
        result = WorstOf(parts).run(IMAGES, LABELS)
        assert result.success.tolist() == [True, True, False, True]


def test_different_norms_have_no_closest() -> None:
    model = linear_net()
    images, labels = easy_images(model)
    attack = WorstOf([advkit.DeepFool(model), advkit.PixelSwap(model)])
    result = attack.run(images, labels)
    assert (attack.aim, attack.norm) == ("minimal", None)  # type: ignore[attr-defined]
    assert result.images.equal(advkit.DeepFool(model)(images, labels))
    assert [stage.tried for stage in result.stages] == [4, 0]


def test_restarts_go_on_drawing() -> None:
    model, images, labels = trained_net()
    generator = torch.Generator().manual_seed(0)
    attack = Restarts(advkit.PGD(model, eps=0.16, alpha=0.08, steps=2, generator=generator), n=4)
    result = attack.run(images, labels)
    generator.manual_seed(0)
    alive, expected = torch.arange(len(images)), images.clone()
    for _ in range(4):
        found = attack.attack.run(images[alive], labels[alive])
        expected[alive] = found.images
        alive = alive[~found.success]
    assert result.images.equal(expected)
    assert 0 < len(alive) < len(images)
    assert (~result.success).nonzero().squeeze(1).equal(alive)


FACTS: list[tuple[Sequence[Any], tuple[object, ...]]] = [
    ([advkit.PGD(LINE, eps=0.1)], ("gradient", "budget", norms.Linf, 0.1, True)),
    ([advkit.PGD(LINE, eps=0.1), advkit.FGSM(LINE, eps=0.2)], ("gradient", "budget", norms.Linf, None, True)),
    ([advkit.PGD(LINE), advkit.PGD(LINE, norm="l2")], ("gradient", "budget", None, None, True)),
    ([advkit.DeepFool(LINE), advkit.PGD(LINE, eps=1)], ("gradient", "budget", norms.Linf, 1.0, True)),
    ([advkit.DeepFool(LINE), advkit.CW(LINE)], ("gradient", "minimal", norms.L2, None, True)),
    ([advkit.PixelSwap(LINE), advkit.OnePixel(LINE)], ("scores", "minimal", norms.L0, None, False)),
    ([advkit.FGSM(LINE, eps=torch.tensor([0.1, 0.2]))], ("gradient", "budget", norms.Linf, None, True)),
]


@pytest.mark.parametrize(("parts", "facts"), FACTS, ids=lambda value: str(value)[:60])
def test_facts_follow_from_the_parts(parts: Sequence[Attack], facts: tuple[object, ...]) -> None:
    for attack in (WorstOf(parts), WorstOf([Restarts(part, 2) for part in parts])):
        whole: Any = attack
        assert (whole.access, whole.aim, whole.norm, whole.eps, whole.independent_rows) == facts


def test_queries_are_counted_once() -> None:
    model = linear_net()
    images, labels = easy_images(model)
    labels = labels.clone()
    labels[0] = (labels[0] + 1) % 3
    counting = Passes(model)
    swap = advkit.PixelSwap(counting)
    single = swap.run(images[1:], labels[1:])
    for attack, looks in (
        (WorstOf([swap]), 1),
        (WorstOf([Restarts(swap, 1)]), 1),
        (WorstOf([advkit.FGSM(counting, eps=0.0), swap]), 0),
    ):
        counting.forwards.clear()
        attack(images, labels)
        asked = sum(counting.forwards)
        result = attack.run(images, labels)
        assert result.queries is not None
        assert single.queries is not None
        assert result.queries.tolist() == [looks, *(single.queries + looks).tolist()]
        assert sum(stage.forwards for stage in result.stages) == asked
        assert result.stages[-1].queries == int(single.queries.sum())
    assert WorstOf([advkit.FGSM(model)]).run(images, labels).queries is None


def test_passes_are_those_that_were_made() -> None:
    network, images, labels = trained_net()
    model = Passes(network)
    attack = WorstOf([advkit.FGSM(model, eps=0.02), advkit.DeepFool(model, norm="linf"), advkit.PGD(model, eps=0.04)])
    attack(images, labels)
    forwards, backwards = sum(model.forwards), sum(model.backwards)
    stages = attack.run(images, labels).stages
    assert sum(stage.forwards for stage in stages) == forwards
    assert sum(stage.backwards for stage in stages) == backwards


def test_each_keeps_its_numbers_for_its_images() -> None:
    eps = torch.tensor([0.1, 0.3, 0.5, 0.5])
    by = torch.tensor([0.0, 0.25, 0.45, 0.0], dtype=torch.float64)
    attack = WorstOf([Push(LINE, 0.1, eps=eps), Push(LINE, by)])
    result = attack.run(IMAGES, LABELS)
    assert result.fooled_by is not None
    assert result.fooled_by.tolist() == [0, 1, 1, -1]
    assert sorted(attack._per_row()) == ["by", "eps"]
    with pytest.raises(InputError, match=r"by has shape \(3,\), but a batch of 4"):
        WorstOf([Push(LINE), Push(LINE, by[:3])])(IMAGES, LABELS)
    with pytest.raises(InputError, match="for each image of one batch"):
        advkit.evaluate(LINE, [(IMAGES, LABELS)], [attack], progress=False)
    with pytest.raises(InputError, match="one by for each image"):
        advkit.AttackTransform(Restarts(Push(LINE, by)))


def test_one_for_all() -> None:
    model, generator = conv_net(), torch.Generator()
    first, second = advkit.PGD(model), advkit.CW(model)
    drawn = WorstOf([dataclasses.replace(first, generator=generator), second, advkit.PixelSwap(model)])
    assert all(part.generator is generator for part in (drawn, *drawn.attacks))
    low = WorstOf([first, second, advkit.PixelSwap(model)], autocast=torch.bfloat16, generator=generator)
    assert [part.autocast for part in low.attacks] == [torch.bfloat16, torch.bfloat16, None]
    assert low._with(generator=None).attacks[0].generator is None
    assert low.attacks[0].generator is generator
    naive = low.on(conv_net(seed=1), adaptive=False)
    assert all(not part.adaptive and part.model is naive.model for part in (naive, *naive.attacks))
    assert not dataclasses.replace(naive, attacks=naive.attacks[:2]).adaptive
    wide = low._with(bounds=(0.0, 255.0))
    assert wide.attacks[0].eps == 8.0  # type: ignore[attr-defined]
    nested = WorstOf([Restarts(first), second]).on(naive.model, adaptive=False)
    assert nested.attacks[0].attack.model is naive.model  # type: ignore[attr-defined]


CONFLICTS = {
    "model": ({"model": conv_net()}, "must have the same model, and these have different ones; .* attack.on"),
    "bounds": (
        {"bounds": (-1.0, 1.0)},
        r"the same bounds, and these have \(.*, 1.0\) and \(.*, 1.0\); make them alike",
    ),
    "generator": ({"generator": torch.Generator()}, "the same generator, and these have different ones; .*replace"),
    "adaptive": (
        {"adaptive": False},
        "the same adaptive, and these have (True and False|False and True); .* attack.on",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_are_sentences(name: str) -> None:
    changes, words = CONFLICTS[name]
    one = advkit.PGD(conv_net(), generator=torch.Generator())
    with pytest.raises(InputError, match=words):
        WorstOf([one, one._with(**changes)])
    if name != "model":
        with pytest.raises(InputError, match=words):
            Restarts(one, **changes)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: WorstOf([]), InputError, "attacks has no attack in it"),
        (lambda: WorstOf([advkit.PGD(LINE), advkit.PGD]), DtypeError, r"attacks\[1\] must be .* got the class PGD"),  # type: ignore[list-item]
        (lambda: WorstOf(advkit.PGD(LINE)), DtypeError, "attacks must be a list of attacks"),  # type: ignore[arg-type]
        (lambda: Restarts(LINE), DtypeError, "attack must be an advkit attack"),  # type: ignore[arg-type]
        (lambda: Restarts(advkit.PGD(LINE), n=0), InputError, "n must be at least 1, got 0"),
        (
            lambda: WorstOf([Unbound(LINE), advkit.DeepFool(LINE)]),
            InputError,
            "DeepFool looks for the closest image, which counts only within a budget",
        ),
    ],
)
def test_what_is_no_attack(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


class Unbound(Attack):
    """Has a budget, and does not say which."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return images + 0.3


def test_a_strangers_budget_is_taken_at_its_word() -> None:
    result = WorstOf([Unbound(LINE), Push(LINE, 0.45)]).run(IMAGES, LABELS)
    assert result.fooled_by is not None
    assert result.fooled_by.tolist() == [0, 0, 1, -1]


def test_names() -> None:
    attack = WorstOf([advkit.PGD(LINE, eps=4 / 255), Restarts(advkit.FGSM(LINE), 2)])
    assert str(attack) == "WorstOf([PGD(eps=4/255), Restarts(FGSM, n=2)])"
    shared = "bounds=(0.0, 1.0), autocast=None, adaptive=True, compiled=False, mask=None, levels=None"
    assert repr(attack).startswith(f"WorstOf({shared}, attacks=(PGD(")
    again = pickle.loads(pickle.dumps(attack))
    assert again.attacks[0].model is again.model
    assert copy.deepcopy(attack).attacks[1].n == 2  # type: ignore[attr-defined]
    with pytest.raises(AdvkitError, match="no search of its own"):
        attack._perturb(IMAGES, advkit.Untargeted(LABELS))


def test_success_is_that_of_the_defended_model_and_not_of_its_surrogate() -> None:
    """The attacker who knows the defense differentiates its surrogate, which is fooled before it is."""
    network, images, _ = trained_net()
    defended = Rounding().wrap(network)
    labels = said_by(defended, images)
    attack = WorstOf([advkit.IFGSM(defended, eps=eps) for eps in (0.1, 0.3)])
    result = attack.run(images, labels)
    assert result.fooled_by is not None
    first = said_by(defended, result.images) != labels
    assert first.equal(result.success)
    assert result.stages[1].tried == int((result.fooled_by != 0).sum()) > 0


def test_16_bits_are_judged_as_they_come_back() -> None:
    model = linear_net(offset=0.5)
    images, _ = easy_images(model, count=16)
    images = images.bfloat16()
    labels = said_by(model, images.float())
    attack = WorstOf([advkit.FGSM(model, eps=0.004), advkit.FGSM(model, eps=0.02)])
    result = attack.run(images, labels)
    alone = attack.attacks[0].run(images, labels)
    assert result.fooled_by is not None
    assert (result.fooled_by == 0).equal(alone.success)
    assert result.success.all()


def test_evaluate_goes_on_where_it_stopped(tmp_path: Any) -> None:
    model, images, labels = trained_net()
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    attack = WorstOf([advkit.FGSM(model, eps=0.03), Restarts(advkit.PGD(model, eps=0.05, steps=3), 2)])
    first = advkit.evaluate(model, loader, [attack], run_folder=tmp_path, progress=False)
    again = advkit.evaluate(model, loader, [attack], run_folder=tmp_path, progress=False)
    assert first[str(attack)].success_rate == attack.run(images, labels).success.float().mean()
    assert first.to_json() == again.to_json()
    other = dataclasses.replace(attack, attacks=[attack.attacks[0], Restarts(advkit.PGD(model, eps=0.05, steps=4), 2)])
    with pytest.raises(InputError):
        advkit.evaluate(model, loader, {str(attack): other}, run_folder=tmp_path, progress=False)


def test_a_copy_of_a_data_set_knows_what_it_is_made_with(tmp_path: Any) -> None:
    model, images, labels = trained_net()
    data = TensorDataset(images, labels)
    for steps in (2, 3):
        attack = Restarts(advkit.PGD(model, eps=0.05, steps=steps), 2)
        if steps == 2:
            copied = advkit.data.generate(attack, data, tmp_path / "copy", progress=False)
            assert len(copied) == len(images)
            assert advkit.data.generate(attack, data, tmp_path / "copy", progress=False)[0][0].equal(copied[0][0])
            continue
        with pytest.raises(InputError, match="'steps': 2"):
            advkit.data.generate(attack, data, tmp_path / "copy", progress=False)


def test_a_curve_needs_an_attack_with_a_budget_of_its_own() -> None:
    model, images, labels = trained_net()
    with pytest.raises(InputError, match="has its budget in the attacks that it is made of"):
        advkit.evaluation.security_curve(Restarts(advkit.PGD(model)), images, labels, eps=[0.0, 0.1])
    curve = advkit.evaluation.security_curve(Restarts(advkit.DeepFool(model), 1), images, labels, eps=[0.0, 9.0])
    assert curve.accuracy == (1.0, 0.0)
