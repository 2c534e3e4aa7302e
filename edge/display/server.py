"""The web server of the phone page: a fixed set of files, the page's settings, a health answer, and nothing else.

Everything it can serve is read into memory when it starts, so a request's path is only ever a key of a dictionary:
there is no folder to list and no path to climb out of. The live data does not pass through here; the page takes it
from the broker over WebSocket.
"""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
import json
import logging
import re
import socket
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from edge.errors import ConfigError, FoldsightError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

log = logging.getLogger(__name__)

STATIC_FOLDER: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
NOT_BUILT: Final = "The phone page is not built ({folder} is missing): run `make page`"

_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_COMPRESSIBLE: Final = frozenset({".css", ".html", ".js", ".json", ".svg", ".txt", ".webmanifest"})
_MAX_CONNECTIONS: Final = 32
_REQUEST_TIMEOUT_S: Final = 5.0
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})")
_HIGHEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class DisplaySettings:
    """What the server and the page need to know.

    Attributes:
        device: the device's name, one level of its MQTT topics.
        prefix: the topic levels above the device.
        host: the address to listen on; "" or "0.0.0.0" is every IPv4 address, "::" every address.
        port: the port to listen on; 0 takes a free one.
        mqtt_url: the broker's WebSocket address as the phone sees it (ws:// or wss://), or None: the page then uses
            the host it was loaded from with `mqtt_port` and `mqtt_path`, and TLS exactly when the page itself has it.
        mqtt_port: the broker's WebSocket port on the page's own host; used when `mqtt_url` is None.
        mqtt_path: the path of that WebSocket listener.
        stale_after_ms: age in milliseconds at which the page stops showing a result as live.
        static_folder: the built page.
    """

    device: str
    prefix: str = "foldsight/v1"
    host: str = "127.0.0.1"
    port: int = 8080
    mqtt_url: str | None = None
    mqtt_port: int = 9001
    mqtt_path: str = "/mqtt"
    stale_after_ms: int = 1000
    static_folder: Path = STATIC_FOLDER

    def __post_init__(self) -> None:
        """Refuse what would make a page that can never connect.

        Raises:
            ConfigError: a topic with wildcards, an address that is not ws:// or wss://, a port out of range.
        """
        for key, value in (("device", self.device), ("prefix", self.prefix)):
            if not value or re.search(r"[+#\x00-\x1f]", value):
                raise ConfigError(f"The display's {key} {value!r} cannot be part of an MQTT topic: leave out + and #")
        for key, port in (("port", self.port), ("mqtt_port", self.mqtt_port)):
            if not 0 <= port <= _HIGHEST_PORT:
                raise ConfigError(f"The display's {key} {port} is not a port: use 0 to {_HIGHEST_PORT}")
        if self.stale_after_ms <= 0:
            raise ConfigError(f"The display's stale_after_ms is {self.stale_after_ms}: use a number above 0")
        if self.mqtt_url is not None:
            _websocket_origin(self.mqtt_url)

    def page_config(self) -> dict[str, object]:
        """What the page reads from `/config.json`."""
        return {
            "device": self.device,
            "prefix": self.prefix,
            "mqtt_url": self.mqtt_url,
            "mqtt_port": self.mqtt_port,
            "mqtt_path": self.mqtt_path,
            "stale_after_ms": self.stale_after_ms,
        }


def _websocket_origin(url: str) -> str:
    """Scheme, host and port of a WebSocket address, the form a content security policy takes.

    Raises:
        ConfigError: the address is not ws:// or wss:// with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"The display's mqtt_url {url!r} is not an address: {error}") from error
    if parts.scheme not in {"ws", "wss"} or not host:
        raise ConfigError(f"The display's mqtt_url {url!r} is not a WebSocket address: write ws://HOST:PORT or wss://")
    suffix = f":{port}" if port else ""
    # A policy cannot hold an IPv6 address; any host on that port is the narrowest it can say.
    return f"{parts.scheme}://{host if _HOST_NAME.fullmatch(host) else '*'}{suffix}"


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the page, ready to send."""

    body: bytes
    zipped: bytes | None
    content_type: str
    tag: str


def _read_page(folder: Path) -> dict[str, _File]:
    """Every file of the built page by its URL path.

    Raises:
        FoldsightError: the page is not built.
    """
    if not (folder / INDEX).is_file():
        # Inside a checkout the short name says more than where the checkout lies.
        name = "edge/display/static" if folder == STATIC_FOLDER else str(folder)
        raise FoldsightError(NOT_BUILT.format(folder=name))
    root = folder.resolve()
    files: dict[str, _File] = {}
    for path in sorted(folder.rglob("*")):
        content_type = _TYPES.get(path.suffix)
        # A link that leads out of the folder is not part of the page.
        if content_type is None or not path.is_file() or not path.resolve().is_relative_to(root):
            continue
        body = path.read_bytes()
        zipped = gzip.compress(body, mtime=0) if path.suffix in _COMPRESSIBLE else None
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        files["/" + path.relative_to(folder).as_posix()] = _File(body, zipped, content_type, tag)
    files["/"] = files[f"/{INDEX}"]
    return files


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for what the server knows; everything else is refused."""

    # One request per connection: nothing to keep alive on a page of five files.
    protocol_version = "HTTP/1.0"
    server_version = "Foldsight"
    sys_version = ""
    timeout = _REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:  # the name is http.server's
        """Answer with headers and body."""
        self._answer()

    def do_HEAD(self) -> None:  # the name is http.server's
        """Answer with the headers of GET."""
        self._answer()

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"Only GET and HEAD\n", extra={"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815  http.server's names

    def _answer(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/config.json":
            self._send(HTTPStatus.OK, self.server.config, _TYPES[".json"])
        elif path == "/healthz":
            self._send(HTTPStatus.OK, b'{"status": "ok"}\n', _TYPES[".json"])
        elif path in self.server.files:
            self._send_file(self.server.files[path])
        else:
            self._send(HTTPStatus.NOT_FOUND, b"Not here\n")

    def _send_file(self, file: _File) -> None:
        # Checked on every load, so that an updated adapter never meets yesterday's page.
        extra = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if self.headers.get("If-None-Match") == file.tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", file.content_type, extra)
            return
        body = file.body
        if file.zipped is not None and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, extra = file.zipped, {**extra, "Content-Encoding": "gzip"}
        self._send(HTTPStatus.OK, body, file.content_type, extra)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": self._policy(),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=(), screen-wake-lock=(self)",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **(extra or {}),
        }
        if status is HTTPStatus.NOT_MODIFIED:
            del headers["Content-Length"], headers["Content-Type"]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _policy(self) -> str:
        """The content security policy: this server's own files, and the one broker."""
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; manifest-src 'self'; "
            f"connect-src 'self' {self._broker()}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def _broker(self) -> str:
        settings = self.server.settings
        if settings.mqtt_url is not None:
            return _websocket_origin(settings.mqtt_url)
        # The page connects to the host it was loaded from, which only the request can tell. HTTP/1.0 needs no Host.
        headers = getattr(self, "headers", None)
        host = (headers.get("Host", "") if headers else "").rpartition("@")[2].split(":", 1)[0]
        host = host if _HOST_NAME.fullmatch(host) else "*"
        return f"ws://{host}:{settings.mqtt_port} wss://{host}:{settings.mqtt_port}"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say what is wrong in plain text; http.server calls this on requests that it cannot read."""
        del message, explain  # they may hold pieces of the request
        status = HTTPStatus(code)
        if not getattr(self, "command", None):
            self.command = ""
        self._send(status, f"{status.phrase}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is http.server's
        """Keep requests in the debug log, off the terminal."""
        # A request is the caller's text: escape what a terminal would act on.
        log.debug("%s %s", self.address_string(), (format % args).encode("unicode_escape").decode("ascii"))


class _Server(ThreadingHTTPServer):
    """The listening socket, with a bound on how many callers it serves at once."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, settings: DisplaySettings, files: Mapping[str, _File]) -> None:
        self.settings = settings
        self.files = files
        self.config = json.dumps(settings.page_config()).encode()
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        if _is_ipv6(settings.host):
            self.address_family = socket.AF_INET6
        super().__init__((settings.host, settings.port), _Handler)

    def server_bind(self) -> None:
        """Bind without http.server's reverse name look-up, which can hang for seconds on an adapter without DNS."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: object, client_address: object) -> None:
        """Serve in a thread of its own, or hang up when too many are being served."""
        if not self._places.acquire(blocking=False):
            log.debug("Too many connections to the display: one was closed")
            self.shutdown_request(request)  # type: ignore[arg-type]
            return
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Serve one caller and give the place back."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A phone that walks out of range mid-answer is not worth a traceback."""
        del request
        log.debug("The display's answer to %s broke off", client_address, exc_info=True)  # noqa: LOG014  called inside its handler


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6  # noqa: PLR2004  the protocol's name
    except ValueError:
        return False


class DisplayServer:
    """Serves the phone page from a thread of its own: `start()`, `stop()`, or a `with` block."""

    def __init__(self, settings: DisplaySettings) -> None:
        self._settings = settings
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Start serving.

        Returns:
            The page's address on this machine.

        Raises:
            FoldsightError: the page is not built, or the address cannot be listened on.
        """
        if self._server is not None:
            return self.url
        files = _read_page(self._settings.static_folder)
        try:
            self._server = _Server(self._settings, files)
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            raise FoldsightError(
                f"The phone page cannot be served on {where} ({error.strerror or error}): choose another port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="foldsight-display", daemon=True
        )
        self._thread.start()
        return self.url

    @property
    def url(self) -> str:
        """The page's address on this machine; FoldsightError while the server is not running."""
        if self._server is None:
            raise FoldsightError("The phone page has no address yet: start its server first")
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._settings.host, self._settings.host)  # noqa: S104  read, not bound
        if _is_ipv6(host):
            host = f"[{host}]"
        return f"http://{host}:{self._server.server_port}/"

    def stop(self) -> None:
        """Stop listening and wait for the thread; harmless when not running."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
