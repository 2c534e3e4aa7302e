"""What systemd is told, and the number of this start."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_SESSION = "session"


def log_to_stderr(level: str) -> None:
    """Plain lines on stderr, as journald wants them."""
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")


class Notifier:
    """sd_notify(3) over its socket; silent where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        """The service does its work now."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Progress was made."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service is ending on purpose."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.sendto(text.encode(), address)
        except OSError as error:
            log.debug("systemd was not told %r: %s", text, error)


def last_session(folder: Path) -> int:
    """The number of the last start; the clock's seconds where it cannot be read."""
    try:
        return int((folder / _SESSION).read_text())
    except (OSError, ValueError):
        return int(time.time())


def next_session(folder: Path) -> int:
    """The number of this start: larger than every one before, whatever the wall clock does.

    It is the clock's seconds, or one more than the last number where the clock went back. Where the folder cannot be
    written the clock alone must do, and the log says so.
    """
    path = folder / _SESSION
    last = 0
    try:
        last = int(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError):
        log.warning("%s cannot be read; the session number starts from the clock", path)
    session = max(last + 1, int(time.time()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        with temporary.open("w") as stream:
            stream.write(str(session))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        log.warning("%s cannot be written (%s); the session number rests on the clock alone", path, error.strerror)
    return session
