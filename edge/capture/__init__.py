"""Sources of frames, one file each. `open_source` picks by name; nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge.capture.base import Reader, Source, SourceInfo
from edge.errors import SourceError

if TYPE_CHECKING:
    from edge.config import Capture

__all__ = ["Reader", "Source", "SourceInfo", "choose_source", "is_camera"]

_STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "udp://", "tcp://")


def is_camera(settings: Capture) -> bool:
    """Whether the source is a live one that may come back, and not a replay that ends or is missing for good."""
    name = settings.source
    return name in ("auto", "phantom") or name.startswith(("picamera", "/dev/", *_STREAMS))


def choose_source(settings: Capture) -> Source:  # noqa: PLR0911  one return per kind of source
    """The source that the settings name, not yet opened.

    Raises:
        SourceError: no source goes by this name, or the replay's file is not there.
    """
    name = settings.source
    if name == "phantom":
        from edge.capture.synthetic import PhantomSource  # noqa: PLC0415  renders only when used

        return PhantomSource(width=settings.width, height=settings.height, fps=settings.fps, seed=settings.seed)
    if name == "auto":
        from edge.capture import picamera  # noqa: PLC0415  a Pi's system package
        from edge.capture.v4l2 import V4L2Source, first_camera  # noqa: PLC0415

        if picamera.available():
            return picamera.PicameraSource(0, settings.width, settings.height, settings.fps, settings.timeout_s)
        return V4L2Source(first_camera, settings.width, settings.height, settings.fps)
    if name == "picamera" or name.startswith("picamera:"):
        from edge.capture.picamera import PicameraSource  # noqa: PLC0415

        number = name.partition(":")[2] or "0"
        if not number.isdecimal():
            raise SourceError(f"capture.source {name!r} names no camera: write picamera or picamera:N")
        return PicameraSource(int(number), settings.width, settings.height, settings.fps, settings.timeout_s)
    if name.startswith("/dev/"):
        from edge.capture.v4l2 import V4L2Source  # noqa: PLC0415

        return V4L2Source(lambda: name, settings.width, settings.height, settings.fps)
    from edge.capture.replay import FolderSource, VideoSource  # noqa: PLC0415

    lossless = settings.pace == "lossless"
    if name.startswith(_STREAMS):
        return VideoSource(name, lossless=False, loop=False, stream=True)
    path = Path(name)
    if path.is_dir():
        return FolderSource(path, fps=settings.fps, lossless=lossless, loop=settings.loop)
    if path.is_file():
        return VideoSource(name, lossless=lossless, loop=settings.loop)
    raise SourceError(
        f"capture.source {name!r} is not there: give phantom, picamera, /dev/videoN, a video file, a folder or a URL"
    )
