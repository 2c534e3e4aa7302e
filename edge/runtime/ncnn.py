"""ncnn on the CPU: the INT8 graph's own weights, activations without rounding, in float or half as the processor likes.

The trainer writes ncnn's text of the layers, and where in the bundle's INT8 graph the numbers of each layer lie: no
weight is stored twice, what is signed is what is run, and the device needs no reader of ONNX files. Answers are those
of a float model, so such an artefact has golden outputs of its own.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.errors import BundleError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle

LAYERS = frozenset(
    ("BinaryOp", "Convolution", "Flatten", "InnerProduct", "Input", "PixelShuffle", "Pooling", "ReLU", "Split")
)
"""What a form may be made of: ncnn has more, but takes some text of others for granted and crashes."""
_MAGIC = "7767517"
_FLOAT = b"\0\0\0\0"  # before a layer's weights in ncnn's file: float32 follow


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Values(_Part):
    """Numbers within the graph's file, little-endian.

    Attributes:
        at: where they begin, bytes.
        count: how many.
        scale_at: where the float32 scales begin that whole numbers are multiplied by; None: they are floats already.
        scale_count: how many: 1, or one for each equal part of the numbers (an output channel).
    """

    at: int = Field(ge=0)
    count: int = Field(ge=1)
    dtype: Literal["int8", "int32", "float32"]
    scale_at: int | None = Field(default=None, ge=0)
    scale_count: int = Field(default=1, ge=1)

    def read(self, content: bytes) -> NDArray[np.float32]:
        """The numbers, float32 (count,).

        Raises:
            ValueError: the file ends before.
        """
        found = np.frombuffer(content, np.dtype(self.dtype).newbyteorder("<"), self.count, self.at).astype(np.float32)
        if self.scale_at is not None:
            scale = np.frombuffer(content, "<f4", self.scale_count, self.scale_at)
            found = (found.reshape(self.scale_count, -1) * scale[:, None]).reshape(-1)
        return found


class Weights(_Part):
    """Of one layer, in the order of the layers; a layer may have no biases."""

    weight: Values
    bias: Values | None = None


class Form(_Part):
    """What an artefact for ncnn holds, as JSON.

    Attributes:
        graph: the INT8 graph's file in the same bundle.
        sha256: its hash: the places hold for no other.
        height, width: of the input.
        mean, factor: (pixel - mean) * factor is what the first layer takes.
        scores, maps: names of the output blobs; the maps' has its labels first.
        param: ncnn's text of the layers; its input is `pixels`.
    """

    schema_version: Literal[1] = 1
    graph: str
    sha256: str
    height: int
    width: int
    mean: float
    factor: float
    scores: str
    maps: str | None = None
    param: str
    weights: list[Weights]


def ncnn_version() -> str | None:
    """Of the ncnn that is installed; None where there is none."""
    from importlib import metadata  # noqa: PLC0415  importing ncnn itself takes 26 MB

    try:
        return metadata.version("ncnn")
    except metadata.PackageNotFoundError:
        return None


class NcnnRuntime:
    """One model in ncnn.

    Args:
        form: what it is made of.
        graph: the INT8 graph's file.
        where: what to call it in an error.
        labels: how many logits there must be.
        map_shape: rows, columns and labels of the maps, None for none.
        minimum: the oldest ncnn that will do.
        threads: for one inference.

    Raises:
        EngineError: ncnn is missing, too old, or cannot load it.
        BundleError: form and graph do not belong together, or it gives another output than it should.
    """

    def __init__(
        self,
        form: Form,
        graph: bytes,
        *,
        where: str = "model",
        labels: int = 2,
        map_shape: tuple[int, int, int] | None = None,
        minimum: str = "0",
        threads: int = 1,
    ) -> None:
        content = _weights(form, graph, where)
        _check_layers(form, where)
        ncnn = self._ncnn = _library(minimum, where)
        self._where, self._scores, self._map_output = where, form.scores, None if map_shape is None else form.maps
        if map_shape is not None and form.maps is None:
            raise BundleError(f"{where} has no maps, but the manifest says that there are some; build it again")
        self._net = ncnn.Net()
        # Kept until the net is gone: attributes go in the order in which they came.
        self._blobs, self._work = ncnn.UnlockedPoolAllocator(), ncnn.UnlockedPoolAllocator()
        option = self._net.opt
        option.num_threads = threads
        option.openmp_blocktime = 0  # a spinning thread costs a core, heats the Pi and gains little
        option.use_vulkan_compute = False
        if self._net.load_param_mem(form.param) or self._load(content):
            raise EngineError(f"{where} cannot be loaded by ncnn {ncnn.__version__}: it has other layers or weights")
        option.blob_allocator, option.workspace_allocator = self._blobs, self._work
        self._input = np.zeros((form.height, form.width, 3), np.uint8)
        self._means, self._factors = [form.mean] * 3, [form.factor] * 3
        self._logits: NDArray[np.float32] = np.zeros(labels, np.float32)
        self.maps: NDArray[np.float32] | None = None if map_shape is None else np.zeros(map_shape, np.float32)
        """The last inference's map logits float32 (rows, columns, labels), valid until the next; None without maps."""
        half = getattr(ncnn, "cpu_support_arm_asimdhp", lambda: 0)()
        self.description = (
            f"ncnn {ncnn.__version__}, CPU, {'half' if half else 'float'}, {threads} thread{'s' if threads > 1 else ''}"
        )
        self.infer(self._input[None])  # the first one lays out its memory, and shows what comes out

    def _load(self, content: bytes) -> int:
        """Give ncnn the weights as a file that is only in memory: of other memory it would keep the address."""
        handle = os.memfd_create("weights")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            return int(self._net.load_model(f"/proc/self/fd/{handle}"))

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call.

        Raises:
            EngineError: ncnn cannot, for want of memory.
        """
        np.copyto(self._input, image[0])
        height, width = self._input.shape[:2]
        mat = self._ncnn.Mat
        pixels = mat.from_pixels(self._input, mat.PixelType.PIXEL_RGB, width, height, self._blobs)
        pixels.substract_mean_normalize(self._means, self._factors)
        extractor = self._net.create_extractor()
        extractor.input("pixels", pixels)
        if self.maps is not None:
            self._take(extractor, self._map_output, self.maps.transpose(2, 0, 1))
        self._take(extractor, self._scores, self._logits)
        return self._logits

    def _take(self, extractor: Any, name: str | None, into: NDArray[np.float32]) -> None:
        status, blob = extractor.extract(name)
        if status:
            raise EngineError(f"{self._where}: ncnn gives no {name} (status {status}): is there too little memory?")
        found = np.asarray(blob)
        if found.shape != into.shape:
            raise BundleError(
                f"{self._where}: {name} is {list(found.shape)} in ncnn, but the manifest says {list(into.shape)}"
            )
        np.copyto(into, found)


def load_ncnn(bundle: Bundle, artefact: Artefact, *, threads: int = 1) -> NcnnRuntime:
    """Load an artefact for ncnn; its golden outputs are the caller's to check.

    Raises:
        EngineError: ncnn is missing, too old, or cannot load it.
        BundleError: the artefact is damaged, or not of this bundle's model.
    """
    where, manifest = f"{bundle.path}: {artefact.file}", bundle.manifest
    try:
        form = Form.model_validate_json(bundle.files[artefact.file])
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise BundleError(f"{where} is damaged ({place or 'JSON'}: {fault['msg']}); build it again") from error
    if (form.height, form.width) != (manifest.input.height, manifest.input.width):
        raise BundleError(
            f"{where} is for images of {form.height} x {form.width}, but the manifest says "
            f"{manifest.input.height} x {manifest.input.width}; build it again"
        )
    if form.graph not in bundle.files:
        raise BundleError(f"{where} takes its weights from {form.graph}, which the bundle has not; build it again")
    return NcnnRuntime(
        form,
        bundle.files[form.graph],
        where=where,
        labels=len(manifest.labels),
        map_shape=manifest.map_shape,
        minimum=artefact.minimum_runtime,
        threads=threads,
    )


def open_ncnn(bundle: Bundle, precision: str = "auto", *, threads: int = 1) -> tuple[Artefact, NcnnRuntime]:
    """A bundle's primary model in ncnn, its golden outputs checked.

    Raises:
        EngineError: see `load_ncnn`.
        BundleError: the bundle has none for ncnn, it is damaged, or it computes something else than it should.
    """
    artefact = bundle.artefact(precision, "ncnn")
    runtime = load_ncnn(bundle, artefact, threads=threads)
    bundle.check_golden(artefact, runtime)
    return artefact, runtime


def _library(minimum: str, where: str) -> Any:
    try:
        import ncnn  # noqa: PLC0415  26 MB that not every device has
    except ImportError as error:
        raise EngineError(
            f"ncnn is not installed here ({error}): install foldsight[ncnn], or set model.runtime: onnxruntime"
        ) from error
    if _numbers(ncnn.__version__) < _numbers(minimum):
        raise EngineError(
            f"{where} needs ncnn {minimum} or newer, here is {ncnn.__version__}: install a newer one, or set "
            "model.runtime: onnxruntime"
        )
    return ncnn


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _weights(form: Form, graph: bytes, where: str) -> bytes:
    """The layers' numbers as ncnn's file has them."""
    if hashlib.sha256(graph).hexdigest() != form.sha256:
        raise BundleError(f"{where} was made of another {form.graph} than the bundle's; build it again")
    parts = []
    try:
        for layer in form.weights:
            parts += [_FLOAT, *(values.read(graph).tobytes() for values in (layer.weight, layer.bias) if values)]
    except ValueError as error:
        raise BundleError(f"{where} names weights that are not in {form.graph} ({error}); build it again") from error
    return b"".join(parts)


def _check_layers(form: Form, where: str) -> None:
    """Refuse a text that is not layers of the known kinds with as many weights as there are."""
    magic, _, *lines = [line.split() for line in form.param.splitlines()] or [[], []]
    unknown = sorted({line[0] for line in lines if line} - LAYERS)
    if unknown:
        raise BundleError(f"{where} has layers that this Foldsight does not know ({', '.join(unknown)}): update it")
    wanted = [(line[0], dict(part.split("=", 1) for part in line if "=" in part)) for line in lines if line]
    sizes = [values.get({"Convolution": "6", "InnerProduct": "2"}.get(kind, "")) for kind, values in wanted]
    given = [str(layer.weight.count) for layer in form.weights]
    if magic != [_MAGIC] or [size for size in sizes if size is not None] != given:
        raise BundleError(f"{where} is damaged (its layers and its weights do not fit together); build it again")
