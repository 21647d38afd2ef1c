"""Models that become others while they are evaluated."""

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit.evaluation.arguments import hookable
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
    model, first = Late(net, 10**9), FirstAnswers(0)
    for half in (slice(4), slice(4, 8)):  # the first is what counts
        first.note(Contender("jpeg", model, 1), images[half], labels[half], model(images[half]))
    for known in ([], [Flag("random outputs", "", "", "jpeg")]):
        model.calls = calls
        found = first.flags(Ranks(), known)
        assert [(flag.name, flag.defense) for flag in found] == ([] if known or not name else [(name, "jpeg")])
        assert all("the model behind jpeg" in flag.sentence for flag in found)


@pytest.mark.parametrize("low", [-torch.inf, -1e9, None])
def test_it_is_seen_on_one_image_and_where_classes_are_masked(low: float | None) -> None:
    net, images, labels = trained_net()
    model, first = Late(net, 10**9), FirstAnswers(0)
    masked = hookable(lambda pixels: mask(model(pixels), low))
    one = Contender("none", masked, 1)
    first.note(one, images[:1], labels[:1], masked(images[:1]))
    assert not first.flags(Ranks(), [])
    model.calls = 0
    assert [flag.name for flag in first.flags(Ranks(), [])] == ["answers that changed"]


def mask(logits: Tensor, low: float | None) -> Tensor:
    """The logits with the last class out of the race."""
    return logits if low is None else torch.cat([logits[:, :-1], torch.full_like(logits[:, -1:], low)], 1)


def test_a_random_model_has_not_changed_and_the_callers_numbers_stay_as_they_were() -> None:
    net, images, labels = trained_net()
    model = nn.Sequential(nn.Dropout(0.05), net)
    noisy = hookable(lambda pixels: model.train()(pixels))
    first = FirstAnswers(0)
    first.note(Contender("none", noisy, 1), images, labels, noisy(images))
    state = torch.get_rng_state()
    assert not first.flags(Ranks(), [])
    assert torch.equal(state, torch.get_rng_state())
