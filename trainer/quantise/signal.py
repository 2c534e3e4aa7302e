"""How much of every layer's signal eight bits keep: the float graph and its QDQ graph side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.onnx_export import PIXELS
from trainer.quantise.calibrate import normalised, open_graph
from trainer.quantise.weights import readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

_LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_SILENT = 1e-20


def layer_signal(
    wide: onnx.ModelProto, narrow: onnx.ModelProto, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
) -> dict[str, float]:
    """Signal-to-noise ratio of every layer's output, in decibels: 10 log10(sum x^2 / sum (x - q)^2).

    Noise is what has come together up to there, so it grows towards the end; where it grows most, eight bits are short.

    Args:
        wide: the float graph, input `pixels`.
        narrow: the QDQ graph made of it, input `pixels`.
        images: uint8 (H, W, 3) RGB.

    Returns:
        By the layer's node, in the graph's order.
    """
    layers = {node.name: _after(wide, node) for node in wide.graph.node if node.op_type in _LAYERS}
    made = {name for node in narrow.graph.node for name in node.output}
    pairs = {}
    for name, tensors in layers.items():
        seen = [f"{tensor}_DequantizeLinear_Output" for tensor in tensors] + tensors
        found = next((tensor for tensor in seen if tensor in made), None)
        if found is not None:
            plain = found.removesuffix("_DequantizeLinear_Output")
            pairs[name] = (plain, found)
    ours, theirs = ([pair[i] for pair in pairs.values()] for i in (0, 1))
    first, second = open_graph(wide, ours), open_graph(narrow, theirs)
    signal, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    for image in images:
        pixels = {PIXELS: normalised(image)}
        for index, (x, q) in enumerate(zip(first.run(ours, pixels), second.run(theirs, pixels), strict=True)):
            signal[index] += float(np.square(x, dtype=np.float64).sum())
            noise[index] += float(np.square(x - q, dtype=np.float64).sum())
    ratio = 10 * np.log10((signal + _SILENT) / (noise + _SILENT))
    return {name: round(float(value), 2) for name, value in zip(pairs, ratio, strict=True)}


def _after(model: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    """Names under which a layer's output goes on: behind the activation that is folded into it, where there is one."""
    after = readers(model).get(node.output[0], [])
    folded = [after[0].output[0]] if len(after) == 1 and after[0].op_type in ("Relu", "Clip") else []
    return [*folded, node.output[0]]
