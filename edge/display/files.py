"""The built page, read once: a request's path is only ever a dictionary's key, so there is nothing to climb out of."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, ready to send."""

    body: bytes
    zipped: bytes | None
    content_type: str
    tag: str


def read_page(folder: Path) -> dict[str, PageFile]:
    """Every file of the built page by its URL path.

    Raises:
        FoldsightError: the page is not built.
    """
    if not (folder / INDEX).is_file():
        # Inside a checkout the short name says more than where the checkout lies.
        name = "edge/display/static" if folder == STATIC_FOLDER else str(folder)
        raise FoldsightError(NOT_BUILT.format(folder=name))
    root = folder.resolve()
    files: dict[str, PageFile] = {}
    for path in sorted(folder.rglob("*")):
        content_type = _TYPES.get(path.suffix)
        # A link that leads out of the folder is not part of the page.
        if content_type is None or not path.is_file() or not path.resolve().is_relative_to(root):
            continue
        body = path.read_bytes()
        zipped = gzip.compress(body, mtime=0) if path.suffix in _COMPRESSIBLE else None
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        files["/" + path.relative_to(folder).as_posix()] = PageFile(body, zipped, content_type, tag)
    files["/"] = files[f"/{INDEX}"]
    return files
