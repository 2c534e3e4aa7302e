"""From torch to the graph that the device runs: `image` uint8 (1, H, W, 3) RGB in, `logits` float32 (1, C) out."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trainer.models import MEAN, SCALE

if TYPE_CHECKING:
    from torch import Tensor

OPSET = 20
PIXELS, IMAGE, LOGITS, MAPS = "pixels", "image", "logits", "maps"
"""The body's normalised float input, the device's input, the outputs."""


class _Answers(nn.Module):
    """A body as the device wants its answers: maps, where there are any, with their labels last."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        answer = self.body(pixels)
        return (answer[0], answer[1].permute(0, 2, 3, 1)) if isinstance(answer, tuple) else answer


def export_body(body: nn.Module, height: int, width: int) -> onnx.ModelProto:
    """Export a network without its normalisation.

    Float `pixels` (1, 3, H, W) -> `logits` (1, C), and of a body with a map also `maps` (1, h, w, labels). The batch is
    fixed to 1: the device judges one frame at a time, and fixed shapes let its runtime plan its memory.
    """
    body = _Answers(body).eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(1, 3, height, width)
    with torch.no_grad():
        names = [LOGITS, MAPS] if isinstance(body(example), tuple) else [LOGITS]
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                body, (example,), dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
                input_names=[PIXELS], output_names=names,
            )  # fmt: skip
    finally:
        exporter.setLevel(level)
    if program is None:
        msg = "torch.onnx.export gave no program"
        raise RuntimeError(msg)
    model: onnx.ModelProto = program.model_proto
    del model.metadata_props[:]  # paths and versions of the machine that exported it
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in model.graph.value_info:
        del value.metadata_props[:]
    onnx.checker.check_model(model)
    return model


def with_image_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the device's input before a body: uint8 NHWC `image`, transposed and normalised.

    (x - 127) / 128 is a DequantizeLinear of scale 1/128 and zero point 127. A quantised body has one already, behind a
    QuantizeLinear of `pixels` with just these parameters, whose place the Transpose takes: the runtime's optimiser then
    fuses both into the first quantised convolution, and no float image exists. Signed activations want the pixels less
    128: then the image becomes floats and whole numbers again.

    Args:
        model: with a float input `pixels` (1, 3, H, W); left as it is.

    Returns:
        A model with the input `image` uint8 (1, H, W, 3).
    """
    model = onnx.load_from_string(model.SerializeToString())
    graph = model.graph
    (pixels,) = [value for value in graph.input if value.name == PIXELS]
    _, _, height, width = (d.dim_value for d in pixels.type.tensor_type.shape.dim)
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == PIXELS]
    if quantised and _takes_pixels(graph, quantised[0]):
        (quantise,) = quantised
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == quantise.output[0]:
                    node.input[i] = "image_nchw"
        graph.node.remove(quantise)
        before = []
    else:
        graph.initializer.append(numpy_helper.from_array(np.float32(1 / SCALE), "image_scale"))
        graph.initializer.append(numpy_helper.from_array(np.uint8(MEAN), "image_zero_point"))
        parts = ["image_nchw", "image_scale", "image_zero_point"]
        before = [helper.make_node("DequantizeLinear", parts, [PIXELS], "normalise")]
    before.insert(0, helper.make_node("Transpose", [IMAGE], ["image_nchw"], "to_nchw", perm=[0, 3, 1, 2]))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.remove(pixels)
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (1, height, width, 3)))
    onnx.checker.check_model(model)
    return model


def with_cast_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the device's input before a body as TensorRT takes it: of uint8 it knows no more than to make floats of it.

    Args:
        model: float or quantised, with a float input `pixels` (1, 3, H, W); left as it is.

    Returns:
        A model with the input `image` uint8 (1, H, W, 3), cast, transposed and normalised in float.
    """
    model = onnx.load_from_string(model.SerializeToString())
    graph = model.graph
    (pixels,) = [value for value in graph.input if value.name == PIXELS]
    _, _, height, width = (d.dim_value for d in pixels.type.tensor_type.shape.dim)
    graph.initializer.append(numpy_helper.from_array(np.float32(MEAN), "image_mean"))
    graph.initializer.append(numpy_helper.from_array(np.float32(1 / SCALE), "image_factor"))
    nodes = [
        helper.make_node("Cast", [IMAGE], ["image_float"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_float"], ["image_nchw"], "to_nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["image_nchw", "image_mean"], ["image_centred"], "centre"),
        helper.make_node("Mul", ["image_centred", "image_factor"], [PIXELS], "normalise"),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.remove(pixels)
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (1, height, width, 3)))
    onnx.checker.check_model(model)
    return model


def _takes_pixels(graph: onnx.GraphProto, quantise: onnx.NodeProto) -> bool:
    """Whether what a QuantizeLinear makes of normalised pixels is the pixels themselves.

    Raises:
        ValueError: it is neither these nor these less 128: its scale or zero point is not the normalisation's.
    """
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    scale, zero_point = values[quantise.input[1]], values[quantise.input[2]]
    signed = zero_point.dtype == np.int8
    if float(scale) != 1 / SCALE or int(zero_point) != (MEAN - 128 if signed else MEAN):
        msg = f"the input is quantised with scale {scale}, zero point {zero_point}: pixels would need a conversion"
        raise ValueError(msg)
    return not signed


def scale_output(model: onnx.ModelProto, output: str, factor: float) -> onnx.ModelProto:
    """Multiply one of a graph's float outputs by a factor: one more node, after which all is as before.

    Args:
        model: left as it is.
        output: its name, which stays.
        factor: what by.
    """
    model = onnx.load_from_string(model.SerializeToString())
    graph = model.graph
    before = f"{output}_unscaled"
    for node in graph.node:
        node.output[:] = [before if name == output else name for name in node.output]
        node.input[:] = [before if name == output else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{output}_factor"))
    graph.node.append(helper.make_node("Mul", [before, f"{output}_factor"], [output], f"scale_{output}"))
    onnx.checker.check_model(model)
    return model
