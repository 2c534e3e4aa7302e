"""ONNX Runtime on the CPU: input and output bound once, no spinning threads, nothing sent anywhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Since 1.29 the import itself would start telemetry; a device in a clinic sends nothing.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

from edge.errors import BundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ort.set_default_logger_severity(3)  # errors come as exceptions; warnings about the host mean nothing to a clinician


def onnx_version() -> str:
    """Of ONNX Runtime."""
    return str(ort.__version__)


class OnnxRuntime:
    """One model, loaded from memory.

    Args:
        model: the ONNX file's bytes.
        where: what to call it in an error.
        shape: the input's shape (1, height, width, 3), uint8.
        scores: the name of the output with the logits.
        labels: how many logits there must be.
        maps: the name of the output with the maps' logits; None leaves it alone, should there be one.
        map_shape: rows, columns and labels that it must have.
        threads: threads for one inference; more than one is worth it only on cores that idle.

    Raises:
        BundleError: the model cannot be loaded, or its input or output is another one.
    """

    def __init__(
        self,
        model: bytes,
        *,
        where: str = "model",
        shape: tuple[int, ...] | None = None,
        scores: str = "logits",
        labels: int | None = None,
        maps: str | None = None,
        map_shape: tuple[int, int, int] | None = None,
        threads: int = 1,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # A spinning thread costs a core, heats the Pi and gains little.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has an exception class per failure, none of them public
            raise BundleError(f"{where} cannot be loaded by ONNX Runtime {ort.__version__}: {_first(error)}") from error
        (model_input, *more), outputs = self._session.get_inputs(), {o.name: o for o in self._session.get_outputs()}
        if more or model_input.type != "tensor(uint8)" or (shape and tuple(model_input.shape) != shape):
            raise BundleError(
                f"{where} wants {model_input.type} {model_input.shape}, but the manifest says uint8 {list(shape or ())}"
            )
        for name in (scores, *([] if maps is None else [maps])):
            if name not in outputs:
                raise BundleError(f"{where} has no output {name!r}, only {', '.join(outputs)}")
        if labels is not None and tuple(outputs[scores].shape) != (1, labels):
            raise BundleError(f"{where}: output {scores!r} is {outputs[scores].shape}, not (1, {labels})")
        if maps is not None:
            _check_maps(outputs[maps], map_shape, where)
        self._input = np.zeros(tuple(model_input.shape), np.uint8)
        self._logits: NDArray[np.float32] = np.zeros(tuple(outputs[scores].shape), np.float32)
        self.maps: NDArray[np.float32] | None = None
        """The last inference's map logits float32 (rows, columns, labels), valid until the next; None without maps."""
        # All stay bound to these arrays: nothing is allocated per frame.
        self._binding = self._session.io_binding()
        self._binding.bind_input(model_input.name, "cpu", 0, np.uint8, self._input.shape, self._input.ctypes.data)
        self._binding.bind_output(scores, "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
        if maps is not None:
            bound = np.zeros(tuple(outputs[maps].shape), np.float32)
            self._binding.bind_output(maps, "cpu", 0, np.float32, bound.shape, bound.ctypes.data)
            self.maps = bound[0]
        self.description = f"ONNX Runtime {ort.__version__}, CPU, {threads} thread{'s' if threads > 1 else ''}"

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (labels,) of one image uint8 (1, height, width, 3) RGB; valid until the next call."""
        np.copyto(self._input, image)
        self._session.run_with_iobinding(self._binding)
        logits: NDArray[np.float32] = self._logits[0]
        return logits


def _check_maps(output: Any, shape: tuple[int, int, int] | None, where: str) -> None:
    """Refuse an output of maps that is not what the manifest says."""
    found = tuple(output.shape)
    fixed = len(found) == 4 and found[0] == 1 and all(isinstance(side, int) for side in found)  # noqa: PLR2004
    wanted = "(1, rows, columns, labels)" if shape is None else str((1, *shape))
    if output.type != "tensor(float)" or not fixed or (shape is not None and found != (1, *shape)):
        raise BundleError(f"{where}: output {output.name!r} is {output.type} {list(found)}, not tensor(float) {wanted}")


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
