"""The web server of the phone page: uvicorn around the app, with bounds on how many connect and for how long."""

from __future__ import annotations

import collections
import ipaddress
import logging
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge.display.app import host_of, make_app, websocket_origin
from edge.display.files import STATIC_FOLDER, read_page
from edge.errors import ConfigError, FoldsightError
from edge.pairing.lockout import caller

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Self

    from edge.display.app import Pairing

log = logging.getLogger(__name__)

_HIGHEST_PORT: Final = 65535
_CONNECTIONS: Final = 256
_CONNECTIONS_EACH: Final = 32
_STARTS_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class DisplaySettings:
    """What the server and the page need to know.

    Attributes:
        device: the device's name, one level of its MQTT topics.
        name: what the page calls it; "" for the device's name.
        host: the address to listen on; "" is every address, "0.0.0.0" every IPv4 address.
        port: the port to listen on; 0 takes a free one.
        mqtt_url: the broker's WebSocket address as the phone sees it (ws:// or wss://), or None: the page's own host
            with `mqtt_port`, and TLS exactly when the page itself has it.
        mqtt_port: the broker's WebSocket port on the page's own host; used when `mqtt_url` is None.
        certificate: PEM file with key and certificate: the page is served over TLS; None for plain HTTP.
        ca_certificate: PEM of the authority that phones are to trust, handed out as /ca.crt; None for none.
        static_folder: the built page.
    """

    device: str
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    mqtt_url: str | None = None
    mqtt_port: int = 9001
    certificate: Path | None = None
    ca_certificate: bytes | None = None
    static_folder: Path = STATIC_FOLDER

    def __post_init__(self) -> None:
        """Refuse what would make a page that can never connect.

        Raises:
            ConfigError: a topic with wildcards, an address that is not ws:// or wss://, a port out of range.
        """
        if not self.device or re.search(r"[+#/\x00-\x1f]", self.device):
            raise ConfigError(
                f"The display's device {self.device!r} cannot be a level of an MQTT topic: leave out +, # and /"
            )
        for key, port in (("port", self.port), ("mqtt_port", self.mqtt_port)):
            if not 0 <= port <= _HIGHEST_PORT:
                raise ConfigError(f"The display's {key} {port} is not a port: use 0 to {_HIGHEST_PORT}")
        if self.mqtt_url is not None:
            websocket_origin(self.mqtt_url)

    def broker_url(self, host: str) -> str:
        """The broker's address for a page that was asked for under this Host header."""
        if self.mqtt_url is not None:
            return self.mqtt_url
        # An IPv6 address in the header comes in brackets, and stays in them.
        name = host_of(host) or (re.match(r"\[[0-9A-Fa-f:.]+\]", host) or [""])[0] or "localhost"
        return f"{'ws' if self.certificate is None else 'wss'}://{name}:{self.mqtt_port}/"

    def broker_origins(self, host: str) -> str:
        """Where a page that was asked for under this Host header may connect to."""
        if self.mqtt_url is not None:
            return websocket_origin(self.mqtt_url)
        return f"{'ws' if self.certificate is None else 'wss'}://{host_of(host) or '*'}:{self.mqtt_port}"


class _Protocol(H11Protocol):
    """HTTP that hangs up on callers who hold too many connections, or hold one for long without an answer."""

    answer_within_s = 10.0
    callers: collections.Counter[str]  # one for each server

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._who = caller(self.client[0] if self.client else "")
        self.callers[self._who] += 1
        self._deadline = self.loop.call_later(self.answer_within_s, transport.abort)
        if self.callers[self._who] > _CONNECTIONS_EACH or self.callers.total() > _CONNECTIONS:
            log.debug("too many connections: one of %s was closed", self._who)
            transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(self.answer_within_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self.callers[self._who] -= 1
        if self.callers[self._who] <= 0:
            del self.callers[self._who]
        super().connection_lost(exc)


class DisplayServer:
    """Serves the phone page from a thread of its own: `start()`, `stop()`, or a `with` block.

    Args:
        settings: what it serves, and where.
        pairing: trades tokens for accounts; None where no account is needed.
        metrics: gives the text of `/metrics`; None for none.
    """

    def __init__(
        self, settings: DisplaySettings, *, pairing: Pairing | None = None, metrics: Callable[[], bytes] | None = None
    ) -> None:
        self._settings, self._pairing, self._metrics = settings, pairing, metrics
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._certificate = b""

    def start(self) -> str:
        """Start serving.

        Returns:
            The page's address on this machine.

        Raises:
            FoldsightError: the page is not built, the certificate is missing, or the address cannot be listened on.
        """
        if self._server is not None:
            return self.url
        settings = self._settings
        app = make_app(settings, read_page(settings.static_folder), pairing=self._pairing, metrics=self._metrics)
        config = uvicorn.Config(
            app,
            http=type("Protocol", (_Protocol,), {"callers": collections.Counter()}),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # else a caller could choose the address under which it is counted
            server_header=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.certificate,
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what callers send is not this log's business
        try:
            config.load()
        except OSError as error:
            raise FoldsightError(
                f"{settings.certificate} cannot be used ({error.strerror or error}): run `foldsight broker prepare`"
            ) from error
        self._tls = config.ssl
        self._certificate = self._read_certificate()
        self._socket = self._listen()
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="foldsight-display", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise FoldsightError("The phone page's server did not start: see the log")
            time.sleep(0.005)
        return self.url

    @property
    def url(self) -> str:
        """The page's address on this machine; FoldsightError while the server is not running."""
        if self._socket is None:
            raise FoldsightError("The phone page has no address yet: start its server first")
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._settings.host, self._settings.host)  # noqa: S104  read, not bound
        if _is_ipv6(host):
            host = f"[{host}]"
        scheme = "http" if self._settings.certificate is None else "https"
        return f"{scheme}://{host}:{self._socket.getsockname()[1]}/"

    def reload_certificate(self) -> bool:
        """Show new callers the certificate that lies there now; gives whether it is another one."""
        certificate = self._read_certificate()
        if self._tls is None or self._settings.certificate is None or certificate in {b"", self._certificate}:
            return False
        self._tls.load_cert_chain(self._settings.certificate)
        self._certificate = certificate
        return True

    def stop(self) -> None:
        """Stop listening and wait for the thread; harmless when not running."""
        if self._server is None or self._thread is None or self._socket is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self._server = self._thread = self._socket = self._tls = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read_certificate(self) -> bytes:
        try:
            return self._settings.certificate.read_bytes() if self._settings.certificate else b""
        except OSError:
            return b""  # just being replaced, or gone: what is loaded goes on

    def _listen(self) -> socket.socket:
        host, port = self._settings.host, self._settings.port
        try:
            if not host:
                return (
                    socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
                    if socket.has_dualstack_ipv6()
                    else socket.create_server(("", port), backlog=128)
                )
            family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise FoldsightError(
                f"The phone page cannot be served on {host}:{port} ({error.strerror or error}): choose another port"
            ) from error


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6  # noqa: PLR2004  the protocol's name
    except ValueError:
        return False
