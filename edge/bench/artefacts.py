"""Every form of a bundle's model by itself, and which one this device should use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge.choice import best, measure
from edge.errors import FoldsightError
from edge.runtime import nvidia, open_runtime
from edge.runtime.ncnn import open_ncnn
from edge.runtime.tensorrt import FOLDER, choose_artefact, open_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.bundle import Bundle
    from edge.config import Config
    from edge.runtime import Runtime
    from edge.runtime.tensorrt import Driver

_SECONDS = 2.0


def measure_artefacts(config: Config, bundle: Bundle, connect: Callable[[], Driver] = nvidia.connect) -> dict[str, Any]:
    """Time one inference of each artefact for ONNX Runtime, of ncnn's and of an engine where the bundle has them.

    Args:
        config: threads, and `model.runtime`: with `onnxruntime` neither ncnn nor an engine is tried.
        bundle: opened.
        connect: gives TensorRT's driver.

    Returns:
        `timed`: name, role, precision, runtime, p50_ms, p95_ms and bytes of each, the quickest first; `use`: the name
        of the one to use here; `why`; `engine`: why there is none, empty where there is one or none was asked for;
        `ncnn`: the same of ncnn.
    """
    manifest = bundle.manifest
    artefacts = [a for a in manifest.artefacts if a.runtime == "onnxruntime"]
    candidates: list[tuple[str, str, Runtime]] = [
        (a.name, a.precision, open_runtime(bundle, a, threads=config.model.threads)) for a in artefacts
    ]
    about = {a.name: (a.role, len(bundle.files[a.file])) for a in artefacts}
    missing = without = ""
    if config.model.runtime in ("auto", "ncnn") and any(a.runtime == "ncnn" for a in manifest.artefacts):
        try:
            form, ncnn = open_ncnn(bundle, threads=config.model.threads)
            candidates.append((form.name, form.precision, ncnn))
            about[form.name] = (form.role, len(bundle.files[form.file]))
        except FoldsightError as error:
            without = str(error)
    if config.model.runtime in ("auto", "tensorrt") and any(a.runtime == "tensorrt" for a in manifest.artefacts):
        try:
            artefact, precision = choose_artefact(bundle, config.model.engine)
            folder = config.effective_state_dir / FOLDER
            engine = open_engine(bundle, connect(), folder, precision=config.model.engine)
            candidates.append((f"{artefact.name} engine", precision, engine))
            about[f"{artefact.name} engine"] = (artefact.role, len(bundle.files[artefact.file]))
        except FoldsightError as error:
            missing = str(error)
    inputs, _ = bundle.golden(bundle.artefact())
    timed = measure(candidates, inputs, _SECONDS)
    primary = [entry for entry in timed if about[entry.name][0] == "primary"]
    chosen = best(primary)
    if len(primary) == 1:
        why = "the only form of the primary model that runs here"
    elif chosen is primary[0]:
        why = f"{primary[1].p50_ms / chosen.p50_ms:.1f} times as quick as {primary[1].name}"
    else:
        why = f"INT8 is the smallest, and {primary[0].name} is hardly quicker"
    return {
        "timed": [
            {**entry.model_dump(), "role": about[entry.name][0], "bytes": about[entry.name][1]} for entry in timed
        ],
        "use": chosen.name,
        "why": why,
        "engine": missing,
        "ncnn": without,
    }
