"""Calibration against known distributions, the device's own arithmetic and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from edge.decision import calibrate
from trainer.calibration import (
    brier,
    calibration_errors,
    claims,
    cross_temperatures,
    fit_temperature,
    probabilities,
    reliability,
    risk_coverage,
)


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_are_the_devices(exclusive: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (20, 3)).astype(np.float32)
    found = probabilities(logits, 0.7, exclusive=exclusive)
    assert found == pytest.approx(np.stack([calibrate(row, 0.7, exclusive=exclusive) for row in logits]), abs=1e-6)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_temperature_that_was_put_in_is_found(exclusive: bool) -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 2, (20000, 3))
    chances = probabilities(honest.astype(np.float32), exclusive=exclusive)
    drawn = rng.random((20000, 1)) if exclusive else rng.random((20000, 3))
    labels = (chances.cumsum(1) < drawn).sum(1).clip(0, 2) if exclusive else drawn < chances
    found = fit_temperature((2.5 * honest).astype(np.float32), labels, exclusive=exclusive)
    assert found == pytest.approx(2.5, rel=0.04)


def test_no_image_is_judged_by_its_own_group() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (300, 2)).astype(np.float32)
    groups = np.repeat(np.arange(30), 10).astype(str)
    labels = rng.integers(0, 2, 300)
    found = cross_temperatures(logits, labels, groups, exclusive=True)
    assert all(len(set(found[groups == g])) == 1 for g in groups)
    assert len(set(found.tolist())) == 5
    changed = labels.copy()
    changed[groups == "7"] = 1 - changed[groups == "7"]
    again = cross_temperatures(logits, changed, groups, exclusive=True)
    assert (again[groups == "7"] == found[groups == "7"]).all()
    assert (again != found).any()


def test_the_error_is_the_sum_by_hand() -> None:
    claimed, true = np.array([0.05, 0.1, 0.55, 0.65, 0.95]), np.array([False, True, True, False, True])
    found = reliability(claimed, true, bins=2)
    by_hand = (2 * abs(0.075 - 0.5) + 3 * abs((0.55 + 0.65 + 0.95) / 3 - 2 / 3)) / 5
    assert found.error == pytest.approx(by_hand)
    assert found.images.tolist() == [2, 3]
    assert calibration_errors(claimed, true, np.ones((1, 5)), bins=2)[0] == pytest.approx(by_hand)
    twice = calibration_errors(claimed, true, np.array([[2.0, 0, 1, 1, 0]]), bins=2)
    repeated = reliability(np.array([0.05, 0.05, 0.55, 0.65]), np.array([False, False, True, False]), bins=2)
    assert twice[0] == pytest.approx(repeated.error)
    assert brier(claimed, true) == pytest.approx(np.mean([0.0025, 0.81, 0.2025, 0.4225, 0.0025]))


def test_what_is_claimed_depends_on_the_task() -> None:
    scores = np.array([[0.2, 0.8], [0.6, 0.4]])
    claimed, true = claims(scores, np.array([1, 1]), 1)
    assert claimed.tolist() == [0.8, 0.4]
    assert true.tolist() == [True, True]
    claimed, true = claims(scores, np.array([1, 1]), None)
    assert claimed.tolist() == [0.8, 0.6]
    assert true.tolist() == [True, False]
    claimed, true = claims(scores, np.array([[True, True], [False, False]]), None)
    assert claimed.tolist() == [0.2, 0.8, 0.6, 0.4]
    assert true.tolist() == [True, True, False, False]


def test_risk_falls_where_confidence_tells_right_from_wrong() -> None:
    found = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]))
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert found.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert found.area == pytest.approx((1 / 3 + 1 / 4) / 4)
    tied = risk_coverage(np.full(4, 0.5), np.array([True, True, False, True]))
    assert tied.coverage.tolist() == [1]
    assert tied.area == pytest.approx(0.25)
