"""Leaving a source out: what is trained never sees it, and the figures are of it alone."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from edge.errors import FoldsightError
from trainer.cli import main
from trainer.data.manifest import read_manifest, write_manifest
from trainer.recipe import load_recipe
from trainer.smoke import MANIFEST, smoke_recipe, write_smoke_images
from trainer.unseen import Held, over_seeds, without

if TYPE_CHECKING:
    from pathlib import Path


def test_the_run_without_a_source_differs_by_that_and_its_seed_alone() -> None:
    recipe = load_recipe("vocal-folds")
    other = without(recipe, Held("bagls", 3))
    assert (other.seed, other.data.hold_out) == (3, ["bagls"])
    plain = other.model_copy(update={"name": recipe.name, "seed": recipe.seed, "data": recipe.data})
    assert plain == recipe


def test_seeds_are_summed_up_as_mean_and_deviation() -> None:
    def report(value: float, confident: float | None) -> object:
        figure = {"value": value, "low": None, "high": None}
        names = ("recall_other", "recall_finding", "balanced_accuracy", "auc")
        return {"rows": {"int8": {**dict.fromkeys(names, figure), "confident": confident}}}

    found = over_seeds([report(0.8, None), report(0.9, None)])["int8"]  # type: ignore[list-item]
    assert found["auc"]["mean"] == pytest.approx(0.85)
    assert found["auc"]["deviation"] == pytest.approx(0.0707, abs=1e-4)
    assert found["confident"] == {"mean": None, "deviation": None}
    assert over_seeds([report(0.8, 0.1)])["int8"]["confident"] == {"mean": 0.1, "deviation": None}  # type: ignore[list-item]


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
    recipe = smoke_recipe(load_recipe("vocal-folds")).model_copy(update={"maps": None, "smaller": None})
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
