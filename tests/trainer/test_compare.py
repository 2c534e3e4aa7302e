"""Paired tests against values computed by other ways, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

stats = pytest.importorskip("scipy.stats")

from trainer.compare import bootstrap_p, delong, holm, mcnemar, verdict  # noqa: E402  after the check for scipy
from trainer.metrics import Figure  # noqa: E402


def singles(count: int) -> Any:
    return np.arange(count).astype(str)


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    first = np.array([True] * 12 + [False] * 3 + [True] * 30 + [False] * 5)
    second = np.array([False] * 12 + [True] * 3 + [True] * 30 + [False] * 5)
    found = mcnemar(first, second, singles(50))
    by_hand = 2 * sum(stats.binom.pmf(k, 15, 0.5) for k in range(4))  # 3 or fewer of 15, both sides
    assert (found.only_first, found.only_second) == (12, 3)
    assert found.p == pytest.approx(by_hand)
    assert found.p_groups == pytest.approx(stats.chi2.sf(81 / 15, 1))  # groups of one: McNemar's own chi-square


def test_mcnemar_by_groups_sees_that_copies_prove_nothing() -> None:
    first = np.array([True] * 6 + [False] * 2 + [True] * 8)
    second = np.array([False] * 6 + [True] * 2 + [True] * 8)
    once = mcnemar(first, second, singles(16))
    often = mcnemar(np.repeat(first, 20), np.repeat(second, 20), np.repeat(singles(16), 20))
    assert often.p_groups == pytest.approx(once.p_groups)
    assert often.p < 1e-9
    assert once.p > 0.1
    assert mcnemar(first, second, np.full(16, "one")).p_groups is None
    assert mcnemar(first, first, singles(16)).p == 1


def brute_delong(truth: Any, first: Any, second: Any) -> tuple[float, float]:
    """Every pair by itself, and the library's covariance."""
    rows, columns = [], []
    for scores in (first, second):
        pairs = (scores[truth][:, None] > scores[~truth]) + 0.5 * (scores[truth][:, None] == scores[~truth])
        rows.append(pairs.mean(1))
        columns.append(pairs.mean(0))
    cover = np.cov(rows) / truth.sum() + np.cov(columns) / (~truth).sum()
    return float(rows[0].mean() - rows[1].mean()), float(np.sqrt(cover[0, 0] + cover[1, 1] - 2 * cover[0, 1]))


@pytest.fixture
def sample() -> Any:
    rng = np.random.default_rng(11)
    truth = rng.random(200) < 0.35
    base = rng.normal(size=200)
    return truth, (truth + base).round(1), (0.6 * truth + base + rng.normal(0, 0.8, 200)).round(1)


def test_delong_is_that_of_all_pairs(sample: Any) -> None:
    difference, error = brute_delong(*sample)
    found = delong(*sample)
    assert found is not None
    assert found.first - found.second == pytest.approx(difference)
    assert found.error == pytest.approx(error)
    assert found.p == pytest.approx(2 * stats.norm.cdf(-abs(difference) / error))
    alone = delong(*sample, groups=singles(200))
    assert alone is not None
    assert alone.error == pytest.approx(found.error)


def test_delong_with_groups_has_the_error_of_resampled_groups() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(singles(80), 5)
    shared = np.repeat(rng.normal(size=80), 5)
    truth = np.repeat(rng.random(80) < 0.5, 5) ^ (rng.random(400) < 0.1)
    first = truth + 0.8 * shared + rng.normal(0, 0.5, 400)
    second = 0.8 * truth + 0.8 * rng.permutation(shared.reshape(80, 5)).ravel() + rng.normal(0, 0.5, 400)
    found = delong(truth, first, second, groups)
    assert found is not None
    drawn = []
    for _ in range(400):
        take = np.concatenate([np.arange(5) + 5 * g for g in rng.integers(0, 80, 80)])
        drawn.append(brute_delong(truth[take], first[take], second[take])[0])
    assert found.error == pytest.approx(np.std(drawn), rel=0.15)
    naive = delong(truth, first, second)
    assert naive is not None
    assert naive.error < 0.8 * found.error


def test_delong_without_enough_groups_says_nothing(sample: Any) -> None:
    assert delong(*sample, groups=np.full(200, "one")) is None
    equal = delong(sample[0], sample[1], sample[1])
    assert equal is not None
    assert equal.p == 1


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(values: list[float]) -> None:
    found = holm(values)
    assert all(a <= b <= min(1, len(values) * a) + 1e-12 for a, b in zip(values, found, strict=True))
    order = np.argsort(values, kind="stable")
    assert all(np.diff(np.array(found)[order]) >= 0)


def test_bootstrap_p_is_the_smaller_tail_twice() -> None:
    values = np.r_[np.full(97, 1.0), np.full(2, -1.0)]
    assert bootstrap_p(values) == pytest.approx(2 * 3 / 100)
    assert bootstrap_p(np.zeros(99)) == 1
    sure = np.random.default_rng(0).normal(5, 1, 200)
    assert bootstrap_p(sure) == pytest.approx(2 * stats.norm.sf(sure.mean() / sure.std()))
    assert bootstrap_p(np.full(99, 0.5)) == pytest.approx(0.02)  # no spread: no more than was counted
    barely = np.abs(np.random.default_rng(0).normal(0.1, 1, 50))
    assert bootstrap_p(barely) == pytest.approx(2 / 51)
    assert bootstrap_p(np.full(99, np.nan)) == 1


@pytest.mark.parametrize(
    ("figure", "p", "said"),
    [
        (Figure(0.03, 0.01, 0.05), 0.01, "gain"),
        (Figure(-0.03, -0.05, -0.01), 0.01, "loss"),
        (Figure(0.03, -0.001, 0.05), 0.01, "none"),  # its interval holds zero
        (Figure(0.03, 0.01, 0.05), 0.06, "none"),  # one of many comparisons
        (Figure(0.03), 0.001, "none"),  # one group: no interval
        (Figure(None), 0.001, "none"),
    ],
)
def test_a_gain_inside_the_interval_is_none(figure: Figure, p: float, said: str) -> None:
    assert verdict(figure, p) == said
