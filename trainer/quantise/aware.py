"""Quantisation-aware training: the graph that ships, run by torch with its rounding in place, learns its weights.

A static QDQ graph already says where every number is rounded, and to what scale. `AwareBody` runs that very graph: each
QuantizeLinear with its DequantizeLinear is one fake quantisation (Jacob et al. 2018, arXiv 1712.05877), whose gradient
passes straight through within the range (Bengio et al. 2013, arXiv 1308.3432); batch normalisation is merged already.
What was learnt is written back into the graph's whole-number weights, so no second exporter can round otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn
from torch.nn import functional

from edge.errors import FoldsightError
from trainer.onnx_export import LOGITS, MAPS, PIXELS
from trainer.quantise.weights import constants, set_constant

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

_SIZED = 2  # of a kernel: rows, columns


@dataclass
class Step:
    """One node of the graph: what it does, and the names of what goes in and comes out."""

    kind: str
    inputs: list[str]
    output: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Weight:
    """A parameter that the graph holds in whole numbers.

    Attributes:
        stored: name of its initialiser.
        scale: name of its scale's.
        axis: of its channels.
        top: its largest whole number.
    """

    stored: str
    scale: str
    axis: int
    top: int


class AwareBody(nn.Module):
    """A QDQ graph as a module that learns.

    Shapes: normalised RGB float (N, 3, H, W) -> logits (N, C), and map logits (N, labels, h, w) with them where the
    graph has maps.

    Args:
        wide: the float graph, where the weights start.
        narrow: the QDQ graph that was made of it, input `pixels`; its activations' scales stay as they are.

    Raises:
        FoldsightError: the graph has an operator that cannot learn here.
    """

    def __init__(self, wide: onnx.ModelProto, narrow: onnx.ModelProto) -> None:
        super().__init__()
        self._wide, self._graph = wide, narrow
        floats, values = constants(wide), constants(narrow)
        self._maps = MAPS in [value.name for value in narrow.graph.output]
        self._names: dict[str, str] = {}  # of tensors, to parameters
        self._weights: dict[str, _Weight] = {}
        self._biases: dict[str, tuple[str, str]] = {}  # parameter: stored, scale
        self._steps: list[Step] = []
        stored = {name.removesuffix("_quantized"): name for name in values if name.endswith("_quantized")}
        reduced = [v for n, v in values.items() if n.endswith("_quantized") and v.dtype == np.int8]
        # What the quantiser used shows in what it wrote: the largest weight of a channel is the largest number.
        top = max((int(np.abs(v.astype(np.int64)).max()) for v in reduced), default=127)
        produced = {name: node for node in narrow.graph.node for name in node.output}
        for node in narrow.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in values:
                name = node.input[0].removesuffix("_quantized")
                self._add(node.output[0], floats[name])
                parameter = self._names[node.output[0]]
                if values[node.input[0]].dtype == np.int32:
                    self._biases[parameter] = (stored[name], node.input[1])
                else:
                    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 0)
                    self._weights[parameter] = _Weight(stored[name], node.input[1], axis, top)
            elif node.op_type == "DequantizeLinear":
                if produced[node.input[0]].op_type != "QuantizeLinear":
                    raise FoldsightError(f"{node.name}: only whole-number weights and rounded activations can learn")
                self._steps.append(Step("same", [node.input[0]], node.output[0]))
            elif node.op_type == "QuantizeLinear":
                self._steps.append(_round(node, values))
            else:
                self._steps.append(_step(node, values))
                for name in node.input:
                    if name in floats and name not in self._names and floats[name].dtype == np.float32:
                        self._add(name, floats[name])

    def _add(self, tensor: str, value: NDArray[np.float32]) -> None:
        name = f"w{len(self._names)}"
        self._names[tensor] = name
        self.register_parameter(name, nn.Parameter(torch.from_numpy(np.array(value, np.float32))))

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What the QDQ graph answers, differentiable."""
        told: dict[str, Tensor] = {PIXELS: pixels}
        for tensor, name in self._names.items():
            parameter = self.get_parameter(name)
            told[tensor] = _rounded(parameter, self._weights[name]) if name in self._weights else parameter
        for step in self._steps:
            told[step.output] = OPERATORS[step.kind]([told[name] for name in step.inputs], step.settings)
        # On the device the labels of a map are last, in training they come second.
        return (told[LOGITS], told[MAPS].permute(0, 3, 1, 2)) if self._maps else told[LOGITS]

    @torch.no_grad()
    def graph(self) -> onnx.ModelProto:
        """The QDQ graph with the weights as they are now, as whole numbers."""
        model = onnx.load_from_string(self._graph.SerializeToString())
        scales = constants(model)
        for name, weight in self._weights.items():
            value = self.get_parameter(name).detach().cpu()
            scale = _scale(value, weight)
            whole = torch.clamp(torch.round(value / _along(scale, value, weight.axis)), -weight.top, weight.top)
            set_constant(model, weight.stored, whole.to(torch.int8).contiguous().numpy())
            told = scale.numpy().astype(np.float32)
            set_constant(model, weight.scale, told if scales[weight.scale].ndim else told.reshape(()))
        renewed = constants(model)
        source = {node.output[0]: node for node in model.graph.node}
        for tensor, learnt in self._learnt().items():
            name = self._names[tensor]
            if name in self._biases:
                stored, scale_name = self._biases[name]
                step = _bias_scale(model, tensor, source, renewed)
                shape = renewed[scale_name].shape
                set_constant(model, scale_name, np.broadcast_to(step, shape).astype(np.float32))
                whole_bias = np.clip(np.rint(learnt.astype(np.float64) / step), -(2**31), 2**31 - 1)
                set_constant(model, stored, whole_bias.astype(np.int32))
            elif name not in self._weights:
                set_constant(model, tensor, learnt)
        onnx.checker.check_model(model)
        return model

    def float_graph(self) -> onnx.ModelProto:
        """The float graph with the weights as they are now."""
        model = onnx.load_from_string(self._wide.SerializeToString())
        there = constants(model)
        for tensor, value in self._learnt().items():
            name = tensor.removesuffix("_DequantizeLinear_Output")
            if name in there:
                set_constant(model, name, value)
        return model

    def _learnt(self) -> dict[str, NDArray[np.float32]]:
        return {
            tensor: self.get_parameter(name).detach().cpu().contiguous().numpy() for tensor, name in self._names.items()
        }


def _bias_scale(
    model: onnx.ModelProto, bias: str, source: dict[str, onnx.NodeProto], values: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """A bias counts in the products of its layer's input and weights."""
    node = next(node for node in model.graph.node if bias in list(node.input)[2:])
    activation, weight = source[node.input[0]].input[1], source[node.input[1]].input[1]
    return np.asarray(values[activation] * values[weight], np.float32)


def _scale(value: Tensor, weight: _Weight) -> Tensor:
    rest = [i for i in range(value.ndim) if i != weight.axis]
    return torch.clamp(value.abs().amax(rest) / weight.top, min=1e-12)


def _along(scale: Tensor, value: Tensor, axis: int) -> Tensor:
    return scale.view([-1 if i == axis else 1 for i in range(value.ndim)])


def _rounded(value: Tensor, weight: _Weight) -> Tensor:
    scale = _scale(value.detach(), weight)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=value.device)
    return torch.fake_quantize_per_channel_affine(value, scale, zero, weight.axis, -weight.top, weight.top)


def _round(node: onnx.NodeProto, values: dict[str, NDArray[np.float32]]) -> Step:
    zero = values[node.input[2]]
    limits = np.iinfo(np.int8 if zero.dtype == np.int8 else np.uint8)
    settings = {"scale": float(values[node.input[1]]), "zero": int(zero), "low": limits.min, "high": limits.max}
    return Step("round", [node.input[0]], node.output[0], settings)


def _step(node: onnx.NodeProto, values: dict[str, NDArray[np.float32]]) -> Step:
    """A node of the float arithmetic.

    Raises:
        FoldsightError: it is of a kind that is not known here.
    """
    if node.op_type not in OPERATORS:
        known = ", ".join(sorted(name for name in OPERATORS if name[0].isupper()))
        raise FoldsightError(
            f"{node.name}: a graph with {node.op_type} cannot be trained with its rounding; known are {known}: "
            "take the rung 'aware' from quantise.ladder"
        )
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if settings.get("mode", b"CRD") != b"CRD":
        raise FoldsightError(f"{node.name}: {node.op_type} in mode {settings['mode'].decode()} is not known here")
    inputs = [name for name in node.input if name]
    for number, name in enumerate(inputs[1:], start=1):
        if name in values and values[name].dtype == np.int64:  # a shape or axes
            settings["numbers"] = [int(i) for i in np.atleast_1d(values[name])]
            inputs = inputs[:number]
            break
        if node.op_type == "Clip" and name in values:
            settings.setdefault("limits", []).append(float(values[name]))
    if node.op_type == "Clip":
        inputs = inputs[:1]
    return Step(node.op_type, inputs, node.output[0], settings)


# --- what nodes do ---


def _conv(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    image, weight, *bias = given
    pads = settings.get("pads", [0, 0, 0, 0])
    if pads[:_SIZED] != pads[_SIZED:]:
        top, left, bottom, right = pads
        image, pads = functional.pad(image, (left, right, top, bottom)), [0, 0]
    return functional.conv2d(
        image, weight, bias[0] if bias else None, settings.get("strides", 1), pads[:_SIZED],
        settings.get("dilations", 1), settings.get("group", 1),
    )  # fmt: skip


def _gemm(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    left, right, *bias = given
    right = right if settings.get("transB") else right.T
    return functional.linear(left, right, bias[0] if bias else None)


def _average(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    pads = settings.get("pads", [0, 0, 0, 0])
    return functional.avg_pool2d(
        given[0], settings["kernel_shape"], settings.get("strides", 1), pads[:_SIZED],
        count_include_pad=bool(settings.get("count_include_pad", 0)),
    )  # fmt: skip


def _largest(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    pads = settings.get("pads", [0, 0, 0, 0])
    return functional.max_pool2d(given[0], settings["kernel_shape"], settings.get("strides", 1), pads[:_SIZED])


def _reshape(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    # The graph's batch is one; here it is what comes.
    return given[0].reshape([len(given[0]), *settings["numbers"][1:]])


def _mean(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    axes = settings.get("numbers") or settings.get("axes") or [2, 3]
    return given[0].mean(axes, keepdim=bool(settings.get("keepdims", 1)))


def _clip(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    low, high = settings.get("limits") or [settings.get("min", -np.inf), settings.get("max", np.inf)]
    return torch.clamp(given[0], low, high)


def _fake(given: list[Tensor], settings: dict[str, Any]) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(
        given[0], settings["scale"], settings["zero"], settings["low"], settings["high"]
    )


OPERATORS: dict[str, Callable[[list[Tensor], dict[str, Any]], Tensor]] = {
    "same": lambda given, _: given[0],
    "round": _fake,
    "Conv": _conv,
    "Gemm": _gemm,
    "Add": lambda given, _: given[0] + given[1],
    "Relu": lambda given, _: torch.relu(given[0]),
    "Clip": _clip,
    "AveragePool": _average,
    "GlobalAveragePool": lambda given, _: given[0].mean((2, 3), keepdim=True),
    "ReduceMean": _mean,
    "MaxPool": _largest,
    "Reshape": _reshape,
    "Flatten": lambda given, settings: given[0].flatten(settings.get("axis", 1)),
    "Squeeze": lambda given, settings: given[0].squeeze(settings["numbers"]),
    "Concat": lambda given, settings: torch.cat(given, settings["axis"]),
    "Transpose": lambda given, settings: given[0].permute(list(settings["perm"])),
    "DepthToSpace": lambda given, settings: functional.pixel_shuffle(given[0], settings["blocksize"]),
}
