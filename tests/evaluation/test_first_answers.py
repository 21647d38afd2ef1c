"""Models that become others while they are evaluated."""

import pytest
from torch import Tensor, nn

import advkit
from advkit.evaluation.first_answers import FirstAnswers
from advkit.evaluation.flags import Flag
from advkit.evaluation.plan import Contender
from advkit.evaluation.runs import Ranks
from contracts.scenes import trained_net


class Late(nn.Module):
    """Another network from some call on, which predicts the same classes."""

    def __init__(self, net: nn.Module, calls: int) -> None:
        super().__init__()
        self.net, self.calls = net, calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls == -(10**6):
            raise RuntimeError("no more")
        return self.net(images) * (1 if self.calls > 0 else 1.5)


def test_a_verdict_says_that_a_model_has_become_another_one() -> None:
    net, images, labels = trained_net()
    names = []
    for calls in (30, 10**9):  # within the first run along gradients, and never
        report = advkit.evaluate(Late(net, calls), [(images, labels)], "standard", norm="l1", eps=2.0)
        names.append([flag.name for flag in report.flags])
    assert names == [["answers that changed"], []]


@pytest.mark.parametrize(
    ("calls", "name"),
    [(0, "answers that changed"), (1 - 10**6, "not probed"), (10**9, None)],
    ids=["other", "no", "same"],
)
def test_a_model_is_asked_the_same_again(calls: int, name: str | None) -> None:
    net, images, labels = trained_net()
    model, first = Late(net, 10**9), FirstAnswers()
    for half in (slice(4), slice(4, 8)):  # the first is what counts
        first.note(Contender("jpeg", model, 1), images[half], labels[half], model(images[half]))
    for known in ([], [Flag("random outputs", "", "", "jpeg")]):
        model.calls = calls
        found = first.flags(Ranks(), known)
        assert [(flag.name, flag.defense) for flag in found] == ([] if known or not name else [(name, "jpeg")])
        assert all("the model behind jpeg" in flag.sentence for flag in found)
