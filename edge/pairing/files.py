"""Files that must never be half there: secrets, certificates, accounts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = 0o600
PUBLIC = 0o644


def write(path: Path, content: bytes, mode: int = SECRET) -> None:
    """Put a file in place whole, or leave the old one as it was; it is on the disk when this returns.

    Written by root, it belongs to whoever its folder belongs to: a folder is one service's.

    Raises:
        FoldsightError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                _give_to_the_folders_owner(file.fileno(), path.parent)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _not_allowed(path, "written", error) from error


def read(path: Path) -> bytes | None:
    """The content, None where there is no such file.

    Raises:
        FoldsightError: it is there and cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_allowed(path, "read", error) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that every process on this machine respects; the lock file stays, empty.

    Raises:
        FoldsightError: its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET)
    except OSError as error:
        raise _not_allowed(path, "written", error) from error
    try:
        _give_to_the_folders_owner(handle, path.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets the lock go


def _give_to_the_folders_owner(handle: int, folder: Path) -> None:
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


def _not_allowed(path: Path, what: str, error: OSError) -> FoldsightError:
    return FoldsightError(f"{path} cannot be {what} ({error.strerror}): run it as root, or as the service that owns it")
