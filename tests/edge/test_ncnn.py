"""ncnn as a runtime of the device, the real package: the redness model written in its layers."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MAPS, SIDE, map_manifest, tiny_files
from test_choice import Ear, rigged, settings

from edge.bench.artefacts import measure_artefacts
from edge.bench.report import _artefacts
from edge.bundle import Artefact, Bundle, write_bundle
from edge.choice import choose, open_analyser, start_engine
from edge.doctor import examine
from edge.errors import BundleError, EngineError
from edge.runtime import open_runtime
from edge.runtime.ncnn import Form, Values, Weights, load_ncnn, ncnn_version, open_ncnn
from edge.runtime.tensorrt import Relay

pytest.importorskip("ncnn")

PARAM = f"""7767517
6 7
Input input 0 1 pixels 0={SIDE} 1={SIDE} 2=3
Split split 1 2 pixels one two
Pooling mean 1 1 one mean 0=1 4=1
InnerProduct linear 1 1 mean logits 0=2 1=1 2=6
Pooling cells 1 1 two cells 0=1 1=8 11=8 2=8 12=8 5=1
Convolution heads 1 1 cells maps 0=2 1=1 11=1 5=1 6=6
"""
# Logits: whole numbers, one scale for both rows. Maps: a scale for each row, then floats.
NUMBERS = b"".join(
    [
        np.array([-2, 1, 1, 2, -1, -1, 2, -1, -1, -1, -1, -1], np.int8).tobytes(),
        np.array([1 / 50, 1 / 25, 1 / 30, 0, 0, -2, 6], "<f4").tobytes(),
    ]
)


def form(**changes: Any) -> Form:
    def floats(at: int) -> Values:
        return Values(at=at, count=2, dtype="float32")

    linear = Weights(weight=Values(at=0, count=6, dtype="int8", scale_at=12), bias=floats(24))
    heads = Weights(weight=Values(at=6, count=6, dtype="int8", scale_at=16, scale_count=2), bias=floats(32))
    values = {
        "graph": "numbers.bin", "sha256": hashlib.sha256(NUMBERS).hexdigest(), "height": SIDE, "width": SIDE,
        "mean": 0.0, "factor": 1.0, "scores": "logits", "maps": "maps", "param": PARAM, "weights": [linear, heads],
    }  # fmt: skip
    return Form.model_validate({**values, **changes})


def bundle_at(path: Path, content: bytes | None = None, *, shift: float = 0.0, **changes: Any) -> Bundle:
    """The redness bundle with a form for ncnn beside its graph."""
    wide = map_manifest().artefacts[0]
    settings = {"name": "ncnn", "format": "ncnn", "runtime": "ncnn", "file": "ncnn.json", "minimum_runtime": "1.0",
                "tolerance": 0.01, "map_tolerance": 0.01}  # fmt: skip
    artefact = Artefact.model_validate({**wide.model_dump(), **settings, **changes})
    files = tiny_files(maps=True)
    with np.load(io.BytesIO(files["golden.npz"])) as arrays:
        golden = io.BytesIO()
        seen = {"scores_ncnn": arrays["scores_fp32"] + np.float32(shift), "maps_ncnn": arrays["maps_fp32"]}
        np.savez(golden, **arrays, **seen)
    content = form().model_dump_json().encode() if content is None else content
    files |= {"golden.npz": golden.getvalue(), "ncnn.json": content, "numbers.bin": NUMBERS}
    write_bundle(path, map_manifest(MAPS, artefacts=[wide, artefact]), files)
    return Bundle.open(path)


def test_it_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    bundle = bundle_at(tmp_path / "b.zip")
    artefact, ours = open_ncnn(bundle)
    theirs = open_runtime(bundle, bundle.artefact())
    assert type(open_runtime(bundle, artefact)) is type(ours)
    assert ours.description.startswith(f"ncnn {ncnn_version()}, CPU, ")
    rng = np.random.default_rng(1)
    for _ in range(5):
        image = rng.integers(0, 255, (1, SIDE, SIDE, 3), np.uint8)
        image[..., rng.integers(3)] //= 3
        logits, seen = ours.infer(image), ours.maps
        assert logits == pytest.approx(theirs.infer(image), abs=5e-3)
        assert seen == pytest.approx(theirs.maps, abs=2e-2)
        assert (logits.dtype, seen.dtype, seen.shape) == (np.float32, np.float32, (8, 8, 2))
    assert ours.infer(image) is logits
    assert ours.maps is seen


def test_a_view_that_is_not_in_one_piece_is_read_as_it_is_seen(tmp_path: Path) -> None:
    _, runtime = open_ncnn(bundle_at(tmp_path / "b.zip"))
    wide = np.random.default_rng(2).integers(0, 255, (1, SIDE, 2 * SIDE, 3), np.uint8)
    view = wide[:, :, ::2]
    assert runtime.infer(view).copy() == pytest.approx(runtime.infer(np.ascontiguousarray(view)))


def test_an_inference_allocates_no_image(tmp_path: Path) -> None:
    _, runtime = open_ncnn(bundle_at(tmp_path / "b.zip"))
    image = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    runtime.infer(image)
    tracemalloc.start()
    runtime.infer(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes / 2


BEYOND = Values(at=90, count=6, dtype="int8")
DAMAGED = {
    "not JSON": (b"{", r"ncnn\.json is damaged \(JSON: "),
    "something missing": (b'{"graph": "numbers.bin"}', r"ncnn\.json is damaged \(sha256: Field required\)"),
    "a newer schema": (form().model_dump_json().replace('version":1', 'version":2').encode(), "is damaged"),
    "another graph": (form(sha256="0" * 64), "was made of another numbers.bin than the bundle's"),
    "a graph that is not there": (form(graph="x.onnx"), r"takes its weights from x\.onnx, which the bundle has not"),
    "weights beyond the end": (
        form(weights=[form().weights[0], form().weights[1].model_copy(update={"weight": BEYOND})]),
        r"names weights that are not in numbers\.bin",
    ),
    "a layer without weights": (form(weights=form().weights[:1]), "its layers and its weights do not fit together"),
    "an unknown layer": (form(param=PARAM.replace("Pooling m", "Swish m")), r"does not know \(Swish\): update it"),
    "no layers": (form(param=""), "do not fit together"),
    "cut off": (form(param=PARAM[: len(PARAM) // 2]), "do not fit together"),
    "a blob from nowhere": (form(param=PARAM.replace("1 1 mean logits", "1 1 none logits")), "ncnn"),
    "another size": (form(height=32), "is for images of 32 x 64, but the manifest says 64 x 64"),
    "other labels": (form(scores="mean"), r"mean is \[3\] in ncnn, but the manifest says \[2\]"),
    "no such output": (form(scores="none"), "ncnn gives no none"),
    "no maps": (form(maps=None), "has no maps"),
    "other maps": (form(maps="cells"), r"cells is \[3, 8, 8\] in ncnn, but the manifest says \[2, 8, 8\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_form_that_is_not_as_it_should_be_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, words = DAMAGED[name]
    raw = content if isinstance(content, bytes) else content.model_dump_json().encode()
    bundle = bundle_at(tmp_path / "b.zip", raw)  # opening it runs ONNX Runtime's alone
    with pytest.raises((BundleError, EngineError), match=words) as caught:
        open_ncnn(bundle)
    assert "\n" not in str(caught.value)
    analyser = open_analyser(settings(tmp_path, runtime="ncnn"), bundle)
    assert analyser.runtime.description.startswith("ONNX Runtime")
    assert analyser.analyse(np.zeros((SIDE, SIDE, 3), np.uint8)).scores == pytest.approx([0.5, 0.5])


def test_other_answers_an_older_ncnn_and_none_at_all_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = bundle_at(tmp_path / "wrong.zip", shift=0.1)
    with pytest.raises(BundleError, match=r"ncnn\.json gives other scores on this machine"):
        open_ncnn(wrong)
    late = bundle_at(tmp_path / "late.zip", minimum_runtime="99.0")
    with pytest.raises(EngineError, match=r"needs ncnn 99\.0 or newer, here is"):
        open_ncnn(late)
    good = bundle_at(tmp_path / "good.zip")
    with pytest.raises(BundleError, match=r"has no int8 model for ncnn, only fp32: set model\.precision"):
        open_ncnn(good, "int8")
    for precision in ("auto", "fp32"):
        assert "other scores" in choose(settings(tmp_path, precision=precision), wrong).missing
    open_analyser(settings(tmp_path), wrong)
    assert caplog.records[-1].levelno == logging.WARNING
    assert caplog.records[-1].message.endswith("1 thread goes on")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(EngineError, match=r"ncnn is not installed here .*: install foldsight\[ncnn\], or set"):
        load_ncnn(good, good.artefact("auto", "ncnn"))
    monkeypatch.setattr("edge.choice.ncnn_version", lambda: None)
    found = choose(settings(tmp_path), good)
    assert (found.artefact.name, found.instead) == ("fp32", None)
    assert found.missing.endswith("which is not installed here: install foldsight[ncnn]")


def test_it_serves_where_it_is_asked_for_and_onnx_runtime_goes_on_when_it_fails(tmp_path: Path) -> None:
    bundle, config, ear = bundle_at(tmp_path / "b.zip"), settings(tmp_path, runtime="ncnn"), Ear()
    analyser = open_analyser(config, bundle)
    assert start_engine(config, analyser, ear) is None
    assert analyser.runtime.description.startswith("ncnn")
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[..., 2] = 200
    said = analyser.analyse(red)
    assert said.scores[1] > 0.9
    relay = analyser.runtime
    assert isinstance(relay, Relay)

    def broken(_: np.ndarray) -> np.ndarray:
        raise EngineError("no memory")

    relay.now.infer = broken  # type: ignore[method-assign]
    assert analyser.analyse(red).scores == pytest.approx(said.scores, abs=0.01)
    assert ear.faults[0].startswith("no memory; ONNX Runtime")
    assert ear.changes == 1


def test_a_bundle_without_a_form_says_so_and_goes_on(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, config, ear = Bundle.open(tiny_bundle), settings(tmp_path, runtime="ncnn"), Ear()
    assert "has no model for ncnn: set model.runtime: onnxruntime" in choose(config, bundle).missing
    analyser = open_analyser(config, bundle)
    assert start_engine(config, analyser, ear) is None
    assert ear.faults == [f"ncnn was asked for and cannot be had; {analyser.runtime.description} goes on"]
    assert not choose(settings(tmp_path), bundle).missing  # nobody asked


@pytest.mark.parametrize("quicker", [True, False])
def test_auto_takes_the_quicker_and_remembers_it_for_this_ncnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quicker: bool
) -> None:
    calls = rigged(monkeypatch, {"fp32": 1.0, "ncnn": 0.5 if quicker else 2.0})
    bundle, config = bundle_at(tmp_path / "b.zip"), settings(tmp_path)
    first, second = choose(config, bundle), choose(config, bundle)
    assert calls == [["fp32", "ncnn"]]
    assert [first.remembered, second.remembered] == [False, True]
    for found in (first, second):
        assert (found.instead is not None) == quicker
        assert found.artefact.name == "fp32"  # which goes on, should ncnn fail
        assert found.reason.startswith("ncnn: the median" if quicker else "fp32: the median")
    assert open_analyser(config, bundle).runtime.description.startswith("ncnn" if quicker else "ONNX")
    version = ncnn_version()
    monkeypatch.setattr("edge.choice.ncnn_version", lambda: f"{version}.1")
    assert not choose(config, bundle).remembered
    assert choose(settings(tmp_path, runtime="onnxruntime"), bundle).instead is None
    assert choose(settings(tmp_path, precision="int8", runtime="ncnn"), bundle).instead is None
    assert len(calls) == 2


def test_what_was_remembered_gives_way_where_ncnn_has_gone_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rigged(monkeypatch, {"fp32": 1.0, "ncnn": 0.5})
    bundle, config = bundle_at(tmp_path / "b.zip"), settings(tmp_path)
    choose(config, bundle)

    def refuse(*_: Any, **__: Any) -> None:
        raise BundleError("it gives other scores")

    monkeypatch.setattr("edge.choice.open_ncnn", refuse)
    found = choose(config, bundle)
    assert found.remembered
    assert (found.instead, found.artefact.name, found.missing) == (None, "fp32", "it gives other scores")
    assert found.reason.startswith("fp32: ")


def test_the_benchmark_times_it_and_the_doctor_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = bundle_at(tmp_path / "b.zip")
    found = measure_artefacts(settings(tmp_path), good)
    assert {entry["name"]: entry["runtime"].split()[0] for entry in found["timed"]} == {"fp32": "ONNX", "ncnn": "ncnn"}
    assert (found["use"] in ("fp32", "ncnn"), found["ncnn"]) == (True, "")
    assert {e["name"] for e in measure_artefacts(settings(tmp_path, runtime="onnxruntime"), good)["timed"]} == {"fp32"}
    wrong = bundle_at(tmp_path / "wrong.zip", shift=0.1)
    said = measure_artefacts(settings(tmp_path), wrong)
    assert "other scores" in said["ncnn"]
    assert any(line.startswith("no ncnn: ") for line in _artefacts({"artefacts": said}))

    def seen(path: Path, **model: Any) -> Any:
        return next(iter(examine(settings(tmp_path, bundle=path, **model), tmp_path)))

    assert f"ncnn {ncnn_version()}, CPU, " in seen(good.path).text
    assert "golden outputs right, too" in seen(good.path, runtime="ncnn").text
    assert "ncnn" not in seen(good.path, runtime="onnxruntime").text.replace(str(good.path), "")
    check = seen(wrong.path)
    assert (check.level, "ncnn does not serve" in check.text) == ("warning", True)
    assert "model.runtime: onnxruntime" in check.advice
    monkeypatch.setattr("edge.doctor.ncnn_version", lambda: None)
    assert "ncnn" not in seen(good.path).text


def test_the_form_is_plain_json(tmp_path: Path) -> None:
    bundle = bundle_at(tmp_path / "b.zip")
    assert Form.model_validate(json.loads(bundle.files["ncnn.json"])) == form()
