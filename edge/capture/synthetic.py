"""The phantom as a camera: the next frame is rendered ahead of its tick, so that rendering adds nothing to its age."""

from __future__ import annotations

import time

from edge.capture.base import SourceInfo
from edge.capture.phantom import Phantom, Truth
from edge.capture.replay import Pacer
from edge.frames import Frame, now_ns


class PhantomSource:
    """Frames of a synthetic larynx at a steady rate."""

    def __init__(self, *, width: int, height: int, fps: float, seed: int) -> None:
        self._size, self._fps, self._seed = (width, height), fps, seed
        self._phantom: Phantom | None = None
        self._pacer = Pacer(fps)
        self._seq = 0

    def open(self) -> SourceInfo:
        """Build the anatomy."""
        if self._phantom is None:
            self._phantom = Phantom(width=self._size[0], height=self._size[1], seed=self._seed)
        self._pacer = Pacer(self._fps)
        return SourceInfo("phantom", f"phantom, seed {self._seed}", *self._size, self._fps)

    def read(self) -> Frame:
        """The next frame, at its tick."""
        assert self._phantom is not None  # noqa: S101  the reader opens before it reads
        image, _ = self._phantom.render(self.time_of(self._seq), truth=False)
        exposed = self._pacer.wait()
        frame = Frame(image, self._seq, exposed, "synthetic", now_ns(), time.time())
        self._seq += 1
        return frame

    def time_of(self, seq: int) -> float:
        """Seconds into the phantom's script that a frame shows."""
        return seq / self._fps

    def truth(self, seq: int) -> Truth:
        """What was really to be seen in a frame, for tests and plots."""
        assert self._phantom is not None  # noqa: S101  there is no truth before the anatomy
        truth = self._phantom.render(self.time_of(seq), truth=True)[1]
        assert truth is not None  # noqa: S101  asked for
        return truth

    def close(self) -> None:
        """Nothing is held open."""
