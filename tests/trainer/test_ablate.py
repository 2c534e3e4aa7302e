"""The ablation: rows lie over the recipe, figures are of the source left out, and what is done is not done again."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edge.errors import ConfigError
from trainer.ablate import FIGURES, Asked, Budget, Rows, load_rows, markdown, merged, row_recipe, tabulate
from trainer.answers import SplitAnswers, join
from trainer.cli import main
from trainer.data.manifest import read_manifest, write_manifest
from trainer.evaluate import Judging
from trainer.recipe import DecideSettings, RobustSettings, load_recipe
from trainer.smoke import MANIFEST, smoke_recipe, write_smoke_images
from trainer.unseen import Held

JUDGING = Judging(["no_folds", "folds"], "folds")


def test_the_rows_that_ship_fit_the_recipe_and_build_on_each_other() -> None:
    recipe = load_recipe("vocal-folds")
    made = {name: row_recipe(recipe, change, Held("vocalfolds", 3), Budget(2, 64, 96), name)
            for name, change in load_rows("measures").changes().items()}  # fmt: skip
    assert list(made)[:5] == ["naive", "blends", "optics", "twins", "phantom"]
    assert made["naive"].augment.blend == made["naive"].augment.jpeg == made["naive"].augment.twins == 0
    assert made["naive"].data.visibility.phantom_frames == 0
    assert (made["twins"].augment.blend, made["twins"].augment.twins) == (0.4, 0.4)
    assert made["phantom"].data.visibility.phantom_frames == 3000
    assert made["phantom"].augment == made["twins"].augment
    only = {name: made[name].teacher.robust for name in ("phantom", "group-dro", "adversary", "twin-margin")}
    assert only["phantom"] == RobustSettings()
    assert [(r.group_dro > 0, r.adversary > 0, r.twins > 0) for r in list(only.values())[1:]] == [
        (True, False, False), (False, True, False), (False, False, True)
    ]  # fmt: skip
    for one in made.values():
        assert (one.teacher.train.epochs, one.teacher.train.epoch_images, one.input.height) == (2, 64, 96)
        assert (one.seed, one.data.hold_out, one.maps, one.smaller) == (3, ["vocalfolds"], recipe.maps, None)


def test_settings_are_laid_over_part_by_part() -> None:
    content = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(content, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert content == {"a": {"b": 1, "c": 2}, "d": [1]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"name": "a"}, {"name": "a"}], "row a stands there twice"),
        ([{"name": "a", "after": "b"}, {"name": "b"}], "row a comes after b, which is none of the rows above it"),
        ([{"name": "a", "chnage": {}}], "rows.0.chnage is no setting"),
        ([], "rows is"),
    ],
)
def test_faulty_rows_are_refused(rows: Any, said: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump({"rows": rows}), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_rows(str(path))
    with pytest.raises(ConfigError, match=r"no rows there.*measures"):
        load_rows("nothing")


def test_a_row_that_fits_no_recipe_is_named() -> None:
    with pytest.raises(ConfigError, match=r"row x: augment\.twnis is no setting of a recipe"):
        row_recipe(load_recipe("vocal-folds"), {"augment": {"twnis": 1}}, Held("bagls", 0), Budget(), "row x")


def _answers(source: str, margins: list[float], labels: list[int], groups: list[int]) -> SplitAnswers:
    logits = np.array([[0.0, m] for m in margins], np.float32)
    ids = np.array([f"{source}/{i}" for i in range(len(labels))])
    names = np.array([f"{source}-{g}" for g in groups])
    return SplitAnswers(logits, np.array(labels), ids, names, np.full(len(labels), source))


def test_the_operating_point_is_of_what_is_known_and_the_figures_of_what_is_not() -> None:
    """The second row ranks the unseen source as well as the first, but all its margins are four lower."""
    draw = np.random.default_rng(0)
    labels = [0, 1] * 60
    known = [2.0 * (2 * k - 1) + float(draw.normal(0, 0.3)) for k in labels]
    bowel = [3.0, *np.full(9, -2.0).tolist()]  # one of ten frames is surely taken for folds
    seen = join([_answers("known", known, labels, list(range(120))), _answers("bowel", bowel, [0] * 10, [0] * 10)])
    groups = [i // 10 for i in range(120)]
    at_home = _answers("new", known, labels, groups)
    shifted = _answers("new", [m - 4.0 for m in known], labels, groups)
    asked = {"first": {1: Asked(seen, at_home, ["bowel"]), 2: Asked(seen, at_home, ["bowel"])},
             "second": {1: Asked(seen, shifted, [])}}  # fmt: skip
    report = tabulate(asked, JUDGING, DecideSettings(), repeats=100)
    first, second = report["first"]["figures"], report["second"]["figures"]
    assert first["balanced_accuracy"]["value"] > 0.98
    assert first["balanced_accuracy"]["deviation"] == 0
    assert second["recall_finding"]["value"] < 0.2
    assert second["auc"]["value"] == pytest.approx(first["auc"]["value"])
    assert report["second"]["minus_first"]["auc"]["value"] == pytest.approx(0, abs=1e-9)
    loss = report["second"]["minus_first"]["balanced_accuracy"]
    assert loss["low"] <= loss["value"] <= loss["high"] < -0.3
    assert "minus_first" not in report["first"]
    assert report["first"]["seeds"]["1"]["groups"] == 12
    assert first["confident"]["value"] <= 0.02
    assert first["other_anatomy"]["value"] == pytest.approx(0.1)
    assert second["other_anatomy"]["value"] is None  # none of the known sources is of other anatomy
    text = markdown({"without": {"new": report}}, {"first": "one", "second": "two"})
    assert text.count("\n| ") == 4
    assert all(title in text for title in FIGURES.values())


@pytest.mark.timeout(1800)  # seconds on an idle machine
def test_the_command_measures_rows_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("torch", "timm", "lightning", "onnxscript"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    root, out = tmp_path / "images", tmp_path / "runs"
    write_smoke_images(root, 7)
    records = read_manifest(root / MANIFEST)
    kept = [g for g in sorted({r.group for r in records}) if all(r.split != "test" for r in records if r.group == g)]
    tested = sorted({r.group for r in records if r.split == "test"})
    source = {**dict.fromkeys(kept[:2], "away"), tested[0]: "away", **dict.fromkeys(kept[2::2], "other")}
    write_manifest(root / MANIFEST, [dataclasses.replace(r, source=source.get(r.group, r.source)) for r in records])
    recipe = smoke_recipe(load_recipe("vocal-folds"))
    path, rows = tmp_path / "recipe.yaml", tmp_path / "rows.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")  # JSON is YAML
    rows.write_text(Rows.model_validate({"rows": [
        {"name": "plain"},
        {"name": "all", "change": {"augment": {"twins": 1.0}, "teacher": {"robust": {
            "group_dro": 0.1, "adversary": 0.5, "twins": 0.5}}}},
    ]}).model_dump_json(), encoding="utf-8")  # fmt: skip
    arguments = ["ablate", str(path), "--data", str(root), "--rows", str(rows), "--out", str(out), "--threads", "1",
                 "--images", "16", "--side", "64", "--without", "away"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "ablation.json").read_text(encoding="utf-8"))
    measured = report["without"]["away"]
    assert list(measured) == ["plain", "all"]
    assert measured["plain"]["seeds"]["0"]["groups"] == 2  # the third is of the test split
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name[:8] != "ablation"}
    assert main(arguments) == 0
    assert "`away` left out" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    for words, said in (
        (["--only", "none"], "the rows are plain, all"),
        (["--side", "20"], "--side 20: give 64 to 256"),
        (["--seeds", "x"], "give whole numbers"),
    ):
        assert main([*arguments, *words]) == 2
        assert said in capsys.readouterr().err
