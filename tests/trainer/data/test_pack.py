from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from synthetic import larynx, save, tissue

from trainer.data.manifest import Record
from trainer.data.pack import SIDE, Pack, letterbox
from trainer.data.types import FOLD, GLOTTIS, UNKNOWN, VOID, DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_letterbox_keeps_the_shape_and_the_mask_on_the_picture() -> None:
    image, classes = larynx(4)
    image, classes = image[:256], classes[:256]
    boxed, mask, (x, y, width, height) = letterbox(image, classes)
    assert boxed.shape == (SIDE, SIDE, 3)
    assert (x, y, width, height) == (0, 64, 256, 128)
    assert not boxed[:64].any()
    assert (mask[:64] == UNKNOWN).all()
    folds = mask[y : y + height, x : x + width] == FOLD
    assert abs(folds.mean() - (classes == FOLD).mean()) < 0.01
    # RGB: mucosa is redder than blue.
    assert boxed[y : y + height, :, 0].mean() > boxed[y : y + height, :, 2].mean() + 20


def test_letterbox_crops_to_the_aperture_and_calls_its_surround_void() -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    field = np.zeros((480, 640), np.uint8)
    cv2.circle(field, (300, 240), 180, 255, -1)
    frame[field > 0] = np.maximum(tissue(3, 480, 640), 60)[field > 0]
    _, mask, (_, _, width, height) = letterbox(frame, None)
    assert abs(width - height) <= 4
    assert mask[SIDE // 2, SIDE // 2] == UNKNOWN
    assert mask[2, 2] == VOID
    assert abs((mask == VOID).mean() - (1 - np.pi / 4)) < 0.04


def test_a_pack_is_built_once_and_maps_again(records: list[Record], data_root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    some = records[:20]
    first = Pack.open_or_build(some, data_root, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (20, 20)
    told.clear()
    again = Pack.open_or_build(some, data_root, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert not told
    assert again.records == some
    assert np.array_equal(first.images, again.images)
    copy = pickle.loads(pickle.dumps(again))  # noqa: S301 # what a worker of the data loader does
    assert np.array_equal(copy[3].image, first[3].image)


def test_a_build_that_fails_leaves_no_pack(records: list[Record], data_root: Path, tmp_path: Path) -> None:
    missing = Record("kvasir-seg/img/none.jpg", "no_folds", "k", "kvasir-seg", "train", "CC BY 4.0")
    with pytest.raises(DataError, match=r"none\.jpg: no such image"):
        Pack.open_or_build([*records[:3], missing], data_root, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folds_place_is_known_from_masks_and_from_vibration(pack: Pack) -> None:
    for i, record in enumerate(pack.records):
        packed = pack[i]
        if record.label == "no_folds":
            assert packed.focus is None
        elif record.source == "vocalfolds":
            assert packed.sure
        elif record.source == "bagls":
            assert packed.sure
            assert packed.focus is not None
            x, y, width, height = packed.focus
            assert x < 0.5 < x + width
            assert y < 0.5 < y + height
            assert (packed.classes == GLOTTIS).any()


def test_without_a_mask_the_middle_is_taken(tmp_path: Path) -> None:
    save(tmp_path / "a.png", tissue(1))
    record = Record("a.png", "folds", "a", "a", "train", "CC0")
    packed = Pack.open_or_build([record], tmp_path, tmp_path / "cache")[0]
    assert not packed.sure
    assert packed.focus is not None
