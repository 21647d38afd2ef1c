import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advkit.attacks.minimal import skyline
from advkit.attacks.minimal.skyline import best_pair, leaders


def brute_force(a: Tensor, b: Tensor, domain: Tensor) -> tuple[float, set[tuple[int, int]]]:
    """The best score of one row, and all the pairs that reach it."""
    best, pairs = -torch.inf, set()
    for p, q in itertools.combinations(domain.nonzero().flatten().tolist(), 2):
        if a[p] + a[q] > 0 and b[p] + b[q] > 0:
            score = float((a[p] + a[q]) * (b[p] + b[q]))
            if score >= best:
                pairs = {(p, q)} | (pairs if score == best else set())
                best = score
    return best, pairs


def check(a: Tensor, b: Tensor, domain: Tensor) -> None:
    pair, exists = best_pair(a, b, domain)
    for row, (found, there) in enumerate(zip(pair.tolist(), exists.tolist(), strict=True)):
        _, best = brute_force(a[row], b[row], domain[row])
        assert there == bool(best)
        assert not best or tuple(found) in best


numbers = st.one_of(
    st.integers(-3, 3).map(float),  # with ties
    st.floats(-2, 2, width=32, allow_subnormal=False).map(lambda value: round(value, 3)),
)


@given(data=st.data(), rows=st.integers(1, 3), features=st.integers(1, 12))
@settings(max_examples=300)
def test_the_pair_of_brute_force(data: st.DataObject, rows: int, features: int) -> None:
    def draw(of: st.SearchStrategy[float]) -> Tensor:
        row = st.lists(of, min_size=features, max_size=features)
        return torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)))

    check(draw(numbers), draw(numbers), draw(st.booleans()))


def test_many_features() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, generator=generator), torch.randn(2, 200, generator=generator)
    check(a, b, torch.rand(2, 200, generator=generator) < 0.8)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_a_skyline_of_all_features_is_searched_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skyline, "_TABLE", block)
    a = torch.rand(2, 30, generator=torch.Generator().manual_seed(1))
    check(a, 1 - a, torch.ones_like(a, dtype=torch.bool))


def test_no_pair() -> None:
    negative, domain = -torch.ones(1, 5), torch.ones(1, 5, dtype=torch.bool)
    assert not best_pair(negative, -negative, domain)[1]
    assert not best_pair(-negative, negative, domain)[1]
    assert not best_pair(-negative, -negative, ~domain)[1]


def test_ties_are_in_order_of_place() -> None:
    ones = torch.ones(1, 100_000)  # a table of them all would have 10^10 entries
    assert best_pair(ones, ones, ones > 0)[0].tolist() == [[0, 1]]


@given(data=st.data(), features=st.integers(1, 12), depth=st.integers(1, 6))
@settings(max_examples=100)
def test_leaders_are_beaten_by_few(data: st.DataObject, features: int, depth: int) -> None:
    a, b = (torch.tensor([data.draw(st.lists(numbers, min_size=features, max_size=features))]) for _ in range(2))
    domain = torch.tensor([data.draw(st.lists(st.booleans(), min_size=features, max_size=features))])
    order, present = leaders(a, b, domain, depth)
    inside = sorted(domain[0].nonzero().flatten().tolist(), key=lambda i: (-float(a[0, i]), i))
    expected = [i for at, i in enumerate(inside) if sum(bool(b[0, j] >= b[0, i]) for j in inside[:at]) < depth]
    assert order[present].tolist() == expected
