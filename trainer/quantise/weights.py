"""Float weights made ready for eight bits, without training (Nagel et al. 2019, arXiv 1906.04721)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trainer.onnx_export import PIXELS
from trainer.quantise.calibrate import normalised, open_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ROUNDS = 10
_ENOUGH = 0.01  # change of a scale that is none


class Pair(NamedTuple):
    """Two convolutions with at most a ReLU in between, whose middle nothing else reads."""

    first: onnx.NodeProto
    second: onnx.NodeProto


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """A graph's initialisers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def set_constant(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> None:
    """Replace or add an initialiser."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for index, old in enumerate(model.graph.initializer):
        if old.name == name:
            model.graph.initializer[index].CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Nodes by the tensors that they read; the graph's outputs count as read by a nameless node."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    for value in model.graph.output:
        found.setdefault(value.name, []).append(onnx.NodeProto())
    return found


def equalisable(model: onnx.ModelProto) -> list[Pair]:
    """Pairs of convolutions between which a channel's scale may move.

    ReLU(s x) = s ReLU(x) for s > 0. A ReLU6 clips at a fixed height, and a sum needs one scale on either side: there it
    cannot. Weights that two nodes share are left alone.
    """
    values, read = constants(model), readers(model)
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or not _own_weights(node, values, read):
            continue
        after = read.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "Relu":
            after = read.get(after[0].output[0], [])
        if len(after) == 1 and after[0].op_type == "Conv" and _own_weights(after[0], values, read):
            groups = group_of(after[0])
            if groups == 1 or groups == values[after[0].input[1]].shape[0]:
                found.append(Pair(node, after[0]))
    return found


def _own_weights(
    node: onnx.NodeProto, values: dict[str, NDArray[np.float32]], read: dict[str, list[onnx.NodeProto]]
) -> bool:
    return all(name in values and len(read[name]) == 1 for name in node.input[1:])


def group_of(node: onnx.NodeProto) -> int:
    """A convolution's groups."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def equalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Even out the ranges of weights on either side of a channel; the graph computes what it did.

    Per channel i between two convolutions s_i = sqrt(r1_i r2_i) / r2_i, where r1_i is the largest weight that makes the
    channel and r2_i the largest that reads it; what makes it is divided by s_i, what reads it multiplied.
    """
    model = onnx.load_from_string(model.SerializeToString())
    pairs, values = equalisable(model), constants(model)
    for _ in range(_ROUNDS):
        moved = 0.0
        for first, second in pairs:
            left, right = values[first.input[1]], values[second.input[1]]
            own = right.shape[1] == 1 and group_of(second) == right.shape[0]
            made = np.abs(left).reshape(len(left), -1).max(1)
            used = np.abs(right).max((1, 2, 3)) if own else np.abs(right).max((0, 2, 3))
            live = (made > 0) & (used > 0)
            scale = np.where(live, np.sqrt(np.where(live, made / np.where(live, used, 1), 1)), 1).astype(np.float32)
            values[first.input[1]] = left / scale[:, None, None, None]
            if len(first.input) > 2:  # noqa: PLR2004  the third is the bias
                values[first.input[2]] = values[first.input[2]] / scale
            values[second.input[1]] = right * (scale[:, None, None, None] if own else scale[None, :, None, None])
            moved = max(moved, float(np.abs(scale - 1).max()))
        if moved < _ENOUGH:
            break
    for name in sorted({name for pair in pairs for node in pair for name in node.input[1:]}):
        set_constant(model, name, values[name])
    return model


def rounded(weights: NDArray[np.float32], top: int, axis: int = 0) -> NDArray[np.float32]:
    """Weights as symmetric whole numbers of at most `top`, by one scale per channel, hold them."""
    rest = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.abs(weights).max(rest, keepdims=True) / top
    scale = np.where(scale > 0, scale, 1)
    return (np.clip(np.rint(weights / scale), -top, top) * scale).astype(np.float32)


def correct_biases(
    model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], top: int
) -> onnx.ModelProto:
    """Take from every bias what rounding its weights adds to the layer's mean output.

    A layer is linear, so the mean error over images is the layer with the weights' rounding errors, applied to the mean
    input: one pass over the images, exact with padding and stride.

    Args:
        model: the float graph.
        images: of the training split.
        top: largest whole number of a weight.
    """
    model = onnx.load_from_string(model.SerializeToString())
    values = constants(model)
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm") and n.input[1] in values]
    means = _mean_inputs(model, sorted({node.input[0] for node in layers}), images)
    for node in layers:
        weights = values[node.input[1]]
        flipped = node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute)
        error = rounded(weights, top, axis=1 if flipped else 0) - weights
        shift = _apply(node, means[node.input[0]], error)
        if len(node.input) > 2 and node.input[2] in values:  # noqa: PLR2004  the third is the bias
            name = node.input[2]
            bias = values[name]
        else:
            name, bias = f"{node.input[1]}_corrected_bias", np.zeros(len(shift), np.float32)
            node.input[:] = [*node.input[:2], name]
        set_constant(model, name, (bias - shift).astype(np.float32))
    return model


def _mean_inputs(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    inner = [name for name in names if name != PIXELS]
    session = open_graph(model, inner)
    sums: dict[str, NDArray[np.float64]] = {}
    for image in images:
        pixels = normalised(image)
        told = {PIXELS: pixels, **dict(zip(inner, session.run(inner, {PIXELS: pixels}), strict=True))}
        for name, value in told.items():
            sums[name] = sums.get(name, np.zeros(value.shape)) + value
    return {name: (total / len(images)).astype(np.float32) for name, total in sums.items()}


def _apply(node: onnx.NodeProto, mean: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The layer with other weights and no bias on one input; its mean output per channel."""
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    layer.input[:] = ["x", "w"]
    layer.output[:] = ["y"]
    kept = [attribute for attribute in layer.attribute if attribute.name != "beta"]
    del layer.attribute[:]
    layer.attribute.extend(kept)
    graph = helper.make_graph(
        [layer],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, mean.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (out,) = open_graph(single).run(["y"], {"x": mean})
    return np.asarray(out.mean(axis=tuple(i for i in range(out.ndim) if i != 1)), np.float32)
