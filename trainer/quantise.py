"""Static INT8: a QDQ graph with weights per channel and unsigned activations, calibrated on training images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from trainer.models import MEAN, SCALE
from trainer.onnx_export import PIXELS, with_image_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from trainer.recipe import QuantiseSettings

_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds uint8 (H, W, 3) images as the body's normalised input, one at a time."""

    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._rest: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._rest, None)
        if image is None:
            return None
        normalised = (image.astype(np.float32) - MEAN) / SCALE
        return {PIXELS: np.ascontiguousarray(normalised.transpose(2, 0, 1)[None])}


def quantise(body: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], settings: QuantiseSettings) -> onnx.ModelProto:
    """Quantise a body and give it the device's input.

    Weights are symmetric INT8 per output channel, activations UINT8 (x86 and Cortex-A72 run these faster), ReLU is
    folded into the ranges, and the input's scale and zero point are those of the normalisation.

    Args:
        body: float `pixels` (1, 3, H, W) -> `logits`.
        images: uint8 (H, W, 3) RGB model inputs of the training split, from which the activations' ranges come.
        settings: method of calibration.

    Returns:
        `image` uint8 (1, H, W, 3) -> `logits` float32 (1, C).
    """
    options: dict[str, Any] = {
        "TensorQuantOverrides": {
            PIXELS: [{"scale": np.array(1 / SCALE, np.float32), "zero_point": np.array(MEAN, np.uint8)}]
        },
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
        # The classifier's sums leave as they are: eight bits would make steps in the score.
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
    }
    if settings.method == "percentile":
        options["CalibPercentile"] = settings.percentile
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (Path(folder) / name for name in ("body.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save_model(body, source)
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=settings.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[settings.method],
            extra_options=options,
        )
        return with_image_input(onnx.load_model(target))


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
