"""How maps are read: masks in the device's geometry, and temperature, thresholds and support found on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from edge.bundle import InputSpec, MapSpec
from edge.preprocess import Preprocessor
from trainer.data.manifest import Record
from trainer.localise import Tally, box_iou, place_of
from trainer.maps import MapTruth, choose_maps, map_figures, map_truth
from trainer.recipe import MapSettings

if TYPE_CHECKING:
    from pathlib import Path

SPEC = InputSpec(height=160, width=160)
LABELS = ["folds", "glottis"]


def save(path: Path, image: Any) -> None:
    assert cv2.imwrite(str(path), image)


def test_masks_come_into_the_input_as_their_images_do(tmp_path: Path) -> None:
    """A wide image whose brightness is its mask: after the device's preprocessing both say the same."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (180, 320, 3)).astype(np.uint8)
    classes = np.full((180, 320), 2, np.uint8)
    image[50:110, 120:210], classes[50:110, 120:210] = 255, 1
    save(tmp_path / "a.png", image)
    save(tmp_path / "m.png", classes)
    record = Record("a.png", "folds", "g", "vocalfolds", "val", "none", "m.png")
    truth = map_truth([record], tmp_path, SPEC, LABELS)
    seen = Preprocessor(SPEC)(image)[0].astype(np.float32).max(axis=2)
    bright = cv2.resize((seen - 100) / 155, (20, 20), interpolation=cv2.INTER_AREA).clip(0, 1)
    inner = slice(6, 14)  # of 160 rows the picture has 90
    assert np.abs(bright[inner] - truth.share[0, inner, :, 0]).max() < 0.1
    assert truth.known[0, inner].all()
    assert truth.share[0, ..., 0].sum() == pytest.approx(60 * 90 / 320**2 * 400, rel=0.02)
    assert not truth.share[0, ..., 1].any()


def test_a_glottis_mask_leaves_the_folds_open_and_no_mask_says_nothing(tmp_path: Path) -> None:
    image = np.full((160, 160, 3), 120, np.uint8)
    mask = np.zeros((160, 160), np.uint8)
    mask[80:120, 80:120] = 1
    save(tmp_path / "a.png", image)
    save(tmp_path / "m.png", mask)
    rows = [
        Record("a.png", "folds", "g", "bagls-glottis", "val", "none", "m.png#glottis"),
        Record("a.png", "folds", "h", "bagls", "val", "none", "#vibration"),
        Record("a.png", "no_folds", "i", "kvasir-seg", "val", "none"),
    ]
    truth = map_truth(rows, tmp_path, SPEC, LABELS)
    assert truth.known[0, ..., 1].all()
    assert truth.known[0, ..., 0].sum() == truth.share[0, ..., 1].sum() == 25
    assert not truth.known[1].any()
    assert truth.known[2].all()
    assert not truth.share[2].any()


def drawn(temperature: float, count: int = 60, seed: int = 0) -> tuple[Any, MapTruth]:
    """Map logits over-confident by a known temperature, and cells drawn from what they should say."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(-1, 2.5, (count, 20, 20, 2))
    share = (rng.random(margin.shape) < 1 / (1 + np.exp(-margin))).astype(np.float32)
    return (margin * temperature).astype(np.float32), MapTruth(share, np.ones(share.shape, np.bool_))


def test_the_maps_temperature_is_found() -> None:
    logits, truth = drawn(2.0)
    spec = choose_maps(logits, truth, np.ones(60), np.ones(60, np.bool_), MapSettings())
    assert spec.temperature == pytest.approx(2.0, rel=0.05)
    assert set(spec.thresholds) == {"folds", "glottis"}
    assert all(0.3 <= at <= 0.5 for at in spec.thresholds.values())  # below one half: Dice forgives what is rare


def test_support_is_what_nearly_all_right_findings_have() -> None:
    logits = np.full((200, 20, 20, 2), -6, np.float32)
    logits[:, 5, 5, 0] = np.linspace(-3, 3, 200)
    truth = MapTruth(np.zeros_like(logits), np.ones(logits.shape, np.bool_))
    truth.share[:, 5, 5, 0] = 1
    found = np.ones(200, np.bool_)
    scores = np.where(np.arange(200) < 100, -1.0, 1.0)  # the first half is not found, and says nothing of support
    spec = choose_maps(logits, truth, scores, found, MapSettings())
    best = 1 / (1 + np.exp(-logits[:, 5, 5, 0] / spec.temperature))
    assert spec.support_floor is not None
    assert (best[100:] < spec.support_floor).sum() <= 2
    assert spec.support_floor == pytest.approx(min(0.5, np.quantile(best[100:], 0.01)), abs=1e-3)
    assert choose_maps(logits, truth, -np.ones(200), found, MapSettings()).support_floor is None


def test_figures_count_known_cells_alone() -> None:
    share = np.zeros((1, 4, 4, 1), np.float32)
    share[0, :2] = 1
    logits = np.full_like(share, -5)
    logits[0, 0], logits[0, 3] = 5, 5
    known = np.ones(share.shape, np.bool_)
    spec = MapSpec(labels=["folds"], thresholds={"folds": 0.5})
    sources = np.array(["a"])
    found = map_figures(logits, MapTruth(share, known), spec, sources)["a"]
    assert found["folds"]["dice"] == pytest.approx(2 * 4 / (8 + 8))
    assert found["folds"]["wrong_cells"] == pytest.approx(4 / 8)
    known[0, 3] = False
    assert map_figures(logits, MapTruth(share, known), spec, sources)["a"]["folds"]["dice"] == pytest.approx(8 / 12)


def test_places_and_boxes() -> None:
    mask = np.zeros((100, 200), np.bool_)
    assert place_of(mask) is None
    mask[20:40, 50:100] = True
    place = place_of(mask)
    assert place is not None
    assert place.box == pytest.approx((0.25, 0.2, 0.25, 0.2))
    assert place.centre == pytest.approx((0.375, 0.3))
    assert box_iou(place.box, place.box) == pytest.approx(1)
    assert box_iou((0, 0, 0.2, 0.2), (0.1, 0, 0.2, 0.2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 0.1, 0.1), (0.5, 0.5, 0.1, 0.1)) == 0


def test_a_tally_leaves_glimpses_out() -> None:
    tally = Tally()
    empty, glimpse, clear = (np.zeros((100, 100), np.bool_) for _ in range(3))
    glimpse[0, :10], clear[:50] = True, True
    for mask in (empty, glimpse, clear):
        tally.add(mask, None, "g")
    figures = tally.figures()
    assert (figures["shown"], figures["absent"], figures["found"], figures["invented"]) == (1, 1, 0, 0)
    assert figures["centre_error_p50"] is None
