"""The GStreamer source on real pipelines: test pictures, a file, and an RTSP server that lives and dies here."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge.capture import Reader, choose_source, gstreamer, is_camera
from edge.capture.gstreamer import GStreamerSource, csi_pipeline, rtsp_pipeline
from edge.capture.replay import VideoSource
from edge.config import Capture
from edge.errors import SourceError
from edge.frames import Frame, NewestFrameSlot, now_ns

needs_gstreamer = pytest.mark.skipif(
    not gstreamer.available(), reason="GStreamer, or PyGObject for this Python, is missing: prerequisites.sh gstreamer"
)

BALL = "gst:videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=322,height=240,framerate=30/1"


@contextlib.contextmanager
def opened(pipeline: str, **times: float) -> Iterator[GStreamerSource]:
    source = GStreamerSource(pipeline, 640, 480, 30, **times)
    try:
        yield source
    finally:
        source.close()


def wait_for(condition: Callable[[], object], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@needs_gstreamer
def test_a_pipelines_frames_come_in_their_real_format_with_stamps_of_the_monotonic_clock() -> None:
    with opened(BALL) as source:
        begin = now_ns()
        info = source.open()
        assert (info.width, info.height, info.fps, info.pixel_format) == (322, 240, 30, "I420")
        assert info.live
        assert info.name == "gst:videotestsrc"
        frames = [source.read() for _ in range(8)]
    assert [f.seq for f in frames] == list(range(8))
    for frame in frames:
        assert frame.image.shape == (240, 322, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.stamp == "synthetic"
        # Signs and order only: a busy machine delivers when it can.
        assert begin < frame.exposed_ns <= frame.dequeued_ns <= now_ns()
        assert frame.wall_time == pytest.approx(time.time(), abs=60)
    exposed = [f.exposed_ns for f in frames]
    assert exposed == sorted(set(exposed))
    # The ticks are the pipeline's, not the reader's: whole intervals apart, whenever they were taken.
    steps = np.diff(exposed) / (1e9 / 30)
    assert np.abs(steps - steps.round()).max() < 1e-3
    assert len({f.image.tobytes() for f in frames}) > 1


@needs_gstreamer
@pytest.mark.parametrize(("color", "bgr"), [(0xFFFF0000, (0, 0, 255)), (0xFF0000FF, (255, 0, 0))])
def test_colours_arrive_as_bgr_whatever_the_rows_padding(color: int, bgr: tuple[int, int, int]) -> None:
    solid = f"gst:videotestsrc is-live=true pattern=solid-color foreground-color={color}"
    with opened(f"{solid} ! video/x-raw,width=323,height=241") as source:
        source.open()
        image = source.read().image
    assert image.shape == (241, 323, 3)
    assert np.abs(image.astype(int) - bgr).max() < 8


@needs_gstreamer
def test_only_the_newest_frame_waits() -> None:
    with opened(BALL) as source:
        source.open()
        source.read()
        time.sleep(0.5)
        before = now_ns()
        first, second = source.read(), source.read()
    # The one that waited may be as old as the interval it belongs to; what queued would be half a second old.
    assert before - first.exposed_ns < 0.3e9
    assert second.exposed_ns > first.exposed_ns


@needs_gstreamer
def test_a_stamp_that_is_the_drivers_is_moved_back_by_half_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gstreamer._STAMPS, "videotestsrc", "driver")
    with opened(BALL) as source:
        source.open()
        sample = source._waiting
        exposed, stamp = source._exposure(sample, now_ns())
        base = source._pipeline.get_base_time()
    assert stamp == "driver"
    assert exposed == pytest.approx(base + sample.get_buffer().pts - 0.5e9 / 30, abs=2)


@needs_gstreamer
def test_a_size_that_changes_in_mid_stream_is_handed_on_as_it_comes() -> None:
    sized = "gst:videotestsrc is-live=true ! videoscale ! capsfilter name=size caps=video/x-raw,width=320,height=240"
    with opened(sized) as source:
        source.open()
        assert source.read().image.shape == (240, 320, 3)
        caps = gstreamer._load().Caps.from_string("video/x-raw,width=162,height=120")
        source._pipeline.get_by_name("size").set_property("caps", caps)
        assert wait_for(lambda: source.read().image.shape == (120, 162, 3))


@needs_gstreamer
def test_a_stream_that_ends_is_told_and_opened_anew_by_the_reader() -> None:
    told: list[tuple[str, str]] = []
    source = GStreamerSource(BALL.replace("is-live=true", "is-live=true num-buffers=6"), 640, 480, 30)
    slot = NewestFrameSlot()
    reader = Reader(source, slot, tell=lambda state, why: told.append((state, why)))
    reader.start()
    assert wait_for(lambda: ("live", "") in told[1:])
    assert reader.stop(5)
    assert [state for state, _ in told[:3]] == ["live", "lost", "live"]
    assert told[1][1] == "gst:videotestsrc ended its stream"
    assert reader.info is not None
    assert (reader.info.width, reader.info.height) == (322, 240)
    assert not reader.stamps.refused


@needs_gstreamer
def test_a_file_keeps_its_own_pace_and_its_frames_are_of_the_moment() -> None:
    not_live = "gst:videotestsrc num-buffers=12 ! video/x-raw,width=320,height=240,framerate=20/1"
    with opened(not_live) as source:
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            while len(frames) < 12:
                frames.append(source.read())
    assert len(frames) > 3
    # Had it run as fast as it can, the stamps would lie half a second ahead.
    assert all(f.exposed_ns <= f.dequeued_ns + 20e6 for f in frames)
    assert frames[-1].dequeued_ns - frames[0].dequeued_ns > 0.3e9


@needs_gstreamer
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gst:nosuchelement ! videoconvert", "is no pipeline that can be built"),
        ("gst:videotestsrc nosuch=1", "is no pipeline that can be built"),
        ("gst:videotestsrc ! fakesink", "is no pipeline that can be built|sent no frame|failed in"),
        ("gst:filesrc location=/nowhere/patient.mkv ! decodebin", "failed in filesrc0"),
        ("gst:videotestsrc is-live=true ! valve drop=true", "sent no frame for 0.5 s"),
        ("gst:videotestsrc ! appsink name=foldsight caps=video/x-raw,format=NV12", "not video/x-raw in BGR"),
        ("csi:1", "needs a Jetson"),
    ],
)
def test_what_cannot_work_is_one_clear_sentence(source: str, words: str) -> None:
    with opened(source, open_s=0.5) as it, pytest.raises(SourceError, match=words) as caught:
        it.open()
    assert "\n" not in str(caught.value)
    assert "patient" not in str(caught.value)


def test_without_the_system_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "_gst", None)
    monkeypatch.setattr(gstreamer, "_SYSTEM_PACKAGES", gstreamer.Path("/nowhere"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "dist-packages" not in p])
    for name in [n for n in sys.modules if n == "gi" or n.startswith("gi.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SourceError, match=r"apt install python3-gi gir1\.2-gst-plugins-base-1\.0"):
        GStreamerSource("gst:videotestsrc", 640, 480, 30).open()
    with pytest.raises(SourceError, match="apt install"):
        choose_source(Capture(source="csi")).open()
    assert isinstance(choose_source(Capture(source="rtsp://127.0.0.1:1/x")), VideoSource)  # OpenCV's, rather than none


def test_sources_of_gstreamer_by_name() -> None:
    for name in ("csi", "csi:2", "gst:videotestsrc"):
        assert isinstance(choose_source(Capture(source=name)), GStreamerSource)
        assert is_camera(Capture(source=name))
    with pytest.raises(SourceError, match="write csi or csi:N"):
        choose_source(Capture(source="csi:left"))


def test_what_is_asked_of_a_jetsons_camera() -> None:
    text = csi_pipeline(1, 1920, 1080, 29.97)
    assert text.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,")
    assert "framerate=2997/100 " in text
    assert " ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert" in text
    assert "nvvidconv" in rtsp_pipeline(jetson=True)
    assert "nvvidconv" not in rtsp_pipeline(jetson=False)


SERVER = """
    import sys
    from edge.capture import gstreamer
    gstreamer._load()
    import gi
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, GstRtspServer
    server = GstRtspServer.RTSPServer()
    server.set_service(sys.argv[1])
    server.set_address("127.0.0.1")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("clinic", "s3cret-word"), token)
    server.set_auth(auth)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 "
        "! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
    )
    factory.set_shared(True)
    permissions = GstRtspServer.RTSPPermissions()
    for what in ("access", "construct"):
        permissions.add_permission_for_role("user", "media.factory." + what, True)
    factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/scope", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()
"""


class RtspServer:
    """A camera on the network that asks for a password."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"rtsp://clinic:s3cret-word@127.0.0.1:{self.port}/scope?token=t0ken-word"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        code = textwrap.dedent(SERVER)
        self._process = subprocess.Popen(  # the same environment as ours, a process of its own to kill
            [sys.executable, "-c", code, str(self.port)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()  # noqa: PTH109
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.strip() != "ready":
            pytest.skip("gir1.2-gst-rtsp-server-1.0 is missing: deploy/prerequisites.sh gstreamer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def server() -> Iterator[RtspServer]:
    it = RtspServer()
    it.start()
    try:
        yield it
    finally:
        it.kill()


@needs_gstreamer
def test_an_rtsp_camera_is_read_lost_and_found_again_and_its_password_is_told_to_nobody(
    server: RtspServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[tuple[str, str]] = []
    slot = NewestFrameSlot()
    reader = Reader(choose_source(Capture(source=server.url)), slot, tell=lambda state, why: told.append((state, why)))
    reader.start()
    assert wait_for(lambda: reader.frames > 10), told
    frames = [f for f in (slot.take(2) for _ in range(5)) if f is not None]
    assert len(frames) == 5
    for frame in frames:
        assert frame.image.shape == (240, 320, 3)
        assert frame.stamp == "dequeue"  # when it arrived; nobody tells when it was exposed
        assert frame.exposed_ns <= frame.dequeued_ns
    exposed = [f.exposed_ns for f in frames]
    assert exposed == sorted(set(exposed))
    assert reader.info is not None
    assert (reader.info.width, reader.info.height, reader.info.live) == (320, 240, True)
    assert reader.info.name == f"rtsp://127.0.0.1:{server.port}"

    server.kill()
    assert wait_for(lambda: reader.state == "lost"), told
    server.start()
    count = reader.frames
    assert wait_for(lambda: reader.frames > count + 5, 25), told
    assert reader.state == "live"
    assert reader.stop(5)
    said = repr(told) + caplog.text + repr(reader.info)
    assert "127.0.0.1" in said
    for secret in ("clinic", "s3cret", "t0ken"):
        assert secret not in said


@needs_gstreamer
def test_a_refused_password_and_a_camera_that_is_away_are_told_without_it(server: RtspServer) -> None:
    wrong = server.url.replace("s3cret-word", "wr0ng-word")
    with opened(wrong, open_s=8) as source, pytest.raises(SourceError, match="failed in rtsp") as caught:
        source.open()
    assert "wr0ng" not in str(caught.value)
    assert "nauthorized" in str(caught.value)
    server.kill()
    with opened(server.url, open_s=8) as source, pytest.raises(SourceError, match="failed in rtsp") as caught:
        source.open()
    assert "s3cret" not in str(caught.value)
