from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import CARD, GOLDEN, Bundle, OutputSpec, write_bundle
from edge.capture.phantom import training_frames
from edge.config import COMMITTED_BUNDLE
from edge.decision import calibrate
from edge.errors import ConfigError
from edge.runtime import OnnxRuntime
from trainer.adapt import choose, command
from trainer.adapt.choose import BLOCK, LAYER, POINT, SHIPPED, balanced, chance_of_gain, check_enough, folds_of
from trainer.adapt.ship import golden_of
from trainer.adapt.student import find_student
from trainer.cli import main
from trainer.data.manifest import read_manifest, write_manifest
from trainer.models import PixelModel
from trainer.onnx_export import export_body
from trainer.quantise import quantise
from trainer.recipe import QuantiseSettings, load_recipe
from trainer.stages import DONE, RECIPE, Run
from trainer.train import BEST, save_atomically

FRAMES = 44


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clinic's labelled frames: the demo's kind of phantom, ten groups."""
    root = tmp_path_factory.mktemp("clinic")
    kept = [(image, truth.visible) for image, truth in training_frames(90, 12, detail=200) if not truth.ambiguous]
    for k, (image, visible) in enumerate(kept[:FRAMES]):
        path = root / ("folds" if visible else "no_folds") / f"p{k % 10}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    return root


@pytest.fixture(scope="module")
def coloured(clinic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clinic, pale with folds and red without: even an untrained network can be refitted to it."""
    root = tmp_path_factory.mktemp("coloured")
    for file in clinic.rglob("*.png"):
        image = cv2.imread(str(file))
        assert image is not None
        path = root / file.relative_to(clinic)
        path.parent.mkdir(parents=True, exist_ok=True)
        tint = (0.55, 0.7, 1.0) if path.parts[-3] == "folds" else (0.25, 0.3, 1.0)
        cv2.imwrite(str(path), (image.mean(axis=2, keepdims=True) * tint).astype(np.uint8))
    return root


def altered(path: Path, **changes: object) -> Path:
    """The committed bundle with another operating point: what a clinic gets whose scopes shift every score."""
    shipped = Bundle.open(COMMITTED_BUNDLE)
    decision = shipped.manifest.decision.model_copy(update=changes)
    files = {name: content for name, content in shipped.files.items() if name not in {"manifest.json", "signature"}}
    write_bundle(path, shipped.manifest.model_copy(update={"decision": decision}), files)
    return path


# --- what is asked of the frames ---


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=16, max_size=80), st.integers(0, 5))
def test_groups_stay_whole_and_every_fold_learns_both_labels(frames: list[tuple[int, bool]], seed: int) -> None:
    labels = np.array([int(label) for _, label in frames], np.int64)
    groups = np.array([f"g{group}" for group, _ in frames])
    try:
        check_enough(labels, groups)
        fold = folds_of(labels, groups, seed)
    except ConfigError:
        return
    for group in set(groups):
        assert len(set(fold[groups == group])) == 1
    for part in set(fold):
        assert set(labels[fold != part]) == {0, 1}
    assert 2 <= len(set(fold)) <= 5
    assert np.array_equal(fold, folds_of(labels, groups, seed))


@pytest.mark.parametrize(
    ("labels", "groups", "says"),
    [
        ([0, 1] * 5, list("abcdefghij"), "label at least 16"),
        ([1] * 18 + [0] * 2, list("ab" * 10), "5 of each"),
        ([1] * 10 + [0] * 10, ["a"] * 10 + list("bcdefghijk"), "with folds are of one group"),
        ([1, 0] * 10, ["a", "a", "b", "b"] * 5, "2 groups"),
    ],
)
def test_too_little_is_refused_in_a_clear_sentence(labels: list[int], groups: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_enough(np.array(labels, np.int64), np.array(groups))


def test_a_gain_must_hold_over_groups_and_a_tie_is_none() -> None:
    truth = np.array([True, False] * 20)
    groups = np.array([f"g{k // 4}" for k in range(40)])
    before = truth.copy()
    before[::4] = False
    assert chance_of_gain(truth, before, truth, groups, 0) > 0.99
    assert chance_of_gain(truth, truth, truth, groups, 0) == 0
    lucky = before.copy()
    lucky[0] = True  # one frame more, of one group
    assert chance_of_gain(truth, before, lucky, groups, 0) < choose._SURE
    assert balanced(truth, truth, np.ones((1, 40)))[0] == 1


# --- the command ---


def test_nothing_replaces_a_model_that_is_right_already(
    clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.zip"
    assert main(["adapt", str(COMMITTED_BUNDLE), "--data", str(clinic), "--out", str(out)]) == 0
    assert "no gain" in capsys.readouterr().out
    assert not out.exists()


def test_a_shifted_operating_point_is_found_again_and_the_card_says_so(clinic: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(altered(tmp_path / "shifted.zip", threshold=0.9999, high=1.0, low=0.999))
    out = tmp_path / "new.zip"
    records = command.labelled(clinic, None)
    made = command.adapt(bundle, records, clinic, out, trained=None, seed=0, threads=1, scratch=tmp_path / "s")
    assert made["chosen"] == POINT
    assert made["bundle"] == str(out)
    adapted = Bundle.open(out)  # its golden outputs included
    assert adapted.manifest.version.endswith("-adapted")
    assert adapted.manifest.decision.threshold < 0.9
    assert adapted.manifest.decision.smoothing_s == bundle.manifest.decision.smoothing_s
    assert [metric.split for metric in adapted.manifest.metrics] == ["cross-validation"]
    card = adapted.files[CARD].decode()
    assert "adapted to one place: operating point" in card
    assert "not a medical device" in card.lower()
    assert adapted.files[adapted.artefact("int8").file] == bundle.files[bundle.artefact("int8").file]
    with pytest.raises(ConfigError, match="adapted before"):
        command.adapt(adapted, records, clinic, tmp_path / "again.zip", trained=None, seed=0, threads=1,
                      scratch=tmp_path / "s2")  # fmt: skip
    assert not (tmp_path / "again.zip").exists()


def test_rows_of_the_test_split_are_left_for_measuring(clinic: Path, tmp_path: Path) -> None:
    records = command.labelled(clinic, None)
    manifest = tmp_path / "manifest.csv"
    split = [dataclasses.replace(record, split="test") for record in records[:9]]
    write_manifest(manifest, [*split, *records[9:]])
    assert command.labelled(clinic, manifest) == read_manifest(manifest)[9:]
    write_manifest(manifest, split)
    with pytest.raises(ConfigError, match="no labelled frame"):
        command.labelled(clinic, manifest)


def test_nothing_is_overwritten(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "there.zip"
    out.write_bytes(b"precious")
    assert main(["adapt", str(COMMITTED_BUNDLE), "--data", str(clinic), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"


# --- with a run: the last layer and the last block ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle of a small student that has learnt nothing yet, and the folder of the run that it came from."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("vocal-folds")
    student = recipe.student.model_copy(update={"widths": [16, 16, 16, 32], "blocks": [1, 1, 1, 1]})
    distil = recipe.distil.model_copy(update={"focus": 0.0})
    recipe = recipe.model_copy(update={"student": student, "distil": distil, "maps": None})
    (folder / RECIPE).write_text(recipe.model_dump_json(), encoding="utf-8")
    model = Run(recipe, folder, folder).new_student()
    assert isinstance(model, PixelModel)
    model.eval()
    place = folder / "distil-0123456789"
    place.mkdir()
    save_atomically(place / BEST, {"model": model.state_dict(), "metrics": {}})
    (place / DONE).write_text("{}")
    broken = folder / "distil-9876543210"
    broken.mkdir()
    torch.save({"model": {}, "metrics": {}}, broken / BEST)
    (broken / DONE).write_text("{}")

    shipped = Bundle.open(COMMITTED_BUNDLE)
    with np.load(io.BytesIO(shipped.files[GOLDEN])) as stored:
        inputs = stored["inputs"]
    narrow = quantise(export_body(model.body, 160, 160), inputs, QuantiseSettings()).SerializeToString()
    artefact = shipped.artefact("int8").model_copy(update={"map_tolerance": None})
    decision = shipped.manifest.decision.model_copy(update={"temperature": 1.0})
    runtime = OnnxRuntime(narrow, where="small", labels=2)
    stream = io.BytesIO()
    scores = np.stack([calibrate(runtime.infer(image[None]), 1.0, exclusive=True) for image in inputs])
    np.savez(stream, inputs=inputs, **{f"scores_{artefact.name}": scores})  # type: ignore[arg-type]
    files = {artefact.file: narrow, GOLDEN: stream.getvalue(), CARD: b"a card"}
    manifest = shipped.manifest.model_copy(
        update={"decision": decision, "artefacts": [artefact], "outputs": OutputSpec(),
                "files": dict.fromkeys(files, "0" * 64)}
    )  # fmt: skip
    path = folder / "small.zip"
    write_bundle(path, manifest, files)
    return path, folder


@pytest.mark.timeout(1200)  # two exports and two quantisations, on a machine that may be busy
def test_a_student_is_refitted_quantised_and_shipped(
    coloured: Path, trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_RENDERED", 20)
    monkeypatch.setattr(choose, "FOR_BLOCK", 30)
    bundle = Bundle.open(trained[0])
    out = tmp_path / "new.zip"
    records = command.labelled(coloured, None)
    made = command.adapt(bundle, records, coloured, out, trained=trained[1], seed=1, threads=1, scratch=tmp_path / "s")
    assert [way["way"] for way in made["ways"]] == [SHIPPED, POINT, LAYER, BLOCK]
    assert made["chosen"] in (LAYER, BLOCK)
    by = {way["way"]: way["balanced_accuracy"] for way in made["ways"]}
    assert by[made["chosen"]] > max(0.7, by[SHIPPED])
    adapted = Bundle.open(out)
    assert adapted.files[adapted.artefact("int8").file] != bundle.files[bundle.artefact("int8").file]
    assert "not this\nmodel's" in adapted.files[CARD].decode()


def test_a_refit_that_loses_in_int8_yields_to_the_way_before_it(
    coloured: Path, trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_RENDERED", 20)
    bundle, run = trained
    arguments = {"trained": run, "seed": 0, "threads": 1}
    records = command.labelled(coloured, None)
    tried = command.try_ways(Bundle.open(bundle), records, coloured, scratch=tmp_path, **arguments)  # type: ignore[arg-type]
    kept = [way.name for way in tried.ways if way.kept]
    assert tried.best()[0].name == kept[-1] == LAYER
    monkeypatch.setattr(command, "_lost_by_quantising", lambda *_: 0.1)
    way, model, _ = tried.best()
    assert (way.name, model) == (kept[-2], None)


def test_a_run_of_another_model_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    other = Bundle.open(COMMITTED_BUNDLE)
    with pytest.raises(ConfigError, match="none of its students is the one"):
        find_student(trained[1], other, golden_of(other))
    with pytest.raises(ConfigError, match="no run's folder"):
        find_student(tmp_path, other, golden_of(other))


def test_the_command_says_what_was_tried(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifted = altered(tmp_path / "shifted.zip", threshold=0.9999, high=1.0, low=0.999)
    out = tmp_path / "new.zip"
    assert main(["adapt", str(shifted), "--data", str(clinic), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen"] == POINT
    assert told["ways"][0]["way"] == SHIPPED
    assert out.is_file()
