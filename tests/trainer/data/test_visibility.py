from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from synthetic import recording_frame

from trainer.data.build import build_records
from trainer.data.importers import import_sources
from trainer.data.types import FOLD, GLOTTIS, TISSUE, UNKNOWN
from trainer.data.vibration import vibrating_glottis
from trainer.data.visibility import VisibilitySettings, apply_visibility, whole_frame_label

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.manifest import Record

SETTINGS = VisibilitySettings()


def _windows(records: list[Record]) -> list[Record]:
    return [record for record in records if record.window and record.source == "vocalfolds"]


def _check_windows(records: list[Record], root: Path) -> None:
    for record in records:
        mask = record.read_mask(root)
        assert mask is not None
        if record.label == "no_folds":
            assert not np.isin(mask, (FOLD, GLOTTIS)).any(), record.name()
        else:
            share = (mask == FOLD).mean()
            assert SETTINGS.min_window_fold_share <= share <= SETTINGS.max_fold_share, record.name()


def test_negative_windows_hold_no_fold_and_positive_ones_enough(records: list[Record], data_root: Path) -> None:
    windows = _windows(records)
    assert {record.label for record in windows} == {"folds", "no_folds"}
    _check_windows(windows, data_root)


def test_window_size_says_nothing_about_the_label(data_root: Path) -> None:
    windows = _windows(build_records(data_root, VisibilitySettings(phantom_frames=0), 0)[0])
    sizes = Counter((record.group, record.width, record.label) for record in windows)
    for group, width, label in sizes:
        if label == "folds":
            assert sizes[group, width, "folds"] <= sizes[group, width, "no_folds"]


def test_windows_are_a_function_of_the_seed(data_root: Path) -> None:
    imported = import_sources(data_root, ["vocalfolds"])[0]
    once = apply_visibility(imported, data_root, SETTINGS, 5)
    assert apply_visibility(imported, data_root, SETTINGS, 5) == once
    assert apply_visibility(imported, data_root, SETTINGS, 6) != once
    most = Counter(r.path for r in _windows(once[0]) if r.label == "no_folds").most_common(1)[0][1]
    assert most <= SETTINGS.negatives_per_frame


@pytest.mark.parametrize(
    ("folds", "rest", "label"),
    [
        (0.0, TISSUE, "no_folds"),
        (0.01, TISSUE, None),
        (0.3, TISSUE, "folds"),
        (0.95, TISSUE, None),
        (0.0, GLOTTIS, None),
    ],
)
def test_whole_frames_are_labelled_by_area(folds: float, rest: int, label: str | None) -> None:
    mask = np.full((100, 100), rest, np.uint8)
    mask[: int(folds * 100)] = FOLD
    assert whole_frame_label(mask, SETTINGS) == label


def test_the_vibrating_glottis_is_found() -> None:
    classes = vibrating_glottis([recording_frame(1, frame) for frame in (0, 7, 14)])
    assert classes is not None
    rows, columns = np.nonzero(classes == GLOTTIS)
    assert abs(rows.mean() - 130) < 15
    assert abs(columns.mean() - 100) < 8
    assert set(np.unique(classes)) == {GLOTTIS, UNKNOWN}


def test_a_still_recording_or_a_single_frame_has_no_vibrating_glottis() -> None:
    still = recording_frame(1, 0)
    assert vibrating_glottis([still, still, still]) is None
    assert vibrating_glottis([still]) is None
    assert vibrating_glottis([still, still, still[:100]]) is None


@pytest.mark.real_images
def test_real_windows_obey_the_rule(real_images: Path) -> None:
    imported = [r for r in import_sources(real_images, ["vocalfolds"])[0] if r.group.endswith(("seq1", "seq2"))]
    windows = _windows(apply_visibility(imported, real_images, SETTINGS, 0)[0])
    assert len(windows) > 50
    _check_windows(windows, real_images)


@pytest.mark.real_images
def test_frames_seen_to_show_no_folds_are_left_out(real_images: Path) -> None:
    imported = import_sources(real_images, ["bagls"])[0]
    kept, notes = apply_visibility(imported, real_images, SETTINGS, 0)
    assert len(imported) - len(kept) == 10
    assert "10 frames" in notes[0]
