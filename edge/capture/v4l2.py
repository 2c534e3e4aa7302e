"""A V4L2 camera or frame grabber through OpenCV.

OpenCV decodes MJPEG inside `read`, and so on the reader's thread. CAP_PROP_POS_MSEC is the time stamp of the driver's
buffer (cap_v4l.cpp), without the flag that says of which clock; the reader's guard refuses what cannot be of the
monotonic one. Drivers stamp at the frame's end, or at the start of its transfer (uvcvideo, which calls that the start
of exposure): after the exposure either way. How long that took no driver tells reliably, at most one frame interval:
half of it is taken off, so that no frame looks younger than it is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.capture.base import SourceInfo
from edge.errors import SourceError
from edge.frames import Frame, Stamp, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable

# OpenCV waits ten seconds for a frame. This is read once, at the first wait; shorter than capture.hung_s, so that a
# camera which merely sends nothing is opened anew and does not end the process.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")


def first_camera() -> str:
    """The first camera, by its stable name where it has one: `/dev/video0` may be another one tomorrow.

    Raises:
        SourceError: there is none.
    """
    by_id = sorted(Path("/dev/v4l/by-id").glob("*-video-index0"))
    plain = sorted(Path("/dev").glob("video[0-9]*"), key=lambda p: int(p.name[5:]))
    for path in (*by_id, *plain):
        return str(path)
    raise SourceError("no camera was found (no /dev/video*): plug one in, or set capture.source")


class V4L2Source:
    """Frames of a V4L2 device, with the driver's own time stamps where they are of the monotonic clock."""

    def __init__(self, find: Callable[[], str], width: int, height: int, fps: float) -> None:
        """Open nothing yet.

        Args:
            find: names the device at each opening, since it may come back under another name.
            width: asked of the camera, pixels.
            height: asked of the camera, pixels.
            fps: asked of the camera, frames a second.
        """
        self._find, self._asked = find, (width, height, fps)
        self._device = ""
        self._camera: cv2.VideoCapture | None = None
        self._half_interval_ns = 0
        self._seq = 0

    def open(self) -> SourceInfo:
        """Open the device and ask for the format."""
        self.close()
        self._device = self._find()
        if not Path(self._device).exists():
            raise SourceError(f"{self._device} is not there: check that the camera is plugged in")
        camera = cv2.VideoCapture(self._device, cv2.CAP_V4L2)
        if not camera.isOpened():
            camera.release()
            raise SourceError(
                f"{self._device} cannot be opened as a camera: it may be in use, no camera, or need the group video"
            )
        width, height, fps = self._asked
        # MJPEG first: over USB 2, raw frames of this size do not reach 30 a second.
        camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        camera.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        camera.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        camera.set(cv2.CAP_PROP_FPS, fps)
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._camera = camera
        claimed_fps = camera.get(cv2.CAP_PROP_FPS)  # -1 where the driver does not say
        real_fps = claimed_fps if claimed_fps > 0 else fps
        self._half_interval_ns = int(0.5e9 / real_fps)
        code = int(camera.get(cv2.CAP_PROP_FOURCC))
        return SourceInfo(
            "v4l2",
            self._device,
            int(camera.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(camera.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            real_fps,
            "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24)).strip("\0"),
        )

    def read(self) -> Frame:
        """The next frame the driver has."""
        if self._camera is None:
            raise SourceError(f"{self._device} is not open")
        got, image = self._camera.read()
        now, wall = now_ns(), time.time()
        if not got or image is None or not image.size:
            raise SourceError(f"{self._device} stopped delivering: the camera was unplugged or its driver gave up")
        exposed, stamp = self._exposure(now)
        frame = Frame(np.asarray(image, np.uint8), self._seq, exposed, stamp, now, wall - (now - exposed) / 1e9)
        self._seq += 1
        return frame

    def _exposure(self, now: int) -> tuple[int, Stamp]:
        """Middle of the exposure, as well as the driver's stamp tells it."""
        assert self._camera is not None  # noqa: S101  read() has looked
        stamp = int(self._camera.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return (stamp - self._half_interval_ns, "driver") if stamp > 0 else (now, "dequeue")

    def close(self) -> None:
        """Let the device go."""
        if self._camera is not None:
            self._camera.release()
            self._camera = None
