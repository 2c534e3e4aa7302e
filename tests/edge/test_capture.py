from __future__ import annotations

import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture import Reader, SourceInfo, choose_source, picamera
from edge.capture.guard import StampGuard, Timeline
from edge.capture.replay import FolderSource, VideoSource
from edge.capture.v4l2 import V4L2Source
from edge.config import Capture
from edge.errors import EndOfSource, SourceError
from edge.frames import Frame, NewestFrameSlot, now_ns


def write_video(path: Path, frames: int = 12, fps: float = 25) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (96, 64))
    for index in range(frames):
        writer.write(np.full((64, 96, 3), 20 * index % 256, np.uint8))
    writer.release()
    return path


def write_folder(path: Path, count: int = 5) -> Path:
    path.mkdir()
    for index in range(count):
        cv2.imwrite(str(path / f"{index:03}.png"), np.full((40, 60, 3), 10 * index, np.uint8))
    return path


def drain(source: FolderSource | VideoSource) -> list[Frame]:
    frames = []
    source.open()
    try:
        while True:
            frames.append(source.read())
    except EndOfSource:
        return frames
    finally:
        source.close()


def test_a_lossless_folder_gives_every_image_in_order_on_its_own_timeline(tmp_path: Path) -> None:
    frames = drain(FolderSource(write_folder(tmp_path / "f"), fps=20, lossless=True, loop=False))
    assert [f.name for f in frames] == [f"{i:03}.png" for i in range(5)]
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 10, 20, 30, 40]
    assert [f.decided_at_s for f in frames] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_a_live_folder_keeps_its_pace_and_begins_again(tmp_path: Path) -> None:
    source = FolderSource(write_folder(tmp_path / "f", 3), fps=50, lossless=False, loop=True)
    source.open()
    frames = [source.read() for _ in range(7)]
    assert [f.name for f in frames] == ["000.png", "001.png", "002.png"] * 2 + ["000.png"]
    assert [f.seq for f in frames] == list(range(7))
    assert (frames[-1].exposed_ns - frames[0].exposed_ns) / 1e9 >= 6 / 50 - 1e-6


def test_a_video_gives_its_frames_and_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi")
    source = VideoSource(str(path), lossless=True, loop=False)
    info = source.open()
    assert (info.width, info.height, info.fps) == (96, 64, 25)
    frames = drain(source)
    assert len(frames) == 12
    assert frames[-1].decided_at_s == pytest.approx(11 / 25)


def test_a_looped_video_goes_on_counting(tmp_path: Path) -> None:
    source = VideoSource(str(write_video(tmp_path / "v.avi", 3)), lossless=True, loop=True)
    source.open()
    assert [source.read().seq for _ in range(8)] == list(range(8))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "not a video that can be read"),
        (lambda p: p.write_text("no video at all\n" * 100), "not a video that can be read"),
        (lambda p: p.write_bytes(write_video(p.with_suffix(".avi")).read_bytes()[:300]), "can be read"),
    ],
    ids=["empty", "text", "truncated"],
)
def test_what_is_no_video(tmp_path: Path, make, words: str) -> None:
    path = tmp_path / "video.mp4"
    make(path)
    source = VideoSource(str(path), lossless=True, loop=False)
    with pytest.raises(SourceError, match=words):
        drain(source)


def test_a_folder_without_images_and_with_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no images"):
        FolderSource(tmp_path / "empty", fps=1, lossless=True, loop=False).open()
    folder = write_folder(tmp_path / "f")
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])
    source = FolderSource(folder, fps=1, lossless=True, loop=False)
    source.open()
    source.read()
    try:
        image = source.read().image
    except SourceError as error:
        assert "001.png is no readable image" in str(error)  # noqa: PT017  either way is right, a crash is not
    else:
        assert image.shape == (40, 60, 3)


def test_sources_by_name(tmp_path: Path) -> None:
    assert type(choose_source(Capture(source="phantom"))).__name__ == "PhantomSource"
    assert isinstance(choose_source(Capture(source="/dev/video7")), V4L2Source)
    assert isinstance(choose_source(Capture(source=str(write_folder(tmp_path / "f")))), FolderSource)
    with pytest.raises(SourceError, match="is not there: give phantom, picamera"):
        choose_source(Capture(source=str(tmp_path / "none.mp4")))
    with pytest.raises(SourceError, match="names no camera"):
        choose_source(Capture(source="picamera:left"))


def test_a_camera_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not there: check that the camera is plugged in"):
        V4L2Source(lambda: str(tmp_path / "video0"), 640, 480, 30).open()
    (tmp_path / "video0").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be opened as a camera"):
        V4L2Source(lambda: str(tmp_path / "video0"), 640, 480, 30).open()


@pytest.mark.skipif(picamera.available(), reason="this machine has a Pi camera")
def test_picamera_without_its_system_package_says_what_to_install() -> None:
    with pytest.raises(SourceError, match="python3-picamera2"):
        picamera.PicameraSource(0, 640, 480, 30, 1).open()


class Flaky:
    """A camera that delivers some frames, vanishes, is missing for a while, and comes back."""

    def __init__(self, frames: int, missing: int) -> None:
        self.frames, self.missing, self.opened, self.closed = frames, missing, 0, 0
        self._left = frames
        self._seq = 0

    def open(self) -> SourceInfo:
        self.opened += 1
        if 1 < self.opened <= 1 + self.missing:
            raise SourceError("/dev/video0 is not there")
        self._left = self.frames
        return SourceInfo("test", "flaky", 32, 24, 30)

    def read(self) -> Frame:
        if not self._left:
            raise SourceError("/dev/video0 stopped delivering")
        self._left -= 1
        self._seq += 1
        time.sleep(0.001)
        return Frame(np.zeros((24, 32, 3), np.uint8), self._seq, now_ns(), "dequeue", now_ns(), time.time())

    def close(self) -> None:
        self.closed += 1


def test_a_camera_that_vanishes_is_opened_anew_until_it_is_back() -> None:
    told: list[tuple[str, str]] = []
    slot = NewestFrameSlot()
    source = Flaky(5, 2)
    reader = Reader(source, slot, tell=lambda state, why: told.append((state, why)))
    reader.start()
    deadline = time.monotonic() + 8
    while reader.frames < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader.stop()
    assert reader.frames >= 8
    states = [state for state, _ in told]
    assert states[:4] == ["live", "lost", "lost", "live"]
    assert told[1][1] == "/dev/video0 stopped delivering"
    assert states[-1] == "stopped"
    assert source.closed >= 3


def test_a_surprise_in_a_driver_does_not_end_the_thread() -> None:
    class Surprise(Flaky):
        def read(self) -> Frame:
            if self.opened == 1:
                raise ValueError("a driver's surprise")
            return super().read()

    reader = Reader(Surprise(5, 0), NewestFrameSlot(), tell=lambda *_: None)
    reader.start()
    deadline = time.monotonic() + 5
    while not reader.frames and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader.frames
    reader.stop()


def test_a_driver_that_hangs_is_seen_and_does_not_hold_the_stop() -> None:
    release = threading.Event()

    class Hung(Flaky):
        def read(self) -> Frame:
            if self._seq == 1:
                release.wait(20)
            return super().read()

    reader = Reader(Hung(9, 0), NewestFrameSlot(), tell=lambda *_: None)
    reader.start()
    time.sleep(0.4)
    assert reader.frames == 1
    assert reader.hangs(open_s=9, read_s=0.2) == pytest.approx(0.4, abs=0.2)
    assert not reader.hangs(open_s=0.1, read_s=9)
    assert not reader.stop(timeout_s=0.2)
    release.set()
    assert reader.stop()


def test_opening_and_the_first_frame_may_take_longer_and_waiting_to_try_again_is_not_hanging() -> None:
    release = threading.Event()

    class Slow(Flaky):
        def read(self) -> Frame:
            release.wait(20)
            raise SourceError("no frame")

    reader = Reader(Slow(1, 99), NewestFrameSlot(), tell=lambda *_: None)
    reader.start()
    time.sleep(0.3)
    assert not reader.hangs(open_s=9, read_s=0.1)
    assert reader.hangs(open_s=0.1, read_s=9)
    release.set()
    time.sleep(0.4)
    assert reader.state == "lost"
    assert not reader.hangs(open_s=0.1, read_s=0.1)
    reader.stop()


class Scripted(Flaky):
    """A camera whose frames are changed by a function of their number."""

    def __init__(self, change) -> None:
        super().__init__(10**9, 0)
        self._change = change

    def read(self) -> Frame:
        frame = super().read()
        return self._change(frame.seq, frame)


def through_the_reader(change, frames: int) -> tuple[Reader, list[Frame]]:
    slot, taken = NewestFrameSlot(), []
    reader = Reader(Scripted(change), slot, lossless=True, tell=lambda *_: None)
    reader.start()
    while len(taken) < frames and (frame := slot.take(2)) is not None:
        taken.append(frame)
    reader.stop()
    return reader, taken


@pytest.mark.parametrize(
    ("spoil", "name", "handed_on"),
    [
        (lambda i: i[..., 0], "grey", True),
        (lambda i: i[..., :1], "grey", True),
        (lambda i: np.dstack([i, i[..., :1]]), "four_channels", True),
        (lambda i: i[..., :2], "channels", False),
        (lambda i: i[:0], "empty", False),
        (lambda i: i.astype(np.uint16), "depth", False),
        (lambda i: i[:12], "too_small", False),
        (lambda i: i[:, :20], "another_size", False),
        (lambda i: i.reshape(1, -1), "too_small", False),
    ],
)
def test_odd_frames_are_made_right_or_kept_out_and_counted(spoil, name: str, *, handed_on: bool) -> None:
    reader, taken = through_the_reader(lambda seq, f: replace(f, image=spoil(f.image)) if seq in (3, 4) else f, 6)
    assert all(f.image.shape == (24, 32, 3) and f.image.dtype == np.uint8 for f in taken)
    assert [f.seq for f in taken] == ([1, 2, 3, 4, 5, 6] if handed_on else [1, 2, 5, 6, 7, 8])
    counts = reader.images.converted if handed_on else reader.images.rejected
    assert counts == {name: 2}
    assert reader.state == "stopped"  # and never lost


def test_a_size_that_stays_is_the_cameras_new_one() -> None:
    reader, taken = through_the_reader(
        lambda seq, f: replace(f, image=np.zeros((48, 64, 3), np.uint8)) if seq > 2 else f, 6
    )
    assert [f.seq for f in taken] == [1, 2, 7, 8, 9, 10]
    assert reader.info is not None
    assert (reader.info.width, reader.info.height) == (64, 48)
    assert reader.images.rejected == {"another_size": 4}


def test_a_camera_that_gives_nothing_usable_is_opened_anew() -> None:
    told: list[tuple[str, str]] = []
    source = Scripted(lambda seq, f: replace(f, image=f.image[:0]))
    reader = Reader(source, NewestFrameSlot(), tell=lambda state, why: told.append((state, why)))
    reader.start()
    deadline = time.monotonic() + 5
    while source.opened < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.stop()
    assert told[1] == ("lost", "flaky delivers no frame that can be used (empty)")


def stamped(delivery_ms: list[float]) -> tuple[StampGuard, list[Frame]]:
    """Frames every 33 ms that say that they took so long to be delivered; the truth is 40 ms."""
    guard = StampGuard()
    frames = []
    for number, ms in enumerate(delivery_ms):
        dequeued = 10**12 + number * 33_000_000
        exposed = dequeued - int(ms * 1e6)
        frame = Frame(np.zeros((1, 1, 3), np.uint8), number, exposed, "driver", dequeued, 1e9 - ms / 1e3)
        frames.append(guard.check(frame))
    return guard, frames


HOUR_MS = 3.6e6


@pytest.mark.parametrize(
    ("delivery_ms", "refused"),
    [
        ([40] * 9, []),
        ([40, 40, 40 - HOUR_MS, 40, 40], [2]),
        ([40, 40, 40 + HOUR_MS, 40, 40], [2]),
        ([40, 40, *[40 - HOUR_MS] * 5], [2, 3, 4, 5, 6]),
        ([40, 40, *[40 + 1000] * 5, 41, 40], [2, 3, 4, 5, 6]),
        ([40, 40, *[40 - 300] * 5], [2, 3, 4, 5, 6]),
        ([40, 73, 106, 139], [1, 2, 3]),
        ([1e9] * 4, [0, 1, 2, 3]),
        ([40, 600, 570, 540, 45], [1, 2, 3]),
    ],
    ids=["good", "one ahead", "one back", "ahead", "back and right again", "0.3 s ahead", "standing still",
         "another clock", "back, slowly catching up"],
)  # fmt: skip
def test_stamps_that_cannot_be_are_refused_and_no_age_is_negative_or_wrong(
    delivery_ms: list[float], refused: list[int]
) -> None:
    guard, frames = stamped(delivery_ms)
    assert [f.seq for f in frames if f.stamp == "dequeue"] == refused
    assert guard.refused == len(refused)
    for frame in frames:
        assert 0 <= frame.dequeued_ns - frame.exposed_ns <= 50e6
        if frame.stamp == "dequeue":
            assert frame.wall_time == pytest.approx(1e9)


def test_frames_that_waited_in_the_driver_keep_their_true_age() -> None:
    guard, image = StampGuard(), np.zeros((1, 1, 3), np.uint8)
    at_once = 10**12 + 500_000_000
    queue = [Frame(image, n, 10**12 + n * 33_000_000, "driver", at_once + n, 0.0) for n in range(5)]
    assert [guard.check(f).age_ms(at_once) for f in queue] == pytest.approx([500, 467, 434, 401, 368])
    assert not guard.refused


def test_a_replays_time_goes_on_where_it_begins_again() -> None:
    timeline, image = Timeline(), np.zeros((1, 1, 3), np.uint8)
    given = [0, 30, 60, 0, 30, 30, 60, 10, 500]
    frames = [Frame(image, n, 0, "synthetic", 0, 0.0, "", ms) for n, ms in enumerate(given)]
    assert [timeline.check(f).timeline_ns for f in frames] == [0, 30, 60, 90, 120, 120, 150, 180, 670]
    assert timeline.restarted == 2
    camera = Frame(image, 9, 0, "sensor", 0, 0.0)
    assert timeline.check(camera) is camera


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_no_replays_time_runs_backwards(given_ns: list[int]) -> None:
    timeline, image = Timeline(), np.zeros((1, 1, 3), np.uint8)
    times = [
        timeline.check(Frame(image, n, 0, "synthetic", 0, 0.0, "", ns)).timeline_ns or 0
        for n, ns in enumerate(given_ns)
    ]
    assert times == sorted(times)
    assert times[0] == given_ns[0]


def test_the_measured_rate_is_that_of_the_frames() -> None:
    def slow(_: int, frame: Frame) -> Frame:
        time.sleep(0.019)
        return frame

    slot = NewestFrameSlot()
    reader = Reader(Scripted(slow), slot, tell=lambda *_: None)
    reader.start()
    time.sleep(0.8)
    assert reader.fps == pytest.approx(48, rel=0.25)
    reader.stop()


def test_a_stream_that_does_not_answer_is_told_before_it_counts_as_hung() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and says nothing
        source = VideoSource(f"http://127.0.0.1:{server.getsockname()[1]}/x", lossless=False, loop=False, stream=True)
        begin = time.monotonic()
        with pytest.raises(SourceError, match="not a stream that answers"):
            source.open()
        assert time.monotonic() - begin < Capture().open_s - 2


@pytest.mark.parametrize(
    ("metadata", "age_ms", "stamp"),
    [
        ({"SensorTimestamp": 20_000_000, "ExposureTime": 10_000}, 25, "sensor"),
        ({"SensorTimestamp": 20_000_000}, 20, "sensor"),
        ({}, 0, "dequeue"),
    ],
)
def test_a_pi_cameras_stamp_is_the_middle_of_its_exposure(metadata: dict[str, int], age_ms: float, stamp: str) -> None:
    if "SensorTimestamp" in metadata:
        metadata = {**metadata, "SensorTimestamp": time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 20_000_000}
    now = now_ns()
    exposed, kind = picamera._exposure(metadata, now)
    assert (now - exposed) / 1e6 == pytest.approx(age_ms, abs=2)
    assert kind == stamp


class PiCamera:
    """Keeps what it is asked, and answers as picamera2 0.3.38 does; the real one needs a Pi."""

    camera_controls = {"FrameDurationLimits": (25_000, 1_000_000, 33_333)}  # noqa: RUF012  not changed

    def __init__(self, number: int) -> None:
        self.number, self.asked, self.running = number, {}, False

    def create_video_configuration(self, **asked: object) -> dict:
        self.asked = asked
        return asked

    def configure(self, configuration) -> None:
        assert all(side % 2 == 0 for side in configuration["main"]["size"])

    def start(self) -> None:
        self.running = True

    def camera_configuration(self) -> dict:
        return self.asked

    def close(self) -> None:
        self.running = False
        raise RuntimeError("Failed to release camera")


def test_a_pis_processor_makes_frames_small_and_the_size_asked_for_chooses_the_sensors_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=PiCamera))
    source = picamera.PicameraSource(1, 1640, 1232, 60, 1)
    info = source.open()
    camera = source._camera
    assert (info.name, info.width, info.height, info.fps) == ("picamera:1", 640, 480, 40)  # as fast as the mode goes
    assert camera.asked["main"]["format"] == "RGB888"
    assert camera.asked["sensor"] == {"output_size": (1640, 1232)}
    assert camera.asked["controls"] == {"FrameDurationLimits": (16_666, 16_666)}
    assert camera.asked["queue"] is False
    source.close()
    source.close()
    assert not camera.running
    assert picamera.PicameraSource(0, 320, 240, 30, 1).open().width == 320


def test_a_v4l2_frames_stamp_is_the_drivers_less_half_an_interval() -> None:
    class Camera:
        msec = 0.0

        def get(self, _: int) -> float:
            return self.msec

    source, camera = V4L2Source(lambda: "x", 640, 480, 25), Camera()
    source._camera, source._half_interval_ns = camera, 20_000_000
    assert source._exposure(5_000_000_000) == (5_000_000_000, "dequeue")
    camera.msec = 4_970.0
    assert source._exposure(5_000_000_000) == (4_950_000_000, "driver")


def test_a_replay_ends() -> None:
    class Once(Flaky):
        def read(self) -> Frame:
            if not self._left:
                raise EndOfSource
            return super().read()

    slot = NewestFrameSlot()
    reader = Reader(Once(3, 0), slot, lossless=True, tell=lambda *_: None)
    reader.start()
    seen = []
    while (frame := slot.take(1)) is not None:
        seen.append(frame.seq)
    assert seen == [1, 2, 3]
    assert reader.state == "ended"
