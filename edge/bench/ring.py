"""A camera for measuring: phantom frames rendered before the run, handed out at a steady rate at no cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from edge.capture import SourceInfo, choose_source
from edge.capture.phantom import Phantom
from edge.capture.phantom.script import default_script
from edge.capture.replay import Pacer
from edge.frames import Frame, now_ns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.capture import Source
    from edge.config import Capture

NAME = "synthetic"
_FRAMES = 24


class RingSource:
    """A few consecutive phantom frames, forwards and backwards in turn, so that nothing jumps and nothing stands still.

    Rendering takes longer than a frame lasts; done beforehand, what is measured is the pipeline. The frames are written
    once and not writable: they lie in memory, as a camera's buffers do.
    """

    def __init__(self, *, width: int, height: int, fps: float, seed: int, frames: int = _FRAMES) -> None:
        self._size, self._fps, self._seed = (width, height), fps, seed
        self._order = [*range(frames), *range(frames - 2, 0, -1)]
        self._ring: list[NDArray[np.uint8]] = []
        self._count = frames
        self._pacer = Pacer(fps)
        self._seq = 0

    @property
    def ring_mb(self) -> float:
        """What the frames take of the memory, MB (10^6 bytes)."""
        return sum(image.nbytes for image in self._ring) / 1e6

    def prepare(self) -> None:
        """Render the frames; a few seconds on a small board."""
        if self._ring:
            return
        phantom = Phantom(width=self._size[0], height=self._size[1], seed=self._seed)
        begin_s = _in_the_larynx(self._seed)
        for index in range(self._count):
            image = np.array(phantom.render(begin_s + index / self._fps, truth=False)[0])
            image.flags.writeable = False
            self._ring.append(image)

    def open(self) -> SourceInfo:
        """Render once; begin a new pace."""
        self.prepare()
        self._pacer = Pacer(self._fps)
        return SourceInfo(NAME, f"{NAME}, seed {self._seed}", *self._size, self._fps)

    def read(self) -> Frame:
        """The next frame, at its tick."""
        image = self._ring[self._order[self._seq % len(self._order)]]
        exposed = self._pacer.wait()
        frame = Frame(image, self._seq, exposed, "synthetic", now_ns(), time.time())
        self._seq += 1
        return frame

    def close(self) -> None:
        """Nothing is held open."""


def _in_the_larynx(seed: int) -> float:
    """Seconds into the phantom's script at which the folds are in view and move."""
    script = default_script(seed)
    return next((second + 1.0 for second in range(60) if script.at(second)[0] == "breathing"), 20.0)


def choose(settings: Capture) -> Source:
    """The source that the settings name, `synthetic` among them.

    Raises:
        SourceError: no source goes by this name.
    """
    if settings.source == NAME:
        return RingSource(width=settings.width, height=settings.height, fps=settings.fps, seed=settings.seed)
    return choose_source(settings)
