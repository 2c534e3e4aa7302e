"""A Raspberry Pi camera through picamera2, which comes with the system and is imported only when used."""

from __future__ import annotations

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
    """Middle of the exposure.

    SensorTimestamp (CLOCK_BOOTTIME, ns) is when the first row is read out, at the end of its exposure; ExposureTime is
    in microseconds.
    """
    stamp = metadata.get("SensorTimestamp")
    if stamp is None:
        return now, "dequeue"
    boot_offset = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns()  # grows with every suspend
    return stamp - boot_offset - int(metadata.get("ExposureTime", 0) * 500), "sensor"


class PicameraSource:
    """Frames of a libcamera sensor, stamped by the sensor.

    Two streams are configured: the camera's processor delivers the full view as `main` and a small one as `lores`, and
    only the small one is handed on where it is RGB (Pi 5), so that the Arm cores need not shrink frames.
    """

    _SMALL = 640  # longest side of the inference stream: the aperture may take a third of it and still fill the model

    def __init__(self, number: int, width: int, height: int, fps: float, timeout_s: float) -> None:
        self._number, self._size, self._fps, self._timeout_s = number, (width, height), fps, timeout_s
        self._camera: Any = None
        self._stream = "main"
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
            got = camera.camera_configuration()[self._stream]
        except Exception as error:
            self.close()
            raise SourceError(
                f"camera {self._number} cannot be started ({error}): check its cable and who uses it"
            ) from error
        width, height = got["size"]
        return SourceInfo("picamera", f"picamera:{self._number}", width, height, self._fps, got["format"])

    def _configure(self, camera: Any) -> None:
        scale = self._SMALL / max(self._size)
        small = tuple(round(side * scale / 2) * 2 for side in self._size)
        frame_us = int(1e6 / self._fps)
        common = {"buffer_count": 4, "queue": False, "controls": {"FrameDurationLimits": (frame_us, frame_us)}}
        if scale < 1:
            try:
                camera.configure(
                    camera.create_video_configuration(
                        main={"size": self._size, "format": "BGR888"},
                        lores={"size": small, "format": "RGB888"},
                        **common,
                    )
                )
                self._stream = "lores"
            except Exception:  # noqa: BLE001  a Pi 4's second stream is YUV only: the Arm cores shrink the first one
                self._stream = "main"
            else:
                return
        # picamera2 names formats by memory order: its RGB888 arrives as BGR in numpy.
        camera.configure(camera.create_video_configuration(main={"size": self._size, "format": "RGB888"}, **common))

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
            image = request.make_array(self._stream)
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
            camera.stop()
            camera.close()
