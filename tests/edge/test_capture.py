from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import Reader, SourceInfo, choose_source, picamera
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
        return SourceInfo("test", "flaky", 4, 4, 30)

    def read(self) -> Frame:
        if not self._left:
            raise SourceError("/dev/video0 stopped delivering")
        self._left -= 1
        self._seq += 1
        time.sleep(0.001)
        return Frame(np.zeros((4, 4, 3), np.uint8), self._seq, now_ns(), "dequeue", now_ns(), time.time())

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
            release.wait(20)
            raise SourceError("released")

    reader = Reader(Hung(1, 0), NewestFrameSlot(), tell=lambda *_: None)
    reader.start()
    time.sleep(0.3)
    assert (now_ns() - reader.progress_ns) / 1e9 > 0.2
    assert not reader.stop(timeout_s=0.2)
    release.set()
    assert reader.stop()


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
