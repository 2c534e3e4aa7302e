"""The preview: small JPEGs of the newest frame for a paired phone, made beside the pipeline and never by it.

The pipeline only leaves a reference (`Preview.offer`): nobody writes into a frame once it was handed on. A thread of
its own takes the newest one when the next picture is due, scales the whole of it, so that fractions of the frame stay
fractions of the picture, and encodes it. Nothing waits in a line, here or in the link.

Each picture is published twice: whole, on `preview`, and in pieces, on `preview-part`, for browsers. mosquitto 2.0
writes 4 kB of a message to a WebSocket, and the next 4 kB only when something else wakes it: a picture of 16 kB took
110 ms there, one of 38 kB 800 ms, and results waited behind it. Messages that fit into 4 kB go out at once, and many.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge import config
    from edge.frames import Frame

log = logging.getLogger(__name__)

CONTENT_TYPE = "image/jpeg"
TOPIC = "preview"
PART_TOPIC = "preview-part"
_PIECE = 3500  # bytes; with topic and properties less than the 4096 that go at once
SEEN = "preview-seen"
"""The command with which a phone says that it shows a preview: {"seq": number}."""

_BEST, _WORST = 80, 20  # JPEG quality
_GROW_BELOW = 0.75  # of the limit: a picture smaller than this may be followed by a better one
_STEP = 4
_SHRINK = 0.7  # of the width, where even the worst quality is too large

_WATCHED_S = 3.0  # without a word of any phone for so long, nobody looks
_UNWATCHED_EVERY_S = 1.0  # so that a phone that has just come has something to acknowledge
_WINDOW_S = 2.0
_SLOWEST_S = 2.0
_UNACKNOWLEDGED = 64


class Pace:
    """When the next preview is due: at most `fps` a second, and no more than the slowest phone has shown it can take.

    The time from publishing to a phone's acknowledgement is the way there, the drawing, and the way back. The next
    picture waits as long as the slowest of the last two seconds took, so that no more than one is under way to it.
    """

    def __init__(self, fps: float) -> None:
        self._least_s = 1 / fps
        self._sent: OrderedDict[int, float] = OrderedDict()  # by number, when
        self._took: deque[tuple[float, float]] = deque(maxlen=256)  # when it was heard of, and how long that had taken
        self._heard_s = float("-inf")
        self._last_s = float("-inf")

    def sent(self, seq: int, now_s: float) -> None:
        """A preview was published."""
        interval_s = self.interval_s(now_s)
        due_s = self._last_s + interval_s
        # A camera's next frame comes a little after it was due; that does not put off the ones after it.
        self._last_s = due_s if now_s - due_s < interval_s / 2 else now_s
        self._sent[seq] = now_s
        while len(self._sent) > _UNACKNOWLEDGED:
            self._sent.popitem(last=False)

    def seen(self, seq: int, now_s: float) -> None:
        """A phone acknowledged one. It stays known, for a second and slower phone to acknowledge it too."""
        at_s = self._sent.get(seq)
        if at_s is None:
            return
        self._heard_s = now_s
        self._took.append((now_s, now_s - at_s))

    def interval_s(self, now_s: float) -> float:
        """Seconds from the last preview to the next."""
        if now_s - self._heard_s > _WATCHED_S:
            return max(self._least_s, _UNWATCHED_EVERY_S)
        slowest = max((took for at, took in self._took if now_s - at <= _WINDOW_S), default=0.0)
        # A phone that has fallen silent is at least as slow as its silence is long.
        waiting = [at for at in self._sent.values() if at > self._heard_s]
        if waiting:
            slowest = max(slowest, now_s - waiting[0])
        return min(_SLOWEST_S, max(self._least_s, slowest))

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next preview is due; 0 where it is."""
        return max(0.0, self._last_s + self.interval_s(now_s) - now_s)


class Encoder:
    """Frames as JPEGs of at most so many bytes; the quality follows from the last ones.

    Args:
        width: of the picture, pixels; a smaller frame is not enlarged.
        max_bytes: of one picture.
    """

    def __init__(self, *, width: int, max_bytes: int) -> None:
        self._width, self._max_bytes = width, max_bytes
        self.quality = _BEST

    def __call__(self, image: NDArray[np.uint8]) -> bytes:
        """The whole of one frame.

        Args:
            image: uint8 (height, width, 3) BGR.
        """
        width = min(self._width, image.shape[1])
        while True:
            picture = _scaled(image, width)
            for quality in range(self.quality, _WORST - 1, -_STEP):
                encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
                if encoded.nbytes <= self._max_bytes:
                    grows = encoded.nbytes < _GROW_BELOW * self._max_bytes
                    self.quality = min(_BEST, quality + _STEP) if grows else quality
                    return encoded.tobytes()
            width = int(width * _SHRINK)


def _scaled(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if width >= image.shape[1]:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


User = list[tuple[str, str]]
"""MQTT 5 user properties."""


def messages(picture: bytes, *, seq: int, session: int) -> list[tuple[str, bytes, User]]:
    """A picture as it is published: topic, payload and user properties of each message, the whole one first.

    A piece says in `part` which it is, from 0, and in `parts` of how many.
    """
    user = [("seq", str(seq)), ("session", str(session))]
    pieces = [picture[at : at + _PIECE] for at in range(0, len(picture), _PIECE)]
    parts = str(len(pieces))
    return [
        (TOPIC, picture, user),
        *((PART_TOPIC, p, [*user, ("part", str(i)), ("parts", parts)]) for i, p in enumerate(pieces)),
    ]


class Outlet(Protocol):
    """Where pictures go; edge.mqtt.Link is one."""

    def picture(self, messages: list[tuple[str, bytes, User]], *, content_type: str) -> bool:
        """Publish all messages of a picture, which is only of use now; False where it was let go."""
        ...


class Preview:
    """Publishes previews from a thread of its own.

    Attributes:
        published: pictures handed to the broker.
        bytes: of those, together.
    """

    def __init__(self, settings: config.Preview, *, session: int, outlet: Outlet) -> None:
        """Start nothing yet.

        Args:
            settings: rate, size and width.
            session: number of this start, sent with each picture.
            outlet: where they go.
        """
        self._encode = Encoder(width=settings.width, max_bytes=1000 * settings.max_kb)
        self._pace = Pace(settings.fps)
        self._session, self._outlet = session, outlet
        self._newest: Frame | None = None
        self._came = threading.Condition()
        self._paced = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self.published = self.bytes = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for the picture in hand."""
        self._stop.set()
        with self._came:
            self._came.notify()
        if self._thread.is_alive():
            self._thread.join(2)

    def offer(self, frame: Frame) -> None:
        """Leave the newest frame here; costs the caller a reference. Its detection was published before."""
        with self._came:
            self._newest = frame
            self._came.notify()

    def seen(self, payload: bytes) -> None:
        """A phone acknowledged; whatever else it may say is its own business."""
        try:
            seq = json.loads(payload)["seq"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if isinstance(seq, int):
            with self._paced:
                self._pace.seen(seq, time.monotonic())

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._paced:
                wait_s = self._pace.wait_s(time.monotonic())
            if wait_s > 0:
                # Looked at anew now and then: an acknowledgement may have changed what is due.
                self._stop.wait(min(wait_s, 0.1))
                continue
            with self._came:
                self._newest = None  # it lay here since before one was due: the next is fresher
                self._came.wait(0.5)
                frame, self._newest = self._newest, None
            if frame is not None and not self._stop.is_set():
                self._publish(frame)

    def _publish(self, frame: Frame) -> None:
        try:
            picture = self._encode(frame.image)
        except cv2.error as error:
            log.warning("a preview could not be encoded: %s", error)
            self._stop.wait(1)
            return
        with self._paced:  # before the acknowledgement can come
            self._pace.sent(frame.seq, time.monotonic())
        parcel = messages(picture, seq=frame.seq, session=self._session)
        if self._outlet.picture(parcel, content_type=CONTENT_TYPE):
            self.published += 1
            self.bytes += len(picture)
