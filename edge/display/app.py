"""What the page's server answers: the page's files, pairing, health and metrics, and nothing else.

The live data does not pass through here; the page takes it from the broker over WebSocket.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge import __version__
from edge.errors import ConfigError, FoldsightError
from edge.pairing.lockout import Buckets, Lockout, caller
from edge.pairing.registry import TokenRefused, TooManyPhones

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from edge.display.files import PageFile
    from edge.display.server import DisplaySettings

    class Pairing(Protocol):
        """What trades tokens for accounts."""

        def pair(self, token: str, name: str) -> tuple[str, str]:
            """Username and password; TokenRefused, TooManyPhones, or FoldsightError."""


log = logging.getLogger(__name__)

LARGEST_BODY: Final = 4096
REQUESTS: Final = 300.0
REQUESTS_A_SECOND: Final = 30.0
PAIRING_COST: Final = 10.0
"""What one caller may ask at once, what comes back each second, and for how many requests a try at pairing counts."""

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})")


class Broker(BaseModel):
    """Where the page finds the live data."""

    url: str = Field(description="MQTT 5 over WebSocket, ws:// or wss://.")


class Info(BaseModel):
    """What the page must know before it can connect."""

    device: str = Field(description="The adapter's name in topics.")
    name: str = Field(description="What to call it on the screen.")
    pairing: bool = Field(description="Whether an account is needed; false only on the adapter's own loopback.")
    mqtt: Broker


class PairRequest(BaseModel):
    """A phone that wants an account of its own."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=128, description="From the code that `foldsight pair` shows.")
    name: str = Field(
        min_length=1,
        max_length=40,
        pattern=r"^[^\x00-\x20\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        description="What its owner calls the phone. It stays on the adapter.",
    )


class Credential(BaseModel):
    """The phone's own account at the broker. It is told once."""

    username: str
    password: str


class Problem(BaseModel):
    """Why not, in a sentence for the person at the phone."""

    detail: str


class Healthy(BaseModel):
    """The server is there."""

    status: Literal["ok"] = "ok"


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    retry = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
    return {c: {"model": Problem, **({"headers": retry} if c in {429, 503} else {})} for c in codes}


def make_app(
    settings: DisplaySettings,
    files: Mapping[str, PageFile],
    *,
    pairing: Pairing | None = None,
    metrics: Callable[[], bytes] | None = None,
    lockout: Lockout | None = None,
) -> FastAPI:
    """The whole of it.

    Args:
        settings: what the page needs to know.
        files: the page by URL path.
        pairing: trades tokens for accounts; None on loopback, where no account is needed.
        metrics: gives the text of `/metrics`; None for none.
        lockout: counts wrong tokens.
    """
    app = FastAPI(
        title="Foldsight display",
        version=__version__,
        description="The phone page's server on an adapter. Research software, not a medical device.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.pairing, app.state.lockout = settings, pairing, lockout or Lockout()
    app.get(
        "/api/info",
        operation_id="info",
        responses=_problems(429),
        summary="What the page must know before it can connect",
    )(_info)
    app.post(
        "/api/pair",
        operation_id="pair",
        status_code=201,
        responses=_problems(400, 403, 404, 409, 413, 422, 429, 503),
        summary="Trade a one-time token for an account of the phone's own",
    )(_pair)
    app.get("/healthz", operation_id="healthz", responses=_problems(429), summary="Whether this server is there")(
        _healthz
    )
    routes = [Route(path, _sender(file), methods=["GET"]) for path, file in files.items()]
    if settings.ca_certificate is not None:
        ca = settings.ca_certificate

        async def authority(_: Request) -> Response:
            # Phones offer to install it because of this type.
            return Response(ca, media_type="application/x-x509-ca-cert")

        routes.append(Route("/ca.crt", authority, methods=["GET"]))
    app.router.routes.extend(routes)
    if metrics is not None:
        told = metrics

        def tell(_: Request) -> Response:
            return Response(told(), media_type=METRICS_TYPE)

        app.router.routes.append(Route("/metrics", tell, methods=["GET"]))
    _answer_faults(app)
    app.add_middleware(_Shield, settings=settings)
    return app


def _info(request: Request) -> Info:
    settings: DisplaySettings = request.app.state.settings
    return Info(
        device=settings.device,
        name=settings.name or settings.device,
        pairing=request.app.state.pairing is not None,
        mqtt=Broker(url=settings.broker_url(request.headers.get("host", ""))),
    )


def _healthz() -> Healthy:
    return Healthy()


def _may_pair(request: Request) -> str:
    """Who asks; refused before the body is looked at where no pairing is to be had for them."""
    if request.app.state.pairing is None:
        raise HTTPException(404, "No pairing is needed here: the display is open to this machine alone.")
    who = caller(request.client.host if request.client else "")
    if not same_origin(request):
        log.warning("pairing from %s was refused: another site's page asked for it", who)
        raise HTTPException(403, "Open the adapter's own page to pair: another page may not.")
    if (wait_s := request.app.state.lockout.locked_for(who)) > 0:
        raise _slow_down("Too many wrong codes", wait_s)
    return who


def _pair(request: Request, who: Annotated[str, Depends(_may_pair)], wanted: PairRequest) -> Credential:
    pairing: Pairing = request.app.state.pairing
    lockout: Lockout = request.app.state.lockout
    try:
        username, password = pairing.pair(wanted.token, wanted.name)
    except TokenRefused:
        if (wait_s := lockout.failed(who)) > 0:
            log.warning("pairing from %s is locked for %.0f s: too many wrong tokens", who, wait_s)
        else:
            log.warning("pairing from %s was refused: wrong, used or old token", who)
        raise HTTPException(403, "This code is not good any more: ask for a new one.") from None
    except TooManyPhones:
        raise HTTPException(409, "As many phones as may be are paired: one must be revoked first.") from None
    except FoldsightError as error:
        log.error("pairing failed: %s", error)  # noqa: TRY400  the sentence says it all
        raise HTTPException(503, "The adapter cannot pair just now: try again.", {"Retry-After": "5"}) from None
    lockout.succeeded(who)
    log.info("%s is paired, from %s", username, who)
    return Credential(username=username, password=password)


def same_origin(request: Request) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("origin")
    return origin is None or origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


def websocket_origin(url: str) -> str:
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


def host_of(header: str) -> str | None:
    """The host name or IPv4 address of a Host header, None where it is neither."""
    host = header.rpartition("@")[2].split(":", 1)[0]
    return host if _HOST_NAME.fullmatch(host) else None


def _slow_down(why: str, wait_s: float) -> HTTPException:
    wait = max(1, math.ceil(wait_s))
    return HTTPException(429, f"{why}: try again in {wait} s.", {"Retry-After": str(wait)})


def _sender(file: PageFile) -> Any:
    async def send(request: Request) -> Response:
        # Checked on every load, so that an updated adapter never meets yesterday's page.
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        body = file.body
        if file.zipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body, headers = file.zipped, {**headers, "Content-Encoding": "gzip"}
        return Response(body, headers={**headers, "Content-Type": file.content_type})

    return send


def _answer_faults(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        fault: StarletteHTTPException = error  # type: ignore[assignment]
        if request.url.path.startswith("/api/") or fault.status_code not in {404, 405}:
            return JSONResponse({"detail": fault.detail}, fault.status_code, fault.headers)
        text = {404: "Not here\n", 405: "Only GET and HEAD\n"}[fault.status_code]
        return PlainTextResponse(text, fault.status_code, fault.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        fault: RequestValidationError = error  # type: ignore[assignment]
        # Which field and why, never its value: it could be a token.
        found = "; ".join(f"{'.'.join(str(p) for p in e['loc'][1:]) or 'body'}: {e['type']}" for e in fault.errors())
        return JSONResponse({"detail": f"The request is not as it should be ({found})."}, 422)

    for status in (400, 404, 405, 403, 409, 413, 429, 503):
        app.add_exception_handler(status, known)
    app.add_exception_handler(RequestValidationError, invalid)


class _Shield:
    """Around everything: what one caller may ask, how long a body may be, and headers that lock the page down."""

    def __init__(self, app: ASGIApp, settings: DisplaySettings) -> None:
        self._app, self._settings = app, settings
        self._buckets = Buckets(REQUESTS, REQUESTS_A_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        own = self._headers(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((n, v) for n, v in own if n not in names)]
            await send(message)

        body: list[bytes] = []
        refusal = self._refusal(request)
        if refusal is None:
            # Read here, so that a body without an end, or without a length, is measured too.
            async for piece in request.stream():
                body.append(piece)
                if sum(map(len, body)) > LARGEST_BODY:
                    refusal = _too_long()
                    break
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        unread: list[Message] = [{"type": "http.request", "body": b"".join(body), "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        try:
            await self._app(scope, replay, send_with_headers)
        except Exception:
            log.exception("the page's server failed on %s", request.method)
            await _failed()(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        who = caller(request.client.host if request.client else "")
        cost = PAIRING_COST if request.method == "POST" else 1.0
        if (wait_s := self._buckets.spend(who, cost)) > 0:
            log.debug("too many requests from %s", who)
            slow = _slow_down("Too many requests", wait_s)
            return JSONResponse({"detail": slow.detail}, 429, slow.headers)
        if request.scope["http_version"] not in {"1.0", "1.1"}:
            return JSONResponse({"detail": "HTTP 1.1 is spoken here."}, 505, {"Connection": "close"})
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:9]) > LARGEST_BODY:
            return _too_long()
        return None

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        broker = self._settings.broker_origins(request.headers.get("host", ""))
        headers = {
            "cache-control": "no-store",
            "content-security-policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; manifest-src 'self'; "
                f"worker-src 'self'; connect-src 'self' {broker}; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            ),
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=(), screen-wake-lock=(self)",
            "referrer-policy": "no-referrer",
            "server": "Foldsight",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def _failed() -> Response:
    return JSONResponse({"detail": "The adapter's page server failed: see its log."}, 500, {"Connection": "close"})


def _too_long() -> Response:
    return JSONResponse({"detail": f"A request may hold {LARGEST_BODY} bytes, no more."}, 413, {"Connection": "close"})
