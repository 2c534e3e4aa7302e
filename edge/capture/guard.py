"""What a source may hand on: no time stamp and no image gets past the reader that the pipeline could not trust.

Drivers lie: their clocks jump, are another clock altogether, or lie in the future; in mid-stream a frame is cut short,
another size, grey, or empty. One place looks, counts, and says so in `health`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.frames import Frame

_OLDEST_NS = 2_000_000_000  # a stamp further back is of another clock
_SLACK_NS = 50_000_000  # by which a delivery may be slower than the quickest and still vouch for a clock
_SMALLEST = 16  # pixels; OpenCV hands on what it cannot decode as one row of bytes
_AGREED = 5  # frames in a row of another size are the camera's new one, fewer are torn

_TO_BGR = {1: ("grey", cv2.COLOR_GRAY2BGR), 4: ("four_channels", cv2.COLOR_BGRA2BGR)}


class StampGuard:
    """Refuses exposure times that cannot be; such a frame counts from its dequeue, and says so.

    A stamp must not lie after the dequeue, nor more than two seconds before it, nor at or before the last one. Once one
    was refused, the clock is believed again when a delivery takes about as long as the quickest did: after a jump to
    the past all stamps look old, and such ages would be wrong for ever.

    Attributes:
        refused: how many stamps were.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.reset()

    def reset(self) -> None:
        """The source was opened anew: its clock may be another one."""
        self._last_ns = -1
        self._quickest_ns: int | None = None
        self._doubted = False

    def check(self, frame: Frame) -> Frame:
        """The frame, with an exposure that can be believed."""
        delivery = frame.dequeued_ns - frame.exposed_ns
        slowest = _OLDEST_NS
        if self._doubted and self._quickest_ns is not None:
            slowest = self._quickest_ns + _SLACK_NS
        believed = 0 <= delivery <= slowest and frame.exposed_ns > self._last_ns
        self._doubted = not believed
        if believed:
            self._last_ns = frame.exposed_ns
            self._quickest_ns = delivery if self._quickest_ns is None else min(self._quickest_ns, delivery)
            return frame
        self.refused += 1
        return replace(frame, exposed_ns=frame.dequeued_ns, stamp="dequeue", wall_time=frame.wall_time + delivery / 1e9)


class Timeline:
    """Lets a replay's own time go on where it begins again, because the replay was opened anew or looped.

    Decisions run on that time and would else stand still until it caught up. The first frame after a step back comes
    one frame interval after the last one before it, however long the reopening took: a replay stays deterministic.

    Attributes:
        restarted: how often it began again.
    """

    def __init__(self) -> None:
        self.restarted = 0
        self._last_ns: int | None = None
        self._shift_ns = 0
        self._interval_ns = 40_000_000  # until two frames have shown it

    def check(self, frame: Frame) -> Frame:
        """The frame, with a time that is not before the last one's."""
        if frame.timeline_ns is None:
            return frame
        at = frame.timeline_ns + self._shift_ns
        if self._last_ns is not None:
            if at < self._last_ns:
                self.restarted += 1
                at = self._last_ns + self._interval_ns
                self._shift_ns = at - frame.timeline_ns
            elif at > self._last_ns:
                self._interval_ns = at - self._last_ns
        self._last_ns = at
        return replace(frame, timeline_ns=at) if self._shift_ns else frame


class ImageGuard:
    """Makes images uint8 (height, width, 3) BGR, and a camera's of one size; rejects those that cannot be.

    Attributes:
        converted: images made BGR, by what they were.
        rejected: images that were not handed on, by reason.
        size: (width, height) of what is handed on; None before the first.
    """

    def __init__(self) -> None:
        self.converted: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.reset(one_size=False)

    def reset(self, *, one_size: bool) -> None:
        """The source was opened anew; `one_size`: whether all its frames must be of one size, as a camera's are."""
        self._one_size = one_size
        self.size: tuple[int, int] | None = None
        self._other: tuple[int, int] | None = None
        self._agreed = 0

    def check(self, image: NDArray[np.generic]) -> NDArray[np.uint8] | None:
        """The image as the pipeline wants it, or None where it is rejected."""
        reason = self._fault(image)
        if not reason:
            channels = image.shape[2] if image.ndim == 3 else 1  # noqa: PLR2004  rows, columns, channels
            bgr = np.asarray(image, np.uint8)
            if channels in _TO_BGR:
                name, code = _TO_BGR[channels]
                self.converted[name] += 1
                bgr = np.asarray(cv2.cvtColor(bgr, code), np.uint8)
            if self._fits((bgr.shape[1], bgr.shape[0])):
                return bgr
            reason = "another_size"
        self.rejected[reason] += 1
        return None

    def _fault(self, image: NDArray[np.generic]) -> str:
        if not image.size:
            return "empty"
        if image.dtype != np.uint8:
            return "depth"
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):  # noqa: PLR2004  as above
            return "channels"
        return "too_small" if self._one_size and min(image.shape[:2]) < _SMALLEST else ""

    def _fits(self, size: tuple[int, int]) -> bool:
        if not self._one_size or self.size is None or size == self.size:
            self.size, self._other, self._agreed = size, None, 0
            return True
        self._agreed = self._agreed + 1 if size == self._other else 1
        self._other = size
        if self._agreed < _AGREED:
            return False
        self.size, self._other, self._agreed = size, None, 0
        return True
