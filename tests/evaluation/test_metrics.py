import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from advkit.evaluation.metrics import macro, wilson

pairs = st.integers(2, 12).flatmap(
    lambda classes: st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=60)
)


@given(st.integers(1, 20_000), st.data())
def test_the_interval_is_scipys(count, data):
    hits = data.draw(st.integers(0, count))
    reference = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits / count, count) == pytest.approx((reference.low, reference.high), rel=1e-9, abs=1e-12)


def test_the_interval_ends_where_the_shares_do():
    assert wilson(0.0, 49)[0] == 0
    assert wilson(1.0, 49)[1] == 1
    assert all(map(math.isnan, wilson(math.nan, 0)))


@given(pairs)
def test_macro_averages_are_scikit_learns(pairs):
    labels, predictions = zip(*pairs, strict=True)
    confusion = [(*pair, count) for pair, count in Counter(pairs).items()]
    reference = precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)
    assert macro(confusion) == pytest.approx(reference[:3], abs=1e-12)


def test_averages_of_nothing():
    assert all(map(math.isnan, macro([])))
