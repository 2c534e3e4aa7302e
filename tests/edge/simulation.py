"""A camera, a newest-frame slot and stages of a made-up cost around the real ladder, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge.latency import Ladder, Rung, Sample, Step

Load = Callable[[float, Rung], float]
"""Milliseconds of work for a frame that is taken at a time (seconds) on a rung."""
Heat = Callable[[float, Rung], Sequence[str]]


@dataclass
class Run:
    """What came of it."""

    samples: list[Sample] = field(default_factory=list)
    rungs: list[int] = field(default_factory=list)
    steps: list[tuple[float, Step]] = field(default_factory=list)

    def p95(self, begin_s: float, end_s: float) -> float:
        """Of the ages published in a stretch of time, ms."""
        ages = [s.age_ms for s in self.samples if begin_s <= s.at_s < end_s]
        return float(np.percentile(ages, 95, method="inverted_cdf")) if ages else 0.0

    def changes(self, begin_s: float, end_s: float) -> int:
        """Steps made in a stretch of time."""
        return sum(begin_s <= at < end_s for at, _ in self.steps)

    def rung_at(self, at_s: float) -> int:
        """The rung at a moment."""
        return next((r for s, r in zip(reversed(self.samples), reversed(self.rungs), strict=True) if s.at_s <= at_s), 0)


def simulate(
    ladder: Ladder,
    load: Load,
    *,
    seconds: float,
    fps: float = 30,
    delivery_ms: float = 4,
    noise: float = 0,
    heat: Heat = lambda at, rung: (),
    seed: int = 0,
) -> Run:
    """Run a pipeline in simulated time.

    Args:
        ladder: what is tried.
        load: work per frame.
        seconds: for how long.
        fps: of the camera.
        delivery_ms: from exposure to the slot.
        noise: spread of the work, as the sigma of a log-normal factor.
        heat: the throttle flags at a time on a rung.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    interval, delivery = 1 / fps, delivery_ms / 1e3
    run, now, last, done = Run(), 0.0, -1, -(10**9)
    while now < seconds:
        newest = int(np.floor((now - delivery) / interval + 1e-9))
        if newest <= last:
            now = (last + 1) * interval + delivery  # wait for the next
            newest = last + 1
        last = newest
        if newest - done < ladder.rung.every:
            continue
        done = newest
        work = load(now, ladder.rung) * float(np.exp(rng.normal(0, noise))) / 1e3
        now += work
        age = now - newest * interval
        sample = Sample(now, newest, delivery_ms, 1e3 * work, 1e3 * age)
        run.samples.append(sample)
        run.rungs.append(ladder.index)
        step = ladder.add(sample, heat(now, ladder.rung))
        if step is not None:
            run.steps.append((now, step))
    return run
