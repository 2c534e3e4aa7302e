"""Bad masks are named with their files, all of them, before anything is trained."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from trainer.data.importers import import_sources
from trainer.data.types import FOLD, GLOTTIS, TISSUE, DataError
from trainer.segment.check import check_masks

if TYPE_CHECKING:
    from pathlib import Path

MASKS = "vocalfolds/annot/patient0"


@pytest.fixture
def root(mask_root: Path, tmp_path: Path) -> Path:
    for name in ("vocalfolds", "bagls-glottis"):
        shutil.copytree(mask_root / name, tmp_path / name)
    return tmp_path


def check(root: Path) -> None:
    check_masks(import_sources(root, ["vocalfolds", "bagls-glottis"])[0], root)


def first(root: Path, folder: str) -> Path:
    return min((root / folder).rglob("*.png"))


def spoil(path: Path, change: Any) -> None:
    assert cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))


def test_good_masks_pass_and_are_counted(root: Path) -> None:
    check(root)


def test_a_mask_of_another_size(root: Path) -> None:
    file = first(root, MASKS)
    spoil(file, lambda mask: mask[:-2])
    with pytest.raises(DataError, match=rf"{file}: the mask is 512x510, its image 512x512; give one of the same size"):
        check(root)


@pytest.mark.parametrize(
    ("folder", "value", "said"),
    [
        (MASKS, 9, "value 9; right are 0 to 6, and 255"),
        ("bagls-glottis/annot", 3, "value 3; right are 0 and 1, or 0 and 255"),
    ],
)
def test_an_unknown_value(root: Path, folder: Any, value: Any, said: Any) -> None:
    file = first(root, folder)
    spoil(file, lambda mask: np.where(np.arange(mask.shape[1]) == 5, np.uint8(value), mask))
    with pytest.raises(DataError, match=f"{file}: holds the unknown {said}"):
        check(root)


def test_many_unknown_values_are_counted(root: Path) -> None:
    file = first(root, MASKS)
    spoil(file, lambda mask: np.tile(np.arange(mask.shape[1], dtype=np.uint16) % 250, (len(mask), 1)).astype(np.uint8))
    with pytest.raises(DataError, match="unknown values 7, 8, 9, 10, 11 and 238 more"):
        check(root)


def test_an_image_without_a_mask(root: Path) -> None:
    file = first(root, MASKS)
    file.unlink()
    with pytest.raises(DataError, match=f"its mask {file} is not there; give one, or remove the image"):
        check(root)


def test_a_mask_that_is_no_image(root: Path) -> None:
    file = first(root, MASKS)
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{file}: not a readable image"):
        check(root)


@pytest.mark.parametrize(("number", "name"), [(FOLD, "vocal folds"), (GLOTTIS, "glottis")])
def test_a_class_that_no_mask_holds(root: Path, number: Any, name: Any) -> None:
    for file in (root / "vocalfolds/annot").rglob("*.png"):
        spoil(file, lambda mask: np.where(mask == number, np.uint8(TISSUE), mask))
    with pytest.raises(
        DataError, match=rf"vocalfolds: none of the 16 masks \(the first is vocalfolds/annot/.*\) .*{name}"
    ):
        check(root)


def test_glottis_masks_without_a_glottis(root: Path) -> None:
    for file in (root / "bagls-glottis/annot").glob("*.png"):
        spoil(file, np.zeros_like)
    with pytest.raises(DataError, match=r"bagls-glottis: none of the 3 masks .* holds a pixel of class 1, glottis"):
        check(root)


def test_everything_wrong_is_said_at_once(root: Path) -> None:
    masks = sorted((root / MASKS).rglob("*.png"))
    masks[0].unlink()
    spoil(masks[1], lambda mask: mask[:, :-1])
    with pytest.raises(DataError) as caught:
        check(root)
    assert str(masks[0]) in str(caught.value)
    assert str(masks[1]) in str(caught.value)
