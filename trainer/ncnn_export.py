"""From the INT8 graph to its form for ncnn (`edge.runtime.ncnn`): the same weights, activations without rounding.

Written by hand, since the networks are plain: what is not known here is refused. The form names places in the INT8
graph's file instead of holding weights, so it adds 1 % to a bundle where weights of its own would add 60 %.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.errors import FoldsightError
from edge.runtime.ncnn import Form, Values, Weights
from trainer.models import MEAN, SCALE
from trainer.onnx_export import LOGITS, MAPS, PIXELS, with_image_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINIMUM = "1.0.20261020"
"""The oldest ncnn that these forms were run with."""
_MAGIC = "7767517"


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
            kept[node.output[0]] = _dequantised(values[node.input[0]], values[node.input[1]], _axis(node))
        elif _is_rounding(node, values):
            if node.output[0] != PIXELS:  # what normalises the image of a graph with signed activations
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


def ncnn_form(narrow: bytes, file: str) -> bytes:
    """The form for ncnn, as the bundle holds it.

    Args:
        narrow: the INT8 graph's file.
        file: its name in the bundle.

    Raises:
        FoldsightError: the graph holds something that the form does not know.
    """
    model = onnx.load_from_string(narrow)
    body = onnx.shape_inference.infer_shapes(without_rounding(model))
    writer = _Writer(body.graph, _Places(narrow, model.graph))
    for node in body.graph.node:
        writer.add(node)
    _, _, height, width = writer.shapes[PIXELS]
    form = Form(
        graph=file,
        sha256=hashlib.sha256(narrow).hexdigest(),
        height=height,
        width=width,
        mean=MEAN,
        factor=1 / SCALE,
        scores=writer.outputs[LOGITS],
        maps=writer.outputs.get(MAPS),
        param=writer.text(),
        weights=writer.weights,
    )
    return form.model_dump_json(indent=1).encode() + b"\n"


def float_graph(narrow: bytes) -> bytes:
    """What a form for ncnn stands for, as ONNX Runtime runs it: its answers are the form's golden ones.

    Args:
        narrow: the INT8 graph's file.
    """
    return bytes(with_image_input(without_rounding(onnx.load_from_string(narrow))).SerializeToString())


class _Places:
    """Where a float graph's constants lie in the file of the INT8 graph that it was made of."""

    def __init__(self, content: bytes, graph: onnx.GraphProto) -> None:
        self._content = content
        self._stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._rounded = {
            node.output[0]: node
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._stored
        }

    def of(self, name: str) -> Values:
        """The place of a constant.

        Raises:
            FoldsightError: it is stored in a way that the form cannot tell.
        """
        node = self._rounded.get(name)
        if node is None:
            stored = self._stored[name]
            return Values(at=self._at(stored, name), count=stored.size, dtype="float32")
        stored, scale = (self._stored[part] for part in node.input[:2])
        zero = self._stored[node.input[2]] if len(node.input) > 2 else np.zeros(1)  # noqa: PLR2004
        if np.any(zero) or (scale.size > 1 and _axis(node) % stored.ndim) or stored.dtype not in (np.int8, np.int32):
            raise FoldsightError(
                f"{name} is not quantised symmetrically per output channel: ncnn's form cannot say how"
            )
        return Values(
            at=self._at(stored, name),
            count=stored.size,
            dtype=stored.dtype.name,
            scale_at=self._at(scale, name),
            scale_count=scale.size,
        )

    def _at(self, values: NDArray[Any], name: str) -> int:
        """Where these bytes are, for the first time: wherever they are the same, they are right."""
        found = self._content.find(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        if found < 0:
            raise FoldsightError(f"{name} is not stored as plain bytes in the INT8 graph: ncnn's form cannot name it")
        return found


class _Writer:
    """ncnn's text of a float graph, node by node."""

    def __init__(self, graph: onnx.GraphProto, places: _Places) -> None:
        self._places = places
        self._constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        values = [*graph.input, *graph.output, *graph.value_info]
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        self._uses = [name for node in graph.node for name in node.input]
        self._told = {value.name for value in graph.output}
        self._same: dict[str, str] = {}  # blobs that are another one
        self._positive = set[str]()  # of which a ReLU would change nothing
        self._layers: list[tuple[str, list[str], str, dict[int, float]]] = []
        self.weights: list[Weights] = []

    @property
    def outputs(self) -> dict[str, str]:
        """The graph's outputs and the blobs that hold them."""
        return {name: _origin(name, self._same) for name in self._told}

    def add(self, node: onnx.NodeProto) -> None:
        """Take a node.

        Raises:
            FoldsightError: the form does not know it.
        """
        known = {"Conv": self._conv, "Gemm": self._gemm, "Add": self._add, "Mul": self._mul, "Relu": self._relu,
                 "AveragePool": self._average, "GlobalAveragePool": self._average, "MaxPool": self._maximum,
                 "Flatten": self._flatten, "Reshape": self._flatten, "DepthToSpace": self._shuffle,
                 "Transpose": self._transpose}  # fmt: skip
        if node.op_type not in known:
            raise FoldsightError(
                f"the graph holds {node.op_type} ({node.name or node.output[0]}), unknown to the form for ncnn "
                f"(it knows {', '.join(sorted(known))}): leave ncnn out of bundle.artefacts"
            )
        try:
            known[node.op_type](node, {a.name: helper.get_attribute_value(a) for a in node.attribute})
        except _OtherError as error:
            raise FoldsightError(
                f"the graph's {node.op_type} ({node.name or node.output[0]}) {error}, which the form for ncnn does not "
                "know: leave ncnn out of bundle.artefacts"
            ) from error

    def text(self) -> str:
        """All of it: a blob that several layers read is split, as ncnn wants it."""
        _, _, height, width = self.shapes[PIXELS]
        layers = [("Input", list[str](), [PIXELS], {0: width, 1: height, 2: 3})]
        readers: dict[str, int] = {}
        for _, inputs, _, _ in self._layers:
            for name in inputs:
                readers[name] = readers.get(name, 0) + 1
        taken: dict[str, int] = {}

        def split(blob: str) -> None:
            if readers.get(blob, 0) > 1:
                layers.append(("Split", [blob], [f"{blob}_{i}" for i in range(readers[blob])], {}))

        split(PIXELS)
        for kind, inputs, output, values in self._layers:
            read = []
            for name in inputs:
                taken[name] = taken.get(name, -1) + 1
                read.append(f"{name}_{taken[name]}" if readers[name] > 1 else name)
            layers.append((kind, read, [output], values))
            split(output)
        blobs = sum(len(outputs) for _, _, outputs, _ in layers)
        lines = [_MAGIC, f"{len(layers)} {blobs}"]
        for index, (kind, inputs, outputs, values) in enumerate(layers):
            told = [f"{k}={v:.9e}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()]
            lines.append(
                " ".join([kind, f"layer{index}", str(len(inputs)), str(len(outputs)), *inputs, *outputs, *told])
            )
        return "\n".join(lines) + "\n"

    def _put(self, kind: str, node: onnx.NodeProto, values: dict[int, float], inputs: int = 1) -> None:
        """A layer of a node's first inputs; blobs are named after it, but for the graph's outputs."""
        if any(name in self._constants for name in node.input[:inputs]):
            raise _OtherError("works on a constant")
        output = node.output[0]
        blob = output if output in self._told else f"blob{len(self._layers)}"
        self._layers.append((kind, [_origin(name, self._same) for name in node.input[:inputs]], blob, values))
        if blob != output:
            self._same[output] = blob

    def _weigh(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Note a layer's weights and biases, where it has these; returns the shape of the weights."""
        given = [name for name in node.input[1:] if name]
        if any(name not in self._constants for name in given):
            raise _OtherError("has weights that are no constants")
        places = [self._places.of(name) for name in given]
        self.weights.append(Weights(weight=places[0], bias=places[1] if places[1:] else None))
        return tuple(self._constants[node.input[1]].shape)

    def _conv(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        if given.get("group", 1) != 1 or given.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise _OtherError("is grouped, or pads by itself")
        shape = self._weigh(node)
        (top, left, bottom, right), (down, across) = given.get("pads", (0,) * 4), given.get("strides", (1, 1))
        tall, wide = given.get("dilations", (1, 1))
        sizes = {0: shape[0], 1: shape[3], 11: shape[2], 2: wide, 12: tall, 3: across, 13: down}
        pads = {4: left, 14: top, 15: right, 16: bottom}
        self._put("Convolution", node, {**sizes, **pads, 5: _biased(node), 6: int(np.prod(shape))})

    def _gemm(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        usual = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | given
        if (usual["alpha"], usual["beta"], usual["transA"], usual["transB"]) != (1.0, 1.0, 0, 1):
            raise _OtherError("is no plain linear layer")
        outputs, inputs = self._weigh(node)
        self._put("InnerProduct", node, {0: outputs, 1: _biased(node), 2: outputs * inputs})

    def _add(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        del given
        if self.shapes.get(node.input[0]) != self.shapes.get(node.input[1]):
            raise _OtherError("adds things of different shapes")
        self._put("BinaryOp", node, {0: 0}, 2)

    def _mul(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        del given
        factor = self._constants.get(node.input[1], np.zeros(2))
        if factor.size != 1:
            raise _OtherError("multiplies by more than one number")
        self._put("BinaryOp", node, {0: 2, 1: 1, 2: float(factor.reshape(-1)[0])})

    def _relu(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        del given
        source = node.input[0]
        output, blob = node.output[0], _origin(source, self._same)
        if source not in self._positive:
            made = next((layer for layer in self._layers if layer[2] == blob), None)
            if made is not None and made[0] == "Convolution" and self._uses.count(source) == 1:
                made[3][9] = 1  # its activation
                self._same[output] = blob
            else:
                self._put("ReLU", node, {})
        else:
            self._same[output] = blob
        self._positive.add(output)

    def _average(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        if list(given.get("kernel_shape", self.shapes[node.input[0]][2:])) != list(self.shapes[node.input[0]][2:]):
            raise _OtherError("is no mean over the whole map")
        self._put("Pooling", node, {0: 1, 4: 1})
        self._keep_positive(node)

    def _maximum(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        plain = {"auto_pad": b"NOTSET", "ceil_mode": 0, "storage_order": 0, "dilations": [1, 1]}
        if any(given.get(name, value) != value for name, value in plain.items()) or len(node.output) > 1:
            raise _OtherError("is no plain one")
        (tall, wide), (down, across) = given["kernel_shape"], given.get("strides", (1, 1))
        top, left, bottom, right = given.get("pads", (0,) * 4)
        self._put("Pooling", node, {0: 0, 1: wide, 11: tall, 2: across, 12: down, 3: left, 13: top, 14: right,
                                    15: bottom, 5: 1})  # fmt: skip
        self._keep_positive(node)

    def _flatten(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        del given
        before = self.shapes[node.input[0]]
        if self.shapes.get(node.output[0], (1, int(np.prod(before)))) != (1, int(np.prod(before))):
            raise _OtherError("makes something else than one row of numbers")
        self._put("Flatten", node, {})
        self._keep_positive(node)

    def _shuffle(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        self._put("PixelShuffle", node, {0: given["blocksize"], 1: int(given.get("mode", b"DCR") == b"DCR")})

    def _transpose(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        if node.output[0] not in self._told or list(given["perm"]) != [0, 2, 3, 1]:
            raise _OtherError("is not that of the maps")
        self._same[node.output[0]] = _origin(node.input[0], self._same)  # the device takes the labels first

    def _keep_positive(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self._positive:
            self._positive.add(node.output[0])


class _OtherError(Exception):
    """A node of a known kind is not as it is known."""


def _biased(node: onnx.NodeProto) -> int:
    return int(len(node.input) > 2 and bool(node.input[2]))  # noqa: PLR2004


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


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
