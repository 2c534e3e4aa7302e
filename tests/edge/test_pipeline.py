from __future__ import annotations

import io
import json
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import jsonschema
import numpy as np
import pytest
from conftest import tiny_files, tiny_manifest

from edge.analysis import Analyser, Analysis
from edge.bundle import Bundle, write_bundle
from edge.capture import Reader, SourceInfo
from edge.config import Config
from edge.errors import EndOfSource, SourceError
from edge.frames import Frame, NewestFrameSlot, now_ns
from edge.messages import Detection, json_schemas
from edge.pipeline import Pipeline
from edge.stats import Meter

if TYPE_CHECKING:
    from pathlib import Path

    from edge.runtime import Runtime

SCHEMAS = json_schemas()


class Recorder:
    """An outlet that keeps what it was given, after checking it against the published schemas."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        del qos, retain, expiry_s
        self._keep(topic, payload)
        return True

    def event(self, payload: bytes) -> None:
        self._keep("event", payload)

    def _keep(self, topic: str, payload: bytes) -> None:
        message = json.loads(payload)
        jsonschema.Draft202012Validator(SCHEMAS[topic]).validate(message)
        self.sent.append((topic, message))

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [message for name, message in self.sent if name == topic]


class FakeReader:
    """The part of a reader that the pipeline looks at."""

    state = "live"
    reason = ""
    info = SourceInfo("test", "test", 96, 96, 30)


class Bench:
    """A pipeline with its ends in the test's hands."""

    def __init__(self, bundle: Path, *, latency: dict[str, Any] | None = None, **capture: Any) -> None:
        self.slot, self.reader, self.out = NewestFrameSlot(), FakeReader(), Recorder()
        config = Config.model_validate(
            {
                "device": "test",
                "capture": {"timeout_s": 0.3, "frozen_s": 0.4, **capture},
                "latency": latency or {"ladder": False},  # where it is not what is tested, a busy machine is not either
            }
        )
        self.pipeline = Pipeline(
            config,
            session=5,
            reader=self.reader,  # type: ignore[arg-type]
            slot=self.slot,
            analyser=Analyser(Bundle.open(bundle)),
            outlet=self.out,
        )
        self.seq = 0
        self._rng = np.random.default_rng(0)

    def picture(self, *, red: bool) -> np.ndarray:
        base = np.array([60, 60, 200] if red else [165, 165, 150])  # as a grey camera: what is blue is out of the body
        coarse = (base + self._rng.normal(0, 25, (12, 12, 1))).clip(0, 255).astype(np.uint8)
        return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)

    def show(self, image: np.ndarray, *, age_ms: float = 1.0, timeline_ns: int | None = None) -> None:
        exposed = now_ns() - int(age_ms * 1e6)
        self.slot.put(Frame(image, self.seq, exposed, "synthetic", exposed, time.time(), "", timeline_ns))
        self.seq += 1
        self.pipeline.step()

    def watch(self, seconds: float, *, red: bool, fps: float = 60) -> None:
        for _ in range(round(seconds * fps)):
            self.show(self.picture(red=red))
            time.sleep(1 / fps)


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a smaller model, which is the same one."""
    path = tmp_path_factory.mktemp("bundle") / "two.zip"
    full = tiny_manifest().artefacts[0]
    artefacts = [full, full.model_copy(update={"name": "fp32-smaller", "role": "smaller"})]
    files = tiny_files()
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        golden = io.BytesIO()
        np.savez(golden, **arrays, **{"scores_fp32-smaller": arrays["scores_fp32"]})
    write_bundle(path, tiny_manifest(artefacts=artefacts), {**files, "golden.npz": golden.getvalue()})
    return path


@pytest.fixture
def bench(tiny_bundle: Path) -> Bench:
    return Bench(tiny_bundle)


def test_a_detection_says_everything_that_the_contract_lists(bench: Bench) -> None:
    bench.show(bench.picture(red=True), age_ms=4)
    (message,) = bench.out.of("detection")
    assert message["device"] == "test"
    assert (message["session"], message["seq"], message["label"]) == (5, 0, "folds")
    assert message["schema"] == 1
    assert message["score"] > 0.9
    assert sum(message["scores"].values()) == pytest.approx(1, abs=1e-3)
    assert 4 <= message["age_ms"] < 500
    assert set(message["stages_ms"]) == {"wait", "optics", "preprocess", "inference", "decide"}
    assert sum(message["stages_ms"].values()) == pytest.approx(message["age_ms"], abs=0.5)
    assert message["model"] == {"name": "redness", "version": "0.0.1"}


@pytest.mark.parametrize("bundle", ["tiny_bundle", "map_bundle"])
def test_a_detection_is_just_what_its_type_would_write(bundle: str, request: pytest.FixtureRequest) -> None:
    bench = Bench(request.getfixturevalue(bundle))
    payloads: list[bytes] = []
    bench.out._keep = lambda topic, payload: payloads.append(payload) if topic == "detection" else None  # type: ignore[method-assign]
    for red in (True, False):
        bench.watch(0.5, red=red)
    bench.show(np.zeros_like(bench.picture(red=True)))  # unfit
    assert len(payloads) > 10
    for payload in payloads:
        assert Detection.model_validate_json(payload, strict=True).encode() == payload
    assert any(b'"regions":[{' in payload for payload in payloads) == (bundle == "map_bundle")


def test_the_state_follows_and_is_told_on_change_and_as_a_heartbeat(bench: Bench) -> None:
    bench.watch(1.0, red=True)
    bench.watch(1.5, red=False)
    states = [m["state"] for m in bench.out.of("state")]
    changes = [s for s, before in zip(states, [None, *states], strict=False) if s != before]
    assert changes[0] == "uncertain"
    assert changes.index("folds") < changes.index("no_folds")
    assert len(states) > len(changes)  # heartbeats
    assert [e["after"] for e in bench.out.of("event")] == changes
    assert all(m["age_ms"] is not None for m in bench.out.of("state"))


def test_a_frame_that_grew_old_while_it_was_judged_is_not_published_either(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = bench.pipeline._frozen.update
    monkeypatch.setattr(bench.pipeline._frozen, "update", lambda *a: (time.sleep(0.6), update(*a))[1])  # no CPU for us
    bench.show(bench.picture(red=True))
    assert not bench.out.of("detection")
    assert (bench.pipeline.counts.too_old, bench.pipeline.counts.classified) == (1, 0)


def test_an_old_frame_is_dropped_counted_and_never_published(bench: Bench) -> None:
    bench.show(bench.picture(red=True), age_ms=600)
    assert not bench.out.of("detection")
    assert bench.pipeline.counts.too_old == bench.pipeline.dropped == 1
    bench.show(bench.picture(red=True))
    assert bench.out.of("detection")[0]["dropped"] == 1


def test_a_frame_that_grows_old_while_it_is_judged_is_not_published_either(bench: Bench) -> None:
    analyse = bench.pipeline._analyser.analyse

    def slow(image: np.ndarray, at_s: float) -> Analysis:
        time.sleep(0.2)
        return analyse(image, at_s)

    bench.pipeline._analyser.analyse = slow  # type: ignore[method-assign]
    bench.show(bench.picture(red=True), age_ms=400)
    assert not bench.out.of("detection")
    assert bench.pipeline.counts.too_old == 1


class Slow:
    """A runtime that takes its time."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._runtime, self.seconds = runtime, seconds
        self.description, self.maps = runtime.description, runtime.maps
        self.calls = 0

    def infer(self, image: np.ndarray) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        return self._runtime.infer(image)


def run_live(bench: Bench, seconds: float, fps: float = 30) -> None:
    """A camera on its own thread, as the reader is, and the pipeline here."""
    end = time.monotonic() + seconds

    def film() -> None:
        while time.monotonic() < end:
            exposed = now_ns()
            bench.slot.put(Frame(bench.picture(red=True), bench.seq, exposed, "synthetic", exposed, time.time()))
            bench.seq += 1
            time.sleep(1 / fps)

    camera = threading.Thread(target=film)
    camera.start()
    while time.monotonic() < end:
        bench.pipeline.step()
    camera.join()


def test_a_slow_model_goes_down_the_ladder_and_comes_back_and_the_state_stays(two_models: Path) -> None:
    bench = Bench(two_models, latency={"budget_ms": 100})
    pipeline = bench.pipeline
    assert [r.name for r in pipeline.ladder.rungs][4:] == ["smaller model", "degraded"]
    full = pipeline._full = pipeline._analyser.runtime = Slow(pipeline._full, 0)
    assert pipeline._smaller is not None
    small = pipeline._smaller = Slow(pipeline._smaller, 0)
    run_live(bench, 1.5)
    assert pipeline.ladder.index == 0
    full.seconds, small.seconds = 0.25, 0.05
    run_live(bench, 3)
    assert [e["after"] for e in bench.out.of("event") if e["kind"] == "ladder"] == ["smaller model"]
    assert pipeline._analyser.runtime is small
    assert small.calls
    full.seconds = small.seconds = 0
    for _ in range(5):  # the first climb rests on the smaller model's share of the work, which a busy machine blurs
        if pipeline.ladder.index:
            run_live(bench, 3)
    assert [e["after"] for e in bench.out.of("event") if e["kind"] == "ladder"][-1] == "every frame"
    assert pipeline._analyser.runtime is full
    counts = pipeline.counts
    assert counts.skipped > 40
    assert counts.frames == counts.classified + counts.skipped + counts.too_old
    assert bench.seq - counts.frames - bench.slot.replaced in (0, 1)  # the last may still be waiting
    states = {m["state"] for m in bench.out.of("state") if m["seq"] is not None and m["seq"] > 30}
    assert states == {"folds"}


def test_no_rung_leaves_the_decision_blind_for_long(bench: Bench) -> None:
    bench.pipeline.ladder._index = 3
    for _ in range(12):
        bench.show(bench.picture(red=True))
        time.sleep(0.15)
    assert [m["seq"] for m in bench.out.of("detection")] == [0, 2, 4, 6, 8, 10]


def test_heat_alone_classifies_fewer_frames_and_says_why(tiny_bundle: Path) -> None:
    bench = Bench(tiny_bundle, latency={"budget_ms": 500, "max_age_ms": 1000})
    bench.pipeline.throttled = ["under_voltage"]
    bench.watch(0.5, red=True)
    (event,) = [e for e in bench.out.of("event") if e["kind"] == "ladder"]
    assert (event["before"], event["after"]) == ("every frame", "every 2nd frame")
    assert "under_voltage" in event["detail"]
    assert {m["seq"] % 2 for m in bench.out.of("detection")[2:]} in ({0}, {1})


def test_a_frame_over_the_budget_is_published_and_marked(bench: Bench) -> None:
    bench.show(bench.picture(red=True), age_ms=130)
    (message,) = bench.out.of("detection")
    assert message["over_budget"]
    assert bench.pipeline.counts.over_budget == 1


def test_no_frames_become_no_signal(bench: Bench) -> None:
    bench.watch(1.0, red=True)
    begin = time.monotonic()
    while bench.pipeline.state != "no_signal" and time.monotonic() - begin < 3:
        bench.pipeline.step()
    assert time.monotonic() - begin < 0.6
    last = bench.out.of("state")[-1]
    assert (last["state"], last["seq"], last["age_ms"], last["reasons"]) == ("no_signal", None, None, ["no_frames"])


def test_a_lost_source_is_no_signal_at_once(bench: Bench) -> None:
    bench.watch(1.0, red=True)
    bench.reader.state = "lost"
    bench.pipeline.step()
    assert bench.out.of("state")[-1]["reasons"] == ["source_lost"]


def test_the_same_picture_again_and_again_is_no_signal_and_a_new_one_ends_it(bench: Bench) -> None:
    bench.watch(1.0, red=True)
    still = bench.picture(red=True)
    begin = time.monotonic()
    while bench.pipeline.state != "no_signal" and time.monotonic() - begin < 3:
        bench.show(still)
        time.sleep(0.02)
    assert time.monotonic() - begin == pytest.approx(0.4, abs=0.25)
    assert bench.out.of("detection")[-1]["quality"]["reasons"] == ["frozen"]
    bench.watch(0.8, red=True)
    assert bench.pipeline.state == "folds"


def test_regions_are_told_while_the_folds_are_seen_and_never_else(map_bundle: Path) -> None:
    bench = Bench(map_bundle, pace="lossless")
    clock = iter(range(1000))

    def show(image: np.ndarray) -> dict[str, Any]:
        bench.show(image, timeline_ns=next(clock) * 33_000_000)
        return bench.out.of("detection")[-1]

    def half_red() -> np.ndarray:
        image = bench.picture(red=True)
        image[:, :24] = image[:, 72:] = bench.picture(red=False)[:, :24]
        return image

    film = [show(half_red()) for _ in range(40)]
    for message in film:
        assert bool(message["regions"]) == (message["state"] == "folds"), message["seq"]
    (region,) = film[-1]["regions"]
    assert region["label"] == "folds"
    assert region["centre"] == pytest.approx([0.5, 0.5], abs=0.03)
    assert region["box"] == pytest.approx([0.25, 0, 0.5, 1], abs=0.05)
    assert region["area"] == pytest.approx(0.5, abs=0.1)
    assert 0.5 < region["score"] <= 1
    # Folds by their state, for a while yet, but this frame is not fit; then it is again.
    blank = show(np.full((96, 96, 3), (30, 30, 170), np.uint8))
    assert (blank["state"], blank["regions"]) == ("folds", [])
    assert show(half_red())["regions"]
    # Away: the state hesitates, and no box is left behind.
    after = [show(bench.picture(red=False)) for _ in range(40)]
    assert not any(message["regions"] for message in after if message["state"] != "folds")
    assert not any(message["regions"] for message in after[5:])


def test_regions_of_before_a_loss_are_forgotten(map_bundle: Path) -> None:
    bench = Bench(map_bundle)
    bench.watch(1.0, red=True)
    assert bench.out.of("detection")[-1]["regions"]
    bench.reader.state = "lost"
    bench.pipeline.step()
    bench.reader.state = "live"
    bench.show(bench.picture(red=True))
    assert bench.pipeline._smoother is not None
    assert all(track._share < 0.2 for track in bench.pipeline._smoother._tracks.values())
    assert not bench.out.of("detection")[-1]["regions"]


def test_events_and_states_are_the_same_with_maps_and_without(map_bundle: Path, tiny_bundle: Path) -> None:
    def play(bundle: Path) -> tuple[list[tuple[int, str, float]], list[str]]:
        bench = Bench(bundle, pace="lossless")
        for index in range(90):
            bench.show(bench.picture(red=20 <= index < 60), timeline_ns=index * 33_000_000)
        said = [(m["seq"], m["state"], m["score"]) for m in bench.out.of("detection")]
        return said, [e["after"] for e in bench.out.of("event")]

    assert play(map_bundle) == play(tiny_bundle)


def test_a_blank_picture_is_uncertain_whatever_the_score(bench: Bench) -> None:
    for value in range(60):
        bench.show(np.full((96, 96, 3), (30, 30 + value % 3, 170), np.uint8))
        time.sleep(0.02)
    last = bench.out.of("detection")[-1]
    assert last["label"] == "folds"
    assert last["state"] == "uncertain"
    assert "blank" in last["quality"]["reasons"]


def test_a_lossless_replay_decides_the_same_however_fast_it_runs(tiny_bundle: Path) -> None:
    def play(delay_s: float) -> list[tuple[int, str]]:
        bench = Bench(tiny_bundle, pace="lossless")
        for index in range(60):
            bench.show(bench.picture(red=15 <= index < 45), age_ms=700, timeline_ns=index * 33_000_000)
            time.sleep(delay_s)
        return [(m["seq"], m["state"]) for m in bench.out.of("detection")]

    slow, fast = play(0.004), play(0)
    assert slow == fast
    assert {state for _, state in fast} >= {"folds", "no_folds"}


class Restarting:
    """A recording whose own time begins at zero again whenever it is opened, and in the middle of the second run."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._runs, self._at, self._seq = bench, 0, 0, 0

    def open(self) -> SourceInfo:
        self._runs, self._at = self._runs + 1, 0
        return SourceInfo("test", "restarting", 96, 96, 30, live=False)

    def read(self) -> Frame:
        if self._at == 60:
            raise SourceError("it broke off") if self._runs == 1 else EndOfSource
        image = self._bench.picture(red=self._runs == 1 or self._at >= 30)
        timeline_ns = self._at % (60 if self._runs == 1 else 30) * 33_000_000
        self._at, self._seq = self._at + 1, self._seq + 1
        now = now_ns()
        return Frame(image, self._seq - 1, now, "synthetic", now, time.time(), "", timeline_ns)

    def close(self) -> None:
        pass


def test_a_timeline_that_begins_again_does_not_make_decisions_stand_still(tiny_bundle: Path) -> None:
    bench = Bench(tiny_bundle, pace="lossless")
    reader = Reader(Restarting(bench), bench.slot, lossless=True, tell=lambda *_: None)
    bench.pipeline._reader = reader
    reader.start()
    while bench.pipeline.step():
        pass
    assert (reader.reopened, reader.timeline.restarted) == (1, 2)
    seen = {m["seq"]: m["state"] for m in bench.out.of("detection")}
    assert len(seen) == 120
    # Each stretch of one second or more ends in what it shows.
    assert [seen[last] for last in (59, 89, 119)] == ["folds", "no_folds", "folds"]


def test_stamps_that_lie_further_back_after_a_loss_do_not_make_decisions_stand_still(tiny_bundle: Path) -> None:
    bench = Bench(tiny_bundle, latency={"ladder": False, "max_age_ms": 10_000})
    bench.watch(1.0, red=True)
    bench.reader.state = "lost"
    bench.pipeline.step()
    bench.reader.state = "live"
    begin = now_ns() - 1_900_000_000  # another driver's stamps: as old as they may be
    for index in range(50):
        age_ms = (now_ns() - begin) / 1e6 - 33 * index
        bench.show(bench.picture(red=False), age_ms=age_ms)
    assert bench.pipeline.state == "no_folds"


def test_the_end_of_a_replay_is_no_signal(bench: Bench) -> None:
    bench.watch(0.8, red=True)
    bench.slot.close()
    assert bench.pipeline.step() is False
    assert bench.out.of("state")[-1]["reasons"] == ["ended"]


@pytest.mark.parametrize("bundle", ["tiny_bundle", "map_bundle"])
def test_nothing_that_grows_is_allocated_per_frame(
    bundle: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc  # noqa: PLC0415  only here
    import tracemalloc  # noqa: PLC0415

    import numpy.ma  # noqa: F401, PLC0415  numpy does so itself at its first median, a megabyte once

    bench = Bench(request.getfixturevalue(bundle))
    # A slice of the last minute's statistics, of which there are twelve at most, may begin at any moment.
    monkeypatch.setattr(Meter, "_SLICE_S", 1e9)
    pictures = [bench.picture(red=True) for _ in range(8)]
    bench.out._keep = lambda topic, payload: None  # type: ignore[method-assign]  the recorder grows by itself

    def traced_after(frames: int) -> int:
        for index in range(frames):
            bench.show(pictures[index % 8])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    marks = [traced_after(200) for _ in range(4)]
    tracemalloc.stop()
    # What grows does so in every window; Python's free lists fill and empty. One float a frame would be 4,800 bytes.
    assert min(after - before for before, after in pairwise(marks)) < 4_500
