"""The code that a phone's camera reads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import segno

from edge.errors import FoldsightError
from edge.pairing import files

if TYPE_CHECKING:
    from pathlib import Path


def terminal(address: str) -> str:
    """A QR code (ISO/IEC 18004, correction M) in half blocks, for a terminal of any colour."""
    drawn = io.StringIO()
    segno.make_qr(address, error="m").terminal(drawn, compact=True, border=2)
    return drawn.getvalue()


def save_png(address: str, path: Path) -> None:
    """The same as a picture, readable by its owner alone: who sees it can pair.

    Raises:
        FoldsightError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise FoldsightError(f"{path} cannot be written: there is no folder {path.parent}")
    drawn = io.BytesIO()
    segno.make_qr(address, error="m").save(drawn, kind="png", scale=8, border=4)
    files.write(path, drawn.getvalue())
