from __future__ import annotations

import json
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.capture.phantom import Phantom
from edge.capture.replay import FolderSource, VideoSource
from edge.config import Config, Mqtt
from edge.config import Preview as Settings
from edge.daemon import Daemon
from edge.frames import Frame, now_ns
from edge.mqtt import Link
from edge.preview import Encoder, Pace, Preview, messages

if TYPE_CHECKING:
    from pathlib import Path

    from edge.broker import Broker


def frame(seq: int, image: np.ndarray | None = None) -> Frame:
    now = now_ns()
    return Frame(np.full((48, 64, 3), seq % 256, np.uint8) if image is None else image, seq, now, "synthetic", now, 0.0)


class Paper:
    """An outlet that keeps pictures, and may be stuck."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, bytes]] = []
        self.free, self.waiting = threading.Event(), threading.Event()
        self.free.set()

    def picture(self, messages: list[tuple[str, bytes, list[tuple[str, str]]]], *, content_type: str) -> bool:
        topic, payload, user = messages[0]
        assert (topic, content_type, dict(user)["session"]) == ("preview", "image/jpeg", "7")
        self.waiting.set()
        self.free.wait(10)
        self.kept.append((int(dict(user)["seq"]), payload))
        return True


def until(condition: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shown(pace: Pace, *, ways_s: list[float], seconds: float) -> list[float]:
    """When previews are sent to phones that acknowledge each after its own time; in simulated time, by milliseconds."""
    sent: list[float] = []
    due: list[tuple[float, int]] = []
    for tick in range(round(seconds * 1000)):
        now = tick / 1000
        for entry in [e for e in due if e[0] <= now]:
            due.remove(entry)
            pace.seen(entry[1], now)
        if pace.wait_s(now) == 0:
            pace.sent(tick, now)
            sent.append(now)
            due += [(now + way, tick) for way in ways_s]
    return sent


def rate(sent: list[float], begin: float, end: float) -> float:
    return sum(begin <= at < end for at in sent) / (end - begin)


@given(st.floats(1, 10), st.lists(st.floats(0.001, 1.5), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_never_faster_than_asked_nor_than_the_slowest_phone_shows(fps: float, ways_s: list[float]) -> None:
    sent = shown(Pace(fps), ways_s=ways_s, seconds=9)
    assert max(sum(begin <= at < begin + 1 for at in sent) for begin in sent) <= math.ceil(fps) + 1
    assert np.diff(sent).min() >= 0.5 / fps
    slowest = max(ways_s)
    assert rate(sent, 5, 9) <= max(1.0, min(fps, 1 / slowest)) + 0.5
    assert rate(sent, 5, 9) >= 0.5 * min(fps, 1 / slowest)


def test_without_a_phone_it_is_one_a_second_and_with_one_at_once_all() -> None:
    pace = Pace(10)
    assert rate(shown(pace, ways_s=[], seconds=10), 2, 10) == pytest.approx(1, abs=0.2)
    assert rate(shown(Pace(10), ways_s=[0.03], seconds=6), 2, 6) == pytest.approx(10, abs=0.5)


def test_a_phone_that_falls_silent_slows_it_down_before_it_counts_as_gone() -> None:
    pace = Pace(10)
    for tick in range(20):
        pace.sent(tick, tick / 10)
        pace.seen(tick, tick / 10 + 0.01)
    assert pace.interval_s(2.0) == pytest.approx(0.1)
    pace.sent(20, 2.0)
    assert pace.interval_s(2.8) == pytest.approx(0.8)
    assert pace.interval_s(9.0) == pytest.approx(1.0)


def test_an_acknowledgement_of_what_was_never_sent_is_nothing() -> None:
    pace = Pace(10)
    pace.seen(5, 1.0)
    assert pace.interval_s(1.0) == 1.0


@given(st.integers(64, 300), st.integers(64, 300), st.integers(0, 255), st.integers(64, 320), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_no_picture_is_larger_than_allowed_and_each_is_the_whole_frame(
    width: int, height: int, noise: int, wanted: int, seed: int
) -> None:
    encode = Encoder(width=wanted, max_bytes=4000)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, noise + 1, (height, width, 3), np.uint8)
    for _ in range(3):
        jpeg = encode(image)
        assert len(jpeg) <= 4000
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] <= min(wanted, width)
        assert picture.shape[0] / picture.shape[1] == pytest.approx(height / width, rel=0.06)


def test_fractions_of_the_frame_are_fractions_of_the_picture() -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    image[144:432, 320:960] = 255
    picture = cv2.imdecode(np.frombuffer(Encoder(width=480, max_bytes=40_000)(image), np.uint8), cv2.IMREAD_GRAYSCALE)
    x, y, width, height = cv2.boundingRect((picture > 127).astype(np.uint8))
    assert picture.shape == (270, 480)
    shares = (x / 480, y / 270, width / 480, height / 270)
    assert shares == pytest.approx((0.25, 0.2, 0.5, 0.4), abs=0.005)


def test_quality_follows_the_picture() -> None:
    rng = np.random.default_rng(0)
    encode = Encoder(width=480, max_bytes=20_000)
    rough = rng.integers(0, 255, (360, 480, 3), np.uint8)
    encode(rough)
    worst = encode.quality
    for _ in range(20):
        encode(np.zeros((360, 480, 3), np.uint8))
    assert worst < encode.quality == 80


def test_the_newest_frame_wins_and_nothing_waits() -> None:
    paper = Paper()
    preview = Preview(Settings(enabled=True, fps=10), session=7, outlet=paper)
    preview.start()
    seqs = iter(range(1_000_000))
    try:
        paper.free.clear()
        until(lambda: (preview.offer(frame(next(seqs))), paper.waiting.is_set())[1])
        begin = time.monotonic()
        for _ in range(1000):
            preview.offer(frame(next(seqs)))
        assert time.monotonic() - begin < 5  # a stuck network does not hold the pipeline
        stuck = next(seqs)
        paper.free.set()
        until(lambda: (preview.offer(frame(next(seqs))), len(paper.kept) == 2)[1])
        first, second = (seq for seq, _ in paper.kept)
        assert first < stuck - 1000
        assert second > stuck
    finally:
        paper.free.set()
        preview.stop()
    assert not preview._thread.is_alive()


@given(st.binary(min_size=1, max_size=40_000))
@settings(max_examples=30, deadline=None)
def test_the_pieces_are_the_picture_and_each_fits_into_what_a_browser_gets_at_once(picture: bytes) -> None:
    (topic, whole, _), *pieces = messages(picture, seq=2**53, session=2**31)
    assert (topic, whole) == ("preview", picture)
    assert b"".join(payload for _, payload, _ in pieces) == picture
    assert [dict(user)["part"] for _, _, user in pieces] == [str(i) for i in range(len(pieces))]
    for topic, payload, user in pieces:
        properties = sum(5 + len(name) + len(value) for name, value in user) + len("image/jpeg") + 8
        assert len(f"foldsight/v1/{'x' * 48}/{topic}") + len(payload) + properties + 16 < 4096


@pytest.mark.parametrize("word", [b"", b"[", b"[]", b"{}", b'{"seq": "x"}', b'{"seq": null}', b"\xff", b"[" * 10_000])
def test_whatever_a_phone_says_is_borne(word: bytes) -> None:
    Preview(Settings(enabled=True), session=7, outlet=Paper()).seen(word)


def test_sources_hand_out_frames_that_they_do_not_write_into_again(tmp_path: Path) -> None:
    phantom = Phantom(width=96, height=96, seed=1, detail=128)
    images = [phantom.render(t, truth=False)[0] for t in (1.0, 1.1)]
    assert not np.shares_memory(*images)
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 96))
    for image in images * 2:
        writer.write(image)
        cv2.imwrite(str(tmp_path / f"{len(list(tmp_path.glob('*.png')))}.png"), image)
    writer.release()
    for source in (
        VideoSource(str(tmp_path / "a.avi"), lossless=True, loop=True),
        FolderSource(tmp_path, fps=25, lossless=True, loop=True),
    ):
        source.open()
        first, second = source.read(), source.read()
        source.close()
        assert not np.shares_memory(first.image, second.image)


def test_off_by_default() -> None:
    assert Config().preview.enabled is False


@pytest.mark.parametrize("more", [{"fps": 11}, {"max_kb": 41}, {"width": 4000}, {"fps": 0}])
def test_no_more_than_was_promised_can_be_set(more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(more))):
        Settings.model_validate({"enabled": True, **more})


def test_a_picture_goes_only_while_nothing_else_waits(broker: Broker) -> None:
    link = Link(
        Mqtt(port=broker.port), device="a", session=1, will=b"{}", hello=list, command=lambda name, payload: b"{}"
    )
    assert not link.picture([("preview", b"x", [])], content_type="image/jpeg")
    link.start()
    try:
        until(lambda: link.connected)
        until(lambda: link._sent == link._gone)
        broker.pause()
        taken = [link.picture([("preview", bytes(200_000), [])], content_type="image/jpeg") for _ in range(60)]
        assert not taken[-1]
        assert link.live("detection", b"{}")  # there is still room for a result
    finally:
        broker.resume()
        link.stop()


def test_the_daemon_publishes_pictures_of_its_detections_and_hears_of_them(
    broker: Broker, tiny_bundle: Path, tmp_path: Path
) -> None:
    heard: list[Any] = []
    client = broker.client("phone")
    client.on_message = lambda c, _, m: (
        heard.append(m),
        m.topic.endswith("/preview")
        and c.publish(
            "foldsight/v1/a/cmd/preview-seen", json.dumps({"seq": int(dict(m.properties.UserProperty)["seq"])})
        ),
    )
    client.connect(broker.host, broker.port)
    client.subscribe([("foldsight/v1/a/preview", 0), ("foldsight/v1/a/detection", 0)])
    client.loop_start()
    config = Config.model_validate(
        {
            "device": "a",
            "state_dir": tmp_path,
            "capture": {"source": "phantom", "width": 320, "height": 240, "fps": 20, "seed": 3},
            "model": {"bundle": tiny_bundle},
            "mqtt": {"port": broker.port},
            "preview": {"enabled": True, "width": 160},
        }
    )
    daemon = Daemon(config)
    daemon.run(seconds=2.5)
    client.disconnect()
    client.loop_stop()
    pictures = [m for m in heard if m.topic.endswith("preview")]
    seqs = {json.loads(m.payload)["seq"] for m in heard if m.topic.endswith("detection")}
    assert len(pictures) >= 6  # more than the one a second without an acknowledgement
    for message in pictures:
        user = dict(message.properties.UserProperty)
        assert int(user["seq"]) in seqs
        assert user["session"] == str(daemon.session)
        assert message.properties.ContentType == "image/jpeg"
        assert message.properties.MessageExpiryInterval <= 1
        assert not message.retain
        assert cv2.imdecode(np.frombuffer(message.payload, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)
