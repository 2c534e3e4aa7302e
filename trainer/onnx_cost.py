"""What a graph holds and computes, counted from the graph itself: the same for teacher, student and INT8."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx


@dataclass(frozen=True)
class GraphCost:
    """Size of a network.

    Attributes:
        parameters: weights and biases of convolutions, linear layers and normalisations (those that are not folded).
        macs: multiply-adds of one inference by its convolutions and linear layers.
        bytes: of the file.
    """

    parameters: int
    macs: int
    bytes: int


def count_graph(model: bytes) -> GraphCost:
    """Count a graph with fixed shapes, FP32 or quantised (QDQ)."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes.setdefault(value.name, tuple(d.dim_value for d in dims))
    constant = {t.name for t in graph.initializer}
    for node in graph.node:  # a quantised weight stands behind its DequantizeLinear
        if node.op_type == "DequantizeLinear" and node.input[0] in constant:
            shapes[node.output[0]] = shapes[node.input[0]]
            constant.add(node.output[0])
    parameters = macs = 0
    for node in graph.node:
        held = [shapes[name] for name in node.input[1:] if name in constant]
        if node.op_type in ("Conv", "Gemm"):
            parameters += sum(map(prod, held))
        elif node.op_type == "BatchNormalization":
            parameters += sum(map(prod, held[:2]))
        elif node.op_type == "MatMul":
            parameters += sum(map(prod, held))
        out = shapes.get(node.output[0], ()) if node.output else ()
        if node.op_type == "Conv":
            macs += prod(out) * prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            inner = shapes[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            macs += prod(out) * (inner[-1] if transposed else inner[-2])
    return GraphCost(parameters, macs, len(model))
