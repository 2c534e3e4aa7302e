"""Sources of frames, one file each. `open_source` picks by name; nothing heavy is imported before it is needed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge.capture.base import Reader, Source, SourceInfo
from edge.capture.names import PIPELINE, STREAMS, public_name
from edge.errors import SourceError

if TYPE_CHECKING:
    from edge.config import Capture

__all__ = ["Reader", "Source", "SourceInfo", "choose_source", "is_camera", "public_name"]

log = logging.getLogger(__name__)


def is_camera(settings: Capture) -> bool:
    """Whether the source is a live one that may come back, and not a replay that ends or is missing for good."""
    name = settings.source
    return name in ("auto", "phantom", "csi") or name.startswith(("picamera", "csi:", "/dev/", PIPELINE, *STREAMS))


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
    if name == "csi" or name.startswith(("csi:", PIPELINE, "rtsp://", "rtsps://")):
        return _gstreamer(settings)
    return _replay(settings)


def _gstreamer(settings: Capture) -> Source:
    from edge.capture import gstreamer  # noqa: PLC0415  a system package

    name = settings.source
    if name.startswith("csi:") and not name[4:].isdecimal():
        raise SourceError(f"capture.source {name!r} names no camera: write csi or csi:N")
    if name.startswith("rtsp") and not gstreamer.available():
        log.warning("%s is read without GStreamer: frames may wait, and are stamped late", public_name(name))
        return _replay(settings)
    # Before the daemon takes the driver for one that hangs (capture.open_s, capture.hung_s).
    open_s, read_s = 0.7 * settings.open_s, max(0.7 * settings.hung_s, 2 / settings.fps)
    return gstreamer.GStreamerSource(name, settings.width, settings.height, settings.fps, open_s=open_s, read_s=read_s)


def _replay(settings: Capture) -> Source:
    from edge.capture.replay import FolderSource, VideoSource  # noqa: PLC0415

    name, lossless = settings.source, settings.pace == "lossless"
    if name.startswith(STREAMS):
        return VideoSource(name, lossless=False, loop=False, stream=True)
    path = Path(name)
    if path.is_dir():
        return FolderSource(path, fps=settings.fps, lossless=lossless, loop=settings.loop)
    if path.is_file():
        return VideoSource(name, lossless=lossless, loop=settings.loop)
    raise SourceError(
        f"capture.source {public_name(name)!r} is not there: give phantom, picamera, csi, /dev/videoN, a video file, "
        "a folder, a URL or gst:PIPELINE"
    )
