from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.stats import Histogram, Meter


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 9000), min_size=1, max_size=400))
def test_percentiles_are_right_within_one_bucket(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.percentiles()
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        exact = float(np.percentile(values, share, method="inverted_cdf"))
        assert getattr(found, name) == pytest.approx(exact, rel=0.011, abs=0.001)
    assert found.max == pytest.approx(max(values), abs=0.001)
    assert found.count == len(values)


def test_nothing_counted_is_zero() -> None:
    assert Histogram().percentiles().p99 == 0


def test_the_last_minute_forgets_and_the_total_does_not() -> None:
    meter = Meter()
    for second in range(300):
        meter.add(100.0 if second < 200 else 1.0, float(second))
    assert meter.last_minute(300.0).max == 1
    assert meter.last_minute(300.0).count <= 65
    assert meter.total.percentiles().max == 100
