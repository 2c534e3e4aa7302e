"""Dice, overlap and boundary distance against their formulas; what a mask does not tell apart is not measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.segment.measures import decided, measure
from trainer.segment.targets import FOLDS, GLOTTIS, NOTHING_KNOWN


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_measures_are_their_formulas(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    found, truth, known = rng.random((12, 17)) < share, rng.random((12, 17)) < 0.4, rng.random((12, 17)) < 0.8
    known[0, 0] = truth[0, 0] = True
    a, b = found & known, truth & known
    got = measure(found, truth, known)
    assert got["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    assert got["iou"] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    if a.any():
        first, second = edge(a), edge(b)
        apart = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
        mean = np.concatenate((apart.min(axis=1), apart.min(axis=0))).mean() / np.hypot(12, 17)
        assert got["distance"] == pytest.approx(mean, rel=1e-6, abs=1e-9)


def edge(region: Any) -> Any:
    """Rows and columns of the pixels that touch something outside the region, or the image's border."""
    wide = np.pad(region, 1)
    inside = [wide[1 + y : 13 + y, 1 + x : 18 + x] for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    return np.argwhere(region & ~np.all(inside, axis=0)).astype(float)


def test_nothing_found_is_as_far_away_as_can_be() -> None:
    truth = np.eye(8, dtype=bool)
    assert measure(np.zeros((8, 8), bool), truth, np.ones((8, 8), bool)) == {"dice": 0, "iou": 0, "distance": 1}


def test_a_class_that_a_partial_mask_does_not_tell_apart_is_not_measured() -> None:
    sets = np.array([[4, 1 | 2, NOTHING_KNOWN]], np.uint8)
    assert decided(sets, FOLDS) is None
    told = decided(sets, GLOTTIS)
    assert told is not None
    assert told[0].tolist() == [[True, False, False]]
    assert told[1].tolist() == [[True, True, False]]
