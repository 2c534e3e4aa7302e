"""A mosquitto of one's own for the demo and the tests, gone afterwards: open on loopback, or as an adapter has it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.errors import FoldsightError
from edge.pairing import mosquitto

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from typing_extensions import Self

    from edge.pairing.mosquitto import PhoneListeners

HOST = "127.0.0.1"
ANSWER_WITHIN_S = 10.0
TRIES = 3


class BrokerError(FoldsightError):
    """The broker is missing or did not start; holds what it printed."""


def find_mosquitto() -> str | None:
    """Where mosquitto is; distributions put it in /usr/sbin, which is not on every user's PATH."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Broker:
    """A mosquitto process: `with Broker() as broker: ... broker.port, broker.websocket_port`.

    The ports stay the same over `stop()` and `start()`, so that clients find it again.

    Args:
        persistence: keep retained messages over `stop()` and `start()`, as the adapter's broker does.
        settings: further lines for its configuration, such as `max_queued_messages 10`.
        phones: serve phones over TLS too, exactly as an adapter does: then everybody needs an account. Its folder must
            be prepared (`edge.pairing.adapter`).
    """

    def __init__(
        self, *, persistence: bool = False, settings: Sequence[str] = (), phones: PhoneListeners | None = None
    ) -> None:
        self.host = HOST
        self.port = 0
        self.websocket_port = 0 if phones is None else phones.websocket_port
        self._persistence = persistence
        self._settings = tuple(settings)
        self._phones = phones
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def websocket_url(self) -> str:
        """The address for MQTT over WebSocket on this machine."""
        return f"{'ws' if self._phones is None else 'wss'}://{self.host}:{self.websocket_port}/mqtt"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        if self._process is None:
            raise BrokerError("the broker is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the broker has printed so far."""
        path = self._folder / "mosquitto.log" if self._folder else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    def start(self) -> Self:
        """Start it and wait until both listeners answer an MQTT 5 connect.

        Raises:
            BrokerError: mosquitto is missing, or does not answer; with its own words.
        """
        if self._process is not None:
            return self
        program = find_mosquitto()
        if program is None:
            raise BrokerError("mosquitto is not installed: install your distribution's `mosquitto` package")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="foldsight-broker-"))
        keep_ports = self.port != 0
        for attempt in range(TRIES):
            if not keep_ports:
                self.port, other = free_ports(2)
                self.websocket_port = other if self._phones is None else self._phones.websocket_port
            config = self._folder / "mosquitto.conf"
            config.write_text(self._config(self._folder))
            with (self._folder / "mosquitto.log").open("ab") as output:
                self._process = subprocess.Popen(  # the child keeps the file
                    [program, "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            try:
                self._wait_until_it_answers()
            except BrokerError:
                self.kill()
                # Another process may have taken a port between the choice and the bind.
                if attempt == TRIES - 1:
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """Ask it to end, and wait; harmless when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing moves, as on a network that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def client(self, name: str = "", *, transport: Literal["tcp", "websockets"] = "tcp") -> paho.Client:
        """A paho client for this broker, MQTT 5, not yet connected: `client.connect(broker.host, broker.port)`."""
        return paho.Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5, transport=transport)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _config(self, folder: Path) -> str:
        lines = ["log_dest stdout", "log_type error", "log_type warning", "log_type notice"]
        if self._phones is not None:
            lines.append(mosquitto.configuration(self._phones, port=self.port))
        else:
            lines += [
                "per_listener_settings false",
                "allow_anonymous true",
                mosquitto.limits(),
                f"listener {self.port} {self.host}",
                "protocol mqtt",
                f"listener {self.websocket_port} {self.host}",
                "protocol websockets",
            ]
        if os.geteuid() == 0:
            # As root it would become the user mosquitto, which may not read this folder.
            lines.append("user root")
        if self._persistence:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        return "\n".join([*lines, *self._settings, ""])

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        answered = self._answers("tcp", self.port, deadline)
        if self._phones is None:
            answered = answered and self._answers("websockets", self.websocket_port, deadline)
        else:
            answered = answered and all(_listens(p) for p in (self._phones.port, self._phones.websocket_port))
        if not answered:
            code = self._process.poll() if self._process else None
            ended = "" if code is None else f" (it ended with code {code})"
            raise BrokerError(
                f"mosquitto does not answer on ports {self.port}, {self.websocket_port}{ended}: {self.log}"
            )

    def _answers(self, transport: Literal["tcp", "websockets"], port: int, deadline: float) -> bool:
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            connected = threading.Event()
            probe = self.client(transport=transport)
            probe.on_connect = lambda *_, connected=connected: connected.set()
            try:
                probe.connect(self.host, port, keepalive=5)
            except (OSError, ValueError, paho.WebsocketConnectionError):
                time.sleep(0.02)
                continue
            probe.loop_start()
            try:
                if connected.wait(1.0):
                    return True
            finally:
                probe.disconnect()
                probe.loop_stop()
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a frozen one hears nothing else
        process.send_signal(how)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
