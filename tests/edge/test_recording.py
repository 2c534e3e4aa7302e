"""Recording: nothing unless it is on, bounded in every direction, and never in the pipeline's way."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import cli, sealing
from edge.config import Config, Recording
from edge.errors import ConfigError, FoldsightError
from edge.frames import Frame, now_ns
from edge.messages import ModelId
from edge.pairing import files
from edge.recording import INDEX, Origin, Picture, Recorder, occasion
from edge.recordings import Recordings

ON = {"enabled": True, "keep_free_mb": 0, "before_s": 1, "after_s": 0.3, "fps": 30}


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Desk:
    """A recorder, and what it tells."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.seq = 0
        self.recorder = Recorder(
            Recording.model_validate({**ON, **settings}),
            folder,
            origin=Origin("adapter-1", 7, lambda: ModelId(name="redness", version="1.0.0")),
            tell=lambda *words: self.told.append(words),
        )
        self.recorder.start()

    def show(self, count: int, *, every_s: float = 1 / 30, state: str = "no_folds") -> None:
        """Frames whose stamps lie `every_s` apart, the last one at this moment."""
        begin = now_ns()
        for left in reversed(range(count)):
            exposed = begin - int(1e9 * left * every_s)
            image = np.full((120, 160, 3), self.seq % 200, np.uint8)
            self.recorder.offer(Frame(image, self.seq, exposed, "driver", now_ns(), 1.7e9 + self.seq), state)
            self.seq += 1
            until(lambda: self.recorder._newest is None)

    def written(self, count: int = 1) -> list[Path]:
        until(lambda: self.recorder.counts.written >= count)
        return [kept.path for kept in self.recorder.folder.all()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(**settings: Any) -> Desk:
        desks.append(Desk(tmp_path, **settings))
        return desks[-1]

    yield make
    for each in desks:
        each.recorder.stop()


def opened(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(content.pop(INDEX)), content


def test_off_by_default_and_then_nothing_is_written(tmp_path: Path) -> None:
    assert Config().recording.enabled is False
    assert Config().preview.enabled is False
    assert not list(tmp_path.iterdir())


def test_a_clip_holds_what_was_before_and_what_came_after(desk: Callable[..., Desk]) -> None:
    it = desk()
    it.show(60)  # two seconds, of which one is kept
    it.recorder.begin("finding")
    it.show(4, state="folds")
    (path,) = it.written()
    index, pictures = opened(path)
    assert path.name == "clip-7-00001.zip"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert (index["why"], index["device"], index["session"]) == ("finding", "adapter-1", 7)
    assert [p["file"] for p in index["pictures"]] == sorted(pictures)
    states = [p["state"] for p in index["pictures"]]
    assert states.count("folds") == 4
    assert 25 <= states.count("no_folds") <= 32
    assert states == sorted(states, reverse=True)
    numbers = [p["seq"] for p in index["pictures"]]
    assert numbers == sorted(set(numbers))
    assert cv2.imdecode(np.frombuffer(pictures["00000.jpg"], np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)
    assert it.told == [("recording", "written", path.name)]


def test_a_clip_ends_though_no_frame_comes_any_more(desk: Callable[..., Desk]) -> None:
    it = desk()
    it.show(5)
    it.recorder.begin("fault")
    assert opened(it.written()[0])[0]["why"] == "fault"


def test_what_happens_meanwhile_prolongs_a_clip_and_makes_no_second_one(desk: Callable[..., Desk]) -> None:
    it = desk(after_s=0.4)
    it.show(3)
    for _ in range(4):
        it.recorder.begin("finding")
        it.show(3)
        time.sleep(0.2)
    (path,) = it.written()
    assert len(opened(path)[0]["pictures"]) == 15


def test_only_what_was_asked_for_makes_a_clip(desk: Callable[..., Desk]) -> None:
    it = desk(clips=["fault"])
    it.show(3)
    it.recorder.begin("finding")
    time.sleep(0.6)
    assert not it.recorder.folder.all()


def test_a_snapshot_is_the_whole_frame_once_a_second(desk: Callable[..., Desk]) -> None:
    it = desk(width=64, clips=[])
    assert it.recorder.snapshot() == "there is no picture to keep"
    it.show(2)
    assert it.recorder.snapshot() == ""
    assert it.recorder.snapshot() == "one snapshot a second"
    (path,) = it.written()
    index, pictures = opened(path)
    assert (index["kind"], list(pictures), index["pictures"][0]["seq"]) == ("snapshot", ["00000.jpg"], 1)
    assert cv2.imdecode(np.frombuffer(pictures["00000.jpg"], np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)
    time.sleep(1.2)
    assert it.recorder.snapshot() == "there is no picture to keep"  # not the last one again


def test_sealed_recordings_open_with_the_private_key_alone(
    desk: Callable[..., Desk], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, state = tmp_path / "keys" / "owner", ["--set", f"state_dir={tmp_path}"]
    keys.parent.mkdir()
    assert cli.main(["recording", "keygen", str(keys)]) == 0
    it = desk(recipient=Path(f"{keys}.pub"))
    it.show(3)
    it.recorder.begin("finding")
    (path,) = it.written()
    assert path.name == "clip-7-00001.zip.age"
    assert b"\xff\xd8\xff" not in path.read_bytes()
    with pytest.raises(zipfile.BadZipFile):
        opened(path)
    capsys.readouterr()
    assert cli.main(["recording", "list", "--json", *state]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sealed"] is True
    assert cli.main(["recording", "export", "all", "--out", str(tmp_path / "out"), *state]) == 0
    copy = tmp_path / "out" / path.name
    assert cli.main(["recording", "decrypt", str(copy), "--key", str(keys), "--out", str(tmp_path / "open")]) == 0
    assert opened(tmp_path / "open" / "clip-7-00001.zip")[0]["why"] == "finding"
    assert cli.main(["recording", "decrypt", str(copy), "--key", str(keys), "--out", str(tmp_path / "open")]) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert cli.main(["recording", "delete", path.name, *state]) == 0
    assert cli.main(["recording", "delete", path.name, *state]) == 1
    assert "is no recording" in capsys.readouterr().err
    assert not it.recorder.folder.all()


def test_without_the_key_that_it_was_told_nothing_is_kept_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recording\.recipient: .* cannot be read"):
        Desk(tmp_path, recipient=tmp_path / "none")


def test_a_slow_card_holds_up_nobody_and_what_is_let_go_is_counted(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    write = files.write
    monkeypatch.setattr(files, "write", lambda *a: (free.wait(20), write(*a)))
    it = desk(after_s=0)
    longest = 0.0
    for _ in range(5):
        before = time.thread_time()
        it.show(2)
        it.recorder.begin("fault")
        longest = max(longest, time.thread_time() - before)
        until(lambda: not it.recorder._occasions and it.recorder._clip is None)
        it.show(1)
    until(lambda: it.recorder.counts.dropped >= 2)
    assert it.told == [("recording", "failing", "the disk is too slow")]
    assert it.recorder._jobs.qsize() == 1
    free.set()
    until(lambda: it.recorder.counts.written >= 2)
    assert it.told[1] == ("recording", "working", "")
    assert it.recorder.health.dropped == it.recorder.counts.dropped


def test_a_folder_that_cannot_be_written_is_told_once_and_when_it_is_over(
    desk: Callable[..., Desk], tmp_path: Path
) -> None:
    (tmp_path / "recordings").write_text("in the way")
    it = desk(after_s=0)
    for _ in range(2):
        it.show(2)
        it.recorder.begin("fault")
        until(lambda: not it.recorder._occasions and it.recorder._clip is None and it.recorder._jobs.empty())
    until(lambda: it.recorder.counts.failed == 2)
    assert [(kind, after) for kind, after, _ in it.told] == [("recording", "failing")]
    assert it.recorder.health.problem
    (tmp_path / "recordings").unlink()
    it.recorder.begin("fault")
    it.written()
    assert [after for _, after, _ in it.told] == ["failing", "working", "written"]


def test_memory_is_bounded_whatever_a_picture_is_like(desk: Callable[..., Desk]) -> None:
    it = desk(before_s=30)
    for number in range(60):
        it.recorder._keep(Picture(number, number * 33_000_000, 0.0, "folds", bytes(700_000)))
    assert 15e6 < sum(len(p.jpeg) for p in it.recorder._ring) <= 16e6
    assert it.recorder._ring_bytes == sum(len(p.jpeg) for p in it.recorder._ring)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60))
def test_the_ring_holds_the_last_seconds_whatever_the_stamps_do(steps: list[int]) -> None:
    recorder = Recorder(
        Recording.model_validate(ON),
        Path("/nonexistent"),
        origin=Origin("a", 1, lambda: ModelId(name="", version="")),
        tell=lambda *_: None,
    )
    at = 10_000_000_000
    for number, step in enumerate(steps):
        at += step * 200_000_000
        recorder._keep(Picture(number, at, 0.0, "folds", b"x"))
        assert recorder._ring[-1].seq == number
        assert all(at - 1_000_000_000 <= p.exposed_ns <= at for p in recorder._ring)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.integers(0, 4)), max_size=12),
    st.integers(50, 120),
)
def test_the_folder_stays_within_its_bounds(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, int]], most: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    now = 1_000_000.0
    recordings = Recordings(folder, max_bytes=most, max_age_s=5 * 3600, clock=lambda: now)
    for number, (size, hours, session) in enumerate(writes):
        now += 3600 * hours
        kept = recordings.write(f"clip-{session}-{number:05}.zip", bytes(size))
        os.utime(kept.path, (now, now))
        there = recordings.all()
        assert kept.path in [each.path for each in there]
        assert sum(each.bytes for each in there) <= most
        assert all(now - each.at <= 5 * 3600 for each in there)


def test_what_is_kept_grows_old_though_the_clock_went_back(tmp_path: Path) -> None:
    now = 2_000_000.0
    recordings = Recordings(tmp_path, max_age_s=3600, clock=lambda: now)
    kept = recordings.write("clip-1-00001.zip", b"x")
    os.utime(kept.path, (now, now))
    now = 1_000_000.0
    recordings.prune()
    assert recordings.all()[0].at == now
    now += 3601
    recordings.prune()
    assert not recordings.all()


def test_room_is_left_on_the_disk_and_litter_goes(tmp_path: Path) -> None:
    Recordings(tmp_path).write("clip-1-00001.zip", b"x")
    litter = tmp_path / "recordings" / ".clip-1-00002.zip.abc"
    litter.write_bytes(b"half")
    other = tmp_path / "recordings" / "README"
    other.write_text("not ours")
    with pytest.raises(FoldsightError, match="the disk is full"):
        Recordings(tmp_path, keep_free=1e18).write("clip-1-00003.zip", b"y")
    assert [path.name for path in (tmp_path / "recordings").iterdir()] == ["README"]
    with pytest.raises(FoldsightError, match="does not fit"):
        Recordings(tmp_path, max_bytes=3).write("clip-1-00004.zip", b"four")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (("state", "no_folds", "folds"), "finding"),
        (("state", "folds", "no_signal"), "fault"),
        (("fault", None, None), "fault"),
        (("state", None, "no_signal"), None),  # the camera is not there yet
        (("state", "folds", "uncertain"), None),
        (("recording", None, "failing"), None),  # it is no occasion for another recording
    ],
)
def test_occasions(event: tuple[str, str | None, str | None], why: str | None) -> None:
    assert occasion(*event, finding="folds") == why


def test_a_sealed_zip_is_the_same_zip(tmp_path: Path) -> None:
    sealing.make_keys(tmp_path / "k")
    recipient = sealing.load_recipient(tmp_path / "k.pub")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"b")
    kept = Recordings(tmp_path, recipient=recipient).write("clip-1-00001.zip", packed.getvalue())
    assert sealing.unseal(kept.path.read_bytes(), sealing.load_identity(tmp_path / "k")) == packed.getvalue()
