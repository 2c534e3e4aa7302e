"""The measurement: the live pipeline on a source, without a broker, recorded in memory that does not grow."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.bench.artefacts import measure_artefacts
from edge.bench.host import Use, fingerprint, one_core
from edge.bench.ring import RingSource, choose
from edge.bench.sketch import Sketch
from edge.capture import Reader
from edge.choice import open_analyser, start_engine
from edge.errors import SourceError
from edge.frames import NewestFrameSlot
from edge.pipeline import Pipeline
from edge.preview import Preview
from edge.runtime import OnnxRuntime
from edge.stats import Meter
from edge.store import in_use
from edge.telemetry import Telemetry

if TYPE_CHECKING:
    from edge.analysis import Analyser
    from edge.bundle import Bundle
    from edge.config import Config

SCHEMA = 1
SLICES = 20  # of the run: what two runs are compared by
_ROWS = 600  # of the timeline, at most
_FIRST_FRAME_S = 10.0  # no camera starts so slowly
_EVENTS = 100


class _Sink:
    """Takes the encoded messages and counts their bytes: the benchmark's figures have no broker in them."""

    def __init__(self) -> None:
        self.bytes = 0
        self.events: list[tuple[float, bytes]] = []
        self.preview: Preview | None = None

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        """Count a live message."""
        del topic, qos, retain, expiry_s
        self.bytes += len(payload)
        return True

    def picture(self, messages: list[tuple[str, bytes, list[tuple[str, str]]]], *, content_type: str) -> bool:
        """Count a picture, and acknowledge it at once, as the quickest of phones: then all that may come do."""
        del content_type
        self.bytes += sum(len(payload) for _, payload, _ in messages)
        if self.preview is not None:
            self.preview.seen(json.dumps({"seq": int(dict(messages[0][2])["seq"])}).encode())
        return True

    def event(self, payload: bytes) -> None:
        """Keep an event, as long as there are few."""
        self.bytes += len(payload)
        if len(self.events) < _EVENTS:
            self.events.append((time.monotonic(), payload))


@dataclass(slots=True)
class _Slice:
    """A twentieth of the run."""

    durations: dict[str, Sketch] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    dropped: int = 0
    memory_mb: float = 0.0

    @property
    def age(self) -> Sketch:
        return self.durations.get("age", Sketch())

    def encode(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 4),
            "cpu_s": round(self.cpu, 4),
            "dropped": self.dropped,
            "memory_mb": round(self.memory_mb, 2),
            "durations": {name: sketch.encode() for name, sketch in self.durations.items()},
        }


class _Tap(Meter):
    """A meter of the pipeline that tells the recorder as well."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        super().__init__()
        self._name, self._recorder = name, recorder

    def add(self, milliseconds: float, at_s: float) -> None:
        """Count one duration."""
        super().add(milliseconds, at_s)
        self._recorder.add(self._name, milliseconds)


class Recorder:
    """Keeps a run as slices (for comparing) and as rows (for looking at), both of a number fixed beforehand.

    Args:
        seconds: how long the run will be.
        memory: resident memory in MB; asked once a row and once a slice, between two frames.
        interval_s: between two frames of the source; 0 where it has no rate.

    Attributes:
        dropped_by: how many frames were dropped while the pipeline computed for longer than a frame lasts
            (`own_work`), and while it did not: it, or the source, waited for a core (`no_core`).
    """

    def __init__(self, seconds: float, memory: Telemetry, interval_s: float = 0.0) -> None:
        self._seconds, self._memory, self._interval_s = seconds, memory, interval_s
        self.dropped_by = {"own_work": 0, "no_core": 0}
        self.step_s = max(min(1.0, seconds / SLICES), seconds / _ROWS)
        self.slices: list[_Slice] = []
        self.rows: list[dict[str, float]] = []
        self._slice = _Slice()
        self._ages = array("d")
        self._on = False
        self._begin_s = self._slice_s = self._row_s = 0.0
        self._cpu = 0.0
        self._row_dropped = self._slice_dropped = 0

    def attach(self, pipeline: Pipeline) -> None:
        """Listen to a pipeline's meters; nothing is kept before `begin`."""
        pipeline.age = _Tap("age", self)
        for name in pipeline.stages:
            pipeline.stages[name] = _Tap(name, self)

    def begin(self, now_s: float, dropped: int) -> None:
        """The warm-up is over."""
        self._on = True
        self._begin_s = self._slice_s = self._row_s = now_s
        self._cpu = time.process_time()
        self._row_dropped = self._slice_dropped = dropped

    def add(self, name: str, milliseconds: float) -> None:
        """Count one duration of a frame."""
        if not self._on:
            return
        sketch = self._slice.durations.get(name)
        if sketch is None:
            sketch = self._slice.durations[name] = Sketch()
        sketch.add(milliseconds)
        if name == "age":
            self._slice.frames += 1
            self._ages.append(milliseconds)

    def explain(self, dropped: int, cpu_s: float) -> None:
        """Say why frames were dropped during one step, by the processor time that the step took."""
        if self._on and dropped:
            self.dropped_by["own_work" if cpu_s > 0.9 * self._interval_s else "no_core"] += dropped

    def tick(self, now_s: float, dropped: int) -> None:
        """Look at the clock between two frames."""
        if not self._on:
            return
        if now_s - self._begin_s >= (len(self.rows) + 1) * self.step_s:
            self._end_row(now_s, dropped)
        if len(self.slices) < SLICES - 1 and now_s - self._begin_s >= (len(self.slices) + 1) * self._seconds / SLICES:
            self._end_slice(now_s, dropped)

    def end(self, now_s: float, dropped: int) -> None:
        """The run is over."""
        if self._ages:
            self._end_row(now_s, dropped)
        if self._slice.frames:
            self._end_slice(now_s, dropped)
        self._on = False

    def _end_row(self, now_s: float, dropped: int) -> None:
        ages = np.frombuffer(self._ages, np.float64) if self._ages else np.zeros(0)
        low, median, p95, high = np.percentile(ages, (0, 50, 95, 100)) if ages.size else (0.0, 0.0, 0.0, 0.0)
        self.rows.append(
            {
                "at_s": round(now_s - self._begin_s, 3),
                "frames": int(ages.size),
                "min": round(float(low), 3),
                "median": round(float(median), 3),
                "p95": round(float(p95), 3),
                "max": round(float(high), 3),
                "dropped": dropped - self._row_dropped,
                "memory_mb": round(self._memory.memory_mb(), 2),
            }
        )
        self._row_dropped, self._row_s = dropped, now_s
        del ages  # the array must not be lent while it is emptied
        del self._ages[:]

    def _end_slice(self, now_s: float, dropped: int) -> None:
        cpu = time.process_time()
        ended = self._slice
        ended.seconds, ended.cpu = now_s - self._slice_s, cpu - self._cpu
        ended.dropped, ended.memory_mb = dropped - self._slice_dropped, self._memory.memory_mb()
        self.slices.append(ended)
        self._slice, self._slice_s, self._cpu, self._slice_dropped = _Slice(), now_s, cpu, dropped

    def durations(self) -> dict[str, Sketch]:
        """Every duration over the whole run."""
        names = dict.fromkeys(name for part in self.slices for name in part.durations)
        return {n: Sketch.merged(s.durations[n] for s in self.slices if n in s.durations) for n in names}

    def drift(self) -> list[dict[str, float]]:
        """Age and memory by tenth of the run."""
        tenths = []
        for at in range(0, len(self.slices), 2):
            parts = self.slices[at : at + 2]
            age = Sketch.merged(part.age for part in parts)
            tenths.append(
                {
                    "frames": age.total,
                    "p50": round(age.quantile(0.5), 3),
                    "p99": round(age.quantile(0.99), 3),
                    "memory_mb": round(parts[-1].memory_mb, 2),
                }
            )
        return tenths


def run(config: Config, *, seconds: float, warmup_s: float, core: bool = False) -> dict[str, Any]:
    """Measure the live pipeline on a source.

    Args:
        config: the settings; with `capture.pace` lossless the pipeline runs as fast as it can. Besides what the daemon
            knows, `capture.source` may be `synthetic`: phantom frames rendered beforehand.
        seconds: how long to measure.
        warmup_s: how long to run before.
        core: keep the whole process on one core.

    Returns:
        What docs/integrator.md lists: frames per second, age and stages (ms), drops, processor, memory, temperature,
        drift by tenth, timeline, slices, and the machine.

    Raises:
        SourceError: the source gave no frame.
    """
    with contextlib.ExitStack() as stack:
        pinned = stack.enter_context(one_core()) if core else None
        return {**_run(config, seconds=seconds, warmup_s=warmup_s), "pinned_to": pinned}


def _run(config: Config, *, seconds: float, warmup_s: float) -> dict[str, Any]:
    bundle = in_use(config)
    artefacts = measure_artefacts(config, bundle)
    analyser = open_analyser(config, bundle)
    if (engine := start_engine(config, analyser, lambda _, *, fault, changed: None)) is not None:  # noqa: ARG005
        engine.join()
    telemetry = Telemetry()
    source = choose(config.capture)
    if isinstance(source, RingSource):
        source.prepare()
    slot, sink = NewestFrameSlot(), _Sink()
    lossless = config.capture.pace == "lossless"
    reader = Reader(source, slot, lossless=lossless, tell=lambda state, why: None)  # noqa: ARG005
    preview = Preview(config.preview, session=1, outlet=sink) if config.preview.enabled else None
    sink.preview = preview
    pipeline = Pipeline(config, session=1, reader=reader, slot=slot, analyser=analyser, outlet=sink, preview=preview)
    recorder = Recorder(seconds, telemetry, 1 / config.capture.fps)
    recorder.attach(pipeline)
    at = time.time()
    before = _condition(telemetry)
    reader.start()
    if preview is not None:
        preview.start()
    try:
        _drive(pipeline, reader, warmup_s, None)
        counts, rung = _counts(pipeline, reader, slot), pipeline.ladder.rung.name
        recorder.begin(time.monotonic(), pipeline.dropped)
        use = Use.now()
        _drive(pipeline, reader, seconds, recorder)
        used = Use.now()
        recorder.end(time.monotonic(), pipeline.dropped)
        counts = {name: value - counts[name] for name, value in _counts(pipeline, reader, slot).items()}
        after = _condition(telemetry)
        memory, peak = telemetry.memory_mb(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024 / 1000
    finally:
        reader.stop()
        if preview is not None:
            preview.stop()
    info, elapsed = reader.info, used.at - use.at
    durations = recorder.durations()
    age = durations.pop("age", Sketch())
    return {
        "schema": SCHEMA,
        "at": round(at, 1),
        "machine": fingerprint(),
        "model": {
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "sha256": bundle.sha256,
            "precision": analyser.artefact.precision,
            "runtime": analyser.runtime.description,
            "threads": config.model.threads,
            "input": [bundle.manifest.input.height, bundle.manifest.input.width],
        },
        "source": {"name": info.name, "width": info.width, "height": info.height, "fps": info.fps} if info else None,
        "pace": config.capture.pace,
        "seconds": round(elapsed, 3),
        "warmup_s": warmup_s,
        "frames": counts["classified"],
        "offered": counts["offered"],
        "fps": round(counts["classified"] / elapsed, 2),
        "age_ms": age.percentiles(),
        "stages_ms": {name: sketch.percentiles() for name, sketch in durations.items()},
        "artefacts": artefacts,
        "inference_alone_ms": inference_alone(bundle, analyser, config.model.threads),
        "budget_ms": config.latency.budget_ms,
        "over_budget": counts["over_budget"],
        "dropped": {"replaced": counts["replaced"], "too_old": counts["too_old"]},
        "dropped_by": recorder.dropped_by,
        "cpu_per_wall": round(used.since(use)["process"], 3),
        "cpu": used.since(use),
        "memory_mb": round(memory, 1),
        "memory_peak_mb": round(peak, 1),
        "ring_mb": round(source.ring_mb, 1) if isinstance(source, RingSource) else 0.0,
        "before": before,
        "after": after,
        "drift": recorder.drift(),
        "ladder": {"skipped": counts["skipped"], "first": rung, "last": pipeline.ladder.rung.name},
        "events": [_told(payload, at_s - use.at) for at_s, payload in sink.events],
        "timeline": {"step_s": recorder.step_s, "rows": recorder.rows},
        "slices": [part.encode() for part in recorder.slices],
    }


def _condition(telemetry: Telemetry) -> dict[str, Any]:
    return {"temperature_c": telemetry.temperature_c(), "throttled": telemetry.throttled()}


def _counts(pipeline: Pipeline, reader: Reader, slot: NewestFrameSlot) -> dict[str, int]:
    counts = pipeline.counts
    return {
        "classified": counts.classified,
        "over_budget": counts.over_budget,
        "too_old": counts.too_old,
        "skipped": counts.skipped,
        "replaced": slot.replaced,
        "offered": reader.frames,
    }


def _told(payload: bytes, at_s: float) -> dict[str, Any]:
    message = json.loads(payload)
    return {"at_s": round(at_s, 3), **{name: message.get(name) for name in ("kind", "before", "after", "detail")}}


def inference_alone(bundle: Bundle, analyser: Analyser, threads: int, runs: int = 200) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds, of the bare runtime on a golden input."""
    inputs, _ = bundle.golden(analyser.artefact)
    runtime = OnnxRuntime(bundle.files[analyser.artefact.file], threads=threads)
    durations = []
    for index in range(runs + 20):
        begin = time.perf_counter_ns()
        runtime.infer(inputs[index % len(inputs)][None])
        durations.append((time.perf_counter_ns() - begin) / 1e6)
    p50, p95 = np.percentile(durations[20:], (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def _drive(pipeline: Pipeline, reader: Reader, seconds: float, recorder: Recorder | None) -> None:
    begun = now = time.monotonic()
    deadline = begun + seconds
    dropped = pipeline.dropped
    while now < deadline:
        used = time.thread_time()
        if not pipeline.step():
            break
        now = time.monotonic()
        if recorder is not None:
            before, dropped = dropped, pipeline.dropped
            recorder.explain(dropped - before, time.thread_time() - used)
            recorder.tick(now, dropped)
        if not reader.frames and (reader.state == "lost" or now - begun > _FIRST_FRAME_S):
            raise SourceError(reader.reason or f"the source gave no frame in {_FIRST_FRAME_S:g} s")
        if not reader.frames:
            deadline = now + seconds  # a source that is still opening is not being measured
