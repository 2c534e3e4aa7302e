"""The folder of recordings: bounded in size and age, each file written whole or not at all, no names anywhere.

`<state_dir>/recordings/` (0700) holds `clip-SESSION-NUMBER.zip` and `snapshot-SESSION-NUMBER.zip` (0600), with `.age`
behind where they are sealed (`edge.sealing`). A zip holds JPEGs and `recording.json`, which says when and why.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge import sealing
from edge.errors import FoldsightError
from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

_NAME: Final = re.compile(r"(clip|snapshot)-(\d+)-(\d+)\.zip(\.age)?")
_AHEAD_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A recording on the disk.

    Attributes:
        path: where.
        bytes: its size.
        at: wall clock at which it was written, seconds since 1970.
    """

    path: Path
    bytes: int
    at: float

    @property
    def order(self) -> tuple[int, int]:
        """Older ones first, whatever the clock did: session and number."""
        found = _NAME.fullmatch(self.path.name)
        return (int(found[2]), int(found[3])) if found else (0, 0)

    @property
    def sealed(self) -> bool:
        """Whether only the owner of the private key can open it."""
        return self.path.suffix == sealing.SUFFIX


class Recordings:
    """What is kept, and for how long.

    Args:
        state_dir: the device's one folder of state.
        max_bytes: of all recordings together; the oldest go first.
        max_age_s: by the wall clock; older ones are deleted.
        keep_free: bytes that stay free on the disk for the rest of the device.
        recipient: for whom they are sealed; None: they are not.
        clock: wall clock.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        max_bytes: float = float("inf"),
        max_age_s: float = float("inf"),
        keep_free: float = 0,
        recipient: X25519PublicKey | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = state_dir / "recordings"
        self._max_bytes, self._max_age_s, self._keep_free = max_bytes, max_age_s, keep_free
        self._recipient, self._clock = recipient, clock

    def all(self) -> list[Kept]:
        """What is there, oldest first; nothing where the folder is missing.

        Raises:
            FoldsightError: the folder may not be read.
        """
        found = []
        try:
            for path in self.folder.iterdir():
                if _NAME.fullmatch(path.name):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        stat = path.stat()
                        found.append(Kept(path, stat.st_size, stat.st_mtime))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FoldsightError(f"{self.folder} cannot be read ({error.strerror}): run it as root") from error
        return sorted(found, key=lambda kept: kept.order)

    def write(self, name: str, content: bytes) -> Kept:
        """Keep a recording, and delete older ones to make room.

        Args:
            name: `clip-SESSION-NUMBER.zip` or the same with snapshot.
            content: the zip.

        Raises:
            FoldsightError: there is no room, or the folder cannot be written.
        """
        if self._recipient is not None:
            content, name = b"".join(sealing.seal(content, self._recipient)), name + sealing.SUFFIX
        self.prune(len(content))
        path = self.folder / name
        if len(content) > self._max_bytes:
            raise FoldsightError(f"a recording of {len(content) / 1e6:.1f} MB does not fit into recording.max_mb")
        if self._free() - len(content) < self._keep_free:
            raise FoldsightError("the disk is full (recording.keep_free_mb)")
        files.write(path, content)
        return Kept(path, len(content), self._clock())

    def prune(self, coming: int = 0) -> None:
        """Delete what is too old, what has no room beside `coming` more bytes, and what a power cut left half written.

        Raises:
            FoldsightError: the folder may not be read.
        """
        now = self._clock()
        there = []
        for kept in self.all():
            if kept.at > now + _AHEAD_S:  # the clock went back: its age counts from now
                with contextlib.suppress(OSError):
                    _touch(kept.path, now)
            if now - kept.at > self._max_age_s:
                _unlink(kept.path)
            else:
                there.append(kept)
        size = sum(kept.bytes for kept in there)
        for kept in there:
            if size + coming <= self._max_bytes and self._free() - coming >= self._keep_free:
                break
            _unlink(kept.path)
            size -= kept.bytes
        with contextlib.suppress(OSError):
            for path in self.folder.glob(".*"):
                _unlink(path)

    def find(self, names: list[str]) -> list[Kept]:
        """Those with these names, or all of them for the name `all`.

        Raises:
            FoldsightError: there is none of a name.
        """
        there = {kept.path.name: kept for kept in self.all()}
        if names == ["all"]:
            return list(there.values())
        for name in names:
            if name not in there:
                raise FoldsightError(f"{name} is no recording in {self.folder}: see `foldsight recording list`")
        return [there[name] for name in names]

    def _free(self) -> int:
        folder = next((p for p in (self.folder, *self.folder.parents) if p.is_dir()), self.folder)
        try:
            disk = os.statvfs(folder)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize


def _touch(path: Path, at: float) -> None:
    os.utime(path, (at, at))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
