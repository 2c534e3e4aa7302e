from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from edge import bench, cli
from edge.bench import soak
from edge.bench.compare import _change
from edge.bench.host import Use, fingerprint, one_core
from edge.bench.measure import SLICES, Recorder
from edge.bench.ring import RingSource
from edge.bench.sketch import Sketch
from edge.errors import FoldsightError
from edge.telemetry import Telemetry

SMALL = ("--set", "capture.width=160", "--set", "capture.height=120", "--set", "capture.fps=60")


def test_a_sketch_is_within_a_quarter_of_a_per_cent_of_the_truth() -> None:
    values = np.random.default_rng(0).lognormal(2, 0.6, 20_000)
    sketch = Sketch()
    for value in values:
        sketch.add(float(value))
    for share in (0.5, 0.95, 0.99, 0.999):
        truth = np.sort(values)[math.ceil(share * len(values)) - 1]
        assert sketch.quantile(share) == pytest.approx(truth, rel=0.0026)
    assert sketch.percentiles()["max"] == round(values.max(), 3)
    again = Sketch.decode(json.loads(json.dumps(sketch.encode())))
    assert again.counts == sketch.counts
    assert len(sketch.counts) < 1500
    assert Sketch().percentiles() == {"count": 0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}


def test_the_ring_never_repeats_a_frame_at_once_and_never_jumps() -> None:
    ring = RingSource(width=96, height=80, fps=1000, seed=0, frames=6)
    info = ring.open()
    frames = [ring.read() for _ in range(20)]
    assert (info.width, info.height) == frames[0].image.shape[1::-1]
    assert [f.seq for f in frames] == list(range(20))
    assert all(not np.array_equal(a.image, b.image) for a, b in pairwise(frames))
    assert frames[0].image is frames[10].image
    assert ring.ring_mb == pytest.approx(6 * 96 * 80 * 3 / 1e6)
    with pytest.raises(ValueError, match="read-only"):
        frames[0].image[0, 0, 0] = 1


def made_up(scale: float = 1.0, *, seed: int = 0, slices: int = SLICES, others: float = 0.0, drift: float = 0.0) -> Any:
    """A result as `run` gives it, with ages drawn at random."""
    rng = np.random.default_rng(seed)
    parts, rows = [], []
    whole = Sketch()
    for index in range(slices):
        sketch = Sketch()
        for value in rng.gamma(30, 0.3, 100) * scale * (1 + drift * index / slices):
            sketch.add(float(value))
        parts.append(
            {
                "frames": 100,
                "seconds": 1.0,
                "cpu_s": 0.4 * scale,
                "dropped": 0,
                "memory_mb": 150.0,
                "durations": {"age": sketch.encode(), "inference": sketch.encode()},
            }
        )
        age = sketch.percentiles()
        rows.append(
            {
                "at_s": index + 1.0,
                "frames": 100,
                "min": sketch.lowest,
                "median": age["p50"],
                "p95": age["p95"],
                "max": age["max"],
                "dropped": 3 if index == 4 else 0,
                "memory_mb": 150.0,
            }
        )
        whole = Sketch.merged([whole, sketch])
    return {
        "at": 1.8e9,
        "machine": fingerprint(),
        "model": {"name": "m<&>", "version": "1", "precision": "int8", "runtime": "r", "threads": 1},
        "source": {"name": "synthetic", "width": 1280, "height": 720, "fps": 100.0},
        "pace": "live",
        "seconds": float(slices),
        "frames": 100 * slices,
        "offered": 100 * slices + 3,
        "fps": 100.0,
        "age_ms": whole.percentiles(),
        "stages_ms": {"inference": whole.percentiles()},
        "inference_alone_ms": {"p50": 1.0, "p95": 2.0},
        "budget_ms": 33.0,
        "over_budget": 0,
        "dropped": {"replaced": 3, "too_old": 0},
        "dropped_by": {"own_work": 1, "no_core": 2},
        "cpu": {"process": 0.4, "pipeline": 0.3, "others": others, "stolen": 0.0, "waited_ms_per_s": 0.0},
        "pinned_to": None,
        "memory_mb": 150.0,
        "ring_mb": 0.0,
        "before": {"temperature_c": 41.0, "throttled": []},
        "after": {"temperature_c": 48.5, "throttled": ["under_voltage"]},
        "drift": [{"p50": 1.0, "p99": 2.0, "memory_mb": 150.0}] * 10,
        "ladder": {"skipped": 7, "first": "every frame", "last": "every 2nd frame"},
        "events": [{"at_s": 3.2, "kind": "ladder", "before": "every frame", "after": "every 2nd frame", "detail": ""}],
        "timeline": {"step_s": 1.0, "rows": rows},
        "slices": parts,
    }


def judged(comparison: dict[str, Any]) -> dict[str, str]:
    return {change["name"]: change["judgement"] for change in comparison["changes"]}


def test_a_change_is_told_from_noise() -> None:
    before = made_up()
    same = bench.compare(before, made_up(seed=1))
    assert {judged(same)[n] for n in ("age p50", "age p99", "inference p50", "frames/s")} == {"inside the noise"}
    faster = bench.compare(before, made_up(0.8, seed=1))
    assert judged(faster)["age p50"] == judged(faster)["CPU ms/frame"] == "better"
    change = next(c for c in faster["changes"] if c["name"] == "age p50")
    assert change["low"] < change["change"] < change["high"] < -0.1
    assert change["change"] == pytest.approx(-0.2, abs=0.02)
    assert judged(bench.compare(before, made_up(1.2, seed=1)))["age p95"] == "worse"
    table = bench.comparison_table(faster)
    assert "better" in table
    assert "repeat" in table


def test_false_alarms_are_as_rare_as_promised() -> None:
    runs = [made_up(seed=seed)["slices"] for seed in range(40)]
    changes = [_change("age p50", a, b, busy=False) for a, b in zip(runs[::2], runs[1::2], strict=True)]
    # 5 % are promised, of 20; block bootstraps of 20 slices are a little bold.
    assert sum(change.judgement != "inside the noise" for change in changes) <= 4


def test_what_cannot_be_told_is_not_told() -> None:
    before = made_up()
    assert judged(bench.compare(before, made_up(0.5, others=1.5)))["age p50"] == "busy machine"
    assert judged(bench.compare(before, made_up(0.5, others=1.5)))["CPU ms/frame"] == "better"
    assert judged(bench.compare(made_up(slices=3), made_up(0.5, slices=3)))["age p50"] == "too short to tell"
    # A run that itself went from 1.0 to 1.3 does not prove a change of a tenth.
    assert judged(bench.compare(made_up(drift=0.3), made_up(1.1, drift=0.3)))["age p50"] == "inside the noise"
    other = made_up()
    other["machine"] = {**other["machine"], "cores": 64}
    assert any("cores" in sentence for sentence in bench.compare(before, other)["differs"])


@pytest.mark.parametrize("text", ["", "[]", '{"frames": 1}'])
def test_only_a_result_can_be_compared_with(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(FoldsightError, match="bench --json wrote"):
        bench.load(tmp_path / "old.json")
    with pytest.raises(FoldsightError, match="cannot be read"):
        bench.load(tmp_path / "none.json")


@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_picture_is_valid_and_says_the_figures(scale: float) -> None:
    result = made_up(scale)
    svg = bench.draw(result)
    texts = "|".join(element.text or "" for element in ET.fromstring(svg).iter())  # noqa: S314  our own
    for words in ("m<&>", "budget 33 ms", f"p99 {result['age_ms']['p99']:.1f}", "under_voltage", "every 2nd frame"):
        assert words in texts
    assert "NaN" not in svg
    assert "inf" not in svg.replace("inference", "")


def test_the_report_warns_of_what_spoils_it() -> None:
    text = bench.report(made_up(others=1.5))
    assert "busy machine" in text
    assert "under_voltage" in text
    assert "every 2nd frame at last; 7 frames left out on purpose" in text
    assert "2 while it waited for a core, 1 by its own work" in text
    assert "41.0 °C before, 48.5 °C after" in text


def test_a_recorder_stays_small_however_long_the_run() -> None:
    recorder = Recorder(8 * 3600, Telemetry())
    recorder.begin(0.0, 0)
    for second in range(8 * 3600):
        recorder.add("age", 5.0)
        recorder.tick(float(second), second // 100)
    recorder.end(8 * 3600.0, 288)
    assert len(recorder.rows) <= 601
    assert len(recorder.slices) == SLICES
    assert len(recorder.drift()) == 10
    assert sum(row["dropped"] for row in recorder.rows) == 288
    assert sum(row["frames"] for row in recorder.rows) == recorder.durations()["age"].total == 8 * 3600


def test_a_drop_is_blamed_on_the_work_or_on_the_wait() -> None:
    recorder = Recorder(10, Telemetry(), 1 / 60)
    recorder.explain(5, 1.0)  # the warm-up does not count
    recorder.begin(0.0, 0)
    for dropped, cpu_s in ((0, 0.5), (2, 0.016), (1, 0.004)):
        recorder.explain(dropped, cpu_s)
    assert recorder.dropped_by == {"own_work": 2, "no_core": 1}


def test_processor_use_is_counted_where_it_was_used() -> None:
    before = Use.now()
    with one_core() as core:
        total = 0
        while Use.now().thread - before.thread < 0.2:
            total += sum(range(1000))
    use = Use.now().since(before)
    assert core >= 0
    assert 0 < use["pipeline"] <= use["process"] + 0.05


def test_the_command_measures_compares_and_draws(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("bench", "--source", "synthetic", "--set", f"model.bundle={tiny_bundle}", *SMALL, "--warmup", "0.3")
    assert cli.main([*common, "--seconds", "2", "--one-core", "--json"]) == 0
    first = capsys.readouterr().out
    result = json.loads(first)
    assert result["frames"] == result["age_ms"]["count"] == sum(part["frames"] for part in result["slices"])
    assert result["frames"] + result["dropped"]["replaced"] + result["dropped"]["too_old"] <= result["offered"] + 2
    assert result["ladder"]["skipped"] >= 0
    assert result["pinned_to"] is not None
    assert len(result["drift"]) == 10
    assert result["ring_mb"] > 0
    assert result["cpu"]["process"] >= result["cpu"]["pipeline"] > 0
    (tmp_path / "old.json").write_text(first)
    plot = tmp_path / "bench.svg"
    more = ("--seconds", "1", "--compare", str(tmp_path / "old.json"), "--plot", str(plot))
    assert cli.main([*common, *more]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert ET.fromstring(plot.read_text()).tag.endswith("svg")  # noqa: S314  our own
    assert cli.main([*common, "--seconds", "0.3", "--plot", str(tmp_path / "no" / "x.svg")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def part(memory_mb: float = 150.0, age_p99: float = 10.0, frames: int = 1800) -> soak.Part:
    return soak.Part(0.0, 60.0, frames, 7.0, age_p99, 20.0, 0, memory_mb, 0.3)


@pytest.mark.parametrize(
    ("parts", "faults", "broken"),
    [
        ([part(130, 40), *[part()] * 9], [], []),  # the warm-up does not count
        ([part(), part(), part(152.5), part()], [], ["memory growth"]),
        ([part(), part(), part(151.9), part()], [], []),
        ([part(), part(), part(age_p99=15), part(age_p99=11.1)], [], ["p99 age, last against first"]),
        ([part(), part(), part(age_p99=5)], [], []),
        ([part(), part(), part(frames=0), part()], [], ["minutes without a frame"]),
        ([part(), part(), part()], ["status degraded: hot"], ["faults"]),
        ([part(), part()], [], ["frames"]),
    ],
)
def test_a_soak_breaks_what_it_breaks(parts: list[soak.Part], faults: list[str], broken: list[str]) -> None:
    checks = soak.judge(parts, faults)
    assert [check.name for check in checks if not check.kept] == broken
    text = soak.table(parts, checks)
    assert text.count("BROKEN") == len(broken)
    assert text.count("warm-up") == 1


def test_a_long_soak_fits_on_a_screen() -> None:
    parts = [part()] * 480
    assert len(soak.table(parts, soak.judge(parts, [])).splitlines()) < 35


@pytest.mark.parametrize(("text", "seconds"), [("600", 600), ("20s", 20), ("10m", 600), ("8h", 28800), ("0.5 m", 30)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert soak.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "8d", "ten"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 600"):
        soak.parse_duration(text)
