"""The form for ncnn, written from INT8 graphs of our own family, against ONNX Runtime on the float graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

pytest.importorskip("torch")
pytest.importorskip("ncnn")

import torch

from edge.bundle import Bundle, write_bundle
from edge.config import COMMITTED_BUNDLE
from edge.errors import FoldsightError
from edge.runtime import OnnxRuntime
from edge.runtime.ncnn import Form, NcnnRuntime, open_ncnn
from trainer.cli import main
from trainer.models import SimpleResNet, create_student
from trainer.ncnn_export import float_graph, ncnn_form
from trainer.onnx_export import export_body, scale_output
from trainer.quantise import Static, Way
from trainer.recipe import BundleSettings, QuantiseSettings


def narrow_of(network: torch.nn.Module, height: int, width: int, **quantise: Any) -> bytes:
    """A network's INT8 graph, its ranges from noise."""
    images = np.random.default_rng(0).integers(0, 255, (8, height, width, 3), np.uint8)
    body = export_body(network.eval(), height, width)
    return Static(body, images, QuantiseSettings(images=8, **quantise)).model(Way()).SerializeToString()


def disagreement(narrow: bytes, height: int, width: int, maps: tuple[int, int, int] | None) -> float:
    """The largest difference of a logit or a cell, relative to the largest of them."""
    form = Form.model_validate_json(ncnn_form(narrow, "int8.onnx"))
    ours = NcnnRuntime(form, narrow, map_shape=maps)
    theirs = OnnxRuntime(float_graph(narrow), maps=None if maps is None else "maps")
    worst, size = 0.0, 1e-3
    for image in np.random.default_rng(1).integers(0, 255, (3, 1, height, width, 3), np.uint8):
        pairs = [(ours.infer(image), theirs.infer(image)), *([(ours.maps, theirs.maps)] if maps else [])]
        for found, wanted in pairs:
            worst = max(worst, float(np.abs(found - wanted).max()))
            size = max(size, float(np.abs(wanted).max()))
    return worst / size


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.sampled_from([16, 32, 48]), min_size=2, max_size=4),
    data=st.data(),
    activations=st.sampled_from(["unsigned", "signed"]),
)
def test_any_network_of_the_family_answers_as_its_float_graph(widths: list[int], data: Any, activations: str) -> None:
    blocks = data.draw(st.lists(st.integers(1, 2), min_size=len(widths), max_size=len(widths)))
    maps = data.draw(st.integers(0, 2)) if len(widths) > 2 else 0
    height, width = (data.draw(st.sampled_from([64, 96])) for _ in range(2))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    network = SimpleResNet(widths=widths, blocks=blocks, maps=maps)
    narrow = narrow_of(network, height, width, activations=activations)
    assert disagreement(narrow, height, width, (height // 8, width // 8, maps) if maps else None) < 0.01


def test_pooling_hidden_layers_and_a_scaled_output_are_known() -> None:
    torch.manual_seed(0)
    narrow = narrow_of(create_student("three_conv", 2), 64, 64)
    scaled = scale_output(onnx.load_from_string(narrow), "logits", 0.37).SerializeToString()
    assert disagreement(scaled, 64, 64, None) < 0.01
    assert "BinaryOp" in json.loads(ncnn_form(scaled, "x"))["param"]


def test_what_the_form_does_not_know_is_refused_in_a_sentence() -> None:
    narrow = onnx.load_from_string(narrow_of(SimpleResNet(widths=(16, 16), blocks=(1, 1)), 64, 64))

    def changed(kind: str, **attributes: Any) -> bytes:
        model = onnx.load_from_string(narrow.SerializeToString())
        node = next(node for node in model.graph.node if node.op_type == kind)
        kept = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])
        return bytes(model.SerializeToString())

    sigmoid = onnx.load_from_string(narrow.SerializeToString())
    for node in sigmoid.graph.node:
        node.output[:] = ["before" if name == "logits" else name for name in node.output]
    sigmoid.graph.node.append(helper.make_node("Sigmoid", ["before"], ["logits"], "squash"))
    with pytest.raises(FoldsightError, match=r"holds Sigmoid \(squash\), unknown to the form for ncnn \(it knows Add"):
        ncnn_form(sigmoid.SerializeToString(), "x")
    with pytest.raises(FoldsightError, match=r"Conv .* is grouped, or pads by itself, .*: leave ncnn out of bundle"):
        ncnn_form(changed("Conv", auto_pad="SAME_UPPER"), "x")
    with pytest.raises(FoldsightError, match=r"Gemm .* is no plain linear layer"):
        ncnn_form(changed("Gemm", alpha=2.0), "x")
    with pytest.raises(ValueError, match="hold ncnn without int8"):
        BundleSettings(name="a", version="1.0.0", licence="", research_only=True, artefacts=["fp32", "ncnn"])
    with pytest.raises(ValueError, match="must begin with int8 or fp32"):
        BundleSettings(name="a", version="1.0.0", licence="", research_only=True, artefacts=["ncnn", "int8"])


def plain(path: Path) -> Path:
    """The shipped bundle without a form for ncnn, should it have one."""
    shipped = Bundle.open(COMMITTED_BUNDLE, golden=False)
    forms = [artefact for artefact in shipped.manifest.artefacts if artefact.runtime == "ncnn"]
    others = [artefact for artefact in shipped.manifest.artefacts if artefact not in forms]
    gone = {artefact.file for artefact in forms}
    files = {name: shipped.files[name] for name in shipped.manifest.files if name not in gone}
    write_bundle(path, shipped.manifest.model_copy(update={"artefacts": others}), files)
    return path


def test_a_bundle_gets_the_form_and_keeps_all_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = plain(tmp_path / "plain.zip")
    command = ["export", str(path), "--ncnn", "9.0.0", "--out", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] < 1_500_000
    before, after = Bundle.open(path, golden=False), Bundle.open(Path(said["bundle"]))
    artefact, runtime = open_ncnn(after)
    assert said["golden_difference"] == pytest.approx(after.check_golden(artefact, runtime))
    assert said["golden_difference"] < artefact.tolerance
    assert len(after.files[artefact.file]) < 20_000
    same = {name: content for name, content in before.files.items() if name.endswith(".onnx")}
    assert same.items() <= after.files.items()
    assert after.manifest.decision == before.manifest.decision
    assert b"9.0.0" in after.files["MODEL_CARD.md"]
    assert main(["export", said["bundle"], "--ncnn", "9.0.1", "--out", str(tmp_path)]) == 1
    assert "holds a form for ncnn already" in capsys.readouterr().err
    for version, words in ((before.manifest.version, "give the new bundle another one"), ("new", "new is no version")):
        assert main(["export", str(path), "--ncnn", version, "--out", str(tmp_path)]) == 1
        assert words in capsys.readouterr().err
