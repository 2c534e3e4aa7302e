"""Which form of a bundle's model this machine runs, and how: measured here, and remembered.

`model.runtime: auto` follows what was measured. ONNX Runtime's artefacts, and ncnn's where it is installed, are timed
against each other at the start, in well under two seconds; a TensorRT engine is built or loaded beside the running
model, and takes over where it is quicker. What was measured is kept in `measured.json` in the state directory, for as
long as bundle, runtimes and processor are the same. Precisions are taken as equally right: the trainer's gate lets no
INT8 pass that is not.
"""

from __future__ import annotations

import json
import logging
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from edge.analysis import Analyser
from edge.errors import FoldsightError
from edge.pairing import files
from edge.runtime import onnx_version, open_runtime
from edge.runtime.ncnn import ncnn_version, open_ncnn
from edge.runtime.tensorrt import FOLDER, Relay, choose_artefact, open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.bundle import Artefact, Bundle
    from edge.config import Config
    from edge.runtime import Runtime
    from edge.runtime.tensorrt import Driver

log = logging.getLogger(__name__)

MEMORY = "measured.json"
_KEPT = 8  # measurements that are remembered
_MEASURE_S, _LEAST_RUNS, _MOST_RUNS, _WARM = 0.8, 5, 200, 3
_AS_QUICK = 1.05  # times the quickest's: what the smaller INT8 may take and still be chosen


class Timed(BaseModel):
    """How long one inference takes.

    Attributes:
        name: the artefact's, or of the engine made from it.
        runtime: description of what ran it.
        p50_ms: the median.
        p95_ms: the 95th percentile.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    precision: str
    runtime: str
    p50_ms: float
    p95_ms: float


class _Entry(BaseModel):
    key: dict[str, str]
    at: float
    timed: list[Timed]


class _Memory(BaseModel):
    schema_version: int = 1
    entries: list[_Entry] = []


@dataclass(frozen=True, slots=True)
class Choice:
    """An artefact, and why.

    Attributes:
        artefact: for ONNX Runtime.
        reason: a sentence for the log.
        timed: what it rests on, the quickest first; empty where there was nothing to choose.
        remembered: whether that was measured at an earlier start.
        instead: what serves in place of ONNX Runtime, its golden outputs checked: ncnn.
        missing: why ncnn does not serve, where the bundle has a form for it and it was wanted; else empty.
    """

    artefact: Artefact
    reason: str
    timed: tuple[Timed, ...] = ()
    remembered: bool = False
    instead: Runtime | None = None
    missing: str = ""


def measure(candidates: Sequence[tuple[str, str, Runtime]], inputs: Any, seconds: float = _MEASURE_S) -> list[Timed]:
    """Time inferences, the candidates in turn, so that what else the machine does meets them all alike.

    Args:
        candidates: name, precision and runtime of each.
        inputs: uint8 (n, height, width, 3) RGB.
        seconds: how long, about; each runs at least five times.

    Returns:
        The quickest first.
    """
    found: list[list[float]] = [[] for _ in candidates]
    deadline, turn = time.monotonic() + seconds, -_WARM
    while turn < _LEAST_RUNS or (turn < _MOST_RUNS and time.monotonic() < deadline):
        image = inputs[turn % len(inputs)][None]
        for (_, _, runtime), durations in zip(candidates, found, strict=True):
            begin = time.perf_counter_ns()
            runtime.infer(image)
            if turn >= 0:
                durations.append((time.perf_counter_ns() - begin) / 1e6)
        turn += 1
    timed = []
    for (name, precision, runtime), durations in zip(candidates, found, strict=True):
        p50, p95 = (round(float(value), 3) for value in np.percentile(durations, (50, 95)))
        timed.append(Timed(name=name, precision=precision, runtime=runtime.description, p50_ms=p50, p95_ms=p95))
    return sorted(timed, key=lambda entry: entry.p50_ms)


def best(timed: Sequence[Timed]) -> Timed:
    """The quickest; INT8, which is the smallest, where it is about as quick."""
    quickest = min(entry.p50_ms for entry in timed)
    small = [entry for entry in timed if entry.precision == "int8" and entry.p50_ms <= _AS_QUICK * quickest]
    return min(small or timed, key=lambda entry: entry.p50_ms)


def choose(config: Config, bundle: Bundle) -> Choice:
    """What is to run here from the first frame on: an artefact for ONNX Runtime, or ncnn in its place.

    Raises:
        BundleError: the bundle has none of the wanted precision for ONNX Runtime.
    """
    settings = config.model
    if settings.runtime == "ncnn":
        wanted = bundle.artefact()
        instead, missing = _open_ncnn(config, bundle)
        why = "as model.runtime says" if instead is not None else f"{wanted.name}, as ncnn cannot be had"
        return Choice(wanted, why, instead=instead, missing=missing)
    wanted = bundle.artefact(settings.precision)
    measured = settings.runtime == "auto"
    candidates = bundle.primary() if measured and settings.precision == "auto" else [wanted]
    form = next((a for a in bundle.manifest.artefacts if a.runtime == "ncnn"), None) if measured else None
    missing = ""
    if form is not None and settings.precision not in ("auto", form.precision):
        form = None
    if form is not None and ncnn_version() is None:
        form, missing = None, "the bundle has a form for ncnn, which is not installed here: install foldsight[ncnn]"
    if len(candidates) == 1 and form is None:
        return Choice(wanted, _only(config, bundle, wanted), missing=missing)
    key = {
        "bundle": bundle.sha256,
        "runtime": f"ONNX Runtime {onnx_version()}{'' if form is None else f', ncnn {ncnn_version()}'}",
        "processor": processor(),
        "threads": str(settings.threads),
    }
    memory = Memory(config.effective_state_dir / MEMORY)
    timed = memory.recall(key)
    remembered = timed is not None and {e.name for e in timed} == {a.name for a in (*candidates, form) if a is not None}
    instead = None
    if form is not None and (timed is None or not remembered or best(timed).name == form.name):
        instead, missing = _open_ncnn(config, bundle)
    if timed is None or not remembered:
        inputs, _ = bundle.golden(wanted)
        opened = [(a.name, a.precision, open_runtime(bundle, a, threads=settings.threads)) for a in candidates]
        if form is not None and instead is not None:
            opened.append((form.name, form.precision, instead))
        timed = measure(opened, inputs)
        memory.keep(key, timed)
    graphs = [entry for entry in timed if form is None or entry.name != form.name]
    chosen = best(timed if instead is not None else graphs)
    if form is None or chosen.name != form.name:
        instead = None
    name = best(graphs).name  # should ncnn serve and fail later, this one goes on
    (artefact,) = (a for a in candidates if a.name == name)
    when = "remembered" if remembered else "measured now"
    told = ", ".join(f"{entry.name} {entry.p50_ms:.2f} ms" for entry in timed)
    reason = f"{chosen.name}: the median inference takes {told} here ({when})"
    return Choice(artefact, reason, tuple(timed), remembered, instead, missing)


def _only(config: Config, bundle: Bundle, wanted: Artefact) -> str:
    """Why an artefact is taken without measuring."""
    if config.model.precision != "auto":
        return f"{wanted.name}, as model.precision says"
    if len(bundle.primary()) == 1:
        return f"{wanted.name}: the bundle's only model for ONNX Runtime"
    return f"{wanted.name}: INT8 where the bundle has it"


def _open_ncnn(config: Config, bundle: Bundle) -> tuple[Runtime | None, str]:
    """The bundle's form in ncnn, or why it does not run here."""
    try:
        return open_ncnn(bundle, config.model.precision, threads=config.model.threads)[1], ""
    except FoldsightError as error:
        return None, str(error)


def open_analyser(config: Config, bundle: Bundle) -> Analyser:
    """An analyser with what `choose` says; ready for ONNX Runtime to go on alone, and for a TensorRT engine to come.

    Raises:
        BundleError: the bundle has no model of the wanted precision, or it cannot be loaded.
    """
    choice = choose(config, bundle)
    log.info("model: %s", choice.reason)
    analyser = Analyser(bundle, artefact=choice.artefact, threads=config.model.threads)
    if choice.missing:
        # With `auto` a device without ncnn is as good as any; ncnn that gives other answers is not.
        level = logging.INFO if config.model.runtime == "auto" and ncnn_version() is None else logging.WARNING
        log.log(level, "%s; %s goes on", choice.missing, analyser.runtime.description)
    if choice.instead is not None or _wants_engine(config, bundle):
        analyser.runtime = Relay(analyser.runtime)
        if choice.instead is not None:
            analyser.runtime.change(choice.instead)
    return analyser


def _wants_engine(config: Config, bundle: Bundle) -> bool:
    if config.model.runtime == "auto":
        return any(a.runtime == "tensorrt" for a in bundle.manifest.artefacts) and _has_tensorrt()
    return config.model.runtime == "tensorrt"


def _has_tensorrt() -> bool:
    import importlib.util  # noqa: PLC0415  only here

    return importlib.util.find_spec("tensorrt") is not None


class Told(Protocol):
    """Who is told how an engine does."""

    def __call__(self, sentence: str, *, fault: bool, changed: bool) -> None:
        """Take a sentence: of a fault, or of progress; and whether another runtime serves now."""
        ...


def start_engine(
    config: Config, analyser: Analyser, tell: Told, connect: Callable[[], Driver] | None = None
) -> threading.Thread | None:
    """Build or load the TensorRT engine on a thread of its own, and let it take over; the model that runs goes on.

    Where ncnn was asked for and cannot be had, that is told, too.

    Args:
        config: the settings.
        analyser: of `open_analyser`.
        tell: called on that thread, or by the analyser's when the GPU fails.
        connect: gives the driver; None: NVIDIA's.

    Returns:
        The thread; None where no engine is wanted.
    """
    relay = analyser.runtime
    if config.model.runtime == "ncnn" and not isinstance(relay, Relay):
        tell(f"ncnn was asked for and cannot be had; {relay.description} goes on", fault=True, changed=False)
    if not isinstance(relay, Relay):
        return None
    relay.failed = lambda sentence: tell(sentence, fault=True, changed=True)
    if not _wants_engine(config, analyser.bundle):
        return None

    def work() -> None:
        try:
            sentence, changed = _raise_engine(config, analyser, relay, tell, connect)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it, the model that runs is good
            said = str(error) if isinstance(error, FoldsightError) else f"{type(error).__name__}: {error}"
            tell(f"{said}; {relay.description} goes on", fault=True, changed=False)
            return
        tell(sentence, fault=False, changed=changed)

    thread = threading.Thread(target=work, name="engine", daemon=True)
    thread.start()
    return thread


def _raise_engine(
    config: Config, analyser: Analyser, relay: Relay, tell: Told, connect: Callable[[], Driver] | None
) -> tuple[str, bool]:
    """What became of it, and whether it serves."""
    if connect is None:
        from edge.runtime import nvidia  # noqa: PLC0415  few devices have it

        connect = nvidia.connect
    bundle, settings = analyser.bundle, config.model
    artefact, precision = choose_artefact(bundle, settings.engine)
    driver = connect()
    serving = analyser.artefact if relay.now is relay.first else bundle.artefact("auto", "ncnn")
    key = {
        "bundle": bundle.sha256,
        "runtime": f"TensorRT {driver.version} {precision}, {relay.description} {serving.name}",
        "processor": f"{driver.gpu} {driver.capability}, {processor()}",
        "threads": str(settings.threads),
    }
    memory, folder = Memory(config.effective_state_dir / MEMORY), config.effective_state_dir / FOLDER
    auto = settings.runtime == "auto"
    timed = memory.recall(key) if auto else None
    name = f"{artefact.name} engine"
    if timed is not None and best(timed).name != name:
        return f"no engine is loaded: {_compared(timed)} (remembered)", False
    engine = open_engine(
        bundle, driver, folder, precision=settings.engine, tell=lambda line: tell(line, fault=False, changed=False)
    )
    if auto and timed is None:
        inputs, _ = bundle.golden(artefact)
        other = open_runtime(bundle, serving, threads=settings.threads)  # the one that serves is busy
        timed = measure([(name, precision, engine), (serving.name, "", other)], inputs)
        memory.keep(key, timed)
        if best(timed).name != name:
            return f"the engine does not take over: {_compared(timed)}", False
    relay.change(engine)
    return f"{engine.description} serves{f': {_compared(timed)}' if timed else ''}", True


def _compared(timed: Sequence[Timed]) -> str:
    return ", ".join(f"{entry.name} takes {entry.p50_ms:.2f} ms" for entry in timed)


class Memory:
    """What was measured, in a small file that may vanish or be damaged at any time: then it is measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self, key: dict[str, str]) -> list[Timed] | None:
        """What was measured under a key, None where nothing was."""
        return next((entry.timed for entry in self._read().entries if entry.key == key and entry.timed), None)

    def keep(self, key: dict[str, str], timed: list[Timed]) -> None:
        """Remember, in place of what was measured under the same key; the oldest goes."""
        others = [entry for entry in self._read().entries if entry.key != key]
        memory = _Memory(entries=[_Entry(key=key, at=round(time.time(), 1), timed=timed), *others][:_KEPT])
        try:
            files.write(self._path, memory.model_dump_json(indent=2).encode() + b"\n", files.PUBLIC)
        except FoldsightError as error:
            log.warning("what was measured is measured again at the next start: %s", error)

    def _read(self) -> _Memory:
        try:
            content = files.read(self._path)
            return _Memory() if content is None else _Memory.model_validate(json.loads(content))
        except (FoldsightError, ValidationError, ValueError) as error:
            log.warning("%s is of no use, it is measured again: %s", self._path, str(error).splitlines()[0])
            return _Memory()


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What this machine computes with: by the names that Linux gives, or by its numbers where there are none."""
    wanted = ("model name", "Model", "CPU implementer", "CPU part", "CPU variant", "CPU revision")
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    named = dict.fromkeys(f"{k.strip()} {v.strip()}" for k, _, v in lines if k.strip() in wanted)
    return ", ".join([platform.machine(), *named])
