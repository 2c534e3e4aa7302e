"""Ranges of activations: what calibration images show of every tensor, and how much of it eight bits are spent on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from edge.errors import FoldsightError
from trainer.models import MEAN, SCALE
from trainer.onnx_export import PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "entropy"]
Ranges = dict[str, tuple[float, float]]

_BINS, _LEVELS, _STEP = 2048, 128, 8
_TINY = 1e-9


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A model input uint8 (H, W, 3) as a body sees it: float32 (1, 3, H, W)."""
    return np.ascontiguousarray(((image.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None])


def open_graph(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> ort.InferenceSession:
    """A session of a graph, for looking into it; `outputs` adds tensors to what it gives.

    Raises:
        FoldsightError: ONNX Runtime cannot run the graph.
    """
    import onnx  # noqa: PLC0415  a name for types above

    if outputs is not None:
        model = onnx.load_from_string(model.SerializeToString())
        there = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in there)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has an exception class per failure, none of them public
        said = str(error).strip().splitlines()[0]
        raise FoldsightError(
            f"the graph cannot be run by ONNX Runtime {ort.__version__} ({said}): export it with operators that it has"
        ) from error


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of a graph's float activations, its input first."""
    constants = {tensor.name for tensor in model.graph.initializer}
    typed = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    made = [name for node in model.graph.node for name in node.output]
    # What shape inference does not know is a float in the graphs that are quantised here.
    found = [name for name in made if typed.get(name, TensorProto.FLOAT) == TensorProto.FLOAT]
    return [PIXELS, *(name for name in found if name and name not in constants)]


class Calibration:
    """What calibration images show of every float tensor of a graph: extremes at once, histograms when asked for.

    Args:
        model: a float graph with the input `pixels`.
        images: uint8 (H, W, 3) RGB, gone through once per look.

    Raises:
        FoldsightError: there is no image, or none of the graph's shape.
    """

    def __init__(self, model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> None:
        self._model, self._images = model, images
        if not len(images):
            raise FoldsightError("there is no image to calibrate with: the train split is empty; add images to it")
        (pixels,) = [value for value in model.graph.input if value.name == PIXELS]
        height, width = (d.dim_value for d in pixels.type.tensor_type.shape.dim[2:])
        if images[0].shape != (height, width, 3):
            raise FoldsightError(
                f"the graph's input is {height}x{width}, but the calibration images are {images[0].shape}: "
                "prepare them at the recipe's input size"
            )
        self._names = float_tensors(model)[1:]
        self._session = open_graph(model, self._names)
        self._extremes: Ranges | None = None
        self._histograms: dict[str, NDArray[np.int64]] | None = None

    def ranges(self, method: Method, percentile: float) -> Ranges:
        """Lowest and highest value per tensor that eight bits are to cover.

        Args:
            method: `minmax` covers everything; `percentile` all but the outermost values on either side; `entropy`
                keeps the distribution's information, by the smallest Kullback-Leibler divergence between it and its
                128 levels (Migacz 2017, "8-bit Inference with TensorRT").
            percentile: of the method of that name, in %.
        """
        extremes = self._look()
        if method == "minmax":
            return dict(extremes)
        histograms = self._look_closer(extremes)
        if method == "entropy":
            return {name: _by_entropy(histograms[name], *extremes[name]) for name in extremes}
        return {name: _by_percentile(histograms[name], *extremes[name], percentile) for name in extremes}

    def _look(self) -> Ranges:
        if self._extremes is None:
            found: Ranges = {}
            for image in self._images:
                for name, value in self._run(image):
                    low, high = found.get(name, (np.inf, -np.inf))
                    found[name] = (min(low, float(value.min())), max(high, float(value.max())))
            self._extremes = found
        return self._extremes

    def _look_closer(self, extremes: Ranges) -> dict[str, NDArray[np.int64]]:
        if self._histograms is None:
            found = {name: np.zeros(_BINS, np.int64) for name in extremes}
            for image in self._images:
                for name, value in self._run(image):
                    low, high = extremes[name]
                    found[name] += np.histogram(value, _BINS, (low, max(high, low + _TINY)))[0]
            self._histograms = found
        return self._histograms

    def _run(self, image: NDArray[np.uint8]) -> list[tuple[str, NDArray[np.float32]]]:
        pixels = normalised(image)
        return [(PIXELS, pixels), *zip(self._names, self._session.run(self._names, {PIXELS: pixels}), strict=True)]


def _by_percentile(counts: NDArray[np.int64], low: float, high: float, percentile: float) -> tuple[float, float]:
    """The range without the outermost values on either side."""
    edges = np.linspace(low, high, _BINS + 1)
    share = np.cumsum(counts) / counts.sum()
    outside = 1 - percentile / 100
    first, last = int(np.searchsorted(share, outside, side="right")), int(np.searchsorted(share, 1 - outside))
    return float(edges[first]), float(edges[min(last, _BINS - 1) + 1])


def _by_entropy(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Of ranges [-t, t] (cut to what there is) the one whose 128 levels of |x| lose least."""
    top = max(abs(low), abs(high))
    if top <= 0:
        return low, high
    edges = np.linspace(low, high, _BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    sizes = np.histogram(np.abs(centres), _BINS, (0, top), weights=counts)[0].astype(np.float64)
    sizes[0] = sizes[1]  # a ReLU's zeros are exact at any scale: they must not decide it
    best, chosen = np.inf, _BINS
    for kept in range(_LEVELS, _BINS + 1, _STEP):
        loss = _divergence(sizes, kept)
        if loss < best:
            best, chosen = loss, kept
    at = top * chosen / _BINS
    return max(low, -at), min(high, at)


def _divergence(sizes: NDArray[np.float64], kept: int) -> float:
    """Divergence of the first `kept` bins, all beyond added to the last, from their 128 levels."""
    truth = sizes[:kept].copy()
    truth[-1] += sizes[kept:].sum()
    starts = np.arange(_LEVELS) * kept // _LEVELS
    present = (sizes[:kept] > 0).astype(np.float64)
    mass, filled = np.add.reduceat(sizes[:kept], starts), np.add.reduceat(present, starts)
    widths = np.diff(np.append(starts, kept))
    level = np.divide(mass, filled, out=np.zeros(_LEVELS), where=filled > 0)
    said = np.repeat(level, widths) * present
    total, said_total = truth.sum(), said.sum()
    if total <= 0 or said_total <= 0:
        return np.inf
    truth, said = truth / total, np.maximum(said / said_total, _TINY)
    seen = truth > 0
    return float((truth[seen] * np.log(truth[seen] / said[seen])).sum())


def limits(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[np.float32, np.float32]]:
    """The ranges as the quantiser takes them."""
    return {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
