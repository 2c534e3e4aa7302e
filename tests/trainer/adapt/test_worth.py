"""What a few frames of an unseen source buy: how its groups are parted, what is counted, and the command as a whole."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import Bundle, DecisionSpec
from edge.errors import ConfigError, FoldsightError
from trainer.adapt.worth import CHOSEN, FIGURES, markdown, measured, part
from trainer.cli import main
from trainer.data.manifest import read_manifest, write_manifest
from trainer.evaluate import Judging
from trainer.inputs import Inputs
from trainer.recipe import load_recipe
from trainer.smoke import MANIFEST, smoke_recipe, write_smoke_images

if TYPE_CHECKING:
    from pathlib import Path


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1)), min_size=60, max_size=160), st.integers(0, 9))
def test_no_group_is_on_both_sides_and_fewer_frames_are_among_the_more(
    frames: list[tuple[int, int]], seed: int
) -> None:
    labels = np.array([label for _, label in frames], np.int64)
    groups = np.array([f"g{group}" for group, _ in frames])
    try:
        parts = part(labels, groups, 20, seed)
    except FoldsightError:
        return
    assert not set(groups[parts.given]) & set(groups[parts.asked])
    assert set(labels[parts.asked].tolist()) == {0, 1}
    assert len(parts.given) == len(set(parts.given.tolist())) == 20
    for count in (4, 10, 20):
        assert labels[parts.given[:count]].sum() == count // 2
    for label in (0, 1):  # one group after the other, so that few frames are of several
        assert len(set(groups[[k for k in parts.given[:4] if labels[k] == label]])) == 2
    assert part(labels, groups, 20, seed).given.tolist() == parts.given.tolist()


def test_too_few_groups_or_frames_are_named_with_what_to_do() -> None:
    labels = np.array([0, 1] * 30, np.int64)
    with pytest.raises(FoldsightError, match=r"its 2 groups cannot be parted .* add groups"):
        part(labels, np.array(["a", "b"] * 30), 20, 0)
    with pytest.raises(FoldsightError, match="gives 80 frames, 40 of each label"):
        part(labels, np.array([f"g{k % 6}" for k in range(60)]), 80, 0)


def test_figures_are_read_at_the_models_own_operating_point(tiny_bundle: Path) -> None:
    """Redness 1, 0, 0.2 and -1: at 0.55 the first is folds, and the band from 0.45 to 0.65 leaves the others open."""
    colours = [(150, 125, 125), (125, 125, 125), (130, 125, 125), (100, 125, 125)]
    images = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in colours])
    inputs = Inputs(images, np.array([1, 1, 0, 0]), np.ones(4, np.bool_), ())
    point = DecisionSpec(
        temperature=1.0, low=0.45, threshold=0.55, high=0.65, smoothing_s=0.2, dwell_s=0.3, expire_s=1.0
    )
    model = Bundle.open(tiny_bundle).files["fp32.onnx"]
    found = measured(model, point, inputs, Judging(["no_folds", "folds"], "folds"))
    assert set(found) == set(FIGURES)
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 0.5) / 2)  # scores 0.88, 0.5 and 0.6, 0.12
    assert found["auc"] == pytest.approx(3 / 4)
    assert found["decided"] == pytest.approx(2 / 4)
    assert found["right"] == 1.0
    assert found["confident"] == 0.0


def test_the_command_adapts_a_model_that_never_saw_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("torch", "timm", "lightning", "onnxscript"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    root = tmp_path / "images"
    write_smoke_images(root, 7)
    records = read_manifest(root / MANIFEST)
    names = sorted({record.group for record in records})
    away = [dataclasses.replace(r, source="away") if r.group in names[: len(names) // 2] else r for r in records]
    write_manifest(root / MANIFEST, away)
    recipe = smoke_recipe(load_recipe("vocal-folds"))
    distil = recipe.distil.model_copy(update={"focus": 0.0})
    recipe = recipe.model_copy(update={"distil": distil, "maps": None, "smaller": None})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")  # JSON is YAML
    arguments = ["adapt-worth", str(path), "--data", str(root), "--out", str(tmp_path / "runs"), "--threads", "1"]
    assert main([*arguments, "--without", "away", "--frames", "20", "--draws", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {(row["frames"], row["way"]): row for row in report["rows"]}
    assert set(rows) == {(0, "shipped"), (20, CHOSEN), (20, "operating point"), (20, "last layer")}
    assert sum(rows[20, CHOSEN]["chosen"].values()) == report["draws"] == 1
    for row in rows.values():
        assert 0 <= row["figures"]["balanced_accuracy"]["value"] <= 1
    assert "| 20 | last layer |" in markdown(report)
    run = tmp_path / "runs" / "without-away-seed0"
    (manifest,) = run.glob("data-*/manifest.csv")
    assert {r.split for r in read_manifest(manifest) if r.source == "away"} == {"test"}
    ledger = [json.loads(line) for line in (run / "test-split-readings.jsonl").read_text("utf-8").splitlines()]
    assert [one["command"] for one in ledger] == ["adapt-worth"]
    assert main([*arguments, "--without", "away", "--frames", "8"]) == ConfigError("").exit_code
    assert "--frames 8: give whole numbers from 16 on" in capsys.readouterr().err
