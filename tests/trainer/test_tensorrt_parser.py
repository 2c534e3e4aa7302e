"""The graph for TensorRT before NVIDIA's own parser and builder.

TensorRT for RTX is NVIDIA's library for desktop GPUs; it reads ONNX as TensorRT does and builds engines without a GPU.
That it takes the graph shows that the graph is acceptable, and no more: no engine ran, and a Jetson's TensorRT is
another build.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch")

from edge.bundle import Bundle  # noqa: E402  after the check for torch
from edge.config import COMMITTED_BUNDLE  # noqa: E402
from edge.errors import EngineError  # noqa: E402
from edge.runtime.nvidia import build_plan  # noqa: E402
from trainer.cli import main  # noqa: E402
from trainer.models import SimpleResNet  # noqa: E402
from trainer.onnx_export import export_body, with_cast_input, with_image_input  # noqa: E402
from trainer.quantise import Static, Way  # noqa: E402
from trainer.quantise.static import tensorrt_graph  # noqa: E402
from trainer.recipe import QuantiseSettings  # noqa: E402
from trainer.tensorrt import export_engine  # noqa: E402


@pytest.fixture(scope="module")
def rtx() -> Any:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("TensorRT for RTX is made for x86-64 Linux")
    import tensorrt_rtx  # noqa: PLC0415  not everywhere

    return tensorrt_rtx


@pytest.fixture(scope="module")
def body() -> Any:
    torch.manual_seed(0)
    return export_body(SimpleResNet(widths=(16, 32, 32), blocks=(1, 1, 1), maps=2).eval(), 64, 64)


@pytest.fixture(scope="module")
def graph(body: Any) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    static = Static(body, images, QuantiseSettings(images=8))
    narrow = with_cast_input(tensorrt_graph(static.float_graph(Way()), static.ranges(Way())))
    return bytes(narrow.SerializeToString())


def built(trt: Any, model: bytes, precision: str = "int8") -> tuple[bytes, list[str]]:
    lines: list[str] = []

    def for_ada(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    return build_plan(trt, model, precision, lines.append, prepare=for_ada), lines


def test_the_quantised_graph_is_parsed_and_an_engine_is_built(rtx: Any, graph: bytes) -> None:
    plan, _ = built(rtx, graph)
    assert len(plan) > 10_000


def test_so_is_the_float_graph(rtx: Any, body: Any) -> None:
    assert len(built(rtx, with_cast_input(body).SerializeToString())[0]) > 10_000


def test_what_the_committed_bundle_holds_for_tensorrt_is_parsed(rtx: Any) -> None:
    bundle = Bundle.open(COMMITTED_BUNDLE, golden=False)
    mine = [artefact for artefact in bundle.manifest.artefacts if artefact.runtime == "tensorrt"]
    if not mine:
        pytest.skip("the committed bundle holds no graph for TensorRT yet")
    for artefact in mine:
        assert len(built(rtx, bundle.files[artefact.file])[0]) > 10_000


def test_the_graph_for_the_cpu_is_not_what_tensorrt_takes(rtx: Any, body: Any) -> None:
    with pytest.raises(EngineError, match="cannot read the graph: operator Transpose"):
        built(rtx, with_image_input(body).SerializeToString())


def test_an_operator_that_tensorrt_has_not_is_named(rtx: Any, graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    last = model.graph.node[-1]
    for node in model.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    assert last.op_type
    model.graph.node.append(helper.make_node("Glow", ["before"], ["logits"], "glow", domain="com.example"))
    with pytest.raises(EngineError, match=r"TensorRT .* cannot read the graph: operator Glow"):
        built(rtx, model.SerializeToString())


def test_what_is_no_graph_is_said_to_be_none(rtx: Any, graph: bytes) -> None:
    for broken in (b"", b"no graph", graph[: len(graph) // 2]):
        with pytest.raises(EngineError, match=r"TensorRT .* cannot (read the graph|build an engine)"):
            built(rtx, broken)


def test_a_shape_that_is_not_fixed_is_refused(rtx: Any, graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 64, 64, 3]))
    with pytest.raises(EngineError, match=r"cannot (read the graph|build an engine)"):
        built(rtx, model.SerializeToString())


def test_half_precision_needs_a_tensorrt_that_chooses_it(rtx: Any, body: Any) -> None:
    with pytest.raises(EngineError, match="takes the precision from the graph alone"):
        built(rtx, with_cast_input(body).SerializeToString(), "fp16")


def test_export_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["export", str(COMMITTED_BUNDLE), "--tensorrt", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("foldsight-trainer: TensorRT is not installed here")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(EngineError):
        export_engine(Bundle.open(COMMITTED_BUNDLE, golden=False), tmp_path, tell=print)
