"""Events that wait for the broker: a bounded line in memory, and on the disk where they wait for long.

An event that the broker has within half a second never touches the disk. One that waits is appended to
`<state_dir>/spool`, a line each, by a thread of its own, so that a process that is killed, or a device without power,
sends it after its next start. The file is gone once nothing waits. An event may come twice, never half: `session` and
`id` say which it is.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge.errors import FoldsightError
from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

log = logging.getLogger(__name__)

_PATIENCE_S = 0.5  # what a broker that is there may take
_RETRY_S = 1.0


@dataclass(slots=True)
class Waiting:
    """An event on its way.

    Attributes:
        mid: the packet's number on this connection; None where it was not sent on it.
        since_s: monotonic time at which it was spooled.
        kept: whether it is on the disk.
    """

    payload: bytes
    mid: int | None = None
    since_s: float = field(default_factory=time.monotonic)
    kept: bool = False


class Spool:
    """The line. Its methods may be called from any thread, and never wait for the disk.

    Args:
        limit: events; beyond it the oldest goes, and is counted.
        path: where they are kept while they wait; None: in memory alone.

    Attributes:
        lost: events that fell out.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        self._limit, self._path = limit, path
        self._line: deque[Waiting] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._rows = 0  # in the file
        self._away = True
        self._failed = False
        self.lost = 0
        if path is not None:
            self._load(path)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def __len__(self) -> int:
        return len(self._line)

    def start(self) -> None:
        """Begin to keep what waits."""
        if self._path is not None:
            self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Keep what still waits for the next start."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def add(self, payload: bytes) -> None:
        """Put an event at the end of the line."""
        with self._lock:
            self._line.append(Waiting(payload))
            self._bound()
        self._changed.set()

    def waiting(self) -> list[Waiting]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._line)

    def settle(self, acknowledged: Container[int | None]) -> None:
        """Forget those that the broker has."""
        with self._lock:
            before = len(self._line)
            self._line = deque(w for w in self._line if w.mid not in acknowledged)
            changed = len(self._line) != before
        if changed:
            self._changed.set()

    def connected(self, there: bool) -> None:
        """The broker is there, or is away; nothing that was sent to it counts as sent any more."""
        with self._lock:
            self._away = not there
            for waiting in self._line:
                waiting.mid = None
        self._changed.set()

    def _bound(self) -> None:
        while len(self._line) > self._limit:
            self._line.popleft()
            self.lost += 1

    def _load(self, path: Path) -> None:
        try:
            content = files.read(path) or b""
        except FoldsightError as error:
            log.warning("%s", error)
            return
        for row in filter(None, content.splitlines()):
            self._rows += 1
            if _whole(row):  # one may have been cut off; the next begins on a line of its own
                self._line.append(Waiting(row, kept=True))
        self._bound()
        if self._line:
            log.info("%d events of earlier runs wait for the broker", len(self._line))

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.wait(_PATIENCE_S if self._line and not self._failed else _RETRY_S if self._line else None)
            self._changed.clear()
            self._keep()
        self._keep(everything=True)

    def _keep(self, *, everything: bool = False) -> None:
        """Bring the file up to what waits."""
        now_s = time.monotonic()
        with self._lock:
            line = list(self._line)
            due = self._away or everything
            fresh = [w for w in line if not w.kept and (due or now_s - w.since_s >= _PATIENCE_S)]
        try:
            self._write(line, fresh)
        except (OSError, FoldsightError) as error:
            if not self._failed:
                reason = getattr(error, "strerror", None) or error
                log.warning("%s cannot be written (%s): what waits would not outlive this process", self._path, reason)
            self._failed = True
        else:
            self._failed = False

    def _write(self, line: list[Waiting], fresh: list[Waiting]) -> None:
        path = self._path
        assert path is not None  # noqa: S101  for the type checker
        if not line:
            if self._rows:
                path.unlink(missing_ok=True)
                self._rows = 0
            return
        if not fresh:
            return
        if self._failed or self._rows + len(fresh) > 2 * self._limit:
            fresh = line  # whole and anew
            files.write(path, _rows(fresh))
            self._rows = len(fresh)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, files.SECRET)
            with os.fdopen(handle, "ab") as file:
                file.write(_rows(fresh))
                file.flush()
                os.fsync(file.fileno())
            self._rows += len(fresh)
        for waiting in fresh:
            waiting.kept = True


def _rows(line: list[Waiting]) -> bytes:
    return b"".join(b"\n" + waiting.payload + b"\n" for waiting in line)


def _whole(row: bytes) -> bool:
    try:
        return isinstance(json.loads(row), dict)
    except ValueError:
        return False
