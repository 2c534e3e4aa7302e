"""`foldsight bench`: what this machine really does, frame by frame, through the live pipeline."""

from __future__ import annotations

import os
import platform
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge import __version__
from edge.analysis import Analyser
from edge.bundle import Bundle
from edge.capture import Reader, choose_source
from edge.errors import SourceError
from edge.frames import NewestFrameSlot
from edge.pipeline import Pipeline
from edge.runtime import OnnxRuntime
from edge.telemetry import Telemetry

if TYPE_CHECKING:
    from edge.config import Config


class _Sink:
    """Takes the encoded messages and counts their bytes: the benchmark's figures have no broker in them."""

    def __init__(self) -> None:
        self.bytes = 0

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        """Count a live message."""
        del topic, qos, retain, expiry_s
        self.bytes += len(payload)
        return True

    def event(self, payload: bytes) -> None:
        """Count an event."""
        self.bytes += len(payload)


def fingerprint() -> dict[str, Any]:
    """The machine that a figure was measured on, without its name."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
    except OSError:
        pass
    board = Path("/proc/device-tree/model")
    return {
        "machine": platform.machine(),
        "cpu": model,
        "board": board.read_text(encoding="utf-8").strip("\0") if board.exists() else None,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "foldsight": __version__,
    }


def run(config: Config, *, seconds: float, warmup_s: float) -> dict[str, Any]:
    """Measure the live pipeline on a source.

    Args:
        config: the settings; with `capture.pace` lossless the pipeline runs as fast as it can.
        seconds: how long to measure.
        warmup_s: how long to run before.

    Returns:
        Frames per second, age and stages (ms), drops, CPU seconds per wall second, memory, temperature and machine.

    Raises:
        SourceError: the source gave no frame.
    """
    bundle = Bundle.open(config.model.bundle)
    analyser = Analyser(bundle, precision=config.model.precision, threads=config.model.threads)
    telemetry = Telemetry()
    before = {"temperature_c": telemetry.temperature_c(), "throttled": telemetry.throttled()}
    slot, sink = NewestFrameSlot(), _Sink()
    reader = Reader(
        choose_source(config.capture),
        slot,
        lossless=config.capture.pace == "lossless",
        tell=lambda state, why: None,  # noqa: ARG005
    )

    def pipeline() -> Pipeline:
        return Pipeline(config, session=1, reader=reader, slot=slot, analyser=analyser, outlet=sink)

    reader.start()
    try:
        warm = pipeline()
        _drive(warm, reader, warmup_s)
        replaced, cpu, begin = slot.replaced, _cpu_s(), time.monotonic()
        measured = pipeline()
        _drive(measured, reader, seconds)
        elapsed, cpu = time.monotonic() - begin, _cpu_s() - cpu
        replaced = slot.replaced - replaced
    finally:
        reader.stop()
    info = reader.info
    counts = measured.counts
    return {
        "machine": fingerprint(),
        "model": {
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "precision": analyser.artefact.precision,
            "runtime": analyser.runtime.description,
            "input": [bundle.manifest.input.height, bundle.manifest.input.width],
        },
        "source": {"name": info.name, "width": info.width, "height": info.height, "fps": info.fps} if info else None,
        "pace": config.capture.pace,
        "seconds": round(elapsed, 3),
        "frames": counts.classified,
        "fps": round(counts.classified / elapsed, 2),
        "age_ms": measured.age.total.percentiles().model_dump(),
        "stages_ms": {name: meter.total.percentiles().model_dump() for name, meter in measured.stages.items()},
        "inference_alone_ms": inference_alone(bundle, analyser, config.model.threads),
        "budget_ms": config.latency.budget_ms,
        "over_budget": counts.over_budget,
        "dropped": {"replaced": replaced, "too_old": counts.too_old},
        "cpu_per_wall": round(cpu / elapsed, 3),
        "memory_mb": round(telemetry.memory_mb(), 1),
        "memory_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024 / 1000, 1),
        "before": before,
        "after": {"temperature_c": telemetry.temperature_c(), "throttled": telemetry.throttled()},
    }


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


def _drive(pipeline: Pipeline, reader: Reader, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    begun = time.monotonic()
    while time.monotonic() < deadline:
        if not pipeline.step():
            break
        waited = time.monotonic() - begun
        if not reader.frames and (reader.state == "lost" or waited > 10):  # noqa: PLR2004  no camera starts so slowly
            raise SourceError(reader.reason or "the source gave no frame in 10 s")
        if not reader.frames:
            deadline = time.monotonic() + seconds  # a source that is still opening is not being measured


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def report(result: dict[str, Any]) -> str:
    """The result for a person."""
    machine, model, source = result["machine"], result["model"], result["source"] or {}
    lines = [
        f"{machine['board'] or machine['cpu']} ({machine['machine']}, {machine['cores']} cores), {machine['system']}",
        f"{model['name']} {model['version']} {model['precision']}, {model['runtime']}",
        (
            f"{source.get('name')}, {source.get('width')}x{source.get('height')} at {source.get('fps')} fps, "
            f"pace {result['pace']}, threads {threading.active_count()}"
        ),
        "",
        (
            f"{result['fps']:.1f} frames/s over {result['seconds']:.1f} s; over budget ({result['budget_ms']:g} ms) "
            f"{result['over_budget']}; replaced {result['dropped']['replaced']}, too old {result['dropped']['too_old']}"
        ),
        f"CPU {100 * result['cpu_per_wall']:.0f} % of one core; memory {result['memory_mb']:.0f} MB",
        "",
        f"{'ms':<12}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}{'max':>9}",
    ]
    for name, p in [*result["stages_ms"].items(), ("age", result["age_ms"])]:
        lines.append(f"{name:<12}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}{p['p999']:>9.2f}{p['max']:>9.2f}")
    alone = result["inference_alone_ms"]
    lines.append(f"inference alone: {alone['p50']:.2f} ms (p50), {alone['p95']:.2f} ms (p95)")
    return "\n".join(lines)
