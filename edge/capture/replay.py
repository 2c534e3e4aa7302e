"""Replay of a video file, a folder of images or a network stream, at its own pace or without losing a frame."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.capture.base import SourceInfo
from edge.capture.names import public_name
from edge.errors import EndOfSource, SourceError
from edge.frames import Frame, now_ns

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Shorter than capture.open_s and capture.hung_s: a stream that stalls is opened anew and does not end the process.
_STREAM_TIMEOUTS = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2_000]
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what goes wrong is told once, by us


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def read_image(path: Path) -> NDArray[np.uint8]:
    """One image file as uint8 (height, width, 3) BGR.

    Raises:
        SourceError: it is missing, empty, truncated or no image.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error
    if not raw:
        raise SourceError(f"{path} is empty: give an image file")
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{path} is no readable image, or cut short: give a JPEG, PNG, TIFF, WebP or BMP file")
    return np.asarray(image, np.uint8)


class Pacer:
    """Ticks of a simulated camera: hands out each frame's exposure time once it has come.

    The frame is ready before its tick, as in a camera. Where making it took longer than the interval, the camera
    exposes late and its clock goes on from there: it never delivers frames that were old before they existed.
    """

    def __init__(self, fps: float) -> None:
        self._interval_ns = round(1e9 / fps)
        self._next_ns: int | None = None

    def wait(self) -> int:
        """Monotonic nanoseconds of the tick that has just come."""
        now = now_ns()
        due = now if self._next_ns is None else max(now, self._next_ns)
        self._next_ns = due + self._interval_ns
        if due > now:
            time.sleep((due - now) / 1e9)
        return due


class _Stamper:
    """Stamps the frames of a replay: at the pace of its ticks, or at once and with a timeline of its own."""

    def __init__(self, *, lossless: bool) -> None:
        self._lossless = lossless
        self._pacer = Pacer(25.0)
        self._interval_ns = 0
        self._seq = 0

    def restart(self, fps: float) -> None:
        """Set the pace."""
        self._pacer = Pacer(fps)
        self._interval_ns = round(1e9 / fps)

    def frame(self, image: NDArray[np.uint8], name: str) -> Frame:
        """The image as the next frame, once it is time for it."""
        exposed = now_ns() if self._lossless else self._pacer.wait()
        timeline = self._seq * self._interval_ns if self._lossless else None
        frame = Frame(image, self._seq, exposed, "synthetic", now_ns(), time.time(), name, timeline)
        self._seq += 1
        return frame


class FolderSource:
    """The images of a folder, by name."""

    def __init__(self, folder: Path, *, fps: float, lossless: bool, loop: bool) -> None:
        self._folder, self._fps, self._loop = folder, fps, loop
        self._stamper = _Stamper(lossless=lossless)
        self._files: list[Path] = []
        self._at = 0

    def open(self) -> SourceInfo:
        """List the images; every one is checked when its turn comes."""
        self._files = image_files(self._folder)
        if not self._files:
            raise SourceError(f"{self._folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        height, width = read_image(self._files[0]).shape[:2]
        self._stamper.restart(self._fps)
        return SourceInfo("folder", str(self._folder), width, height, self._fps, live=False)

    def read(self) -> Frame:
        """The next image."""
        if self._at == len(self._files):
            if not self._loop:
                raise EndOfSource
            self._at = 0
        path = self._files[self._at]
        self._at += 1
        return self._stamper.frame(read_image(path), path.name)

    def close(self) -> None:
        """Nothing is held open."""


class VideoSource:
    """A video file, or a stream from the network."""

    def __init__(self, name: str, *, lossless: bool, loop: bool, stream: bool = False) -> None:
        self._source, self._name, self._loop, self._stream = name, public_name(name), loop, stream
        self._stamper = _Stamper(lossless=lossless)
        self._video: cv2.VideoCapture | None = None
        self._at = self._seq = 0

    def open(self) -> SourceInfo:
        """Open it and read its size and rate."""
        self.close()
        video = cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, _STREAM_TIMEOUTS if self._stream else [])
        if not video.isOpened():
            kind = "a stream that answers" if self._stream else "a video that can be read"
            raise SourceError(f"{self._name} is not {kind}: check that it is there and whole")
        self._video = video
        rate = video.get(cv2.CAP_PROP_FPS)
        fps = rate if 0 < rate <= 1000 else 25.0  # noqa: PLR2004  some containers say nothing, or nonsense
        self._stamper.restart(fps)
        self._at = 0
        width, height = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        return SourceInfo("stream" if self._stream else "video", self._name, width, height, fps, live=self._stream)

    def read(self) -> Frame:
        """The next frame."""
        if self._video is None:
            raise SourceError(f"{self._name} is not open")
        got, image = self._video.read()
        if not got:
            if self._stream:
                raise SourceError(f"{self._name} stopped sending")
            if self._at == 0:
                raise SourceError(f"{self._name} holds no frame that can be read")
            if not self._loop:
                raise EndOfSource
            self.open()
            return self.read()
        self._at += 1
        pixels = np.asarray(image, np.uint8)
        if not self._stream:
            return self._stamper.frame(pixels, f"#{self._at - 1}")
        now = now_ns()
        frame = Frame(pixels, self._seq, now, "dequeue", now, time.time())
        self._seq += 1
        return frame

    def close(self) -> None:
        """Let the decoder go."""
        if self._video is not None:
            self._video.release()
            self._video = None
