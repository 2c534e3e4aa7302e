"""What a source of frames is, and the thread that reads one into the newest-frame slot."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from edge.errors import EndOfSource, SourceError
from edge.frames import Frame, NewestFrameSlot, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source really gives, which need not be what was asked for."""

    kind: str
    name: str
    width: int
    height: int
    fps: float
    pixel_format: str = ""
    live: bool = True


class Source(Protocol):
    """A camera or a replay. Used by one thread."""

    def open(self) -> SourceInfo:
        """Make it ready.

        Raises:
            SourceError: it is not there or cannot be used; it may be later.
        """
        ...

    def read(self) -> Frame:
        """The next frame; waits for it.

        Raises:
            SourceError: it stopped delivering.
            EndOfSource: a replay is over.
        """
        ...

    def close(self) -> None:
        """Let it go. Never raises; may be called twice."""
        ...


ReaderState = Literal["opening", "live", "lost", "ended", "stopped"]


class Reader:
    """Reads a source into a slot on its own thread, and opens it anew with back-off when it is lost.

    Attributes:
        state: `opening`, `live`, `lost` (being opened anew), `ended` (a replay is over) or `stopped`.
        reason: the sentence that says why it is lost.
        info: what the source gives, once it was opened.
        progress_ns: monotonic time at which the thread last got anywhere, a failed attempt included: a hung driver is
            seen by its standing still.
    """

    def __init__(
        self, source: Source, slot: NewestFrameSlot, *, lossless: bool = False, tell: Callable[[str, str], None]
    ) -> None:
        """Start nothing yet.

        Args:
            source: what to read.
            slot: where its frames go.
            lossless: wait for each frame to be taken instead of replacing it.
            tell: called with (state, reason) at each change, on the reader's thread.
        """
        self._source, self._slot, self._tell = source, slot, tell
        self._put = slot.put_when_free if lossless else slot.put
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self.state: ReaderState = "opening"
        self.reason = ""
        self.info: SourceInfo | None = None
        self.frames = 0
        self.reopened = 0
        self.progress_ns = now_ns()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End it; False where the driver does not let go in time (the thread dies with the process)."""
        self._stop.set()
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _set(self, state: ReaderState, reason: str = "") -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason, self.progress_ns = state, reason, now_ns()
        if changed:
            self._tell(state, reason)

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                try:
                    self.info = self._source.open()
                    self._set("live")
                    while not self._stop.is_set():
                        frame = self._source.read()
                        failures = 0
                        self.frames += 1
                        self.progress_ns = now_ns()
                        self._put(frame)
                except EndOfSource:
                    self._set("ended")
                    return
                except SourceError as error:
                    self._set("lost", str(error))
                except Exception as error:  # a driver's surprise must not end the thread silently
                    log.exception("the source failed")
                    self._set("lost", f"the source failed: {error}")
                self._source.close()
                self._stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                self.reopened += 1
        finally:
            self._source.close()
            self._slot.close()
            if self.state != "ended":
                self._set("stopped")
