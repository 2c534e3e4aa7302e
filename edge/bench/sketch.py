"""Durations as counts in logarithmic buckets: mergeable, a few dozen numbers, and small enough for a JSON file."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP = 1.005
_SCALE = 1 / math.log(_STEP)
_LOWEST_MS = 1e-4

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


class Sketch:
    """Quantiles within a quarter of a per cent, minimum and maximum exact, in memory that does not grow with time.

    The buckets are those of DDSketch (Masson, Rim and Lee 2019, VLDB 12): each half a per cent wider than the last.
    """

    __slots__ = ("counts", "highest", "lowest")

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.lowest, self.highest = math.inf, 0.0

    def add(self, milliseconds: float) -> None:
        """Count one duration; a negative one counts as nothing."""
        value = max(milliseconds, _LOWEST_MS)
        self.counts[math.ceil(math.log(value) * _SCALE)] += 1
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)

    @classmethod
    def merged(cls, sketches: Iterable[Sketch]) -> Sketch:
        """One sketch of what several have counted."""
        result = cls()
        for sketch in sketches:
            result.counts.update(sketch.counts)
            result.lowest = min(result.lowest, sketch.lowest)
            result.highest = max(result.highest, sketch.highest)
        return result

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.counts.total() if hasattr(self.counts, "total") else sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The duration in milliseconds that `share` of all do not exceed; 0 where nothing was counted."""
        left = math.ceil(share * self.total)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return min(self.highest, max(self.lowest, middle(bucket)))
        return 0.0

    def percentiles(self) -> dict[str, float]:
        """Count, p50, p95, p99, p999 and max, in milliseconds."""
        values = {name: round(self.quantile(share), 3) for name, share in SHARES.items()}
        return {"count": self.total, **values, "max": round(self.highest, 3)}

    def encode(self) -> dict[str, list[int]]:
        """For JSON: parallel lists of buckets and counts."""
        buckets = sorted(self.counts)
        return {"buckets": buckets, "counts": [self.counts[bucket] for bucket in buckets]}

    @classmethod
    def decode(cls, data: dict[str, list[int]]) -> Sketch:
        """From JSON; minimum and maximum are then those of their buckets."""
        result = cls()
        result.counts.update(dict(zip(data["buckets"], data["counts"], strict=True)))
        if result.counts:
            result.lowest, result.highest = middle(min(result.counts)), middle(max(result.counts))
        return result


def middle(bucket: int) -> float:
    """The duration in milliseconds that stands for a bucket."""
    return 2 * math.exp(bucket / _SCALE) / (1 + _STEP)
