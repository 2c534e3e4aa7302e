"""As much of systemd as an adapter's units need, where none runs: it reads the installed units and runs real services.

Units are looked for where the installer puts them and known as of the last daemon-reload. Type=notify,
Restart=on-failure, ConditionPathExists, targets by their .wants folders. `systemctl` is a script that asks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CLIENT = """#!{python} -S
import json, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({address!r})
    link.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    code, text = json.loads(link.makefile().readline())
sys.stdout.write(text)
sys.exit(code)
"""
_ANSWER_S = 200.0


@dataclass
class Service:
    """A unit that was started."""

    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    active: str = "inactive"
    sub: str = "dead"
    started: int = 0
    entered: int = 0
    log: list[str] = field(default_factory=list)

    def say(self, names: str) -> str:
        known = {
            "ActiveState": self.active,
            "SubState": self.sub,
            "ExecMainStartTimestampMonotonic": self.started,
            "ActiveEnterTimestampMonotonic": self.entered,
        }
        return "".join(f"{name}={known[name]}\n" for name in names.split(","))


class LittleSystemd:
    """One machine that runs.

    Args:
        root: the adapter's root folder.
        folder: for sockets and the script `systemctl`.
        options: further arguments of a unit's command, by unit.
    """

    def __init__(self, root: Path, folder: Path, options: Mapping[str, list[str]]) -> None:
        self.root, self.folder, self.options = root, folder, options
        self.systemctl = folder / "systemctl"
        self.calls: list[list[str]] = []
        self._units: dict[str, str] = {}
        self._services: dict[str, Service] = {}
        self._lock = threading.RLock()
        self._off = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "manager"))
        self._listener.listen()
        self.systemctl.write_text(_CLIENT.format(python=sys.executable, address=str(folder / "manager")))
        self.systemctl.chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()
        self._reload()

    def close(self) -> None:
        """End everything."""
        self.cut()
        self._listener.close()

    def boot(self) -> None:
        """The machine starts: what multi-user.target wants, the judge of a new release before the services."""
        self._off = False
        self._reload()
        wants = sorted(p.name for p in (self.root / "etc/systemd/system/multi-user.target.wants").iterdir())
        for unit in sorted(wants, key=lambda name: name != "foldsight-trial.service"):
            self._start(unit, wait=unit.endswith(".service"))

    def cut(self) -> None:
        """The power fails."""
        with self._lock:
            self._off = True
            for service in self._services.values():
                service.wanted = False  # or one that waits for its next start has it after the next boot
                if service.process is not None:
                    service.process.kill()
            running = [s.process for s in self._services.values() if s.process is not None]
        for process in running:
            process.wait()
        self._services.clear()

    def service(self, unit: str) -> Service:
        """How a unit is."""
        return self._services.setdefault(unit, Service())

    def wait(self, unit: str, active: str, seconds: float = _ANSWER_S) -> None:
        """Until a unit is in a state."""
        deadline = time.monotonic() + seconds
        while self.service(unit).active != active:
            assert time.monotonic() < deadline, (unit, self.service(unit))
            time.sleep(0.02)

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with link, link.makefile("rw") as stream:
            words = [w for w in json.loads(stream.readline()) if w != "--quiet"]
            self.calls.append(words)
            stream.write(json.dumps([0, self._do(words) or ""]) + "\n")

    def _do(self, words: list[str]) -> str:
        block = "--no-block" not in words
        verb, *units = [w for w in words if not w.startswith("--")]
        if verb == "show":
            return self.service(units[0]).say(units[1])
        if verb == "daemon-reload":
            self._reload()
        elif verb in ("start", "restart"):
            for unit in units:
                if verb == "restart":
                    self._stop(unit)
                self._start(unit, wait=block)
        elif verb == "stop":
            for unit in units:
                self._stop(unit)
        elif verb == "enable":
            for unit in units:
                to = re.search(r"^WantedBy=(\S+)", self._units[unit], re.MULTILINE)
                assert to
                wants = self.root / "etc/systemd/system" / f"{to[1]}.wants"
                wants.mkdir(exist_ok=True)
                (wants / unit).symlink_to(Path("/usr/local/lib/systemd/system") / unit)
        return ""

    def _reload(self) -> None:
        folder = self.root / "usr/local/lib/systemd/system"
        self._units = {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}

    def _wanted(self, target: str) -> list[str]:
        folder = self.root / "etc/systemd/system" / f"{target}.wants"
        return sorted(p.name for p in folder.iterdir() if p.name.endswith(".service")) if folder.is_dir() else []

    def _start(self, unit: str, *, wait: bool) -> None:
        if unit.endswith(".target"):
            for each in self._wanted(unit):
                self._start(each, wait=wait)
            return
        text = self._units[unit]
        condition = re.search(r"^ConditionPathExists=(\S+)", text, re.MULTILINE)
        if condition and not (self.root / condition[1].lstrip("/")).exists():
            return
        service = self.service(unit)
        with self._lock:
            if service.process is not None:
                return
            service.wanted, service.active, service.sub = True, "activating", "start"
        threading.Thread(target=self._run, args=(unit, service, text), daemon=True).start()
        while wait and service.active == "activating":
            time.sleep(0.02)

    def _run(self, unit: str, service: Service, text: str) -> None:
        found = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
        assert found
        script = self.root / found[1].lstrip("/")
        python = self.root / script.read_text().splitlines()[0].removeprefix("#!/")
        words = [str(self.root / w.lstrip("/")) if w.startswith("/") else w for w in shlex.split(found[2])]
        argv = [str(python), "-m", "edge.cli", *words, *self.options.get(unit, ())]
        address = self.folder / f"notify-{unit}-{time.monotonic_ns()}"
        environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(str(address))
            heard.settimeout(0.05)
            with self._lock:
                if self._off or not service.wanted:
                    return
                service.active, service.sub, service.started = "activating", "start", time.monotonic_ns() // 1000
                log = self.folder / f"{unit}.log"
                with log.open("ab") as output:
                    process = subprocess.Popen(argv, env=environment, cwd="/", stdout=output, stderr=output)
                    service.process = process
            while (code := process.poll()) is None:
                with contextlib.suppress(TimeoutError):
                    said = heard.recv(4096).decode()
                    service.log.append(said)
                    if "READY=1" in said:
                        service.entered = time.monotonic_ns() // 1000
                        service.active, service.sub = "active", "running"
        with self._lock:
            service.process = None
            again = code != 0 and service.wanted and not self._off and "Restart=on-failure" in text
            service.active = "activating" if again else "failed" if code and service.wanted else "inactive"
            service.sub = "auto-restart" if again else "dead"
        if again:
            time.sleep(0.2)
            self._run(unit, service, text)

    def _stop(self, unit: str) -> None:
        if unit.endswith(".target"):
            for each in self._wanted(unit):
                self._stop(each)
            return
        service = self.service(unit)
        with self._lock:
            service.wanted = False
            process = service.process
            if process is not None:
                process.send_signal(signal.SIGTERM)
        if process is not None:
            process.wait(20)
        deadline = time.monotonic() + 20
        while service.process is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
