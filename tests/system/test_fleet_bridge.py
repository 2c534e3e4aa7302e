"""The bridge as it ships, TLS and account included, between two real brokers: an outage costs no event."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.broker import Broker, find_mosquitto, free_ports
from edge.pairing.certificates import Names, ensure_authority, ensure_server

pytestmark = pytest.mark.system

SHIPPED = Path(__file__).parents[2] / "deploy" / "mosquitto" / "bridge.conf"
OWN = "foldsight/v1/theatre-3"
ACL = "pattern write foldsight/v1/%u/#\nuser archive\ntopic read foldsight/#\n"


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def bridge(port: int, authority: Path, password: str) -> tuple[str, ...]:
    """The shipped file with the three things changed that its first lines tell to change."""
    changed = {
        "addresses": f"addresses 127.0.0.1:{port}",
        "bridge_cafile": f"bridge_cafile {authority}",
        "remote_password": f"remote_password {password}",
        "restart_timeout": "restart_timeout 1 1",
    }
    lines = SHIPPED.read_text().splitlines()
    assert set(changed) <= {line.partition(" ")[0] for line in lines}
    return tuple(changed.get(line.partition(" ")[0], line) for line in lines)


class Hospital:
    """The broker at the other end: TLS, an account for everybody, and each adapter below its own name."""

    def __init__(self, folder: Path) -> None:
        names = Names((), (ipaddress.ip_address("127.0.0.1"),))
        ensure_server(folder / "server", ensure_authority(folder / "ca", "hospital", names), names)
        self.authority, pem = folder / "server" / "ca.crt", folder / "server" / "server.pem"
        accounts, rights = folder / "accounts", folder / "acl"
        accounts.touch(0o600)
        for name in ("theatre-3", "archive"):
            subprocess.run(["mosquitto_passwd", "-b", accounts, name, name], check=True, capture_output=True)
        rights.write_text("pattern write foldsight/v1/%u/#\nuser archive\ntopic read foldsight/#\n")
        (self.port,) = free_ports(1)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"allow_anonymous false\npassword_file {accounts}\nacl_file {rights}\n"
            f"persistence true\npersistence_location {folder}/\n{'user root' if os.geteuid() == 0 else ''}\n"
            f"listener {self.port} 127.0.0.1\ncertfile {pem}\nkeyfile {pem}\n"
        )

    def start(self) -> None:
        argv = [str(find_mosquitto()), "-c", str(self._config)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class Archive:
    """What the hospital's archive hears."""

    def __init__(self, hospital: Hospital) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "archive", protocol=paho.MQTTv5)
        self.client.username_pw_set("archive", "archive")
        self.client.tls_set(str(hospital.authority))
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("foldsight/#", 1)
        self.client.on_message = lambda _c, _d, message: self.heard.append(message)
        self.client.connect("127.0.0.1", hospital.port)
        self.client.loop_start()

    def of(self, topic: str) -> list[bytes]:
        return [m.payload for m in list(self.heard) if m.topic == f"{OWN}/{topic}"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
def test_what_happened_while_the_hospitals_broker_was_away_comes_afterwards(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path)
    hospital.start()
    with Broker(settings=bridge(hospital.port, hospital.authority, "theatre-3")) as own:
        archive, daemon = Archive(hospital), own.client("daemon")
        daemon.connect(own.host, own.port)
        daemon.loop_start()
        try:
            until(lambda: archive.of("bridge")[-1:] == [b"1"])
            _outage(hospital, archive, daemon)
        finally:
            daemon.disconnect()
            daemon.loop_stop()
            archive.close()
            hospital.stop()


def _outage(hospital: Hospital, archive: Archive, daemon: paho.Client) -> None:
    daemon.publish(f"{OWN}/status", b"online", 1, retain=True)
    daemon.publish(f"{OWN}/event", b"0", 1)
    until(lambda: archive.of("event") and archive.of("status"))
    hospital.stop()
    for number in range(1, 41):
        daemon.publish(f"{OWN}/event", str(number).encode(), 1)
        for topic in ("state", "preview", "detection", "cmd/reload"):
            daemon.publish(f"{OWN}/{topic}", json.dumps({"n": number}).encode(), 0)
    daemon.publish(f"{OWN}/status", b"degraded", 1, retain=True).wait_for_publish(10)
    hospital.start()
    until(lambda: len(set(archive.of("event"))) == 41)
    until(lambda: archive.of("status")[-1] == b"degraded")
    daemon.publish(f"{OWN}/state", b"live", 0)
    until(lambda: b"live" in archive.of("state"))
    assert {m.topic.removeprefix(f"{OWN}/") for m in archive.heard} == {"status", "event", "state", "bridge"}
    assert archive.of("state")[-1] == b"live"  # and none of those of the outage after it
