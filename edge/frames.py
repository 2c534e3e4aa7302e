"""A frame with its time stamps, and the slot in which only the newest one waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stamp = Literal["sensor", "driver", "dequeue", "synthetic"]
"""Where a frame's exposure time comes from, best first: the sensor's own clock, the driver's buffer stamp, the moment
the frame was handed over (younger than the truth), or a simulated camera's tick."""


def now_ns() -> int:
    """Monotonic time in nanoseconds: every age is a difference of two of these."""
    return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of the source.

    Attributes:
        image: uint8 (height, width, 3), BGR as OpenCV delivers it. Nobody writes into it.
        seq: number of the frame in this run of the source, from 0, without gaps.
        exposed_ns: monotonic time of the middle of its exposure, as well as `stamp` can tell.
        stamp: how `exposed_ns` is known.
        dequeued_ns: monotonic time at which the reader thread had it.
        wall_time: seconds since 1970 at the exposure. A label only: no age is computed from it.
        name: file or position it was replayed from, empty for a camera.
        timeline_ns: the time on which decisions run where it is not the exposure: a lossless replay's own clock, so
            that its result does not depend on how fast the machine is.
    """

    image: NDArray[np.uint8]
    seq: int
    exposed_ns: int
    stamp: Stamp
    dequeued_ns: int
    wall_time: float
    name: str = ""
    timeline_ns: int | None = None

    @property
    def decided_at_s(self) -> float:
        """The moment that the frame shows, seconds on the clock on which decisions run."""
        return (self.exposed_ns if self.timeline_ns is None else self.timeline_ns) / 1e9

    def age_ms(self, at_ns: int | None = None) -> float:
        """Milliseconds since the exposure, at monotonic time `at_ns` (default: now)."""
        return ((now_ns() if at_ns is None else at_ns) - self.exposed_ns) / 1e6


class NewestFrameSlot:
    """Holds one frame. A newer one replaces it: nothing queues between the sensor and the decision."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False
        self.replaced = 0
        """Frames that a newer one replaced before anybody took them."""

    def put(self, frame: Frame) -> None:
        """Offer a frame, replacing one that nobody took."""
        with self._condition:
            if self._frame is not None:
                self.replaced += 1
            self._frame = frame
            self._condition.notify_all()

    def put_when_free(self, frame: Frame) -> None:
        """Offer a frame once the last one was taken, for a replay that loses none; returns at once when closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is None or self._closed)
            if not self._closed:
                self._frame = frame
                self._condition.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame, waiting for one at most `timeout_s`; None when none came or the slot is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._closed, timeout_s)
            frame, self._frame = self._frame, None
            self._condition.notify_all()
            return frame

    def close(self) -> None:
        """Wake everybody who waits. A frame that is still there can be taken."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no more frames will come."""
        return self._closed
