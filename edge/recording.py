"""Recording, off unless configured: a clip around what matters, and a snapshot on command.

The pipeline only leaves a reference (`Recorder.offer`), as it does for the preview. One thread turns pictures into
JPEGs and keeps the last seconds of them in memory; when something happens, these and the next seconds become a clip.
Another thread writes clips, so that a slow card delays neither the pictures nor anybody else. Everything that waits is
bounded, what does not fit is let go and counted, and a disk that cannot be written is told once, as an event.
"""

from __future__ import annotations

import io
import json
import logging
import queue
import threading
import time
import zipfile
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import cv2
import numpy as np

from edge import messages, sealing
from edge.decision import NO_SIGNAL
from edge.errors import ConfigError, FoldsightError
from edge.recordings import Recordings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge import config
    from edge.frames import Frame

log = logging.getLogger(__name__)

Occasion = Literal["finding", "fault"]

INDEX: Final = "recording.json"
_CLIP_BYTES: Final = 16_000_000
"""Of one clip, and so of the pictures that wait for one."""
_LONGEST_S: Final = 60.0
_SNAPSHOT_EVERY_S: Final = 1.0
_FRESH_S: Final = 1.0  # an older picture is none to take a snapshot of
_PRUNE_S: Final = 600.0
_TICK_S: Final = 0.1
_CLIP_QUALITY, _SNAPSHOT_QUALITY = 80, 95


def occasion(kind: str, before: str | None, after: str | None, finding: str) -> Occasion | None:
    """What an event is to a recorder: the state became the finding, something failed, or nothing."""
    if kind == "state" and after == finding:
        return "finding"
    if kind == "fault" or (kind == "state" and after == NO_SIGNAL and before is not None):
        return "fault"
    return None


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame, encoded."""

    seq: int
    exposed_ns: int
    wall_time: float
    state: str
    jpeg: bytes


@dataclass
class _Clip:
    why: str
    begun_s: float
    until_s: float
    pictures: list[Picture]
    bytes: int = 0

    def add(self, picture: Picture) -> None:
        self.pictures.append(picture)
        self.bytes += len(picture.jpeg)


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    written: int = 0
    dropped: int = 0
    """Recordings that were let go because the disk was too slow."""
    failed: int = 0
    """Recordings that could not be written."""
    missed: int = 0
    """Pictures that were let go because encoding was too slow."""
    kept: int = 0
    """Files that are there now, and their bytes."""
    bytes: int = 0


@dataclass(frozen=True)
class Origin:
    """What each recording says of where it comes from: the adapter and the model, never a person."""

    device: str
    session: int
    model: Callable[[], messages.ModelId] = field(repr=False)


class Recorder:
    """Keeps the last seconds in memory, and some of them on the disk.

    Args:
        settings: what, how long and how much.
        state_dir: the device's one folder of state.
        origin: what each file says of where it comes from.
        tell: called with (kind, after, detail) to publish an event: a `recording` or `snapshot` that was `written`
            under a name; `recording` that is `failing` for a reason, or `working` again.

    Raises:
        ConfigError: recordings are to be sealed, and the key cannot be used: nothing is kept in the clear instead.
    """

    def __init__(
        self, settings: config.Recording, state_dir: Path, *, origin: Origin, tell: Callable[[str, str, str], None]
    ) -> None:
        self._settings, self._origin, self._tell = settings, origin, tell
        recipient = None
        if settings.recipient is not None:
            try:
                recipient = sealing.load_recipient(settings.recipient)
            except FoldsightError as error:
                raise ConfigError(f"recording.recipient: {error}") from error
        self.folder = Recordings(
            state_dir,
            max_bytes=1e6 * settings.max_mb,
            max_age_s=86400 * settings.max_age_days,
            keep_free=1e6 * settings.keep_free_mb,
            recipient=recipient,
        )
        self.counts = Counts()
        self.problem = ""
        self._every_ns = int(1e9 / settings.fps)
        self._due_ns = 0
        self._newest: tuple[Frame, str] | None = None  # waits to be encoded
        self._shown: tuple[Frame, str] | None = None  # what a snapshot would be taken of
        self._occasions: deque[Occasion] = deque(maxlen=8)
        self._ring: deque[Picture] = deque()
        self._ring_bytes = 0
        self._clip: _Clip | None = None
        self._number = 0
        self._wanted: tuple[Frame, str] | None = None  # a snapshot that was asked for
        self._snapped_s = float("-inf")
        self._came = threading.Condition()
        self._jobs: queue.Queue[tuple[str, str, list[Picture]] | None] = queue.Queue(1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="recorder", daemon=True),
            threading.Thread(target=self._write_all, name="recordings", daemon=True),
        ]

    @property
    def health(self) -> messages.RecordingHealth:
        """What the device says of it."""
        counts = self.counts
        return messages.RecordingHealth(
            encrypted=self._settings.recipient is not None,
            kept=counts.kept,
            megabytes=round(counts.bytes / 1e6, 3),
            written=counts.written,
            dropped=counts.dropped,
            failed=counts.failed,
            problem=self.problem,
        )

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the clip in hand, and wait for the disk a little."""
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        with self._came:
            self._came.notify()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.05, deadline - time.monotonic()))

    def offer(self, frame: Frame, state: str) -> None:
        """Leave a frame that was judged; costs the caller a comparison, and where one is due a reference."""
        wait_ns = self._due_ns - frame.exposed_ns
        if 0 < wait_ns <= self._every_ns:
            return
        on_time = -self._every_ns < wait_ns <= 0
        self._due_ns = (self._due_ns if on_time else frame.exposed_ns) + self._every_ns
        with self._came:
            self.counts.missed += self._newest is not None
            self._newest = self._shown = frame, state
            self._came.notify()

    def begin(self, why: Occasion) -> None:
        """Something happened: make a clip of what was before and comes after. May be called from any thread."""
        if why not in self._settings.clips:
            return
        with self._came:
            self._occasions.append(why)
            self._came.notify()

    def snapshot(self) -> str:
        """Keep the picture of this moment in full size; may be called from any thread.

        Returns:
            Why that cannot be; empty where it will be written.
        """
        now_s = time.monotonic()
        with self._came:
            shown = self._shown
            if shown is None or now_s - shown[0].dequeued_ns / 1e9 > _FRESH_S + self._every_ns / 1e9:
                return "there is no picture to keep"
            if now_s - self._snapped_s < _SNAPSHOT_EVERY_S:
                return "one snapshot a second"
            self._snapped_s, self._wanted = now_s, shown
            self._came.notify()
        return ""

    def _run(self) -> None:
        while True:
            with self._came:
                self._came.wait_for(self._has_work, _TICK_S)
                taken, self._newest = self._newest, None
                wanted, self._wanted = self._wanted, None
                occasions = [self._occasions.popleft() for _ in range(len(self._occasions))]
            now_s = time.monotonic()
            for why in occasions:
                self._open(why, now_s)
            try:
                if taken is not None:
                    self._keep(_encoded(*taken, width=self._settings.width, quality=_CLIP_QUALITY))
                if wanted is not None:
                    self._hand_over("snapshot", "command", [_encoded(*wanted, width=None, quality=_SNAPSHOT_QUALITY)])
            except cv2.error as error:
                log.warning("a picture could not be encoded: %s", error)
            clip = self._clip
            if clip is not None and (self._stop.is_set() or now_s >= clip.until_s or clip.bytes >= _CLIP_BYTES):
                self._clip = None
                self._hand_over("clip", clip.why, clip.pictures, wait_s=1.0 if self._stop.is_set() else 0.0)
            if self._stop.is_set():
                self._put(None, wait_s=1.0)
                return

    def _has_work(self) -> bool:
        waits = self._newest is not None or self._wanted is not None or bool(self._occasions)
        return waits or self._stop.is_set()

    def _open(self, why: str, now_s: float) -> None:
        """Begin a clip, or prolong the one that is being made."""
        clip = self._clip
        if clip is None:
            clip = self._clip = _Clip(why, now_s, now_s, [])
            for picture in self._ring:
                clip.add(picture)
        clip.until_s = min(now_s + self._settings.after_s, clip.begun_s + _LONGEST_S)

    def _keep(self, picture: Picture) -> None:
        if self._clip is not None:
            self._clip.add(picture)
        ring = self._ring
        if ring and picture.exposed_ns < ring[-1].exposed_ns:  # another run of the source
            ring.clear()
            self._ring_bytes = 0
        ring.append(picture)
        self._ring_bytes += len(picture.jpeg)
        oldest_ns = picture.exposed_ns - int(1e9 * self._settings.before_s)
        while ring[0].exposed_ns < oldest_ns or self._ring_bytes > _CLIP_BYTES:
            self._ring_bytes -= len(ring.popleft().jpeg)

    def _hand_over(self, kind: str, why: str, pictures: list[Picture], wait_s: float = 0.0) -> None:
        if pictures and not self._put((kind, why, pictures), wait_s):
            self.counts.dropped += 1
            self._has_problem("the disk is too slow")

    def _put(self, job: tuple[str, str, list[Picture]] | None, wait_s: float) -> bool:
        try:
            self._jobs.put(job, block=wait_s > 0, timeout=wait_s)
        except queue.Full:
            return False
        return True

    def _write_all(self) -> None:
        pruned_s = float("-inf")
        while True:
            if time.monotonic() - pruned_s > _PRUNE_S:
                pruned_s = time.monotonic()
                self._look_after()
            try:
                job = self._jobs.get(timeout=1)
            except queue.Empty:
                if self._stop.is_set():
                    return
                continue
            if job is None:
                return
            self._write(*job)

    def _look_after(self) -> None:
        try:
            self.folder.prune()
            self._count()
        except FoldsightError as error:
            self._has_problem(str(error))

    def _write(self, kind: str, why: str, pictures: list[Picture]) -> None:
        self._number += 1
        name = f"{kind}-{self._origin.session}-{self._number:05}.zip"
        try:
            kept = self.folder.write(name, self._packed(kind, why, pictures))
        except FoldsightError as error:
            self.counts.failed += 1
            self._has_problem(str(error))
            return
        self.counts.written += 1
        self._count()
        self._has_problem("")
        self._tell("snapshot" if kind == "snapshot" else "recording", "written", kept.path.name)

    def _count(self) -> None:
        there = self.folder.all()
        self.counts.kept, self.counts.bytes = len(there), sum(kept.bytes for kept in there)

    def _has_problem(self, problem: str) -> None:
        """Tell it when it comes and when it goes, and not each time."""
        before, self.problem = self.problem, problem
        if problem and not before:
            log.warning("recording: %s", problem)
            self._tell("recording", "failing", problem)
        elif before and not problem:
            log.info("recording: works again")
            self._tell("recording", "working", "")

    def _packed(self, kind: str, why: str, pictures: list[Picture]) -> bytes:
        origin = self._origin
        first_ns = pictures[0].exposed_ns
        index: dict[str, Any] = {
            "schema": 1,
            "kind": kind,
            "why": why,
            "device": origin.device,
            "session": origin.session,
            "model": origin.model().model_dump(),
            "pictures": [],
        }
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for number, picture in enumerate(pictures):
                file = f"{number:05}.jpg"
                archive.writestr(file, picture.jpeg)
                index["pictures"].append(
                    {
                        "file": file,
                        "seq": picture.seq,
                        "ms": round((picture.exposed_ns - first_ns) / 1e6, 1),
                        "captured_at": round(picture.wall_time, 3),
                        "state": picture.state,
                    }
                )
            archive.writestr(INDEX, json.dumps(index, indent=1))
        return packed.getvalue()


def retain(settings: config.Recording, state_dir: Path, stop: threading.Event) -> None:
    """Keep to the bounds while nothing is recorded: what was kept before grows old all the same. Ends with `stop`."""
    folder = Recordings(state_dir, max_bytes=1e6 * settings.max_mb, max_age_s=86400 * settings.max_age_days)
    while not stop.is_set():
        try:
            folder.prune()
        except FoldsightError as error:
            log.warning("recording: %s", error)
        stop.wait(_PRUNE_S)


def _encoded(frame: Frame, state: str, *, width: int | None, quality: int) -> Picture:
    image = frame.image
    if width is not None and image.shape[1] > width:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return Picture(frame.seq, frame.exposed_ns, frame.wall_time, state, jpeg)
