"""Leaving a source out: what is trained never sees it, and the figures are of it alone."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge.errors import FoldsightError
from trainer.answers import SplitAnswers
from trainer.cli import main
from trainer.data.manifest import read_manifest, write_manifest
from trainer.evaluate import Judging
from trainer.recipe import DecideSettings, load_recipe
from trainer.smoke import MANIFEST, smoke_recipe, write_smoke_images
from trainer.unseen import Held, measure, operating_point, over_seeds, without

if TYPE_CHECKING:
    from pathlib import Path


def test_the_run_without_a_source_differs_by_that_and_its_seed_alone() -> None:
    shipped = load_recipe("vocal-folds")
    recipe = shipped.model_copy(update={"unseen": None})
    other = without(recipe, Held("bagls", 3))
    assert (other.seed, other.data.hold_out) == (3, ["bagls"])
    kept = {name: getattr(recipe, name) for name in ("name", "seed", "data", "smaller")}
    assert other.model_copy(update=kept) == recipe
    # Where the recipe itself leaves a source out, it says for how long those networks learn.
    assert shipped.unseen is not None
    shorter = without(shipped, Held("bagls", 3))
    assert shorter.unseen is None
    assert shorter.teacher.train.epochs == shipped.unseen.teacher_epochs < shipped.teacher.train.epochs
    assert shorter.student.train.epochs == shipped.unseen.student_epochs < shipped.student.train.epochs


def test_seeds_are_summed_up_as_mean_and_deviation() -> None:
    def report(value: float, confident: float | None) -> object:
        figure = {"value": value, "low": None, "high": None}
        names = ("recall_other", "recall_finding", "balanced_accuracy", "auc")
        return {"rows": {"int8": {**dict.fromkeys(names, figure), "across": None, "confident": confident}}}

    found = over_seeds([report(0.8, None), report(0.9, None)])["int8"]  # type: ignore[list-item]
    assert found["auc"]["mean"] == pytest.approx(0.85)
    assert found["auc"]["deviation"] == pytest.approx(0.0707, abs=1e-4)
    assert found["confident"] == {"mean": None, "deviation": None}
    assert over_seeds([report(0.8, 0.1)])["int8"]["confident"] == {"mean": 0.1, "deviation": None}  # type: ignore[list-item]


def _answers(source: str, labels: list[int], margins: list[float]) -> SplitAnswers:
    logits = np.array([[0.0, m] for m in margins], np.float32)
    ids = np.array([f"{source}/{i}" for i in range(len(labels))])
    return SplitAnswers(logits, np.array(labels), ids, ids, np.full(len(labels), source))


def test_the_operating_point_comes_from_what_the_others_had_never_seen() -> None:
    """On unseen sources all margins are two lower: at even odds the finding is missed, not at that point."""
    draw = np.random.default_rng(0)

    def shifted(source: str) -> SplitAnswers:
        labels = [0] * 60 + [1] * 60
        return _answers(source, labels, [2.0 * (2 * k - 1) - 2.0 + float(draw.normal(0, 0.4)) for k in labels])

    sources = {name: {"0": {"int8": shifted(name)}} for name in ("a", "b", "c")}
    judging, settings = Judging(["no_folds", "folds"], "folds"), DecideSettings()
    report = measure(sources, judging, settings, repeats=50)
    for found in report.values():
        figures = found["over_seeds"]["int8"]
        assert figures["balanced_accuracy"]["mean"] < 0.8
        assert figures["across"]["mean"] > 0.95
        assert figures["confident"]["mean"] <= 0.02
    own = [seeds["0"]["int8"] for seeds in sources.values()]
    point = operating_point(own, judging, settings)
    assert point.low < point.threshold < point.high
    assert point.threshold < 0.5
    # What is spared is not looked at: with the positives of `a` and `b` turned round it would show.
    wrong = [a if i == 2 else SplitAnswers(-a.logits, a.labels, a.ids, a.groups, a.sources) for i, a in enumerate(own)]
    spared = {name for a in wrong[:2] for name in a.ids.tolist()}
    assert operating_point(wrong, judging, settings, spared) == operating_point(own[2:], judging, settings)


def test_one_source_alone_has_no_others_to_learn_from() -> None:
    report = measure(
        {"a": {"0": {"int8": _answers("a", [0, 1], [-1.0, 1.0])}}},
        Judging(["no_folds", "folds"], "folds"),
        DecideSettings(),
        repeats=10,
    )
    assert report["a"]["over_seeds"]["int8"]["across"] == {"mean": None, "deviation": None}


def test_the_command_measures_the_source_that_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("torch", "timm", "lightning", "onnxscript"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    root = tmp_path / "images"
    write_smoke_images(root, 7)
    records = read_manifest(root / MANIFEST)
    groups = sorted({record.group for record in records})
    away = [dataclasses.replace(r, source="away") if r.group in groups[:3] else r for r in records]
    write_manifest(root / MANIFEST, away)
    recipe = smoke_recipe(load_recipe("vocal-folds")).model_copy(update={"smaller": None})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")  # JSON is YAML
    arguments = ["unseen", str(path), "--data", str(root), "--out", str(tmp_path / "runs"), "--threads", "1"]
    assert main([*arguments, "--sources", "away", "--rows", "scratch", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["away"]
    held = [record for record in away if record.source == "away"]
    assert report["seeds"]["0"]["images"] == len(held)
    assert report["seeds"]["0"]["groups"] == 3
    (manifest,) = (tmp_path / "runs").glob("without-away-seed0/data-*/manifest.csv")
    assert {r.split for r in read_manifest(manifest) if r.source == "away"} == {"test"}
    assert main([*arguments, "--sources", "away", "--rows", "scratch"]) == 0
    assert "sources left out of training" in capsys.readouterr().out
    assert main([*arguments, "--sources", "moon", "--rows", "scratch"]) == FoldsightError("").exit_code
    assert "moon cannot be left out" in capsys.readouterr().err
