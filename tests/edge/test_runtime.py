"""What the device computes with: whole numbers from the first pixel on, and the same memory for every frame."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge.bundle import Artefact, Bundle, InputSpec
from edge.capture.phantom import Phantom
from edge.config import COMMITTED_BUNDLE
from edge.errors import BundleError
from edge.geometry import Box
from edge.preprocess import Preprocessor
from edge.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUNDLE = Bundle.open(COMMITTED_BUNDLE, golden=False)
INT8 = [a for a in BUNDLE.manifest.artefacts if a.precision == "int8" and a.runtime == "onnxruntime"]


@pytest.mark.parametrize("artefact", INT8, ids=lambda artefact: artefact.role)
def test_the_optimised_graph_takes_the_pixels_into_its_first_convolution(artefact: Artefact, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(BUNDLE.files[artefact.file], options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    (image,) = graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    first, *_ = graph.node
    assert (first.op_type, first.input[0]) == ("QLinearConv", "image")
    kinds = [node.op_type for node in graph.node]
    # No float image, nor any float layer: nothing makes whole numbers of floats again, so floats come only at the end.
    assert not {"Conv", "Cast", "QuantizeLinear", "Relu", "MatMul", "Gemm"} & set(kinds)
    # Transposes are only of what is small by then: pooled features, the map's cells.
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    for node in graph.node:
        if node.op_type == "Transpose" and node.output[0] in shapes:
            assert np.prod(shapes[node.output[0]]) <= 4096


def peak(call: Callable[[], object], times: int = 50) -> int:
    """The most memory that calls hold at once beyond what was held before, bytes.

    The least of five times: threads that earlier tests left allocate now and then, and are traced too.
    """
    for _ in range(5):
        call()
    gc.collect()
    tracemalloc.start()
    call()
    found = []
    for _ in range(5):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(times):
            call()
        found.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return min(found)


def test_the_tracing_sees_a_single_image() -> None:
    assert peak(lambda: np.zeros((160, 160, 3), np.uint8)) >= 160 * 160 * 3


@pytest.mark.parametrize("artefact", INT8, ids=lambda artefact: artefact.role)
def test_an_inference_allocates_nothing(artefact: Artefact) -> None:
    runtime = open_runtime(BUNDLE, artefact)
    image = np.random.default_rng(0).integers(0, 256, (1, *BUNDLE.golden(artefact)[0].shape[1:]), np.uint8)
    assert peak(lambda: runtime.infer(image)) < 8000  # objects of Python, no array


@pytest.mark.parametrize("interpolation", ["area", "linear-area", "halves-linear", "linear"])
def test_nor_does_preparing_its_input(interpolation: str) -> None:
    prepare = Preprocessor(InputSpec.model_validate({"height": 160, "width": 160, "interpolation": interpolation}))
    frame, _ = Phantom(width=1280, height=720, seed=0).render(1.0)
    assert peak(lambda: prepare(frame, Box(288, 9, 705, 705))) < 4000


def test_an_operator_that_onnx_runtime_has_not_is_one_sentence(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    model = onnx.load_from_string(bundle.files["fp32.onnx"])
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    model.graph.node[-1].output[:] = ["before"]
    model.graph.node.append(onnx.helper.make_node("Glow", ["before"], ["logits"], domain="com.example"))
    broken = replace(bundle, files={**bundle.files, "fp32.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=r"fp32\.onnx cannot be loaded by ONNX Runtime .*Glow") as caught:
        open_runtime(broken, broken.artefact())
    assert "\n" not in str(caught.value)


def test_a_wrong_input_shape_is_one_sentence(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    other = bundle.manifest.model_copy(update={"input": InputSpec(height=32, width=48)})
    with pytest.raises(BundleError, match=r"wants tensor\(uint8\) \[1, 64, 64, 3\], but .* uint8 \[1, 32, 48, 3\]"):
        open_runtime(replace(bundle, manifest=other), bundle.artefact())
