"""Graphs for the comparison: the shipped model with its rounding and without, and MobileNetV2 at its input size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from edge.bundle import Bundle
from edge.errors import FoldsightError
from trainer.models import create_backbone
from trainer.onnx_export import LOGITS, MAPS, PIXELS, export_body, with_image_input
from trainer.quantise import Static, Way
from trainer.recipe import QuantiseSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

REFERENCE = "mobilenetv2_100"


class Subject(NamedTuple):
    """A model to run everywhere.

    Attributes:
        name: what the table calls it.
        body: float graph, `pixels` float32 (1, 3, H, W) -> `logits`, and `maps` where it has them.
        narrow: INT8 graph with the device's input.
        images: golden inputs uint8 (n, H, W, 3) RGB.
        temperature: of its scores.
    """

    name: str
    body: onnx.ModelProto
    narrow: bytes
    images: NDArray[np.uint8]
    temperature: float


def shipped(path: Path) -> Subject:
    """A bundle's primary INT8 model; its float form is the same weights without any rounding of activations."""
    bundle = Bundle.open(path, golden=False)
    artefact = bundle.artefact("int8")
    images, _ = bundle.golden(artefact)
    narrow = bundle.files[artefact.file]
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    body = without_rounding(onnx.load_from_string(narrow))
    return Subject(name, body, narrow, images, bundle.manifest.decision.temperature)


def reference(images: NDArray[np.uint8], body: Path | None = None) -> Subject:
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) at the same input size.

    Args:
        images: uint8 (n, H, W, 3) RGB: what it is asked, and what its ranges come from.
        body: a trained float graph; without one the weights are drawn, which changes no instruction and no time.
    """
    height, width = images.shape[1:3]
    if body is None:
        torch.manual_seed(0)
        graph = export_body(create_backbone(REFERENCE, 2, "none").eval(), height, width)
        name = "MobileNetV2, untrained"
    else:
        graph, name = onnx.load_model(body), "MobileNetV2"
    narrow = Static(graph, images, QuantiseSettings(images=len(images))).model(Way())
    return Subject(name, graph, narrow.SerializeToString(), images, 1.0)


def without_rounding(narrow: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph that an INT8 graph stands for: its weights as they are, its activations unrounded.

    A ReLU that was folded into a range from 0 on is one again.

    Args:
        narrow: QDQ, input `image` uint8 (1, H, W, 3).

    Returns:
        Input `pixels` float32 (1, 3, H, W).
    """
    graph = narrow.graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    (image,) = graph.input
    _, height, width, _ = (d.dim_value for d in image.type.tensor_type.shape.dim)
    nodes, kept, same = [], {}, {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
            kept[node.output[0]] = _dequantised(values[node.input[0]], values[node.input[1]], axis)
        elif _is_rounding(node, values):
            same[node.output[0]] = node.input[0]
        elif node.op_type == "QuantizeLinear":
            nodes.append(helper.make_node("Relu", [node.input[0]], [node.output[0]], node.name))
        elif node.op_type == "Transpose" and node.input[0] == image.name:
            same[node.output[0]] = PIXELS
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
            kept |= {name: values[name] for name in node.input if name in values}
    for node in nodes:
        node.input[:] = [_origin(name, same) for name in node.input]
    outputs = [value for value in graph.output if value.name in (LOGITS, MAPS)]
    if not outputs:
        raise FoldsightError(f"the graph has no output {LOGITS}: it is no model of a Foldsight bundle")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "body",
            [helper.make_tensor_value_info(PIXELS, onnx.TensorProto.FLOAT, (1, 3, height, width))],
            outputs,
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in kept.items()],
        ),
        opset_imports=list(narrow.opset_import),
        ir_version=narrow.ir_version,
    )
    onnx.checker.check_model(model)
    return model


def _is_rounding(node: onnx.NodeProto, values: dict[str, NDArray[np.uint8]]) -> bool:
    """Whether a node rounds and does nothing else: no ReLU is folded into its range."""
    if node.op_type != "QuantizeLinear":
        return node.op_type == "DequantizeLinear"
    zero = values[node.input[2]]
    return zero.size != 1 or int(zero) != (0 if zero.dtype == np.uint8 else -128)


def _origin(name: str, same: dict[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _dequantised(whole: NDArray[np.int8], scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    if scale.ndim and scale.size > 1 and whole.ndim > 1:
        scale = scale.reshape([-1 if i == axis else 1 for i in range(whole.ndim)])
    return np.asarray(whole.astype(np.float32) * scale, np.float32)


def with_image(body: onnx.ModelProto) -> bytes:
    """A float graph with the device's input, uint8 (1, H, W, 3)."""
    return bytes(with_image_input(body).SerializeToString())
