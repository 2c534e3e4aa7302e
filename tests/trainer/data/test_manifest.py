from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from synthetic import larynx, save, tissue

from trainer.data.manifest import Record, data_hash, read_manifest, write_manifest
from trainer.data.types import FOLD, GLOTTIS, UNKNOWN, DataError

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = Record("a/1.png", "folds", "p1", "a", "train", "CC0", mask="a/m.png")
WINDOW = Record("a/1.png", "no_folds", "p1", "a", "train", "CC0, with a comma", x=3, y=4, width=50, height=60)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", [WHOLE, WINDOW])
    assert read_manifest(tmp_path / "m.csv") == [WHOLE, WINDOW]
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", [WHOLE])
    with pytest.raises(TypeError):
        write_manifest(tmp_path / "m.csv", [WINDOW, None])  # type: ignore[list-item]
    assert read_manifest(tmp_path / "m.csv") == [WHOLE]
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


def test_all_errors_of_a_manifest_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "path,label,group,source,split,licence,mask,x,y,width,height\n"
        "a.png,folds,g,s,train,CC0,,,,,\n"
        "b.png,fold,g,s,training,CC0,,,,,\n"
        ",folds,g,s,train,CC0,,1,2,,\n"
        "../c.png,folds,g,s,train,CC0,,1,2,x,4\n",
        encoding="utf-8",
    )
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path / "m.csv")
    said = str(caught.value)
    for part in (
        "m.csv",
        "row 3, label: is 'fold'; use no_folds or folds",
        "row 3, split: is 'training'",
        "row 4, path: is empty",
        "row 4, x: window is incomplete",
        "row 5, path: '../c.png' leaves the data root",
        "row 5, width: is 'x'",
    ):
        assert part in said
    assert "row 2" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"path,label\na,folds\n", "lacks group, source, split, licence"),
        (b"path,label,group,source,split,licence,colour\n", "unknown colour"),
        (b"path,label,group,source,split,licence\n", "no rows"),
        (b"", "lacks path"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "other.csv")


def test_windows_and_masks_are_cut_alike(tmp_path: Path) -> None:
    image, classes = larynx(1)
    save(tmp_path / "a/1.png", image)
    save(tmp_path / "a/m.png", classes)
    record = dataclasses.replace(WINDOW, mask="a/m.png")
    assert np.array_equal(record.read_image(tmp_path), image[4:64, 3:53])
    cut = record.read_mask(tmp_path)
    assert cut is not None
    assert np.array_equal(cut, classes[4:64, 3:53])
    glottis = dataclasses.replace(WHOLE, mask="a/m.png#glottis").read_mask(tmp_path)
    assert glottis is not None
    assert set(np.unique(glottis)) == {GLOTTIS}
    save(tmp_path / "a/b.png", (classes == FOLD).astype(np.uint8))
    glottis = dataclasses.replace(WHOLE, mask="a/b.png#glottis").read_mask(tmp_path)
    assert glottis is not None
    assert set(np.unique(glottis)) == {GLOTTIS, UNKNOWN}


def test_unreadable_images_windows_and_masks_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no such image"):
        WHOLE.read_image(tmp_path)
    (tmp_path / "a/1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a/1\.png: not a readable image"):
        WHOLE.read_image(tmp_path)
    with pytest.raises(DataError, match=r"a/m\.png: no readable mask"):
        WHOLE.read_mask(tmp_path)
    save(tmp_path / "a/1.png", tissue(1, 40, 40))
    save(tmp_path / "a/m.png", np.full((40, 40), 77, np.uint8))
    with pytest.raises(DataError, match="outside the 40x40 image"):
        WINDOW.read_image(tmp_path)
    with pytest.raises(DataError, match="mask holds values above 6"):
        WHOLE.read_mask(tmp_path)


def test_the_data_hash_knows_rows_and_bytes_but_not_the_order(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png", tissue(1))
    first = data_hash([WHOLE, WINDOW], tmp_path)
    assert data_hash([WINDOW, WHOLE], tmp_path) == first
    assert data_hash([WHOLE], tmp_path) != first
    save(tmp_path / "a/1.png", tissue(2))
    assert data_hash([WHOLE, WINDOW], tmp_path) != first


def test_phantom_frames_are_read_without_files(tmp_path: Path) -> None:
    record = Record("phantom:5#2", "folds", "phantom/5", "phantom", "train", "Apache-2.0", mask="phantom:5#2")
    image, mask = record.read_image(tmp_path), record.read_mask(tmp_path)
    assert mask is not None
    assert image.shape[:2] == mask.shape
    assert np.array_equal(image, record.read_image(tmp_path))
    with pytest.raises(DataError, match="no phantom frame"):
        dataclasses.replace(record, path="phantom:5#11").read_image(tmp_path)
