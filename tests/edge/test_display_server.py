"""The phone page's web server: what it serves, what it refuses, and how it says so."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from edge.display.files import STATIC_FOLDER
from edge.display.server import DisplayServer, DisplaySettings
from edge.errors import ConfigError, FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = {
    "index.html": b"<!doctype html><title>Foldsight</title>" + b" " * 500,
    "page.js": b"'use strict';",
    "style.css": b"body{}",
    "icon.svg": b"<svg/>",
    "deep/font.woff2": b"wOF2",
}
SECRET = b"not part of the page"


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("display")
    folder = tmp_path / "static"
    for name, body in PAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "notes.bak").write_bytes(SECRET)
    return folder


@pytest.fixture(scope="module")
def server(static: Path) -> Iterator[DisplayServer]:
    with DisplayServer(DisplaySettings(device="adapter-1", port=0, mqtt_port=9001, static_folder=static)) as server:
        yield server


def ask(server: DisplayServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        # As they are written in the standards: on the wire their case means nothing.
        named = {name.title().replace("Etag", "ETag"): value for name, value in answer.getheaders()}
        return answer.status, named, answer.read()
    finally:
        connection.close()


def raw(server: DisplayServer, request: bytes) -> bytes:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 0), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    return answer


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/?from=qr", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/deep/font.woff2", "font/woff2"),
    ],
)
def test_serves_the_page_with_its_types(server: DisplayServer, path: str, content_type: str) -> None:
    status, headers, body = ask(server, path)
    assert status == 200
    assert headers["Content-Type"] == content_type
    assert headers["Cache-Control"] == "no-cache"
    assert body == PAGE[path.partition("?")[0].lstrip("/") or "index.html"]
    assert ask(server, path, If_None_Match=headers["ETag"])[::2] == (304, b"")
    zipped = ask(server, path, Accept_Encoding="gzip, br")
    if "Content-Encoding" in zipped[1]:
        assert gzip.decompress(zipped[2]) == body
    else:
        assert zipped[2] == body


def test_the_settings_of_the_page(server: DisplayServer) -> None:
    status, headers, body = ask(server, "/api/info", Host="pi.local:8080")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert json.loads(body) == {
        "device": "adapter-1",
        "name": "adapter-1",
        "pairing": False,
        "mqtt": {"url": "ws://pi.local:9001/"},
    }
    assert ask(server, "/api/pair", "POST", Content_Length="0")[0] == 404


def test_health(server: DisplayServer) -> None:
    status, headers, body = ask(server, "/healthz")
    assert (status, json.loads(body), headers["Cache-Control"]) == (200, {"status": "ok"}, "no-store")


@pytest.mark.parametrize("path", ["/", "/api/info", "/healthz", "/nothing"])
def test_every_answer_is_locked_down(server: DisplayServer, path: str) -> None:
    _, headers, _ = ask(server, path)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self' ws://127.0.0.1:9001;" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"].strip() == "Foldsight"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("pi.local:8080", "ws://pi.local:9001"),
        ("192.168.4.1", "ws://192.168.4.1:9001"),
        ("[fe80::1]:8080", "ws://*:9001"),
        ("x; script-src *", "ws://*:9001"),
        ("", "ws://*:9001"),
    ],
)
def test_the_page_may_connect_to_its_own_host_only(server: DisplayServer, host: str, allowed: str) -> None:
    policy = ask(server, "/", Host=host)[1]["Content-Security-Policy"]
    assert f"connect-src 'self' {allowed};" in policy
    assert policy.count("script-src") == 1


def test_the_page_may_connect_to_the_named_broker_only(static: Path) -> None:
    settings = DisplaySettings(device="a", port=0, mqtt_url="wss://broker.example:8884/mqtt", static_folder=static)
    with DisplayServer(settings) as server:
        assert "connect-src 'self' wss://broker.example:8884;" in ask(server, "/")[1]["Content-Security-Policy"]
        assert json.loads(ask(server, "/api/info")[2])["mqtt"]["url"] == "wss://broker.example:8884/mqtt"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/deep/../../secret.txt",
        "//etc/passwd",
        "/etc/passwd",
        "/static/../../secret.txt",
        "/..\\secret.txt",
        "/link.txt",
        "/notes.bak",
        "/page.js/",
        "/page.js%00.html",
        "/deep",
        "/deep/",
        "/.",
        "http://elsewhere/",
        "*",
    ],
)
def test_only_the_files_of_the_page_exist(server: DisplayServer, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404
    assert SECRET not in body
    assert body == b"Not here\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_only_get_and_head_are_answered(server: DisplayServer, method: str) -> None:
    status, headers, _ = ask(server, "/", method)
    assert status == 405
    assert sorted(headers["Allow"].split(", ")) == ["GET", "HEAD"]


def test_head_has_the_headers_of_get_and_no_body(server: DisplayServer) -> None:
    status, headers, body = ask(server, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(PAGE["index.html"]))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\r\n\r\n",
        b"",
    ],
)
def test_unreadable_requests_are_refused_and_the_next_is_served(server: DisplayServer, request_bytes: bytes) -> None:
    answer = raw(server, request_bytes)
    assert b" 200 " not in answer
    assert b"Traceback" not in answer
    assert b"nonsense" not in answer
    assert ask(server, "/healthz")[0] == 200


def test_callers_that_say_nothing_do_not_keep_others_out_for_long(
    server: DisplayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.display.server._Protocol.answer_within_s", 0.3)
    where = urlsplit(server.url)
    silent = [socket.create_connection((where.hostname, where.port or 0)) for _ in range(64)]
    try:
        for _ in range(100):
            try:
                if ask(server, "/healthz")[0] == 200:
                    break
            except (OSError, http.client.HTTPException):
                threading.Event().wait(0.05)
        else:
            pytest.fail("still kept out after five seconds")
    finally:
        for each in silent:
            each.close()


def test_a_flood_of_requests_is_answered_with_wait(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.display.app.REQUESTS", 25.0)
    monkeypatch.setattr("edge.display.app.REQUESTS_A_SECOND", 0.001)
    with DisplayServer(DisplaySettings(device="a", port=0, static_folder=static)) as server:
        # A try at pairing counts for ten.
        posts = [ask(server, "/api/pair", "POST", Content_Length="0") for _ in range(3)]
        assert [status for status, *_ in posts] == [404, 404, 429]
        assert int(posts[2][1]["Retry-After"]) >= 4000
        gets = [ask(server, "/healthz", X_Forwarded_For="10.0.0.9")[0] for _ in range(6)]
        assert gets == [200] * 5 + [429]


def test_a_page_that_is_not_built_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FoldsightError, match=r"^The phone page is not built \(.*gone is missing\): run `make page`$"):
        DisplayServer(DisplaySettings(device="a", port=0, static_folder=tmp_path / "gone")).start()
    monkeypatch.setattr("edge.display.files.STATIC_FOLDER", tmp_path / "static")
    with pytest.raises(FoldsightError) as caught:
        DisplayServer(DisplaySettings(device="a", port=0, static_folder=tmp_path / "static")).start()
    assert str(caught.value) == "The phone page is not built (edge/display/static is missing): run `make page`"


def test_a_taken_port_is_one_clear_sentence(server: DisplayServer, static: Path) -> None:
    port = urlsplit(server.url).port or 0
    with pytest.raises(FoldsightError, match=f"cannot be served on 127.0.0.1:{port} .* choose another port$"):
        DisplayServer(DisplaySettings(device="a", port=port, static_folder=static)).start()


def display_threads() -> int:
    return sum(thread.name == "foldsight-display" for thread in threading.enumerate())


def test_starts_and_stops_cleanly_again_and_again(static: Path) -> None:
    server = DisplayServer(DisplaySettings(device="a", port=0, static_folder=static))
    before = display_threads()
    server.stop()
    for _ in range(3):
        url = server.start()
        assert server.start() == url
        assert ask(server, "/")[0] == 200
        server.stop()
        server.stop()
        assert display_threads() == before
    with pytest.raises(FoldsightError):
        _ = server.url


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])  # noqa: S104  what is tested
def test_the_address_it_gives_can_be_opened(static: Path, host: str, shown: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = DisplayServer(DisplaySettings(device="a", port=0, host=host, static_folder=static))
    try:
        url = server.start()
    except FoldsightError:
        pytest.skip(f"{host} cannot be listened on here")
    try:
        assert url.startswith(f"http://{shown}:")
        assert ask(server, "/")[0] == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"device": ""}, "device"),
        ({"device": "a+b"}, "device"),
        ({"device": "a/b"}, "device"),
        ({"device": "a", "port": 70_000}, "port"),
        ({"device": "a", "mqtt_port": -1}, "mqtt_port"),
        ({"device": "a", "mqtt_url": "http://broker"}, "mqtt_url"),
        ({"device": "a", "mqtt_url": "ws://"}, "mqtt_url"),
        ({"device": "a", "mqtt_url": "ws://broker:port"}, "mqtt_url"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        DisplaySettings(**settings)


@pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`")
def test_the_built_page_loads_nothing_from_elsewhere() -> None:
    with DisplayServer(DisplaySettings(device="a", port=0)) as server:
        html = ask(server, "/")[2].decode()
        assert "Research software \u2013 not a medical device; no diagnosis" in html
        assert "{{" not in html
        assert "//" not in html.replace("<!doctype", "")
        for path in ("/page.js", "/style.css", "/icon.svg"):
            assert ask(server, path)[0] == 200
