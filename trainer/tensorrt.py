"""Builds the TensorRT engine of a bundle for the GPU that stands here, and says how it does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.decision import calibrate
from edge.runtime import nvidia, open_runtime
from edge.runtime.tensorrt import EngineCache, Key, choose_artefact, open_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge.bundle import Bundle
    from edge.runtime import Runtime
    from edge.runtime.tensorrt import Driver

_RUNS, _WARM = 300, 30


def export_engine(
    bundle: Bundle,
    folder: Path,
    *,
    precision: str = "auto",
    tell: Callable[[str], None],
    driver: Driver | None = None,
) -> dict[str, Any]:
    """Build an engine, check its golden outputs, and measure it against ONNX Runtime on the golden inputs.

    Args:
        bundle: with a graph for TensorRT.
        folder: where the engine is put, as a device keeps them.
        precision: `auto`, `int8` or `fp16`.
        tell: called with lines of progress.
        driver: None: NVIDIA's, of this machine's first GPU.

    Returns:
        `engine` (its file), `description`, `precision`, `tensorrt`, `gpu`, `capability`; `latency_ms` and
        `onnxruntime_ms` (p50 and p99 of one inference, the copies included); `agreement`, the share of golden inputs
        with the label that ONNX Runtime gives, and `difference`, the largest of a calibrated score.

    Raises:
        EngineError: there is no GPU or no TensorRT, or the engine cannot be built.
        BundleError: the bundle has no graph for it, or the engine computes something else.
    """
    driver = nvidia.connect() if driver is None else driver
    runtime = open_engine(bundle, driver, folder, precision=precision, tell=tell)
    artefact, chosen = choose_artefact(bundle, precision)
    key = Key.of(bundle.files[artefact.file], driver, chosen)
    reference = open_runtime(bundle, bundle.artefact())
    inputs, _ = bundle.golden(artefact)

    def scores(of: Runtime) -> Any:
        manifest = bundle.manifest
        return np.stack(
            [
                calibrate(of.infer(image[None]), manifest.decision.temperature, exclusive=manifest.exclusive)
                for image in inputs
            ]
        )

    ours, theirs = scores(runtime), scores(reference)
    return {
        "engine": str(EngineCache(folder).path(key)),
        "description": runtime.description,
        "precision": chosen,
        "tensorrt": driver.version,
        "gpu": driver.gpu,
        "capability": driver.capability,
        "latency_ms": latency(runtime, inputs),
        "onnxruntime_ms": latency(reference, inputs),
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "difference": float(np.abs(ours - theirs).max()),
    }


def latency(runtime: Runtime, inputs: Any) -> dict[str, float]:
    """Milliseconds of one inference, p50 and p99."""
    found = []
    for index in range(_RUNS + _WARM):
        begin = time.perf_counter()
        runtime.infer(inputs[index % len(inputs)][None])
        found.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(found[_WARM:], (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}
