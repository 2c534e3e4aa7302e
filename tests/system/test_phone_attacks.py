"""What somebody in the same network may try, with and without a phone that is paired: a real broker, server and daemon.

Each attacker has an address of its own in 127.0.0.0/8, since they are counted by it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.broker import find_mosquitto
from edge.display.files import STATIC_FOLDER
from edge.pairing.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`"),
]

OWN = "foldsight/v1/adapter-1"
NOT_AUTHORISED = 135
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


@pytest.fixture(scope="module")
def site(rehearse_adapter: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One adapter with phones, under attack from all of these tests."""
    with rehearse_adapter(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(autouse=True)
def nobody_is_left(site: Any) -> Iterator[None]:
    yield
    site.adapter.registry.revoke("all", site.adapter.accounts().delete)


def ask(site: Any, path: str, sender: str, body: Any = None, method: str = "", **headers: str) -> tuple[int, Any, str]:
    """Status, headers and body of a request from an address of 127.0.0.0/8."""
    connection = http.client.HTTPSConnection(
        "localhost", site.config.phones.https_port, timeout=20, context=site.trust, source_address=(sender, 0)
    )
    try:
        more = {"Content-Type": "application/json"} | {n.replace("_", "-"): value for n, value in headers.items()}
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, None if body is None else json.dumps(body), more)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def pair(site: Any, sender: str, name: str = "a phone") -> tuple[str, str]:
    status, _, body = ask(site, "/api/pair", sender, {"token": site.adapter.registry.new_token(), "name": name})
    assert status == 201, body
    got = json.loads(body)
    return got["username"], got["password"]


class Phone:
    """A client that notes what happens to it."""

    def __init__(self, client: paho.Client, host: str, port: int) -> None:
        self.client = client
        self.connected: list[int] = []
        self.granted: list[int] = []
        self.published: list[int] = []
        self.heard: list[tuple[str, bytes]] = []
        self.ended = threading.Event()
        client.reconnect_delay_set(0.05, 0.2)
        client.on_connect = lambda _, __, ___, reason, ____: self.connected.append(reason.value)
        client.on_subscribe = lambda _, __, ___, reasons, ____: self.granted.extend(r.value for r in reasons)
        client.on_publish = lambda _, __, ___, reason, ____: self.published.append(reason.value)
        client.on_message = lambda _, __, message: self.heard.append((message.topic, message.payload))
        client.on_disconnect = lambda *_: self.ended.set()
        client.connect(host, port, 20)
        client.loop_start()
        wait_for(lambda: self.connected)

    def subscribe(self, *topics: str) -> list[int]:
        before = len(self.granted)
        self.client.subscribe([(topic, 1) for topic in topics])
        wait_for(lambda: len(self.granted) == before + len(topics))
        return self.granted[before:]

    def publish(self, topic: str, payload: bytes = b"{}", properties: Properties | None = None) -> int:
        before = len(self.published)
        self.client.publish(topic, payload, 1, properties=properties)
        wait_for(lambda: len(self.published) > before)
        return self.published[before]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def over_tls(site: Any, username: str | None, password: str | None, name: str = "") -> Phone:
    client = site.account(username, password, name)
    return Phone(client, "localhost", site.config.phones.mqtt_port)


def over_websocket(site: Any, username: str | None, password: str | None, name: str = "") -> Phone:
    client = site.broker.client(name, transport="websockets")
    client.username_pw_set(username, password)
    client.tls_set_context(site.trust)
    return Phone(client, "localhost", site.config.phones.websocket_port)


def as_daemon(site: Any) -> Phone:
    return Phone(site.daemon(), site.broker.host, site.broker.port)


def websocket(site: Any) -> ssl.SSLSocket:
    """A connection after its upgrade to WebSocket, before any MQTT."""
    plain = socket.create_connection(("localhost", site.config.phones.websocket_port), timeout=20)
    secure: ssl.SSLSocket = site.trust.wrap_socket(plain, server_hostname="localhost")
    secure.sendall(UPGRADE)
    assert b"101" in secure.recv(400)
    return secure


def is_closed(connection: ssl.SSLSocket, seconds: float = 5) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("connect", [over_tls, over_websocket])
def test_nobody_connects_without_an_account_of_their_own(site: Any, connect: Callable[..., Phone]) -> None:
    username, password = pair(site, "127.0.1.1")
    other, _ = pair(site, "127.0.1.1")
    tries = [(None, None), ("", ""), (username, "guess"), (other, password), ("edge", ""), ("admin", "admin")]
    for name, secret in tries:
        with connect(site, name, secret) as refused:
            assert refused.connected[0] == NOT_AUTHORISED
    with connect(site, username, password) as phone:
        assert phone.connected == [0]


def test_the_loopback_wants_an_account_too(site: Any) -> None:
    with Phone(site.broker.client(), site.broker.host, site.broker.port) as nobody:
        assert nobody.connected[0] == NOT_AUTHORISED


def test_used_old_and_invented_tokens_are_refused(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    used = site.adapter.registry.new_token()
    assert ask(site, "/api/pair", "127.0.2.1", {"token": used, "name": "first"})[0] == 201
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    old = Registry(site.adapter.display, clock=lambda: now - 301).new_token()
    for token in (used, old, "x" * 24, used[:-1], used.swapcase()):
        status, _, body = ask(site, "/api/pair", "127.0.2.2", {"token": token, "name": "second"})
        assert (status, json.loads(body)) == (403, {"detail": "This code is not good any more: ask for a new one."})
    assert used not in caplog.text
    assert old not in caplog.text


def test_guessing_locks_the_guesser_out_and_nobody_else(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    token = site.adapter.registry.new_token()
    with caplog.at_level(logging.INFO):
        answers = [ask(site, "/api/pair", "127.0.3.1", {"token": f"guess{i:019}", "name": "x"}) for i in range(8)]
        assert [a[0] for a in answers] == [403] * 5 + [429] * 3
        assert 25 <= int(answers[-1][1]["Retry-After"]) <= 30
        assert "try again in" in json.loads(answers[-1][2])["detail"]
        # Even the right one, now.
        assert ask(site, "/api/pair", "127.0.3.1", {"token": token, "name": "x"})[0] == 429
        status, _, body = ask(site, "/api/pair", "127.0.3.2", {"token": token, "name": "the owner"})
    assert status == 201
    assert "pairing from 127.0.3.1 is locked for 30 s" in caplog.text
    assert not any(secret in caplog.text for secret in ("guess0", token, json.loads(body)["password"], "the owner"))


def test_a_phone_reads_its_adapter_and_no_other(site: Any) -> None:
    with over_websocket(site, *pair(site, "127.0.4.1")) as phone, as_daemon(site) as daemon:
        assert phone.subscribe(f"{OWN}/#", f"{OWN}/state", f"{OWN}/reply/1") == [1, 1, 1]
        foreign = ["foldsight/v1/other/#", "foldsight/v1/+/state", "foldsight/#", "#", "+/+/+/+", f"{OWN}2/#"]
        foreign += ["$SYS/#", "$CONTROL/#", "$share/x/foldsight/v1/other/#"]
        assert phone.subscribe(*foreign) == [NOT_AUTHORISED] * len(foreign)
        daemon.publish(f"{OWN}/state", b"own")
        assert daemon.publish("foldsight/v1/other/state", b"foreign") == NOT_AUTHORISED
        wait_for(lambda: phone.heard)
        assert {payload for _, payload in phone.heard} == {b"own"}


def test_a_phone_says_nothing_but_commands(site: Any) -> None:
    with over_tls(site, *pair(site, "127.0.5.1")) as phone, as_daemon(site) as daemon:
        daemon.subscribe(f"{OWN}/cmd/+")
        topics = ["detection", "state", "status", "birth", "event", "health", "preview", "reply/1", "cmd", "cmd/a/b"]
        forbidden = [f"{OWN}/{topic}" for topic in topics]
        forbidden += [
            "foldsight/v1/other/cmd/ping",
            "homeassistant/x",
            "$CONTROL/dynamic-security/v1",
            "$SYS/x",
        ]
        assert [phone.publish(topic) for topic in forbidden] == [NOT_AUTHORISED] * len(forbidden)
        assert phone.publish(f"{OWN}/cmd/ping") == 0
        wait_for(lambda: daemon.heard)
        assert daemon.heard == [(f"{OWN}/cmd/ping", b"{}")]


def test_a_will_is_no_way_round(site: Any) -> None:
    client = site.account(*pair(site, "127.0.5.2"))
    client.will_set(f"{OWN}/status", b'{"state": "offline", "session": 9999999999}', 1, retain=True)
    with over_tls(site, *pair(site, "127.0.5.2")) as listener:
        listener.subscribe(f"{OWN}/status")
        phone = Phone(client, "localhost", site.config.phones.mqtt_port)
        phone.client.socket().shutdown(socket.SHUT_RDWR)
        phone.client.loop_stop()
        time.sleep(0.5)
        assert listener.heard == []


def test_a_phone_cannot_take_the_daemons_place(site: Any) -> None:
    client = site.daemon("foldsight-adapter-1")
    with Phone(client, site.broker.host, site.broker.port) as daemon:
        for connect in (over_tls, over_websocket):
            with connect(site, *pair(site, "127.0.6.1"), name="foldsight-adapter-1") as phone:
                assert phone.connected == [0]
        assert not daemon.ended.is_set()
        assert daemon.publish(f"{OWN}/health") == 0


@pytest.mark.parametrize("connect", [over_tls, over_websocket])
def test_ten_megabytes_end_their_senders_connection_and_reach_nobody(site: Any, connect: Callable[..., Phone]) -> None:
    with connect(site, *pair(site, "127.0.7.1")) as phone, as_daemon(site) as daemon:
        daemon.subscribe(f"{OWN}/cmd/+")
        phone.client.publish(f"{OWN}/cmd/ping", bytes(10_000_000), 1)
        assert phone.ended.wait(60)
        phone.client.loop_stop()
        assert daemon.publish(f"{OWN}/cmd/x") == 0
        wait_for(lambda: daemon.heard)
        assert daemon.heard == [(f"{OWN}/cmd/x", b"{}")]
        assert not daemon.ended.is_set()


FRAMES = {
    "unmasked": b"\x82\x05\x10\x03\x00\x04MQTT",
    "reserved opcode": b"\x8b\x80\x00\x00\x00\x00",
    "reserved bits": b"\xf2\x80\x00\x00\x00\x00",
    "a length beyond all memory": b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + bytes(4) + b"\x10",
    "text": b"\x81\x85\x00\x00\x00\x00hello",
    "fragmented control": b"\x09\x80\x00\x00\x00\x00",
    "a long ping": b"\x89\xfe\x01\x00" + bytes(4) + bytes(256),
    "no MQTT": b"\x82\x88\x00\x00\x00\x00" + b"\xff" * 8,
    "a CONNECT that says too much": b"\x82\x8c\x00\x00\x00\x00\x10\xff\xff\xff\x7f\x00\x04MQTT\x05",
    "noise": bytes(range(256)) * 8,
}


def test_malformed_websocket_frames_harm_nobody_else(site: Any) -> None:
    with over_websocket(site, *pair(site, "127.0.8.1")) as phone, as_daemon(site) as daemon:
        phone.subscribe(f"{OWN}/state")
        attackers = []
        for frame in FRAMES.values():
            attacker = websocket(site)
            attacker.sendall(frame)
            attackers.append(attacker)
        daemon.publish(f"{OWN}/state", b"still here")
        wait_for(lambda: phone.heard)
        assert not phone.ended.is_set()
        for attacker in attackers:
            attacker.setblocking(False)
            with contextlib.suppress(OSError):
                assert b"still here" not in attacker.recv(4096)
            attacker.close()
        # And in the upgrade itself.
        for request in (b"\x00" * 2000, b"GET / HTTP/1.1\r\n" + b"X" * 70_000, UPGRADE.replace(b": mqtt", b": none")):
            plain = socket.create_connection(("localhost", site.config.phones.websocket_port), timeout=20)
            with site.trust.wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(request)
        with over_websocket(site, *pair(site, "127.0.8.1")) as another:
            assert another.connected == [0]


def test_another_sites_page_gets_nothing(site: Any) -> None:
    own = site.url.rstrip("/").replace("127.0.0.1", "localhost")
    token = site.adapter.registry.new_token()
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
                    {"Origin": own.replace("https", "http")}, {"Origin": own + "0"}):  # fmt: skip
        status, answer, body = ask(site, "/api/pair", "127.0.9.1", {"token": token, "name": "x"}, **headers)
        assert status == 403, body
        assert not any(name.lower().startswith("access-control") for name in answer)
    for path in ("/api/pair", "/api/info"):
        status, answer, _ = ask(
            site,
            path,
            "127.0.9.1",
            method="OPTIONS",
            Origin="https://evil.example",
            Access_Control_Request_Method="POST",
        )
        assert status == 405
        assert not any(name.lower().startswith("access-control") for name in answer)
    status, answer, _ = ask(site, "/api/info", "127.0.9.1", Origin="https://evil.example")
    assert not any(name.lower().startswith("access-control") for name in answer)
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    # The token is still good, for the adapter's own page.
    assert ask(site, "/api/pair", "127.0.9.2", {"token": token, "name": "x"}, Origin=own)[0] == 201


@pytest.mark.parametrize(
    "path",
    [
        *("/../pairing.json", "/..%2f..%2fpassword", "/%2e%2e/server.pem", "/static/../../ca.pem", "//etc/passwd"),
        *("/server.pem", "/password", "/pairing.json", "/openapi.json", "/docs", "/.git/config"),
        *("/api", "/api/", "/ca.crt/..", "/index.html%00"),
    ],
)
def test_nothing_but_the_page_is_served(site: Any, path: str) -> None:
    status, _, body = ask(site, path, "127.0.10.1")
    assert status == 404
    assert "PRIVATE" not in body
    assert len(body) < 100


def test_a_body_without_end_is_cut_off(site: Any) -> None:
    plain = socket.create_connection(("localhost", site.config.phones.https_port), timeout=20)
    with site.trust.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(b"POST /api/pair HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(100):
                secure.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
            answer = secure.recv(4096)
        except OSError:
            answer = b"HTTP/1.1 413"  # hung up before it was all sent
        assert b"413" in answer.split(b"\r\n")[0]
    status, _, _ = ask(site, "/api/pair", "127.0.10.2", {"token": "x" * 10_000, "name": "x"})
    assert status == 413


@pytest.mark.parametrize("connect", [over_tls, over_websocket])
def test_a_revoked_phone_is_out_at_once_and_for_good(site: Any, connect: Callable[..., Phone]) -> None:
    username, password = pair(site, "127.0.11.1", "lost phone")
    with connect(site, username, password) as lost, connect(site, *pair(site, "127.0.11.1")) as other:
        assert lost.subscribe(f"{OWN}/#") == [1]
        other.subscribe(f"{OWN}/#")
        site.adapter.registry.revoke("lost phone", site.adapter.accounts().delete)
        assert lost.ended.wait(30)
        lost.client.loop_stop()
        with connect(site, username, password) as again:
            assert again.connected[0] == NOT_AUTHORISED
        site.broker.restart()  # nor after a restart
        with connect(site, username, password) as again:
            assert again.connected[0] == NOT_AUTHORISED
        with as_daemon(site) as daemon:
            wait_for(lambda: len(other.connected) > 1)  # it came back by itself
            other.subscribe(f"{OWN}/#")
            daemon.publish(f"{OWN}/state", b"after")
            wait_for(lambda: (f"{OWN}/state", b"after") in other.heard)
        assert (f"{OWN}/state", b"after") not in lost.heard


@pytest.fixture
def daemon(site: Any, tiny_bundle: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = site.config.model_dump(mode="json", include={"device", "mqtt", "phones", "state_dir"})
    config = tmp_path / "edge.yaml"
    config.write_text(json.dumps({**settings, "model": {"bundle": str(tiny_bundle)}}))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", "run", "--config", str(config), "--source", "phantom",
         "--set", "capture.width=320", "--set", "capture.height=240"],
    )  # fmt: skip
    yield process
    process.terminate()
    process.wait(60)


def test_a_thousand_connections_do_not_reach_the_daemon(site: Any, daemon: subprocess.Popen[bytes]) -> None:
    with over_tls(site, *pair(site, "127.0.12.1")) as phone:
        phone.subscribe(f"{OWN}/detection", f"{OWN}/status")
        wait_for(lambda: sum(topic.endswith("detection") for topic, _ in phone.heard) > 30)
        held = []
        try:
            for port in (
                site.config.phones.mqtt_port,
                site.config.phones.websocket_port,
                site.config.phones.https_port,
            ):
                for _ in range(333):
                    connection = socket.socket()
                    connection.setblocking(False)
                    connection.connect_ex(("127.0.0.1", port))
                    held.append(connection)
            start = len(phone.heard)
            wait_for(lambda: len(phone.heard) - start > 60)
            open_files = len(list(Path(f"/proc/{site.broker.pid}/fd").iterdir()))
        finally:
            for connection in held:
                connection.close()
        messages = [json.loads(p) for topic, p in phone.heard[start:] if topic.endswith("detection")]
        assert open_files < 500  # the broker closed most of those on its TLS port
        assert statistics.median(m["age_ms"] for m in messages) < 250
        assert {m["session"] for m in messages} == {messages[0]["session"]}
        numbers = [m["seq"] for m in messages]
        assert numbers == sorted(numbers)
        assert not any(b"offline" in p for topic, p in phone.heard if topic.endswith("status"))
        assert not phone.ended.is_set()
    assert daemon.poll() is None
    wait_for(lambda: ask(site, "/healthz", "127.0.12.2")[0] == 200)
    with over_tls(site, *pair(site, "127.0.12.1")) as later:
        assert later.connected == [0]


def test_the_daemon_says_nothing_in_a_phones_name(site: Any, daemon: subprocess.Popen[bytes]) -> None:
    assert daemon.poll() is None
    with over_tls(site, *pair(site, "127.0.13.1")) as phone:
        phone.subscribe(f"{OWN}/detection", f"{OWN}/reply/#")
        wait_for(lambda: phone.heard)
        for topic in (f"{OWN}/detection", f"{OWN}/reply/mine"):
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = topic
            assert phone.publish(f"{OWN}/cmd/ping", b"", properties) == 0
        wait_for(lambda: any(topic.endswith("/reply/mine") for topic, _ in phone.heard))
        assert not any(topic.endswith("detection") and b'"command"' in payload for topic, payload in phone.heard)


def test_no_secret_is_in_any_log(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        token = site.adapter.registry.new_token()
        _, _, body = ask(site, "/api/pair", "127.0.14.1", {"token": token, "name": "Anna Example"})
        with over_tls(site, json.loads(body)["username"], json.loads(body)["password"]):
            pass
    services = [(folder / "password").read_text().strip() for folder in (site.adapter.edge, site.adapter.display)]
    for text in (caplog.text, site.broker.log):
        assert text
        assert not any(secret in text for secret in (token, json.loads(body)["password"], "Anna Example", *services))
