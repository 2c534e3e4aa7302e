from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from synthetic import larynx, save, tissue

from trainer.data.audit import audit, require_clean
from trainer.data.build import build_records
from trainer.data.manifest import Record
from trainer.data.splits import FIXED, leave_out, merge_near_groups, split_by_group
from trainer.data.types import DataError

if TYPE_CHECKING:
    from pathlib import Path


def _record(path: str, split: str, label: str = "folds", group: str = "") -> Record:
    return Record(path, label, group or path, path.split("/", maxsplit=1)[0], split, "CC0")


@pytest.fixture
def six(tmp_path: Path) -> list[Record]:
    """Two different pictures, one per label, in each split."""
    records = []
    for i, split in enumerate(("train", "val", "test")):
        for j, label in enumerate(("folds", "no_folds")):
            path = f"s/{split}-{label}.png"
            save(tmp_path / path, tissue(10 * i + j))
            records.append(_record(path, split, label))
    return records


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_ever_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = [
        Record(f"{source}/{i}.png", "folds", f"{source[0]}/{rng.integers(40)}", source, "train", "CC0")
        for source in ("bagls", "bagls-glottis", "kvasir-seg")
        for i in range(200)
    ]
    places = defaultdict(set)
    for record in split_by_group(records, seed):
        places[record.group].add(record.split)
    assert all(len(splits) == 1 for splits in places.values())
    assert split_by_group(records, seed) == split_by_group(records, seed)


def test_shares_hold_per_source_and_fixed_groups_stay() -> None:
    records = [Record(f"k/{i}.png", "no_folds", f"k/{i}", "k", "train", "CC0") for i in range(100)]
    records += [Record("v/1.png", "folds", group, "vocalfolds", "train", "CC0") for group in FIXED]
    records.append(Record("openhsv/a.mp4#1", "folds", "openhsv/a", "openhsv", "train", "GPL-3.0"))
    split = split_by_group(records, 1)
    count = [sum(r.split == name and r.source == "k" for r in split) for name in ("train", "val", "test")]
    assert count == [70, 15, 15]
    assert {r.group: r.split for r in split if r.source == "vocalfolds"} == FIXED
    assert split[-1].split == "test"


def test_near_duplicates_join_their_groups(tmp_path: Path) -> None:
    image = tissue(1)
    save(tmp_path / "k/a.png", image)
    save(tmp_path / "k/b.jpg", cv2.resize(image, (200, 200)))
    save(tmp_path / "k/c.png", tissue(2))
    merged, gone = merge_near_groups([_record(f"k/{n}", "train") for n in ("a.png", "b.jpg", "c.png")], tmp_path)
    assert gone == 1
    assert [record.group for record in merged] == ["k/a.png", "k/a.png", "k/c.png"]


def test_a_clean_manifest_passes(six: list[Record], tmp_path: Path) -> None:
    report = audit(six, tmp_path)
    assert report.clean
    assert report.images == 6
    require_clean(report)


def test_planted_duplicates_across_splits_are_found(six: list[Record], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "s/train-folds.png", tmp_path / "s/copy.png")
    image = cv2.imread(str(tmp_path / "s/train-no_folds.png"))
    brighter = cv2.convertScaleAbs(cv2.resize(image, (300, 280)), alpha=1.1, beta=5)
    save(tmp_path / "s/near.jpg", brighter)
    save(tmp_path / "s/same-split.png", image)
    records = [
        *six,
        _record("s/copy.png", "test"),
        _record("s/near.jpg", "val", "no_folds"),
        _record("s/same-split.png", "train", "no_folds"),
    ]
    report = audit(records, tmp_path)
    assert {(pair.first, pair.second, pair.exact) for pair in report.pairs} == {
        ("s/train-folds.png", "s/copy.png", True),
        ("s/train-no_folds.png", "s/near.jpg", False),
        ("s/near.jpg", "s/same-split.png", False),
    }
    with pytest.raises(DataError, match=r"3 duplicates lie across splits: .*s/copy\.png \(test\): same pixels"):
        require_clean(report)
    require_clean(report, allow=True)


def test_bad_input_is_named_with_file_and_row(six: list[Record], tmp_path: Path) -> None:
    (tmp_path / "s/broken.png").write_bytes(b"\x89PNG broken")
    image, classes = larynx(1, 128)
    save(tmp_path / "s/masked.png", image)
    save(tmp_path / "s/small-mask.png", classes[:64])
    records = [
        *six,
        _record("s/broken.png", "train"),
        _record("s/gone.png", "train"),
        dataclasses.replace(_record("s/masked.png", "train", "maybe"), mask="s/small-mask.png"),
        dataclasses.replace(six[0], split="val"),
    ]
    with pytest.raises(DataError) as caught:
        require_clean(audit(records, tmp_path), allow=True)
    said = str(caught.value)
    for part in (
        "row 8: ",
        "broken.png: not a readable image",
        "row 9: ",
        "gone.png: no such image",
        "row 10: unknown label 'maybe'",
        "small-mask.png: is 128x64, its image 128x128",
        "row 11: s/train-folds.png stands in row 2 already",
        "group s/train-folds.png lies in train (row 2), val (row 11)",
    ):
        assert part in said, said


def test_a_split_without_a_label_is_named(six: list[Record], tmp_path: Path) -> None:
    rest = [record for record in six if not (record.split == "val" and record.label == "folds")]
    assert audit(rest, tmp_path).problems == (
        "split val has no image labelled folds; move a group there or add images",
    )
    no_val = [record for record in six if record.split != "val"]
    assert "split val has no image labelled no_folds or folds" in audit(no_val, tmp_path).problems[0]
    assert audit([record for record in six if record.split != "test"], tmp_path).clean


@pytest.mark.real_images
def test_the_real_splits_are_clean_and_every_split_sees_both_labels(real_images: Path) -> None:
    from trainer.data.visibility import VisibilitySettings  # noqa: PLC0415

    wanted = ["vocalfolds", "bagls-glottis", "kvasir-seg"]
    records, _ = build_records(real_images, VisibilitySettings(phantom_frames=0), 0, wanted)
    for split in ("train", "val", "test"):
        assert {r.label for r in records if r.split == split and r.source == "vocalfolds"} == {"folds", "no_folds"}
    require_clean(audit(records, real_images))


def test_a_source_left_out_takes_its_groups_with_it() -> None:
    rows = [
        Record("a.png", "folds", "bagls/1", "bagls", "train", "x"),
        Record("b.png", "folds", "bagls/1", "bagls-glottis", "train", "x"),
        Record("c.png", "folds", "bagls/2", "bagls-glottis", "val", "x"),
        Record("d.png", "no_folds", "k", "kvasir-seg", "train", "x"),
    ]
    assert [r.split for r in leave_out(rows, ["bagls"])] == ["test", "test", "val", "train"]
    assert leave_out(rows, []) == rows
    with pytest.raises(DataError, match="nothing cannot be left out: the sources are bagls, bagls-glottis"):
        leave_out(rows, ["nothing"])
