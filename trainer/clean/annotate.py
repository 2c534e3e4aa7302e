"""The page for labelling by key and its server: on this machine only, every answer on disk before the next frame."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from edge.errors import FoldsightError
from trainer.clean.journal import ANSWERS
from trainer.clean.sheets import TEMPLATES
from trainer.clean.survey import jpeg
from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from typing_extensions import Self

    from trainer.clean.journal import Journal
    from trainer.clean.survey import Survey

HOST = "127.0.0.1"
_SIDE = 1024  # pixels: more does not fit the page
_STARTS_WITHIN_S = 15.0
_POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def make_app(survey: Survey, queue: list[int], journal: Journal, export: Callable[[], int]) -> FastAPI:  # noqa: C901  its routes
    """The page and what it asks for.

    Args:
        survey: the frames.
        queue: places of those to be labelled, in their order.
        journal: where answers go.
        export: writes the manifest; called after every answer.
    """
    app = FastAPI(openapi_url=None)
    # A page from elsewhere that resolves its name to this machine is not let in, nor is one that posts from elsewhere.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    lock = threading.Lock()
    place = {survey.seen[k].frame.name: n for n, k in enumerate(queue)}

    @app.middleware("http")
    async def same_origin(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        if origin and origin != f"http://{request.headers.get('host')}":
            return Response("this page is for its own origin only", 403)
        response = await call_next(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return (TEMPLATES / "annotate.html").read_text(encoding="utf-8")

    @app.get("/frames")
    def frames() -> dict[str, Any]:
        with lock:
            listed = [
                {
                    "name": seen.frame.name,
                    "label": seen.frame.record.label,
                    "answer": journal.answers.get(seen.frame.name),
                    "score": None if seen.score is None else round(seen.score, 2),
                    "reasons": list(seen.reasons),
                }
                for seen in (survey.seen[k] for k in queue)
            ]
        return {"frames": listed, "answers": list(ANSWERS), "model": survey.model}

    @app.get("/image/{number}")
    def image(number: int) -> Response:
        if not 0 <= number < len(queue):
            raise HTTPException(404, "no such frame")
        picture = survey.seen[queue[number]].frame.read(survey.root)
        return Response(jpeg(picture, _SIDE), media_type="image/jpeg")

    @app.post("/answer")
    def answer(number: Annotated[int, Body()], said: Annotated[str, Body()]) -> dict[str, int]:
        if not 0 <= number < len(queue):
            raise HTTPException(404, "no such frame")
        with lock:
            try:
                journal.answer(survey.seen[queue[number]].frame.name, said)
            except DataError as error:
                raise HTTPException(422, str(error)) from error
            return {"rows": export()}

    @app.post("/undo")
    def undo() -> dict[str, Any]:
        with lock:
            name = journal.undo()
            if name is None:
                return {"number": None, "answer": None}
            export()
            return {"number": place.get(name), "answer": journal.answers.get(name)}

    return app


class LabelServer:
    """The page's server, on the loopback address only; a context manager.

    Args:
        app: see `make_app`.
        port: to listen on; 0 takes a free one.

    Raises:
        FoldsightError: the port is taken.
    """

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen()  # a browser that is quicker than the server waits instead of being refused
        except OSError as error:
            self._socket.close()
            raise FoldsightError(
                f"port {port} of this machine cannot be had ({error.strerror}): choose another with --port"
            ) from error
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="labels", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_STARTS_WITHIN_S)
        self._socket.close()

    def wait(self) -> None:
        """Serve until the thread ends, or the person stops it."""
        self._thread.join()


def open_labels(survey: Survey, journal: Journal, out: Path, *, most: int | None, split: bool) -> FastAPI:
    """The app of a survey, its manifest written to `out` after every answer."""
    return make_app(survey, survey.queue(most), journal, lambda: journal.export(out, split=split))
