"""Corruptions: repeatable, ever stronger, within the scope's picture, and measured as the device would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.bundle import Bundle
from edge.capture.phantom import training_frames
from trainer.data.manifest import Record

pytest.importorskip("jinja2")

from trainer.evaluate import run_model
from trainer.inputs import prepare_inputs
from trainer.robustness import CLEAN, CORRUPTIONS, STRENGTHS, corrupt, draw_sheet, measure_corrupted

BUNDLE = Path(__file__).parents[2] / "edge" / "models" / "visibility.zip"


@pytest.fixture(scope="module")
def scene() -> Any:
    """A round picture in a black frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (9, 9, 3), np.uint8)
    image = cv2.resize(coarse, (320, 320), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    disc = np.zeros((320, 320), np.uint8)
    cv2.circle(disc, (160, 160), 130, 1, -1)
    return image * disc[..., None], disc > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_and_more_strength_more_of_it(name: str, scene: Any) -> None:
    image, _ = scene
    before = image.copy()
    changes = []
    for strength in STRENGTHS:
        found = corrupt(image, name, strength, 5)
        assert found.dtype == np.uint8
        assert found.shape == image.shape
        assert np.array_equal(found, corrupt(image, name, strength, 5))
        changes.append(float(np.abs(found.astype(float) - image).mean()))
    assert np.array_equal(image, before)
    assert changes[0] > 0.1
    assert all(np.diff(changes) > 0), changes


@pytest.mark.parametrize("name", ["fog", "glare", "blood", "smoke"])
def test_what_comes_from_the_scope_stays_within_its_picture(name: str, scene: Any) -> None:
    image, disc = scene
    outside = cv2.erode((~disc).astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    assert corrupt(image, name, 5, 1)[outside].max() <= 2


@pytest.mark.parametrize("name", ["glare", "blood", "smoke", "noise"])
def test_another_seed_gives_another(name: str, scene: Any) -> None:
    assert not np.array_equal(corrupt(scene[0], name, 3, 1), corrupt(scene[0], name, 3, 2))


@pytest.mark.parametrize("image", [np.zeros((40, 60, 3), np.uint8), np.full((33, 47, 3), 255, np.uint8)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_black_and_white_frames_survive(name: str, image: Any) -> None:
    assert corrupt(image, name, 5, 0).shape == image.shape


def test_there_is_no_sixth_strength(scene: Any) -> None:
    with pytest.raises(ValueError, match="strength 6"):
        corrupt(scene[0], "fog", 6, 0)


def test_untouched_frames_are_answered_as_in_the_evaluation(tmp_path: Path) -> None:
    bundle = Bundle.open(BUNDLE)
    manifest = bundle.manifest
    model = bundle.files[bundle.artefact("int8").file]
    records = []
    for index, (image, truth) in enumerate(training_frames(3, 2, detail=200)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
        label = "folds" if truth.visible else "no_folds"
        records.append(Record(f"{index}.png", label, "g", "phantom", "val", "CC0"))
    count = len(manifest.labels)
    inputs = prepare_inputs(records, tmp_path, manifest.input, tmp_path / "cache", manifest.labels)
    expected = run_model(model, inputs, title="int8", labels=count).logits
    found = measure_corrupted(
        {"int8": model}, records, tmp_path, manifest.input, count, names=["dark", "fog"], strengths=[5]
    )
    assert found.conditions == ((CLEAN, 0), ("dark", 5), ("fog", 5))
    assert np.array_equal(found.logits["int8"][0], expected)
    assert np.array_equal(found.fit[0], inputs.fit)
    assert not np.array_equal(found.logits["int8"][1], expected)


def test_the_sheet_shows_all(scene: Any) -> None:
    sheet = draw_sheet(scene[0], width=40)
    assert sheet.shape[0] > 40 * len(CORRUPTIONS)
