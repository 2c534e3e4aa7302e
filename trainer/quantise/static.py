"""Static INT8: a QDQ graph with symmetric weights per channel, and activations in ranges from training images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType, quant_pre_process
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edge.errors import FoldsightError
from trainer.models import MEAN, SCALE
from trainer.onnx_export import LOGITS, PIXELS, with_image_input
from trainer.quantise.calibrate import Calibration, Method, limits, open_graph
from trainer.quantise.weights import correct_biases, equalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from trainer.recipe import QuantiseSettings


@dataclass(frozen=True)
class Way:
    """One way to make INT8 of a float graph.

    Attributes:
        method: how the activations' ranges are found.
        equalised: whether weights are evened out between layers first.
        corrected: whether biases make up for what rounding the weights shifts.
        wide: nodes that stay in float.
    """

    method: Method = "minmax"
    equalised: bool = False
    corrected: bool = False
    wide: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.method, *(["equalised"] if self.equalised else []), *(["corrected"] if self.corrected else [])]
        return ", ".join([*parts, *([f"{len(self.wide)} in float"] if self.wide else [])])


class Static:
    """A body with its calibration images, from which INT8 graphs are made in several ways.

    Weights are symmetric INT8 per output channel, ReLU is folded into the ranges, and the input's scale and zero point
    are those of the normalisation. What the images show is looked at once per float graph.

    Args:
        body: float `pixels` (1, 3, H, W) -> `logits`, and `maps` where it has them.
        images: uint8 (H, W, 3) RGB model inputs of the training split.
        settings: width of the weights, sign of the activations.

    Raises:
        FoldsightError: the body is no such graph, or the images do not fit it.
    """

    def __init__(
        self,
        body: onnx.ModelProto,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        settings: QuantiseSettings,
    ) -> None:
        check_body(body)
        self.images, self.settings = images, settings
        self._floats: dict[tuple[bool, bool], tuple[onnx.ModelProto, Calibration]] = {}
        self._plain = prepare(body)

    @property
    def top(self) -> int:
        """Largest value of a weight."""
        return 64 if self.settings.reduce_range else 127

    def float_graph(self, way: Way) -> onnx.ModelProto:
        """The float graph of a way: as given, or with its weights and biases made ready."""
        return self._float(way)[0]

    def graph(self, way: Way) -> onnx.ModelProto:
        """The QDQ graph of a way, still with the body's float input."""
        return _quantise(self.float_graph(way), self.ranges(way), self.settings, way.wide)

    def model(self, way: Way) -> onnx.ModelProto:
        """The graph that a device runs: `image` uint8 (1, H, W, 3) -> `logits` float32 (1, C)."""
        return with_image_input(self.graph(way))

    def ranges(self, way: Way) -> dict[str, tuple[np.float32, np.float32]]:
        """Ranges of the float graph's activations, as the way finds them."""
        return limits(self._float(way)[1].ranges(way.method, self.settings.percentile))

    def _float(self, way: Way) -> tuple[onnx.ModelProto, Calibration]:
        key = (way.equalised, way.corrected)
        if key not in self._floats:
            model = equalise(self._plain) if way.equalised else self._plain
            if way.corrected:
                model = correct_biases(model, self.images, self.top)
            self._floats[key] = (model, Calibration(model, self.images))
        return self._floats[key]


def quantise(body: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], settings: QuantiseSettings) -> onnx.ModelProto:
    """Quantise a body as its settings say, without any gate, and give it the device's input.

    Args:
        body: float `pixels` (1, 3, H, W) -> `logits`.
        images: uint8 (H, W, 3) RGB model inputs of the training split, from which the activations' ranges come.
        settings: method of calibration.

    Returns:
        `image` uint8 (1, H, W, 3) -> `logits` float32 (1, C).
    """
    chosen = images if isinstance(images, np.ndarray) else list(images)
    return Static(body, chosen, settings).model(Way(settings.method))


def check_body(body: onnx.ModelProto) -> None:
    """Raise a FoldsightError unless a graph is a body: float `pixels` (1, 3, H, W) in, `logits` out, all runnable."""
    inputs = {value.name: value for value in body.graph.input}
    outputs = [value.name for value in body.graph.output]
    shape = [d.dim_value for d in inputs[PIXELS].type.tensor_type.shape.dim] if PIXELS in inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[:2] != [1, 3] or min(shape) < 1:  # noqa: PLR2004  NCHW
        told = ", ".join(f"{name} {[d.dim_value for d in value.type.tensor_type.shape.dim]}"
                         for name, value in inputs.items())  # fmt: skip
        raise FoldsightError(f"the graph's input is {told or 'missing'}: it must be one float {PIXELS} [1, 3, H, W]")
    if LOGITS not in outputs:
        raise FoldsightError(f"the graph has no output {LOGITS}, only {', '.join(outputs)}: name its scores so")
    session = open_graph(body)  # refuses operators that the runtime has not
    if session.get_inputs()[0].type != "tensor(float)":
        raise FoldsightError(f"the graph's input is {session.get_inputs()[0].type}: it must be float {PIXELS}")


def prepare(body: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes inferred, constants folded, batch normalisation merged into convolutions."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared = Path(folder) / "body.onnx", Path(folder) / "prepared.onnx"
        onnx.save_model(body, source)
        quant_pre_process(source, prepared)
        return onnx.load_model(prepared)


def _quantise(
    model: onnx.ModelProto,
    ranges: dict[str, tuple[np.float32, np.float32]],
    settings: QuantiseSettings,
    wide: Sequence[str],
) -> onnx.ModelProto:
    """QDQ pairs as ONNX Runtime's CPU kernels want them; the input's pair keeps the pixels as they are."""
    signed = settings.activations == "signed"
    zero = np.array(MEAN - 128, np.int8) if signed else np.array(MEAN, np.uint8)
    options = {
        "TensorQuantOverrides": {PIXELS: [{"scale": np.array(1 / SCALE, np.float32), "zero_point": zero}]},
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
        # The classifier's sums leave as they are: eight bits would make steps in the score.
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
    }
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    return _run(model, ranges, kind, options, wide, reduce_range=settings.reduce_range)


def tensorrt_graph(
    model: onnx.ModelProto, ranges: dict[str, tuple[np.float32, np.float32]], wide: Sequence[str] = ()
) -> onnx.ModelProto:
    """The QDQ graph as TensorRT wants it, which builds its engine from it; still with the body's float input.

    Activations and weights are symmetric, zero points are zero, biases are float, and every consumer has its own pair
    of QuantizeLinear and DequantizeLinear. Weights are kept in eight bits, all of them: a GPU's sums do not saturate.

    Args:
        model: the float graph.
        ranges: of its activations.
        wide: nodes that stay in float.
    """
    options = {
        # One step per level of a pixel; only pure white is a level too bright.
        "TensorQuantOverrides": {
            PIXELS: [{"scale": np.array(1 / SCALE, np.float32), "zero_point": np.array(0, np.int8)}]
        },
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "DedicatedQDQPair": True,
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
    }
    return _run(model, ranges, QuantType.QInt8, options, wide, reduce_range=False)


def _run(
    model: onnx.ModelProto,
    ranges: dict[str, tuple[np.float32, np.float32]],
    activations: QuantType,
    options: dict[str, Any],
    wide: Sequence[str],
    *,
    reduce_range: bool,
) -> onnx.ModelProto:
    copy = onnx.load_from_string(model.SerializeToString())
    with _quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=activations,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=list(wide),
            op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
            extra_options=options,
        )
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.metadata_props[:]
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's remarks on the root logger from the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
