"""What several tests share: a tiny model whose answer is known, and a broker."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.broker import Broker
from edge.bundle import Artefact, DecisionSpec, InputSpec, Manifest, OutputSpec, write_bundle
from edge.decision import calibrate
from edge.runtime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 64


def redness_model() -> bytes:
    """logits = (-r, r) with r = how much redder than green and blue the mean colour is, in units of 25 levels."""
    weights = np.array([[-2.0, 2.0], [1.0, -1.0], [1.0, -1.0]], np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "redness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_manifest(**changes: object) -> Manifest:
    """A manifest for the redness model; `files` is filled in when it is written."""
    values = {
        "name": "redness",
        "version": "0.0.1",
        "created": "2026-11-21T00:00:00Z",
        "labels": ["no_folds", "folds"],
        "finding": "folds",
        "exclusive": True,
        "input": InputSpec(height=SIDE, width=SIDE),
        "outputs": OutputSpec(),
        "decision": DecisionSpec(
            temperature=1.0, low=0.3, threshold=0.5, high=0.7, smoothing_s=0.2, dwell_s=0.2, expire_s=1.0
        ),
        "artefacts": [
            Artefact(
                name="fp32", format="onnx", precision="fp32", file="fp32.onnx", minimum_runtime="1.20", tolerance=0.001
            )
        ],
        "metrics": [],
        "recipe_sha256": "0" * 64,
        "data_sha256": "0" * 64,
        "licence": "Apache-2.0",
        "research_only": True,
        "attributions": [],
        "files": {},
    }
    return Manifest.model_construct(schema_version=1, **{**values, **changes})


def tiny_files() -> dict[str, bytes]:
    """The files of the redness bundle but its manifest."""
    model = redness_model()
    runtime = OnnxRuntime(model)
    inputs = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE, 3), np.uint8)
    inputs[1, ..., 0] //= 2
    scores = np.stack([calibrate(runtime.infer(image[None]), 1.0, exclusive=True) for image in inputs])
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, scores_fp32=scores)
    return {"fp32.onnx": model, "golden.npz": golden.getvalue(), "MODEL_CARD.md": b"# Redness\n"}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that calls red images folds."""
    path = tmp_path_factory.mktemp("bundle") / "redness.zip"
    write_bundle(path, tiny_manifest(), tiny_files())
    return path


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A real mosquitto, on free loopback ports."""
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder with the real images; the test is skipped where it is missing."""
    folder = Path(os.environ.get("FOLDSIGHT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "bagls").is_dir():
        pytest.skip(f"the real images are not here ({folder}); set FOLDSIGHT_DATA to their folder")
    return folder
