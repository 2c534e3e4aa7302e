# ruff: noqa: INP001
"""An arm64 machine under QEMU's own emulation of processor and devices, and the way to run commands in it.

Commands go through QEMU's guest agent: a service of the guest's own distribution on a serial line of its own, so that
neither network nor log-in takes part. The machine has no way out: `restrict=on` leaves the forwarded ports alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prepared import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

ADDRESS = "10.0.2.15"  # of the guest, as QEMU's user network expects it
_POLL_S = 0.1
_PATH = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # root's, as at a log-in
_LEASH = ("setpriv", "--pdeathsig", "KILL")  # however we end, so does QEMU


class GuestError(SetupError):
    """A command in the emulated machine failed, or the machine does not answer."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in the guest ended."""

    status: int
    said: str


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk: a file, its format, and how its writes are kept (QEMU's cache mode)."""

    path: Path
    format: str = "raw"
    cache: str = "writeback"
    readonly: bool = False


def command(
    kernel: Path,
    initrd: Path,
    drives: Sequence[Drive],
    agent: Path | None = None,
    ports: Mapping[int, int] | None = None,
    memory_mb: int = 1024,
) -> list[str]:
    """QEMU's command line.

    Args:
        kernel: booted directly.
        initrd: the same.
        drives: /dev/vda, /dev/vdb and so on.
        agent: socket of the guest agent, if there is one.
        ports: TCP ports of this machine's loopback, and to which of the guest they lead.
        memory_mb: of the guest.
    """
    line = ["qemu-system-aarch64", "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-machine", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a76", "-smp", "2", "-m", str(memory_mb)]
    line += ["-kernel", str(kernel), "-initrd", str(initrd)]
    line += ["-append", "console=ttyAMA0 quiet systemd.show_status=no panic=-1 net.ifnames=0"]
    line += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    for index, drive in enumerate(drives):
        options = f"file={_quoted(drive.path)},format={drive.format},cache={drive.cache},if=none,id=d{index}"
        line += ["-drive", options + (",readonly=on" if drive.readonly else "")]
        line += ["-device", f"virtio-blk-pci,drive=d{index}"]
    forward = "".join(f",hostfwd=tcp:127.0.0.1:{here}-{ADDRESS}:{there}" for here, there in (ports or {}).items())
    line += ["-netdev", f"user,id=net,restrict=on{forward}", "-device", "virtio-net-pci,netdev=net,romfile="]
    line += ["-device", "virtio-rng-pci"]
    if agent is not None:
        line += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=ga,server=on,wait=off,path={_quoted(agent)}"]
        line += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]
    return line


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


@dataclass
class Machine:
    """One emulated machine, on or off.

    Attributes:
        line: how QEMU is run.
        agent: the guest agent's socket.
        log: where what its console says is appended.
        heard: called with each line of its console.
    """

    line: Sequence[str]
    agent: Path
    log: Path
    heard: Callable[[str], None] | None = None
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _reader: threading.Thread | None = field(default=None, init=False)

    def switch_on(self) -> None:
        """Start it; it boots by itself.

        Raises:
            SetupError: QEMU does not start.
        """
        self.agent.unlink(missing_ok=True)
        try:
            self._process = subprocess.Popen(
                [*_LEASH, *self.line],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise SetupError(f"QEMU does not start ({error.strerror}): is qemu-system-arm installed?") from error
        self._reader = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._reader.start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101  for the type checker
        with self.log.open("a", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if self.heard is not None:
                    self.heard(line.rstrip())

    @property
    def on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def cut_power(self) -> None:
        """SIGKILL: nothing is written or said any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._reader is not None:
                self._reader.join(5)

    def wait_off(self, timeout_s: float) -> None:
        """Wait until it has switched itself off.

        Raises:
            GuestError: it has not.
        """
        assert self._process is not None  # noqa: S101  it was switched on
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise GuestError(f"the emulated machine did not switch itself off in {timeout_s:.0f} s") from error
        if self._reader is not None:
            self._reader.join(5)

    def wait_up(self, timeout_s: float) -> float:
        """Wait until its agent answers; returns how long that took, seconds.

        Raises:
            GuestError: it does not.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < timeout_s:
            if not self.on:
                raise GuestError(f"the emulated machine ended: {self.last_words()}")
            with contextlib.suppress(GuestError):
                self._ask("guest-ping", timeout_s=2)
                return time.monotonic() - begun
            time.sleep(0.5)
        raise GuestError(f"the emulated machine did not come up in {timeout_s:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its console."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def run(self, script: str, timeout_s: float = 120, *, check: bool = True) -> Done:
        """Run a shell script in the guest, as root.

        Args:
            script: for `sh -c`.
            timeout_s: how long it may take.
            check: whether a status other than 0 is an error.

        Raises:
            GuestError: it failed, or did not end in time.
        """
        deadline = time.monotonic() + timeout_s
        asked = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1\n{_PATH}\n{script}"], "capture-output": True}
        pid = self._ask("guest-exec", asked)["pid"]
        while True:
            state = self._ask("guest-exec-status", {"pid": pid})
            if state["exited"]:
                break
            if time.monotonic() > deadline:
                raise GuestError(f"in the emulated machine {summary(script)} was not done in {timeout_s:.0f} s")
            time.sleep(_POLL_S)
        done = Done(
            state.get("exitcode", 128 + state.get("signal", 0)),
            base64.b64decode(state.get("out-data", "")).decode(errors="replace"),
        )
        if check and done.status:
            said = " / ".join(done.said.strip().splitlines()[-3:])
            raise GuestError(f"in the emulated machine {summary(script)} failed with {done.status}: {said}")
        return done

    def tell(self, script: str) -> None:
        """Begin a script in the guest and do not wait: for what ends the guest, and with it perhaps the answer."""
        with contextlib.suppress(GuestError):
            self._ask("guest-exec", {"path": "/bin/sh", "arg": ["-c", f"{_PATH}\n{script}"]})

    def _ask(self, what: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 20) -> Any:
        """One request to the agent, on a connection of its own, which a restarted guest cannot have spoilt."""
        number = time.monotonic_ns() & 0x7FFFFFFF
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(timeout_s)
                line.connect(str(self.agent))
                answers = line.makefile("rb")
                line.sendall(b"\xff" + _encoded("guest-sync-delimited", {"id": number}))
                while True:  # what was said to an earlier request comes first
                    answer = _decoded(answers.readline())
                    if answer.get("return") == number:
                        break
                line.sendall(_encoded(what, arguments or {}))
                answer = {}
                while not {"return", "error"} & set(answer):
                    answer = _decoded(answers.readline())
        except (OSError, ValueError) as error:
            raise GuestError(f"the emulated machine does not answer ({error})") from error
        if "error" in answer:
            raise GuestError(f"the emulated machine refuses {what}: {answer['error'].get('desc')}")
        return answer["return"]


def _encoded(what: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n"


def _decoded(line: bytes) -> dict[str, Any]:
    """An answer; with bytes that a delimiter, or a guest that ended in the middle of a line, left before it.

    Raises:
        ValueError: the line is at its end, or is no answer.
    """
    if not line:
        raise ValueError("the connection was closed")
    try:
        answer = json.loads(line.rpartition(b"\xff")[2])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def summary(script: str) -> str:
    """The first line of a script, for a sentence."""
    first = next((line.strip() for line in script.splitlines() if line.strip()), "")
    return f"'{first[:80]}{'…' if len(first) > 80 else ''}'"  # noqa: PLR2004  the same number
