# ruff: noqa: INP001
"""What is made once and kept below the user's cache: whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class SetupError(FoldsightError):
    """The emulated device cannot be made, or does not run."""


def folder_of(name: str) -> Path:
    """A folder below the user's cache, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "foldsight" / name


def key(*parts: str) -> str:
    """A short name for what something is made from."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def tool_path() -> str:
    """The PATH with the folders in which debootstrap lies, which only root has on it."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@contextlib.contextmanager
def alone(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock; wait for another process that holds it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another set-up is going on in this folder; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(place: Path, make: Callable[[Path], None]) -> None:
    """Make something beside its place, and move it there once it is whole."""
    if place.exists():
        return
    part = place.with_name(place.name + ".part")
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
    make(part)
    part.rename(place)


def follow(command: Sequence[str], step: str, tell: Callable[[str], None], failure: str) -> None:
    """Run a command, tell of every 20th line that begins with `step`; a failure is one sentence with its last line."""
    environment = {**os.environ, "PATH": tool_path(), "LC_ALL": "C"}
    steps, last = 0, ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101  for the type checker
        for line in map(str.strip, process.stdout):
            last = line or last
            if step and line.startswith(step):
                steps += 1
                if steps % 20 == 1:
                    tell(f"  {steps}: {line.removeprefix(step)}")
    if process.returncode:
        raise SetupError(
            f"{failure} ({last or f'exit status {process.returncode}'}): see that network and disk are there, "
            "and run it again; what is here already is kept"
        )
