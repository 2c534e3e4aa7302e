"""The real driver: NVIDIA's TensorRT and, through pycuda, one GPU. Both are imported only when they are asked for.

`build_plan` needs no GPU of its own where the library builds for another one: the tests run it with TensorRT for RTX.
The rest has not been run: there was no GPU (docs/tensorrt.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import EngineError
from edge.runtime.tensorrt import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_WORKSPACE = 256 << 20  # bytes that building may use for a layer; these networks are small
_TRIALS = 20  # runs by which a CUDA graph must prove itself
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_STEPS_A_LINE = 10  # of the builder's progress


def connect() -> NvidiaDriver:
    """The driver of this machine's first GPU.

    Raises:
        EngineError: TensorRT, pycuda or a GPU is missing.
    """
    advice = "or set model.runtime: onnxruntime"
    try:
        import tensorrt  # noqa: PLC0415  a hundred megabytes that few devices have
    except ImportError as error:
        raise EngineError(
            f"TensorRT is not installed here ({error}): on a Jetson it comes with JetPack, elsewhere install "
            f"foldsight[jetson]; {advice}"
        ) from error
    try:
        import pycuda.driver as cuda  # noqa: PLC0415  wants a driver to be imported at all
    except ImportError as error:
        raise EngineError(
            f"pycuda cannot be used here ({error}): install foldsight[jetson] and the GPU's driver; {advice}"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise EngineError(f"the GPU's driver does not answer ({error}): install or update it; {advice}") from error
    if not count:
        raise EngineError(f"there is no NVIDIA GPU here: {advice.removeprefix('or ')}")
    return NvidiaDriver(tensorrt, cuda)


class NvidiaDriver:
    """See `edge.runtime.tensorrt.Driver`.

    Args:
        trt: the module tensorrt.
        cuda: the module pycuda.driver, initialised.
    """

    def __init__(self, trt: Any, cuda: Any) -> None:
        self._trt, self._cuda = trt, cuda
        device = cuda.Device(0)
        self._context = device.retain_primary_context()  # the one that TensorRT works in
        self._logger = _logger(trt)
        self.version: str = trt.__version__
        self.gpu: str = device.name()
        self.capability = "{}.{}".format(*device.compute_capability())

    def build(self, model: bytes, precision: str, tell: Callable[[str], None]) -> bytes:
        """See `Driver`."""
        with current(self._cuda, self._context):
            return build_plan(self._trt, model, precision, tell, logger=self._logger)

    def load(self, plan: bytes) -> NvidiaEngine:
        """See `Driver`."""
        with current(self._cuda, self._context):
            return NvidiaEngine(self._trt, self._cuda, self._context, self._logger, plan)


@contextlib.contextmanager
def current(cuda: Any, context: Any) -> Iterator[None]:
    """Make a CUDA context this thread's, and its errors EngineErrors."""
    try:
        context.push()
        try:
            yield
        finally:
            cuda.Context.pop()
    except cuda.Error as error:
        raise EngineError(f"the GPU failed: {error}") from error


def _logger(trt: Any) -> Any:
    """A logger that keeps the last complaint: what a function that returned nothing means."""

    class Last(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.said = message.strip().splitlines()[0] if message.strip() else ""

    return Last()


def build_plan(
    trt: Any,
    model: bytes,
    precision: str,
    tell: Callable[[str], None],
    *,
    logger: Any = None,
    prepare: Callable[[Any], None] = lambda _: None,
) -> bytes:
    """Read an ONNX file and build an engine.

    Args:
        trt: the module tensorrt, 8.6 or newer, or tensorrt_rtx.
        model: the ONNX file.
        precision: `int8` (the graph says where) or `fp16`.
        tell: called with a line of progress.
        logger: of `trt`.
        prepare: called with the builder's configuration.

    Raises:
        EngineError: see `Driver.build`.
    """
    logger = logger or _logger(trt)
    builder = trt.Builder(logger)
    creation = trt.NetworkDefinitionCreationFlag
    # TensorRT 8 wants to be told that the batch is in the shape; from 11 on the graph's own types are the precision.
    flags = [f for f in ("EXPLICIT_BATCH",) if hasattr(creation, f)]
    chooses = hasattr(trt.BuilderFlag, "INT8") and hasattr(trt.BuilderFlag, "FP16")
    if not chooses:
        flags.append("STRONGLY_TYPED")
        if precision == "fp16":
            raise EngineError(
                f"TensorRT {trt.__version__} takes the precision from the graph alone, and the bundle's is not of half "
                "precision: use int8, or TensorRT 10 or older"
            )
    network = builder.create_network(sum(1 << int(getattr(creation, name)) for name in flags))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise EngineError(f"TensorRT {trt.__version__} cannot read the graph: {_complaint(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    if chooses:
        config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    monitor = _monitor(trt, tell)
    if monitor is not None:
        config.progress_monitor = monitor
    prepare(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = getattr(logger, "said", "") or "it does not say why"
        raise EngineError(f"TensorRT {trt.__version__} cannot build an engine of the graph: {why}")
    return bytes(plan)


def _complaint(parser: Any) -> str:
    if not parser.num_errors:
        return "it does not say why"
    error = parser.get_error(0)
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    node = error.node_name() if hasattr(error, "node_name") else ""
    text = error.desc().strip()
    where = f"operator {operator}{f' ({node})' if node else ''}: " if operator else ""
    return f"{where}{text.splitlines()[0] if text else 'not supported'}"


def _monitor(trt: Any, tell: Callable[[str], None]) -> Any:
    """Tells how far building has come; None where this TensorRT cannot say."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._steps[phase_name] = num_steps
            if num_steps >= _STEPS_A_LINE:
                tell(f"building the engine: {phase_name}, {num_steps} steps")

        def step_complete(self, phase_name: str, step: int) -> bool:
            count = self._steps.get(phase_name, 0)
            if count >= _STEPS_A_LINE and step and step % (count // _STEPS_A_LINE) == 0:
                tell(f"building the engine: {phase_name}, {100 * step // count} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


class NvidiaEngine:
    """See `edge.runtime.tensorrt.Engine`. Made and run with its context current; one stream, pinned buffers.

    Raises:
        EngineError: see `Driver.load`.
    """

    def __init__(self, trt: Any, cuda: Any, context: Any, logger: Any, plan: bytes) -> None:
        self._cuda, self._context = cuda, context
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"the engine was made by another TensorRT or for another GPU ({logger.said or 'unknown'})"
            )
        self._execution = self._engine.create_execution_context()
        if self._execution is None:
            raise EngineError(f"the GPU has no memory left for the engine ({logger.said or 'unknown'})")
        self._stream = cuda.Stream()
        self.tensors: dict[str, Tensor] = {}
        self._host: dict[str, NDArray[np.generic]] = {}
        self._device: dict[str, Any] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(int(side) for side in self._engine.get_tensor_shape(name))
            # nptype of TensorRT 8 does not know uint8.
            byte = self._engine.get_tensor_dtype(name) == getattr(trt, "uint8", None)
            dtype = np.dtype(np.uint8 if byte else trt.nptype(self._engine.get_tensor_dtype(name)))
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            self.tensors[name] = Tensor(shape, dtype.name, is_input)
            self._host[name] = cuda.pagelocked_empty(shape, dtype)
            self._host[name].fill(0)
            self._device[name] = cuda.mem_alloc(self._host[name].nbytes)
            self._execution.set_tensor_address(name, int(self._device[name]))
        self._graph: _Graph | None = None
        self._launch()
        self._stream.synchronize()  # the first run lays out its memory, and must not be recorded
        self.note = self._choose()

    def buffer(self, name: str) -> NDArray[np.generic]:
        """See `Engine`."""
        return self._host[name]

    def run(self) -> None:
        """See `Engine`."""
        with current(self._cuda, self._context):
            self._once()

    def _once(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._launch()
        self._stream.synchronize()

    def _launch(self) -> None:
        for name, tensor in self.tensors.items():
            if tensor.is_input:
                self._cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)
        if not self._execution.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT refused to run the engine")
        for name, tensor in self.tensors.items():
            if not tensor.is_input:
                self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)

    def _choose(self) -> str:
        """Record everything as one CUDA graph, and keep it where it is quicker."""
        plain = self._timed()
        try:
            self._graph = _Graph(self._stream.handle, self._launch)
            recorded = self._timed()
        except (EngineError, OSError, AttributeError) as error:
            self._graph = None
            return f"no CUDA graph ({error})"
        if recorded >= plain:
            self._graph = None
            return "no CUDA graph (it is no quicker)"
        return "CUDA graph"

    def _timed(self) -> float:
        """Seconds of a run, the median."""
        found = []
        for _ in range(_TRIALS):
            begin = time.perf_counter()
            self._once()
            found.append(time.perf_counter() - begin)
        return sorted(found)[_TRIALS // 2]


class _Graph:
    """What a function sends to a stream, recorded as a CUDA graph; by the driver's own calls, as pycuda has none.

    Args:
        stream: its handle.
        launch: sends the work.

    Raises:
        EngineError: it cannot be recorded.
        OSError, AttributeError: there is no such driver, or it is too old.
    """

    def __init__(self, stream: int, launch: Callable[[], None]) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._stream = ctypes.c_void_p(stream)
        graph, self._ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_RELAXED))
        try:
            launch()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._ready), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Send it all at once."""
        self._call("cuGraphLaunch", self._ready, self._stream)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            raise EngineError(f"{name} failed with CUDA error {status}")
