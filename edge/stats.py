"""Percentiles of durations over the last minute and since the start, in memory that does not grow."""

from __future__ import annotations

import math
from array import array
from collections import deque

import numpy as np

from edge.messages import Percentiles

_LOWEST_MS, _STEP = 1e-3, 1.01  # buckets from a microsecond up, each one per cent wider than the last
_LOG_STEP = math.log(_STEP)
_BUCKETS = 2 + math.ceil(math.log(1e7) / math.log(_STEP))  # to ten seconds times a thousand


class Histogram:
    """Counts durations in logarithmic buckets: percentiles within one per cent, the maximum exact."""

    def __init__(self) -> None:
        self._held = array("q", bytes(8 * _BUCKETS))  # one of its items costs a tenth of one of numpy's
        self._counts = np.frombuffer(self._held, np.int64)
        self._max = 0.0

    @staticmethod
    def bucket(milliseconds: float) -> int:
        """Where a duration is counted."""
        if milliseconds <= _LOWEST_MS:
            return 0
        return min(_BUCKETS - 1, 1 + int(math.log(milliseconds / _LOWEST_MS) / _LOG_STEP))

    def add(self, milliseconds: float, bucket: int | None = None) -> None:
        """Count one duration; its bucket, where that is known."""
        self._held[self.bucket(milliseconds) if bucket is None else bucket] += 1
        self._max = max(self._max, milliseconds)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts to this one."""
        self._counts += other._counts
        self._max = max(self._max, other._max)

    def percentiles(self) -> Percentiles:
        """The usual ones, in milliseconds; zeros when nothing was counted."""
        cumulative = np.cumsum(self._counts)
        total = int(cumulative[-1])

        def at(share: float) -> float:
            if not total:
                return 0.0
            bucket = int(np.searchsorted(cumulative, math.ceil(share * total)))
            return round(min(self._max, _LOWEST_MS * _STEP**bucket), 3)

        return Percentiles(
            count=total, p50=at(0.5), p95=at(0.95), p99=at(0.99), p999=at(0.999), max=round(self._max, 3)
        )


class Meter:
    """Durations since the start, and over the last minute in steps of five seconds."""

    _SLICE_S = 5.0

    def __init__(self) -> None:
        self.total = Histogram()
        self._slices: deque[tuple[float, Histogram]] = deque(maxlen=12)

    def add(self, milliseconds: float, at_s: float) -> None:
        """Count one duration, at monotonic time `at_s`."""
        bucket = Histogram.bucket(milliseconds)
        self.total.add(milliseconds, bucket)
        if not self._slices or at_s - self._slices[-1][0] >= self._SLICE_S:
            self._slices.append((at_s, Histogram()))
        self._slices[-1][1].add(milliseconds, bucket)

    def last_minute(self, at_s: float) -> Percentiles:
        """Percentiles over the last minute."""
        merged = Histogram()
        for begin, histogram in list(self._slices):  # another thread may be adding
            if at_s - begin < 60 + self._SLICE_S:
                merged.merge(histogram)
        return merged.percentiles()
