"""A Raspberry Pi camera through picamera2, which comes with the system and is imported only when used.

Not run here: picamera2 needs libcamera and a Pi. What is called was checked against the source of picamera2 0.3.38.
ScalerCrop, by which the camera's processor could zoom in on the aperture, is left alone: the aperture is found in the
whole frame, and moves when the scope is turned in its coupler.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from typing import Any

import numpy as np

from edge.capture.base import SourceInfo
from edge.errors import SourceError
from edge.frames import Frame, Stamp, now_ns


def available() -> bool:
    """Whether this system has picamera2 and a camera for it."""
    if importlib.util.find_spec("picamera2") is None or importlib.util.find_spec("libcamera") is None:
        return False
    try:
        from picamera2 import Picamera2  # noqa: PLC0415  a system package of Raspberry Pi OS

        return bool(Picamera2.global_camera_info())
    except Exception:  # noqa: BLE001  a broken stack is as good as none; `auto` goes on to V4L2
        return False


def _exposure(metadata: dict[str, Any], now: int) -> tuple[int, Stamp]:
    """Middle of the exposure of the first row; the last row's is up to one readout younger.

    SensorTimestamp (ns) is when the first row is read out, at the end of its exposure: picamera2 itself takes the whole
    ExposureTime (microseconds) from it for the exposure's begin. libcamera defines it on CLOCK_BOOTTIME, which differs
    from the monotonic clock by the time that the machine was suspended; a Pi never is.
    """
    stamp = metadata.get("SensorTimestamp")
    if stamp is None:
        return now, "dequeue"
    boot_offset = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns()  # grows with every suspend
    return stamp - boot_offset - int(metadata.get("ExposureTime", 0) * 500), "sensor"


class PicameraSource:
    """Frames of a libcamera sensor, stamped by the sensor, made small by the camera's processor.

    The size asked for chooses the sensor's mode, and with it the field of view: picamera2 takes the mode whose shape is
    nearest (1280x720 may be a cropped one where 1640x1232 is the whole sensor). The stream has the same shape but is
    small, on every Pi, so that the Arm cores need not shrink frames.
    """

    _SMALL = 640  # longest side of the stream: the aperture may take a third of it and still fill the model

    def __init__(self, number: int, width: int, height: int, fps: float, timeout_s: float) -> None:
        self._number, self._size, self._fps, self._timeout_s = number, (width, height), fps, timeout_s
        self._camera: Any = None
        self._seq = 0

    def open(self) -> SourceInfo:
        """Start the camera."""
        self.close()
        try:
            from picamera2 import Picamera2  # noqa: PLC0415  a system package of Raspberry Pi OS
        except ImportError as error:
            raise SourceError(
                f"picamera2 cannot be imported ({error}): install python3-picamera2 and create the virtual environment "
                "with --system-site-packages"
            ) from error
        try:
            camera = Picamera2(self._number)
            self._camera = camera
            self._configure(camera)
            camera.start()
            got = camera.camera_configuration()["main"]
            shortest_us = camera.camera_controls["FrameDurationLimits"][0]  # of the mode that was chosen
        except Exception as error:
            self.close()
            raise SourceError(
                f"camera {self._number} cannot be started ({error}): check its cable and who uses it"
            ) from error
        width, height = got["size"]
        fps = min(self._fps, 1e6 / shortest_us) if shortest_us else self._fps
        return SourceInfo("picamera", f"picamera:{self._number}", width, height, fps, got["format"])

    def _configure(self, camera: Any) -> None:
        scale = min(1.0, self._SMALL / max(self._size))
        frame_us = int(1e6 / self._fps)
        camera.configure(
            camera.create_video_configuration(
                # picamera2 names formats by their order in a word: its RGB888 arrives as BGR in numpy.
                main={"size": tuple(round(side * scale / 2) * 2 for side in self._size), "format": "RGB888"},
                sensor={"output_size": self._size},  # else the small stream's size would choose the sensor's mode
                controls={"FrameDurationLimits": (frame_us, frame_us)},
                buffer_count=4,
                queue=False,  # no request is kept for whoever comes later
            )
        )

    def read(self) -> Frame:
        """The next frame, from a request made after the last one was taken."""
        if self._camera is None:
            raise SourceError(f"camera {self._number} is not open")
        try:
            job = self._camera.capture_request(wait=False)
            request = self._camera.wait(job, timeout=self._timeout_s)
        except Exception as error:
            raise SourceError(f"camera {self._number} stopped delivering ({error or 'time-out'})") from error
        now, wall = now_ns(), time.time()
        try:
            image = request.make_array("main")
            metadata = request.get_metadata()
        finally:
            request.release()
        exposed, kind = _exposure(metadata, now)
        frame = Frame(np.asarray(image, np.uint8), self._seq, exposed, kind, now, wall - (now - exposed) / 1e9)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Stop the camera and free it for others."""
        camera, self._camera = self._camera, None
        if camera is not None:
            with contextlib.suppress(Exception):  # a camera that was unplugged cannot be stopped either
                camera.close()  # stops it first
