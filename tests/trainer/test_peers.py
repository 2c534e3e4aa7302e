"""The comparison with other runtimes: what of it needs none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from edge.config import COMMITTED_BUNDLE
from edge.runtime import OnnxRuntime
from trainer.peers.bench import COLUMNS, compare, markdown, remarks, table
from trainer.peers.graphs import shipped, with_image
from trainer.peers.runtimes import PEERS


@pytest.fixture(scope="module")
def subject() -> Any:
    return shipped(COMMITTED_BUNDLE)


def test_without_rounding_the_model_answers_alike(subject: Any) -> None:
    wide, narrow = OnnxRuntime(with_image(subject.body)), OnnxRuntime(subject.narrow)
    told = [np.array([model.infer(image[None]).copy() for image in subject.images]) for model in (wide, narrow)]
    assert np.abs(told[0] - told[1]).mean() < 0.05 * np.abs(told[1]).mean()
    kinds = {node.op_type for node in subject.body.graph.node}
    assert "Relu" in kinds
    assert not {"QuantizeLinear", "DequantizeLinear"} & kinds


def test_rows_are_measured_and_what_is_missing_is_said(
    subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)  # whether or not it is installed here
    result = compare([subject], ["onnx-fp32", "onnx-int8", "ncnn"], rounds=3, calls=1, keep=tmp_path)
    assert json.loads(json.dumps(result)) == result
    wide, narrow, missing = result["rows"]
    assert "ncnn" in missing["missing"]
    assert narrow["ratio"]["median"] == 1
    assert wide["ratio"]["median"] > 0
    assert wide["score_difference"] == 0
    assert 0 < narrow["score_difference"] < 0.2
    assert all(0 < row["ms"]["p10"] <= row["ms"]["median"] <= row["ms"]["p90"] for row in (wide, narrow))
    assert table(result).row_count == 3
    assert len(table(result).columns) == len(COLUMNS)
    assert list(remarks(result)) == []


def test_who_needs_a_fifth_less_on_arm_is_named() -> None:
    def row(key: str, **arm: Any) -> dict[str, Any]:
        spread = {"median": 1.0, "p10": 1.0, "p90": 1.0}
        return {"model": "m", "key": key, "runtime": key, "version": "1", "ms": spread, "ratio": spread,
                "score_difference": 0.0, "arm": arm}  # fmt: skip

    rows = [
        row("onnx-int8", **{"cortex-a76": 10.0, "cortex-a72": 20.0}),
        row("quick", **{"cortex-a76": 7.9, "cortex-a72": 16.1}),
        row("like", **{"cortex-a76": 8.1, "cortex-a72": 20.0}),
        row("broken", missing="it crashed"),
    ]
    result = {"machine": "x", "rounds": 1, "calls": 1, "rows": rows}
    assert list(remarks(result)) == [
        "m, quick on Arm: fewer instructions than ONNX Runtime INT8, 21 % on a cortex-a76",
        "m, broken on Arm: it crashed",
    ]
    assert "| 7.90 | 16.10 |" in markdown(result)


def test_no_peer_is_imported_by_device_or_trainer() -> None:
    packages = ("ncnn", "openvino", "ai_edge_litert", "litert_torch", "ultralytics", "pnnx")
    code = (
        "import sys, edge.daemon, trainer.cli, trainer.stages, trainer.quantise.stage, trainer.peers.runtimes\n"
        f"print([name for name in {packages} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(PEERS) >= {"onnx-int8", "ncnn", "litert-fp32", "openvino-int8", "ultralytics"}
