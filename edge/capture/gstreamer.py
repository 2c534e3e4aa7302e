"""GStreamer pipelines: a Jetson's CSI camera, RTSP, and whatever pipeline the operator gives.

The binding is PyGObject of the system's packages: it has the appsink itself, with each buffer's time stamp and the
pipeline's clock. OpenCV from the package index is built without GStreamer and would tell neither. The pipeline runs on
GStreamer's system clock, which is CLOCK_MONOTONIC, so that base time plus running time is a moment on the clock of all
ages. What that moment is depends on the element that stamped it:

- v4l2src: the driver's buffer stamp; libcamerasrc: the sensor's.
- nvarguscamerasrc stamps a buffer when it leaves the camera's processor (`do-timestamp` of GstBaseSrc, in the public
  sources of L4T 35.4), rtspsrc when its first packet came. Exposure and processing, with RTSP also encoding and the
  network, were before that, and nobody tells how long they took: such stamps are called `dequeue`, as are all others
  that are not known.

Not run here: nvarguscamerasrc, nvvidconv and the Jetson's decoders. The rest is tested with real pipelines.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edge.capture.base import SourceInfo
from edge.capture.names import PIPELINE, public_name, scrub, secrets_of
from edge.errors import SourceError
from edge.frames import Frame, Stamp, now_ns

log = logging.getLogger(__name__)

_INSTALL = (
    "apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good, "
    "and make the virtual environment with the system's own python3"
)
_NAMESPACES = ("Gst", "GstApp", "GstVideo")
_SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
_SINK = "foldsight"
_BUS_S = 0.1  # how late an error of the pipeline may be noticed
_STAMPS: dict[str, Stamp] = {"libcamerasrc": "sensor", "v4l2src": "driver", "videotestsrc": "synthetic"}
# Of a live source nothing waits but the newest frame, before the conversion to BGR as well as after it.
_NEWEST = "queue name=newest max-size-buffers=1 max-size-bytes=0 max-size-time=0"
_LEAKY_DOWNSTREAM = 2  # GstQueueLeaky: what is new replaces what waits
_TO_SINK = f"video/x-raw,format=BGR ! appsink name={_SINK} drop=true max-buffers=1 sync=false"

_gst: Any = None
_video: Any = None


def _load() -> Any:
    """The GStreamer library, loaded once.

    Raises:
        SourceError: PyGObject or GStreamer's introspection data is missing; says what to install.
    """
    global _gst, _video
    if _gst is not None:
        return _gst
    try:
        _find_gi()
        import gi  # noqa: PLC0415  a system package

        for name in _NAMESPACES:
            gi.require_version(name, "1.0")
        from gi.repository import Gst, GstApp, GstVideo  # noqa: PLC0415, F401  GstApp gives the sink its methods

        if "STATE_DIRECTORY" in os.environ:  # under systemd there is no home to keep the list of plug-ins in
            registry = Path(os.environ["STATE_DIRECTORY"].partition(":")[0], "gstreamer-registry.bin")
            os.environ.setdefault("GST_REGISTRY", str(registry))
        Gst.init(None)
    except (ImportError, ValueError) as error:
        raise SourceError(f"GStreamer cannot be used ({error}): {_INSTALL}") from error
    _gst, _video = Gst, GstVideo
    return _gst


def _find_gi() -> None:
    """Make the system's PyGObject importable where the virtual environment does not see the system's packages.

    Only this one package is let in. Its compiled part must be of this Python's version.
    """
    if "gi" in sys.modules or importlib.util.find_spec("gi") is not None:
        return
    folder = _SYSTEM_PACKAGES / "gi"
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    if not any(folder.glob(f"_gi.{tag}*.so")):
        raise ImportError(f"no PyGObject for Python {sys.version_info.major}.{sys.version_info.minor}")
    spec = importlib.util.spec_from_file_location(
        "gi", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # noqa: S101  the file's suffix says how to load it
    assert spec.loader is not None  # noqa: S101  as above
    module = importlib.util.module_from_spec(spec)
    sys.modules["gi"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["gi"]
        raise


def available() -> bool:
    """Whether GStreamer can be used here."""
    try:
        _load()
    except SourceError:
        return False
    return True


def csi_pipeline(number: int, width: int, height: int, fps: float) -> str:
    """A Jetson's CSI camera: sensor and processor by nvarguscamerasrc, scaling and the way to the CPU by nvvidconv."""
    rate = Fraction(fps).limit_denominator(1001)
    return (
        f"nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),format=NV12,width={width},height={height},"
        f"framerate={rate.numerator}/{rate.denominator} ! {_NEWEST} ! "
        "nvvidconv ! video/x-raw,format=BGRx ! videoconvert"
    )


def rtsp_pipeline(*, jetson: bool) -> str:
    """An RTSP stream, decoded by the best decoder there is; its address is set as a property, never as text.

    Over TCP: a packet that UDP loses would be seen as a change in the picture. A Jetson's decoders leave the frame in
    memory that only nvvidconv reaches.
    """
    out = "nvvidconv ! video/x-raw,format=BGRx ! " if jetson else ""
    return (
        "rtspsrc name=rtsp protocols=tcp latency=0 drop-on-latency=true tcp-timeout=5000000 do-rtsp-keep-alive=true ! "
        f"decodebin ! {_NEWEST} ! {out}videoconvert"
    )


class GStreamerSource:
    """The newest frame of a GStreamer pipeline, stamped on the monotonic clock."""

    def __init__(
        self, name: str, width: int, height: int, fps: float, *, open_s: float = 10.0, read_s: float = 2.0
    ) -> None:
        """Open nothing yet.

        Args:
            name: `csi`, `csi:N`, an rtsp:// or rtsps:// address, or `gst:` and a pipeline in the words of gst-launch
                without its sink; a pipeline that ends in an appsink of the name `foldsight` is taken as it is.
            width: asked of a CSI camera, pixels.
            height: asked of a CSI camera, pixels.
            fps: asked of a CSI camera, frames a second.
            open_s: what the first frame may take.
            read_s: what any later frame may take. Both below what counts as a driver that hangs, so that a stream which
                stalls is opened anew and does not end the process.
        """
        self._source, self._asked = name, (width, height, fps)
        self._name, self._secrets = public_name(name), secrets_of(name)
        self._open_s, self._read_s = open_s, read_s
        self._pipeline: Any = None
        self._sink: Any = None
        self._bus: Any = None
        self._waiting: Any = None  # the first sample, from which `open` learnt the format
        self._caps: Any = None
        self._layout: Any = None
        self._half_interval_ns = 0
        self._stamp: Stamp = "dequeue"
        self._seq = 0

    def open(self) -> SourceInfo:
        """Start the pipeline and wait for its first frame, which tells the real format and rate."""
        self.close()
        gst = _load()
        try:
            self._start(gst)
            self._waiting = self._pull(self._open_s)
            image = self._image(self._waiting)
        except BaseException:
            self.close()
            raise
        layout = self._layout
        fps = layout.fps_n / layout.fps_d if layout.fps_n and layout.fps_d else 0.0
        # What left the source, before it was converted for us, says more than "BGR".
        return SourceInfo("gstreamer", self._name, image.shape[1], image.shape[0], fps, self._source_format(gst))

    def read(self) -> Frame:
        """The newest frame, waiting for one that was not handed on yet."""
        if self._pipeline is None:
            raise SourceError(f"{self._name} is not open")
        sample, self._waiting = self._waiting, None
        if sample is None:
            sample = self._pull(self._read_s)
        now, wall = now_ns(), time.time()
        image = self._image(sample)
        exposed, stamp = self._exposure(sample, now)
        frame = Frame(image, self._seq, exposed, stamp, now, wall - (now - exposed) / 1e9)
        self._seq += 1
        return frame

    def close(self) -> None:
        """Stop the pipeline and free the camera."""
        pipeline = self._pipeline
        self._pipeline = self._sink = self._bus = self._waiting = self._caps = self._layout = None
        if pipeline is not None:
            pipeline.set_state(_gst.State.NULL)

    def _start(self, gst: Any) -> None:
        pipeline = self._pipeline = self._built(gst)
        sink = self._sink = pipeline.get_by_name(_SINK)
        if sink is None:
            raise SourceError(f"{self._name} has no appsink of the name {_SINK}: leave the sink away, it is added")
        self._bus = pipeline.get_bus()
        pipeline.use_clock(gst.SystemClock.obtain())  # else the network's or the sound card's
        elements = pipeline.iterate_recurse()
        factories = {e.get_factory().get_name() for e in _each(gst, elements) if e.get_factory() is not None}
        self._stamp = next((stamp for factory, stamp in _STAMPS.items() if factory in factories), "dequeue")
        paused = pipeline.set_state(gst.State.PAUSED)
        # A file has no pace of its own: it gets the clock's, and its frames are of the moment at which they are shown.
        if paused == gst.StateChangeReturn.ASYNC:  # a live source would have said that it has nothing before it plays
            paused, _, _ = pipeline.get_state(int(self._open_s / 2 * 1e9))
            sink.set_property("sync", paused == gst.StateChangeReturn.SUCCESS)
        elif (queue := pipeline.get_by_name("newest")) is not None:
            queue.set_property("leaky", _LEAKY_DOWNSTREAM)
        if paused != gst.StateChangeReturn.FAILURE:
            paused = pipeline.set_state(gst.State.PLAYING)
        if paused == gst.StateChangeReturn.FAILURE:
            raise SourceError(self._fault() or f"{self._name} cannot be started: check the camera and who uses it")

    def _built(self, gst: Any) -> Any:
        width, height, fps = self._asked
        if self._source.startswith("rtsp"):
            text = rtsp_pipeline(jetson=gst.ElementFactory.find("nvvidconv") is not None)
        elif self._source.startswith("csi"):
            if gst.ElementFactory.find("nvarguscamerasrc") is None:
                raise SourceError(f"{self._name} needs a Jetson with NVIDIA's nvarguscamerasrc, which is not here")
            text = csi_pipeline(int(self._source.partition(":")[2] or 0), width, height, fps)
        else:
            text = self._source[len(PIPELINE) :].strip()
            text = text if f"name={_SINK}" in text else f"{text} ! {_NEWEST} ! videoconvert"
        if f"name={_SINK}" not in text:
            text = f"{text} ! {_TO_SINK}"
        try:
            pipeline = gst.parse_launch(text)
        except Exception as error:  # noqa: BLE001  GLib.Error, which is known only once GStreamer is loaded
            raise SourceError(
                f"{self._name} is no pipeline that can be built ({self._safe(str(error))}): try it with gst-launch-1.0"
            ) from None  # the cause holds the pipeline's text
        if self._source.startswith("rtsp"):
            pipeline.get_by_name("rtsp").set_property("location", self._source)
        return pipeline

    def _pull(self, seconds: float) -> Any:
        """The newest sample, once there is one.

        Raises:
            SourceError: the pipeline failed, ended, or gave none in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            sample = self._sink.try_pull_sample(int(_BUS_S * 1e9))
            if sample is not None:
                return sample
            if fault := self._fault():
                raise SourceError(fault)
            if self._sink.is_eos():
                raise SourceError(f"{self._name} ended its stream")
            if time.monotonic() > deadline:
                raise SourceError(f"{self._name} sent no frame for {seconds:g} s")

    def _fault(self) -> str:
        """What the pipeline complained of, fit to be told; empty where it did not."""
        message = self._bus.pop_filtered(_gst.MessageType.ERROR)
        if message is None:
            return ""
        error, detail = message.parse_error()
        # The detail's last line is what the element itself said; the first ones are places in its source code.
        last = (detail or "").strip().rsplit("\n", 1)[-1]
        text = f"{error.message.strip().rstrip('.')}{f'; {last}' if last and last not in error.message else ''}"
        return f"{self._name} failed in {message.src.get_name()} ({self._safe(text)})"

    def _safe(self, text: str) -> str:
        return scrub(text, self._source, self._source[len(PIPELINE) :].strip(), *self._secrets)

    def _image(self, sample: Any) -> Any:
        """uint8 (height, width, 3) BGR of a sample; the caps may change from one to the next."""
        caps, buffer = sample.get_caps(), sample.get_buffer()
        if self._caps is None or not caps.is_equal(self._caps):
            layout = _video.VideoInfo.new_from_caps(caps)
            if layout is None or layout.finfo.name != "BGR":
                raise SourceError(f"{self._name} gives {caps.to_string().partition(',')[0]}, not video/x-raw in BGR")
            self._caps, self._layout = caps, layout
            self._half_interval_ns = int(0.5e9 * layout.fps_d / layout.fps_n) if layout.fps_n else 0
        width, height, stride = self._layout.width, self._layout.height, self._layout.stride[0]
        meta = _video.buffer_get_video_meta(buffer)
        if meta is not None:
            stride = meta.stride[0]
        mapped, memory = buffer.map(_gst.MapFlags.READ)
        if not mapped:
            raise SourceError(f"{self._name} gave a frame that cannot be read: end the pipeline in ordinary memory")
        try:
            data = bytes(memory.data)  # PyGObject copies here; with the package python3-gst-1.0 this line does
        finally:
            buffer.unmap(memory)
        if len(data) < stride * (height - 1) + 3 * width:  # the last row may come without its padding
            raise SourceError(f"{self._name} gave a frame that was cut short ({len(data)} bytes)")
        pixels = np.frombuffer(data, np.uint8)
        rows = np.lib.stride_tricks.as_strided(pixels, (height, width, 3), (stride, 3, 1), writeable=False)
        return np.ascontiguousarray(rows)

    def _exposure(self, sample: Any, now: int) -> tuple[int, Stamp]:
        """When a sample was exposed, as well as its element can tell."""
        none, buffer = _gst.CLOCK_TIME_NONE, sample.get_buffer()
        if buffer.pts == none:
            return now, "dequeue"
        running = sample.get_segment().to_running_time(_gst.Format.TIME, buffer.pts)
        if running == none:
            return now, "dequeue"
        exposed = self._pipeline.get_base_time() + running
        # A driver stamps after the exposure, by at most one interval: see edge/capture/v4l2.py.
        return exposed - (self._half_interval_ns if self._stamp == "driver" else 0), self._stamp

    def _source_format(self, gst: Any) -> str:
        """The format in which frames come out of the camera or the decoder, as its caps name it."""
        for element in _each(gst, self._pipeline.iterate_recurse()):
            factory = element.get_factory()
            if factory is not None and factory.get_name() == "videoconvert":
                caps = element.get_static_pad("sink").get_current_caps()
                return (caps.get_structure(0).get_string("format") or "") if caps is not None else ""
        return "BGR"


def _each(gst: Any, iterator: Any) -> list[Any]:
    """The items of a GStreamer iterator, which Python's own loop does not take without python3-gst-1.0."""
    items: list[Any] = []
    while True:
        result, item = iterator.next()
        if result == gst.IteratorResult.RESYNC:
            items.clear()
            iterator.resync()
        elif result != gst.IteratorResult.OK:
            return items
        else:
            items.append(item)
