import torch

from advkit import Targeted, Untargeted, losses

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
