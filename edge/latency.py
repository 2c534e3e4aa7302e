"""The ladder that keeps frames young: how much work is done per second, and with which model.

A pure controller: samples go in, a rung comes out. It reads no clock and no file, so that a simulation can judge it.

    every frame ─ every 2nd ─ every 3rd ─ every 4th ─ [the bundle's smaller model] ─ degraded

- **Down** when the p95 age has been over the budget for a second: to the first rung that is predicted to fit, else to
  the last. A prediction that was wrong shows in the age, and a second later it goes on down.
- **Up** when a higher rung has been predicted to fit into 80 % of the budget for two seconds. If it does not hold
  there for half a minute, the wait before the next try is tripled, up to a minute: the edge makes no flapping.
- **Heat**: while the processor is throttled it climbs nowhere, and goes one rung down every ten seconds, as far as
  every 4th frame: less work is what cools it.

The prediction rests on what was measured in the last second: delivery (exposure until the reader had the frame), work
(taken until published) and the frame interval. Only the newest frame waits: one that is taken at once is published at
delivery + work, and where work fills the interval it waits up to one interval more.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WINDOW_S = 1.0  # of samples that count
HOLD_S = 1.0  # over the budget for so long before a step down; no rung is left downwards sooner
FIT = 0.8  # share of the budget into which a higher rung must fit: the hysteresis
BUSY = 0.9  # share of its interval above which a frame's work makes the next one wait
PATIENCE_S, PATIENCE_FACTOR, MOST_PATIENCE_S = 2.0, 3.0, 60.0
PROOF_S = 30.0  # a climb that holds for so long was right
COOLING_S = 10.0  # heat answers slowly


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to work.

    Attributes:
        name: as `health` and `event` say it.
        every: one of so many frames is classified.
        smaller: whether the bundle's smaller model does it.
        degraded: whether the budget is given up.
    """

    name: str
    every: int = 1
    smaller: bool = False
    degraded: bool = False


def rungs(*, smaller: bool) -> tuple[Rung, ...]:
    """All of them, best first; `smaller`: whether the bundle has a smaller model."""
    line = [Rung("every frame"), Rung("every 2nd frame", 2), Rung("every 3rd frame", 3), Rung("every 4th frame", 4)]
    if smaller:
        line.append(Rung("smaller model", 4, smaller=True))
    line.append(replace(line[-1], name="degraded", degraded=True))
    return tuple(line)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one frame took.

    Attributes:
        at_s: monotonic time at which it was published.
        seq: its number among those that the source delivered.
        delivery_ms: from its exposure until the reader had it.
        work_ms: from being taken until it was published.
        age_ms: from its exposure until it was published.
    """

    at_s: float
    seq: int
    delivery_ms: float
    work_ms: float
    age_ms: float


@dataclass(frozen=True, slots=True)
class Step:
    """A change of rung, and why."""

    before: Rung
    after: Rung
    reason: str


class Ladder:
    """Chooses the rung.

    Args:
        budget_ms: what the p95 age shall stay below.
        smaller: whether the bundle has a smaller model.

    Attributes:
        since_s: monotonic time of the last step; -inf before the first.
        reason: why the last step was made.
    """

    def __init__(self, budget_ms: float, *, smaller: bool = False) -> None:
        self.rungs = rungs(smaller=smaller)
        self.since_s = -math.inf
        self.reason = ""
        self._budget_ms = budget_ms
        self._index = 0
        self._window: deque[Sample] = deque()
        self._over_since_s = math.inf
        self._fits_since_s, self._candidate = math.inf, 0
        self._patience_s = PATIENCE_S
        self._climbed_s = math.inf  # the last climb, until it held or failed
        self._left_ms = (
            0.0  # work of the full model right before the change to the smaller, until that has been compared
        )
        self._smaller_share = 0.0  # of the full one's work; 0 where it is not known

    @property
    def rung(self) -> Rung:
        """How to work now."""
        return self.rungs[self._index]

    @property
    def index(self) -> int:
        """Its number, 0 for the best."""
        return self._index

    def add(self, sample: Sample, throttled: Sequence[str] = ()) -> Step | None:
        """Take in a frame that was published, or found to be too old.

        Args:
            sample: what it took.
            throttled: the flags that say what slows the processor down now.

        Returns:
            The step that this leads to, if any.
        """
        window = self._window
        window.append(sample)
        while sample.at_s - window[0].at_s > WINDOW_S and len(window) > 2:  # noqa: PLR2004  slow frames count too
            window.popleft()
        self._learn()
        if sample.at_s - self._climbed_s > PROOF_S:
            self._patience_s, self._climbed_s = PATIENCE_S, math.inf
        return self._down(sample) or self._cool(sample.at_s, throttled) or self._up(sample.at_s, throttled)

    def _down(self, sample: Sample) -> Step | None:
        p95 = _p95(s.age_ms for s in self._window)
        if p95 <= self._budget_ms:
            self._over_since_s = math.inf
            return None
        self._over_since_s = min(self._over_since_s, sample.at_s - sample.work_ms / 1e3)
        late = sum(s.age_ms > self._budget_ms for s in self._window)
        last = len(self.rungs) - 1
        held = sample.at_s - max(self._over_since_s, self.since_s) >= HOLD_S
        if self._index == last or not held or late < 2:  # noqa: PLR2004  one late frame is a hiccup, not a load
            return None
        below = range(self._index + 1, last)
        target = next((i for i in below if self._predicted_ms(self.rungs[i]) <= self._budget_ms), last)
        return self._go(target, sample.at_s, f"p95 age {p95:.0f} ms is over the budget of {self._budget_ms:g} ms")

    def _cool(self, now_s: float, throttled: Sequence[str]) -> Step | None:
        below = self.rungs[min(self._index + 1, len(self.rungs) - 1)]
        if not throttled or below.smaller or below.degraded or now_s - self.since_s < COOLING_S:
            return None
        return self._go(self._index + 1, now_s, f"the processor is slowed down: {', '.join(throttled)}")

    def _up(self, now_s: float, throttled: Sequence[str]) -> Step | None:
        fits = (i for i in range(self._index) if self._predicted_ms(self.rungs[i]) <= FIT * self._budget_ms)
        best = None if throttled else next(fits, None)
        if best is None:
            self._fits_since_s, self._candidate = math.inf, 0
            return None
        self._fits_since_s = min(self._fits_since_s, now_s)
        self._candidate = max(self._candidate, best)  # what fitted all the while
        if now_s - max(self._fits_since_s, self.since_s) < self._patience_s:
            return None
        expected = self._predicted_ms(self.rungs[self._candidate])
        return self._go(self._candidate, now_s, f"{expected:.0f} ms are expected, the budget is {self._budget_ms:g} ms")

    def _go(self, index: int, now_s: float, reason: str) -> Step:
        before, after = self.rung, self.rungs[index]
        if index < self._index:
            self._climbed_s = now_s
        elif self._climbed_s < now_s:
            self._patience_s, self._climbed_s = min(MOST_PATIENCE_S, PATIENCE_FACTOR * self._patience_s), math.inf
        if after.smaller and not before.smaller:
            self._left_ms = _median(s.work_ms for s in self._window)
        self._index, self.since_s, self.reason = index, now_s, reason
        self._window.clear()  # what was measured on one rung says nothing of another's age
        self._over_since_s = self._fits_since_s = math.inf
        self._candidate = 0
        return Step(before, after, reason)

    def _learn(self) -> None:
        """The smaller model's share of the full one's work, from right before and right after the change."""
        if self.rung.smaller and self._left_ms and len(self._window) >= 3:  # noqa: PLR2004  one may be a hiccup
            now_ms = _median(s.work_ms for s in self._window)
            self._smaller_share, self._left_ms = min(1.0, max(0.05, now_ms / self._left_ms)), 0.0

    def _predicted_ms(self, rung: Rung) -> float:
        """The p95 age on a rung under what was measured in the window; 0 where only trying can tell."""
        scale = 1.0
        if rung.smaller != self.rung.smaller:
            if not self._smaller_share:
                return 0.0
            scale = self._smaller_share if rung.smaller else 1 / self._smaller_share
        first, last = self._window[0], self._window[-1]
        between = last.seq - first.seq
        exposed = 1e3 * (last.at_s - first.at_s) - (last.age_ms - first.age_ms)
        interval_ms = max(0.0, exposed) / between if between > 0 else 0.0
        work = scale * _p95(s.work_ms for s in self._window)
        wait = interval_ms if work > BUSY * rung.every * interval_ms else 0.0
        return _p95(s.delivery_ms + scale * s.work_ms for s in self._window) + wait


def _p95(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
