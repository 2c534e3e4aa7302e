"""What a source of frames is, and the thread that reads one into the newest-frame slot.

Whatever a source does with a frame before it hands it on, decoding MJPEG included, happens on this thread, never on the
pipeline's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from edge.capture.guard import ImageGuard, StampGuard, Timeline
from edge.errors import EndOfSource, SourceError
from edge.frames import Frame, NewestFrameSlot, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_USELESS_S = 1.0  # nothing but rejected frames for so long: opening it anew may cure it


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source says it gives, which need not be what was asked for.

    Attributes:
        live: whether it is a camera or a stream, and not a replay.
    """

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
        info: what the source gives, once it was opened; a camera's size is that of its frames, not what it claims.
        frames: frames handed on.
        reopened: how often it was tried to open it anew.
        stamps: watches over the frames' time stamps.
        images: watches over their images.
        timeline: lets a replay's own time go on where it begins again.
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
        self._call: tuple[str, int] | None = None  # what the driver was asked to do and has not answered, and when
        self._dequeued_ns: deque[int] = deque(maxlen=120)
        self._useless_ns = 0  # since when every frame was rejected
        self.state: ReaderState = "opening"
        self.reason = ""
        self.info: SourceInfo | None = None
        self.frames = 0
        self.reopened = 0
        self.stamps, self.images, self.timeline = StampGuard(), ImageGuard(), Timeline()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End it; False where the driver does not let go in time (the thread dies with the process)."""
        self._stop.set()
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def hangs(self, *, open_s: float, read_s: float) -> float:
        """For how many seconds the driver has not answered, where that is too long; else 0.

        Args:
            open_s: what opening may take, the first frame and closing included.
            read_s: what any later frame may take.
        """
        call = self._call
        if call is None:
            return 0.0
        what, since = call
        seconds = (now_ns() - since) / 1e9
        return seconds if seconds > (read_s if what == "read" else open_s) else 0.0

    @property
    def fps(self) -> float:
        """Frames a second that really came, over the last two seconds or 120 frames; 0 where none did."""
        fresh = [at for at in list(self._dequeued_ns) if now_ns() - at < 2e9]  # noqa: PLR2004  as the docstring says
        return 1e9 * (len(fresh) - 1) / (fresh[-1] - fresh[0]) if len(fresh) > 1 and fresh[-1] > fresh[0] else 0.0

    def _set(self, state: ReaderState, reason: str = "") -> None:
        changed = (state, reason) != (self.state, self.reason)
        self.state, self.reason = state, reason
        if changed:
            self._tell(state, reason)

    def _open(self) -> None:
        self._call = "open", now_ns()
        info = self.info = self._source.open()
        self.stamps.reset()
        self.images.reset(one_size=info.live)
        self._useless_ns = now_ns()
        self._set("live")

    def _read(self) -> None:
        frame = self._source.read()
        self._call = None
        now = now_ns()
        self._dequeued_ns.append(now)
        image = self.images.check(frame.image)
        if image is None:
            if now - self._useless_ns > _USELESS_S * 1e9:
                reasons = ", ".join(self.images.rejected)
                raise SourceError(f"{self.info and self.info.name} delivers no frame that can be used ({reasons})")
        else:
            self._useless_ns = now
            if image is not frame.image:
                frame = replace(frame, image=image)
            if self.info is not None and self.info.live and self.images.size != (self.info.width, self.info.height):
                self.info = replace(self.info, width=image.shape[1], height=image.shape[0])
            self.frames += 1
            self._put(self.timeline.check(self.stamps.check(frame)))
        self._call = "read", now_ns()

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                try:
                    self._open()
                    while not self._stop.is_set():
                        before = self.frames
                        self._read()
                        failures = 0 if self.frames > before else failures
                except EndOfSource:
                    self._set("ended")
                    return
                except SourceError as error:
                    self._set("lost", str(error))
                except Exception as error:  # a driver's surprise must not end the thread silently
                    log.exception("the source failed")
                    self._set("lost", f"the source failed: {error}")
                self._call = "close", now_ns()
                self._source.close()
                self._call = None
                self._stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                self.reopened += 1
        finally:
            self._source.close()
            self._call = None
            self._slot.close()
            if self.state != "ended":
                self._set("stopped")
