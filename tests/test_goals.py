"""What goals say of logits, and a goal of somebody else's in the attacks that ask for more than a loss."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from advkit import CW, EAD, JSMA, Attack, DeepFool, Targeted, Untargeted, losses
from advkit.goals import Goal
from contracts.scenes import Passes, said_by, trained_net

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [-3.0, -1.0, -2.0], [2.0, 2.0, 0.0]])
CLASSES = torch.tensor([0, 0, 1])


def test_untargeted() -> None:
    goal = Untargeted(CLASSES)
    assert goal.loss(LOGITS).equal(losses.cross_entropy(LOGITS, CLASSES))
    assert goal.margin(LOGITS).tolist() == [1.0, -2.0, 0.0]
    assert goal.success(LOGITS).tolist() == [False, True, True]  # of equal logits the first is the answer


def test_targeted() -> None:
    goal = Targeted(CLASSES)
    assert goal.loss(LOGITS).equal(-losses.cross_entropy(LOGITS, CLASSES))
    assert goal.margin(LOGITS).tolist() == [-1.0, 2.0, 0.0]
    assert goal.success(LOGITS).tolist() == [True, False, False]


def test_a_negative_margin_is_success() -> None:
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(200) % 6
    for goal in (Untargeted(classes), Targeted(classes)):
        assert (goal.margin(logits) < 0).equal(goal.success(logits))


def test_rows_keep_the_kind() -> None:
    for kind in (Untargeted, Targeted):
        for index in (torch.tensor([2, 0]), torch.tensor([False, True, True])):
            goal = kind(CLASSES).rows(index)
            assert type(goal) is kind
            assert goal.classes.equal(CLASSES[index])


def test_who_competes() -> None:
    goal = Untargeted(CLASSES)
    assert goal.held(LOGITS).tolist() == [[0], [0], [1]]
    assert goal.rivals(LOGITS, 1).tolist() == [[2], [1], [0]]
    assert goal.rivals(LOGITS, 9).tolist() == [[2, 1], [1, 2], [0, 2]]
    towards = goal.towards(torch.tensor([1, 2, 0]))
    assert towards.margin(LOGITS).tolist() == [2.0, -1.0, 0.0]
    assert towards.success(LOGITS).equal(goal.success(LOGITS))
    assert towards.loss(LOGITS).equal(goal.loss(LOGITS))
    assert towards.rows(torch.tensor([2, 1])).margin(LOGITS[[2, 1]]).tolist() == [0.0, -1.0]
    goal = Targeted(CLASSES)
    assert goal.held(LOGITS).tolist() == [[2], [1], [0]]
    assert goal.rivals(LOGITS, 9).tolist() == [[0], [0], [1]]
    assert goal.towards(CLASSES) is goal


@dataclass(frozen=True, eq=False)
class AnyOf(Goal):
    """Any of some classes, whichever is nearest."""

    wanted: Tensor  # bool (N, K)

    def held(self, logits: Tensor) -> Tensor:
        return logits.detach().where(~self.wanted, -torch.inf).argmax(1, keepdim=True)

    def rivals(self, logits: Tensor, count: int) -> Tensor:
        return logits.detach().where(self.wanted, -torch.inf).topk(min(count, int(self.wanted.sum(1).min()))).indices

    def margin(self, logits: Tensor) -> Tensor:
        out, within = (logits.where(where, -torch.inf).amax(1) for where in (~self.wanted, self.wanted))
        return out - within

    def success(self, logits: Tensor) -> Tensor:
        return self.wanted.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)


@dataclass(frozen=True, eq=False)
class Towards(Attack):
    """Another attack, after a goal of one's own: any class but the label and the one after it."""

    attack: Attack

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        wanted = torch.ones(len(images), 4, dtype=torch.bool)
        for shift in (0, 1):
            wanted.scatter_(1, (goal.classes[:, None] + shift) % 4, False)
        return replace(self.attack, model=self.model)._perturb(images, AnyOf(goal.classes, wanted))


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(DeepFool, "l2"), (CW, "l2"), (EAD, "l1"), (lambda model: JSMA(model, gamma=1.0), "l0")],
    ids=["DeepFool", "CW", "EAD", "JSMA"],
)
def test_a_goal_of_somebody_elses(attack: type[Attack], norm: str) -> None:
    model, images, labels = trained_net()
    found = Towards(model, attack(model))(images, labels)
    said = said_by(model, found)
    assert ((said != labels) & (said != (labels + 1) % 4)).all()
    distance = (found - images).flatten(1)
    if norm != "l0":  # as near as the nearer of the two classes, one by one
        order = {"l2": 2, "l1": 1}[norm]
        best = torch.full((len(images),), torch.inf)
        for shift in (2, 3):
            result = attack(model).run(images, labels, targets=(labels + shift) % 4)
            best = torch.where(result.success, best.minimum(result.distance(norm)), best)
        slack = {DeepFool: 1.2, EAD: 1.05}.get(attack, 1.02)  # from afar EAD may come into another valley
        assert (distance.norm(order, dim=1) <= slack * best).all()


def test_a_target_is_not_ranked() -> None:
    """It is the only way: a backward for it would tell nothing."""
    network, images, labels = trained_net()
    for attack in (CW, EAD):
        model = Passes(network)
        attack(model, steps=1, binary_search_steps=1)(images, labels, targets=(labels + 1) % 4)
        assert set(model.forwards) == {8}
        assert not model.backwards
