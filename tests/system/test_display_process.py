"""`foldsight display` and `foldsight demo --phones` as processes of their own."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge.broker import find_mosquitto, free_ports
from edge.display.files import STATIC_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`"),
]


def ask(url: str, trust: ssl.SSLContext | None = None, body: Any = None) -> Any:
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": "application/json"})  # noqa: S310  its own server
    with urllib.request.urlopen(request, timeout=20, context=trust) as answer:  # noqa: S310  as above
        return json.load(answer)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            return condition()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_pages_server_tells_systemd_pairs_and_ends(phones: Any, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    settings = phones.config.model_dump(mode="json", include={"device", "mqtt", "phones"})
    settings["phones"]["https_port"] = port
    settings["display"] = {"name": "Theatre 3"}
    config = tmp_path / "edge.yaml"
    config.write_text(json.dumps(settings))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(60)
        server = subprocess.Popen(
            [sys.executable, "-m", "edge.cli", "display", "--config", str(config)],
            env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert channel.recv(200) == f"READY=1\nSTATUS=https://127.0.0.1:{port}/".encode()
            url = f"https://localhost:{port}/api"
            info = ask(f"{url}/info", phones.trust)
            assert (info["device"], info["name"], info["pairing"]) == ("adapter-1", "Theatre 3", True)
            token = phones.adapter.registry.new_token()
            account = ask(f"{url}/pair", phones.trust, {"token": token, "name": "one"})
            assert account["username"] in phones.adapter.accounts().names()
            server.send_signal(signal.SIGTERM)
            assert channel.recv(200) == b"STOPPING=1"
            _, log = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0
    assert f"{account['username']} is paired" in log
    assert token not in log
    assert account["password"] not in log
    with pytest.raises(OSError, match="refused"):
        ask(f"{url}/info", phones.trust)


def test_without_certificates_it_says_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "edge.yaml"
    config.write_text(f"device: a\nphones: {{enabled: true, state_dir: {tmp_path}/none}}\n")
    failed = subprocess.run(
        [sys.executable, "-m", "edge.cli", "display", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert (
        failed.stderr
        == f"foldsight: {tmp_path}/none/display/password is missing: run `foldsight broker prepare` as root first\n"
    )


def test_the_demo_lets_a_phone_pair(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", "demo", "--phones"],
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/usr/sbin"},
    )
    try:
        assert demo.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = demo.stdout.readline()
            assert line, said
            said += line
        address = re.search(r"(https://[\d.]+:\d+)/#pair=(\S{24})&ca=[0-9A-F]{64}", said)
        assert address
        (ca,) = tmp_path.glob("foldsight-demo-*/phones/display/ca.crt")
        trust = ssl.create_default_context(cafile=str(ca))
        account = until(lambda: ask(f"{address[1]}/api/pair", trust, {"token": address[2], "name": "mine"}))
        assert account["username"].startswith("phone-")

        def metrics() -> str:
            with urllib.request.urlopen(f"{address[1]}/metrics", timeout=20, context=trust) as answer:  # noqa: S310
                return str(answer.read(), "utf-8")

        deadline = time.monotonic() + 60
        while "foldsight_frames_total" not in (told := metrics()):  # the daemon runs, and speaks with its account
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
        assert "foldsight_phones_paired 1.0" in told
        assert 'foldsight_status{status="offline"} 0.0' in told
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 0
    assert list(tmp_path.iterdir()) == []
