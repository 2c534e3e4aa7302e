"""From logits to scores, and from scores over time to a state.

Everything here is written in seconds, so that 10 and 60 frames a second give the same answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.bundle import DecisionSpec

_STEP_S = 0.01  # between two frames the smoothed score is followed this finely: every threshold is met on its way
UNCERTAIN = "uncertain"
NO_SIGNAL = "no_signal"


def calibrate(logits: NDArray[np.float32], temperature: float, *, exclusive: bool) -> NDArray[np.float32]:
    """Calibrated scores of logits by temperature scaling (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: float32 (labels,).
        temperature: divides the logits.
        exclusive: softmax where labels exclude each other, else a sigmoid per label.

    Returns:
        float32 (labels,), a new array.
    """
    scaled = logits / np.float32(temperature)
    if not exclusive:
        return np.asarray(1 / (1 + np.exp(-scaled)), np.float32)
    exponentials = np.exp(scaled - scaled.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def energy(logits: NDArray[np.float32], temperature: float, *, exclusive: bool) -> float:
    """How much the model finds in an image of what it was trained on; low for images unlike those.

    Args:
        logits: float32 (labels,).
        temperature: divides the logits.
        exclusive: temperature times the log of the summed exponentials (the negative free energy of Liu et al. 2020,
            arXiv 2010.03759) where labels exclude each other, else that sum per label (Wang et al. 2021, arXiv
            2111.12797).
    """
    scaled = logits.astype(np.float64) / temperature
    if not exclusive:
        return float(temperature * np.logaddexp(0.0, scaled).sum())
    return float(temperature * np.logaddexp.reduce(scaled))


def judge(score: float, spec: DecisionSpec, finding: str, other: str) -> str:
    """What one frame alone says: the finding, the other label, or `uncertain` between them."""
    if score >= spec.high:
        return finding
    return other if score <= spec.low else UNCERTAIN


@dataclass(frozen=True, slots=True)
class Verdict:
    """The smoothed decision at one moment.

    Attributes:
        state: a label, `uncertain` or `no_signal`.
        score: smoothed score of the finding, 0..1.
        since_s: monotonic time of the last change, seconds.
        changed: whether this update changed the state.
        reasons: why it is not a label, where it is none.
    """

    state: str
    score: float
    since_s: float
    changed: bool
    reasons: tuple[str, ...] = ()


class Decision:
    """Exponential smoothing, hysteresis, an uncertain band, a shortest dwell, and expiry.

    Two quantities are smoothed with the same time constant: the score of the frames that could be judged, and the share
    of time in which frames could be judged at all. Below one half of the latter the answer is `uncertain`, whatever the
    score was before: no answer is better than a confident wrong one.
    """

    def __init__(self, spec: DecisionSpec, finding: str, other: str) -> None:
        self._spec = spec
        self._finding, self._other = finding, other
        self._last_s: float | None = None
        self._score = spec.threshold  # knowing nothing, it starts between the answers
        self._support = 0.0
        self._state, self._since_s = NO_SIGNAL, -math.inf
        self._reasons: tuple[str, ...] = ("starting",)

    def frame(self, at_s: float, score: float | None, reasons: tuple[str, ...] = ()) -> Verdict:
        """Take in one frame.

        Args:
            at_s: monotonic time of its exposure, seconds. One older than the last is taken as simultaneous.
            score: calibrated score of the finding; None where the frame is not fit to be judged.
            reasons: why it is not.
        """
        if self._last_s is None or at_s - self._last_s > self._spec.expire_s:
            # What was seen before a gap says nothing about what is seen now.
            self._score, self._support = self._spec.threshold, 0.0
            begin, elapsed = at_s, self._spec.smoothing_s / 8
        else:
            begin, elapsed = self._last_s, max(0.0, at_s - self._last_s)
        self._last_s = max(at_s, begin)
        before = self._state
        steps = max(1, math.ceil(elapsed / _STEP_S))
        weight = 1 - math.exp(-elapsed / steps / self._spec.smoothing_s)
        for step in range(1, steps + 1):
            if score is not None:
                self._score += weight * (score - self._score)
            self._support += weight * ((score is not None) - self._support)
            self._settle(begin + (self._last_s - begin) * step / steps, reasons)
        return Verdict(self._state, self._score, self._since_s, self._state != before, self._reasons)

    def no_signal(self, at_s: float, *reasons: str) -> Verdict:
        """Say that there is nothing to judge: no source, a frozen one, or frames too old. Takes effect at once."""
        self._last_s = None
        changed = self._state != NO_SIGNAL
        if changed:
            self._state, self._since_s = NO_SIGNAL, at_s
        self._reasons = reasons
        return Verdict(NO_SIGNAL, self._spec.threshold, self._since_s, changed, reasons)

    def current(self, at_s: float) -> Verdict:
        """The state at a moment at which no frame came; expires to `no_signal`."""
        if self._last_s is None:
            return Verdict(NO_SIGNAL, self._spec.threshold, self._since_s, changed=False, reasons=self._reasons)
        if at_s - self._last_s > self._spec.expire_s:
            return self.no_signal(at_s, "no_frames")
        return Verdict(self._state, self._score, self._since_s, changed=False, reasons=self._reasons)

    def _settle(self, at_s: float, reasons: tuple[str, ...]) -> None:
        target, why = self._target(reasons)
        if target != self._state and (self._state == NO_SIGNAL or at_s - self._since_s >= self._spec.dwell_s):
            self._state, self._since_s = target, at_s
        self._reasons = why if self._state == UNCERTAIN else ()

    def _target(self, reasons: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        spec, score = self._spec, self._score
        if self._support < 0.5:  # noqa: PLR2004  most of the time could not be judged
            return UNCERTAIN, reasons or ("settling",)
        if score >= spec.high or (self._state == self._finding and score >= spec.threshold):
            return self._finding, ()
        if score <= spec.low or (self._state == self._other and score <= spec.threshold):
            return self._other, ()
        return UNCERTAIN, ("between",)
