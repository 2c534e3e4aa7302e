"""TensorRT on a GPU: an engine is built on the device that runs it, kept, and checked before it serves.

What touches NVIDIA's libraries is behind `Driver` (`edge.runtime.nvidia` is the real one), so that all the rest can be
tested where there is no GPU. An engine is good only for one graph, one version of TensorRT, one kind of GPU and one
precision: these are its key. A cached engine carries its key and its hash, and anything else than what is wanted is
built anew; so is one that does not load or does not give the golden outputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from edge.errors import BundleError, EngineError, FoldsightError
from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle
    from edge.runtime import Runtime

log = logging.getLogger(__name__)

Precision = Literal["int8", "fp16"]


FOLDER = "engines"
_MAGIC = b"foldsight engine 1\n"
_KEPT = 4  # engines: two models, before and after an update of TensorRT
_HALF = 0.02  # of a score or a cell: what half precision may differ by from the FP32 that was recorded


class Tensor(NamedTuple):
    """An input or output of an engine."""

    shape: tuple[int, ...]
    dtype: str
    is_input: bool


class Engine(Protocol):
    """An engine on the GPU, with a pinned buffer for each tensor."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its inputs and outputs by name."""
        ...

    @property
    def note(self) -> str:
        """How it is run, for a person: with a CUDA graph or without."""
        ...

    def buffer(self, name: str) -> NDArray[np.generic]:
        """The host's memory of a tensor, the same at each call."""
        ...

    def run(self) -> None:
        """Copy the inputs to the GPU, run, copy the outputs back, wait.

        Raises:
            EngineError: the GPU failed.
        """
        ...


class Driver(Protocol):
    """TensorRT on one GPU.

    Attributes:
        version: of TensorRT.
        gpu: the GPU's name.
        capability: its compute capability, such as 8.7.
    """

    version: str
    gpu: str
    capability: str

    def build(self, model: bytes, precision: str, tell: Callable[[str], None]) -> bytes:
        """An engine of an ONNX file; takes minutes on a small device.

        Raises:
            EngineError: the graph cannot be read, holds an operator that TensorRT has not, or cannot be built.
        """
        ...

    def load(self, plan: bytes) -> Engine:
        """Bring an engine onto the GPU.

        Raises:
            EngineError: it was made by another TensorRT or for another GPU, is damaged, or finds no memory.
        """
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """What an engine is good for.

    Attributes:
        model: SHA-256 of the ONNX file.
    """

    model: str
    tensorrt: str
    gpu: str
    capability: str
    precision: str

    @classmethod
    def of(cls, model: bytes, driver: Driver, precision: str) -> Key:
        """The key of an engine that a driver would build."""
        return cls(hashlib.sha256(model).hexdigest(), driver.version, driver.gpu, driver.capability, precision)

    @property
    def name(self) -> str:
        """Of its file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24] + ".engine"


class EngineCache:
    """Engines in a folder, each put there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """Where an engine lies."""
        return self.folder / key.name

    def read(self, key: Key) -> tuple[bytes | None, str]:
        """An engine, or None; and why there is none where there is a file that should be it."""
        path = self.path(key)
        try:
            content = files.read(path)
        except FoldsightError as error:
            return None, str(error)
        if content is None:
            return None, ""
        head, _, plan = content[len(_MAGIC) :].partition(b"\n")
        try:
            said = json.loads(head)
            whole = content.startswith(_MAGIC) and said["sha256"] == hashlib.sha256(plan).hexdigest()
            found = Key(**said["key"])
        except (ValueError, TypeError, KeyError):
            return None, f"{path} is damaged or only half there"
        if not whole:
            return None, f"{path} is damaged or only half there"
        if found != key:
            return None, (
                f"{path} is an engine of TensorRT {found.tensorrt} for {found.gpu} ({found.capability}), "
                f"{found.precision}, not of {key.tensorrt} for {key.gpu} ({key.capability}), {key.precision}"
            )
        return plan, ""

    def write(self, key: Key, plan: bytes) -> None:
        """Keep an engine; of those that are there already the oldest go.

        Raises:
            FoldsightError: the folder cannot be written.
        """
        said = {"key": asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}
        files.write(self.path(key), _MAGIC + json.dumps(said).encode() + b"\n" + plan, files.PUBLIC)
        with contextlib.suppress(OSError):
            engines = sorted(self.folder.glob("*.engine"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in [*engines[_KEPT:], *self.folder.glob(".*.engine.*")]:  # and what a power cut left half written
                path.unlink()


class TensorRtRuntime:
    """A model on the GPU.

    Args:
        engine: loaded.
        bundle: says what goes in and comes out.
        description: what health and birth call it.

    Raises:
        BundleError: the engine's tensors are not what the manifest says.
    """

    def __init__(self, engine: Engine, bundle: Bundle, description: str) -> None:
        manifest = bundle.manifest
        side, maps = manifest.input, manifest.outputs.maps
        wanted: dict[str, tuple[int, ...]] = {manifest.outputs.scores: (1, len(manifest.labels))}
        if maps is not None and manifest.map_shape is not None:
            wanted[maps.output] = (1, *manifest.map_shape)
        inputs = {name: tensor for name, tensor in engine.tensors.items() if tensor.is_input}
        shape = (1, side.height, side.width, 3)
        if [(t.shape, t.dtype) for t in inputs.values()] != [(shape, "uint8")]:
            have = ", ".join(f"{name} {t.dtype} {list(t.shape)}" for name, t in inputs.items())
            raise BundleError(f"{bundle.path}: the engine wants {have}, but the manifest says uint8 {list(shape)}")
        for name, expected in wanted.items():
            tensor = engine.tensors.get(name)
            if tensor is None or tensor.is_input or (tensor.shape, tensor.dtype) != (expected, "float32"):
                have = "not there" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise BundleError(
                    f"{bundle.path}: the engine's output {name!r} is {have}, not float32 {list(expected)}"
                )
        self.description = description
        self._engine = engine
        self._input = engine.buffer(next(iter(inputs)))
        self._logits: NDArray[np.float32] = engine.buffer(manifest.outputs.scores)[0]
        self.maps: NDArray[np.float32] | None = None
        """The last inference's map logits float32 (rows, columns, labels), valid until the next; None without maps."""
        if maps is not None:
            self.maps = engine.buffer(maps.output)[0]

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call."""
        np.copyto(self._input, image)
        self._engine.run()
        return self._logits


def choose_artefact(bundle: Bundle, precision: str) -> tuple[Artefact, Precision]:
    """The graph to build from, and the engine's precision.

    Args:
        bundle: with graphs for TensorRT, or without.
        precision: `int8`; `fp16`, built from an FP32 graph; `auto`: INT8 where there is a graph for it, else half.

    Raises:
        BundleError: the bundle has no such graph.
    """
    if precision == "auto":
        artefact = bundle.artefact("auto", "tensorrt")
        return artefact, "int8" if artefact.precision == "int8" else "fp16"
    try:
        artefact = bundle.artefact("int8" if precision == "int8" else "fp32", "tensorrt")
    except BundleError as error:
        raise BundleError(f"a TensorRT engine of {precision} cannot be built: {error}") from error
    return artefact, "int8" if precision == "int8" else "fp16"


def open_engine(
    bundle: Bundle,
    driver: Driver,
    folder: Path,
    *,
    precision: str = "auto",
    tell: Callable[[str], None] = log.info,
) -> TensorRtRuntime:
    """An engine of a bundle, from the cache or built now, that gives the golden outputs.

    Args:
        bundle: with a graph for TensorRT.
        driver: TensorRT and the GPU.
        folder: where engines are kept.
        precision: see `choose_artefact`.
        tell: called with a line of progress, and with why a cached engine was of no use.

    Raises:
        BundleError: the bundle has no such graph, or its engine computes something else than it should.
        EngineError: the engine cannot be built or run here.
    """
    artefact, chosen = choose_artefact(bundle, precision)
    if _numbers(driver.version) < _numbers(artefact.minimum_runtime):
        raise EngineError(
            f"{bundle.path}: {artefact.file} needs TensorRT {artefact.minimum_runtime} or newer, here is "
            f"{driver.version}: install a newer one, or set model.runtime: onnxruntime"
        )
    model, cache = bundle.files[artefact.file], EngineCache(folder)
    key = Key.of(model, driver, chosen)
    plan, why = cache.read(key)
    if plan is not None:
        try:
            return _checked(bundle, artefact, chosen, driver, plan)
        except FoldsightError as error:
            why = f"{cache.path(key)} is of no use: {error}"
            with contextlib.suppress(OSError):
                os.unlink(cache.path(key))  # noqa: PTH108  as above
    if why:
        tell(f"{why}; it is built anew")
    tell(f"building a TensorRT {driver.version} engine of {artefact.file}, {chosen}, for {driver.gpu}")
    plan = driver.build(model, chosen, tell)
    runtime = _checked(bundle, artefact, chosen, driver, plan)
    try:
        cache.write(key, plan)
    except FoldsightError as error:
        tell(f"the engine cannot be kept, and is built again at the next start: {error}")
    return runtime


def _checked(bundle: Bundle, artefact: Artefact, precision: str, driver: Driver, plan: bytes) -> TensorRtRuntime:
    engine = driver.load(plan)
    runtime = TensorRtRuntime(engine, bundle, f"TensorRT {driver.version}, {driver.gpu}, {precision}, {engine.note}")
    bundle.check_golden(artefact, runtime, least_tolerance=_HALF if precision == "fp16" else 0.0)
    return runtime


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


class Relay:
    """Serves with one runtime, later with another, and goes back to the first should the other fail.

    The runtime is changed on any thread, and takes over between two frames.

    Args:
        first: what serves at first; it stays loaded.
        failed: called with the sentence when the other failed.
    """

    def __init__(self, first: Runtime, failed: Callable[[str], None] = log.error) -> None:
        self.first = self.now = first
        self.failed = failed
        self.maps = first.maps

    @property
    def description(self) -> str:
        """Of what serves now."""
        return self.now.description

    def change(self, runtime: Runtime) -> None:
        """Serve with another from the next frame on."""
        self.now = runtime

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call."""
        now = self.now
        try:
            logits = now.infer(image)
        except EngineError as error:
            if now is self.first:
                raise
            now = self.now = self.first
            self.failed(f"{error}; {now.description} goes on")
            logits = now.infer(image)
        self.maps = now.maps
        return logits
