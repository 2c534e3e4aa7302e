"""Any labels: read, split by group, checked, drawn by class frequency, and made into samples."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402  after the check for torch
from hypothesis import strategies as st  # noqa: E402

from trainer.data import labelled  # noqa: E402
from trainer.data.augment import AugmentSettings  # noqa: E402
from trainer.data.manifest import SPLITS, Record  # noqa: E402
from trainer.data.pack import Pack  # noqa: E402
from trainer.data.scenes import LABELS, SceneSettings, import_scenes  # noqa: E402
from trainer.data.types import DataError  # noqa: E402
from trainer.laboratory.recipe import LaboratoryRecipe, load_laboratory_recipe  # noqa: E402
from trainer.laboratory.smoke import smoke_laboratory_recipe, write_smoke_task  # noqa: E402


def record(label: Any, group: Any, split: Any = "train", name: Any = "x.png") -> Record:
    return Record(name, label, group, "s", split, "none")


def table(**more: Any) -> Any:
    return labelled.TableSettings.model_validate({
        "kind": "table", "table": "t.csv", "images": "img", "group": "who", "label": "text", "exclusive": False,
        "labels": {"polyp": ["polyp"], "scar": ["scar", "wound"]}, "none": ["healthy"], **more,
    })  # fmt: skip


def write(root: Path, rows: Any) -> None:
    with (root / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerows([("file", "who", "text"), *rows])


def test_a_table_gives_labels_by_words(tmp_path: Path) -> None:
    write(tmp_path, [("a.png", 1, "Left POLYP, old wound"), ("b.png", 1, "scar"), ("c.png", 2, "healthy, no polyp")])
    records, notes = labelled.import_table(tmp_path, table())
    assert [r.label for r in records] == ["polyp|scar", "scar", ""]
    assert [r.group for r in records] == ["table/1", "table/1", "table/2"]
    assert notes == []
    truth = labelled.targets(records, ["polyp", "scar"], exclusive=False)
    assert truth.tolist() == [[True, True], [False, True], [False, False]]


def test_rows_that_cannot_be_used_are_named_by_row(tmp_path: Path) -> None:
    write(tmp_path, [("a.png", 1, "polyp"), ("b.png", 2, "unclear"), ("c.png", "", "scar")])
    with pytest.raises(DataError, match=r"t\.csv: row 3: text 'unclear' names none.*row 4: who is empty"):
        labelled.import_table(tmp_path, table())
    write(tmp_path, [("a.png", 1, "polyp"), ("b.png", 2, "unclear")])
    records, notes = labelled.import_table(tmp_path, table(others="leave_out"))
    assert len(records) == 1
    assert "1 rows that name none of the labels left out" in notes[0]
    write(tmp_path, [("a.png", 1, "polyp and scar")])
    with pytest.raises(DataError, match="row 2"):
        labelled.import_table(tmp_path, table(exclusive=True))
    with pytest.raises(DataError, match="lacks the column kind"):
        labelled.import_table(tmp_path, table(label="kind"))
    with pytest.raises(DataError, match="cannot be read"):
        labelled.import_table(tmp_path, table(table="none.csv"))


def test_folders_name_what_is_missing_or_unknown(tmp_path: Path) -> None:
    settings_ = labelled.FolderSettings(kind="folders", folder="mine", labels=["a", "b"])
    for name in ("a/p1/1.png", "a/p1/2.png", "b/3.png"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "mine" / name), np.zeros((8, 8, 3), np.uint8))
    records, _ = labelled.import_folders(tmp_path, settings_)
    assert [(r.label, r.group) for r in records] == [("a", "mine/p1"), ("a", "mine/p1"), ("b", "mine/b/3")]
    (tmp_path / "mine" / "c").mkdir()
    with pytest.raises(DataError, match="unknown class c"):
        labelled.import_folders(tmp_path, settings_)
    more = settings_.model_copy(update={"labels": ["a", "b", "c"]})
    with pytest.raises(DataError, match="no images in c"):
        labelled.import_folders(tmp_path, more)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a", "b", "a|b", ""])), min_size=1, max_size=80),
       st.integers(0, 5))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_split_never_cuts_a_group_and_repeats_itself(drawn: Any, seed: Any) -> None:
    records = [record(label, f"g{group}") for group, label in drawn]
    made = labelled.split_labelled(records, seed)
    assert made == labelled.split_labelled(records, seed)
    splits: dict[str, set[str]] = {}
    for r in made:
        splits.setdefault(r.group, set()).add(r.split)
    assert all(len(places) == 1 for places in splits.values())
    assert [dataclasses.replace(r, split="train") for r in made] == records


def test_a_split_shares_out_every_label() -> None:
    records = [record("rare" if g < 10 else "common", f"g{g}") for g in range(100)]
    made = labelled.split_labelled(records, 3)
    found = Counter((r.label, r.split) for r in made)
    assert [found["rare", split] for split in SPLITS] == [6, 2, 2]
    assert [found["common", split] for split in SPLITS] == [54, 18, 18]
    labelled.check_labelled(made, ["rare", "common"], exclusive=True)


def test_groups_in_two_splits_unknown_and_empty_labels_are_named() -> None:
    whole = [record(label, f"{label}{split}", split) for label in ("a", "b") for split in SPLITS]
    labelled.check_labelled(whole, ["a", "b"], exclusive=True)
    with pytest.raises(DataError, match=r"group atrain lies in train \(x.png\), val \(y.png\)"):
        labelled.check_labelled([*whole, record("a", "atrain", "val", "y.png")], ["a", "b"], exclusive=True)
    with pytest.raises(DataError, match=r"y\.png: unknown label 'c'"):
        labelled.check_labelled([*whole, record("c", "new", name="y.png")], ["a", "b"], exclusive=True)
    with pytest.raises(DataError, match="split val has no image labelled b"):
        labelled.check_labelled([r for r in whole if r.group != "bval"], ["a", "b"], exclusive=True)


def test_rare_classes_are_drawn_as_often_as_common_ones() -> None:
    truth, rng = np.array([0] * 90 + [1] * 9 + [2]), np.random.default_rng(0)
    natural = labelled.Sampler(truth, "natural").draw(100, rng)
    assert sorted(natural.tolist()) == list(range(100))
    over = labelled.Sampler(truth, "over").draw(99, rng)
    assert Counter(truth[over].tolist()) == {0: 33, 1: 33, 2: 33}
    assert len(set(over[truth[over] == 0].tolist())) == 33
    under = labelled.Sampler(truth, "under").draw(99, rng)
    assert Counter(truth[under].tolist()) == {0: 33, 1: 33, 2: 33}
    assert len(set(under.tolist())) == 3
    sets = np.zeros((100, 2), bool)
    sets[:5, 0] = True
    drawn = labelled.Sampler(sets, "over").draw(60, rng)
    assert Counter(sets[drawn, 0].tolist()) == {True: 30, False: 30}


def test_a_sample_follows_from_seed_epoch_and_place_alone(tmp_path: Path) -> None:
    records = []
    for i in range(4):
        image = np.full((40, 60, 3), 40 * i + 40, np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        records.append(record("a|b" if i else "a", f"g{i}", name=f"{i}.png"))
    pack = Pack.open_or_build(records, tmp_path, tmp_path / "cache")

    def made() -> Any:
        return labelled.LabelledSet(pack, records, ["a", "b"], exclusive=False, seed=3,
                                    settings=AugmentSettings(side=48, epoch_length=8))  # fmt: skip

    first, second = made(), made()
    second.set_epoch(5)
    _ = second[2]
    for data in (first, second):
        data.set_epoch(1)
    for i in (5, 0, 7):
        (a, label, base, _), (b, same, *_) = first[i], second[i]
        assert a.shape == (3, 48, 48)
        assert a.dtype == torch.uint8
        assert torch.equal(a, b)
        assert label.tolist() == same.tolist() == [1.0, float(base > 0)]
    one = first[5][0]
    first.set_epoch(2)
    assert not torch.equal(one, first[5][0])


def test_scenes_have_six_classes_and_windows_that_hold_what_they_say(tmp_path: Path) -> None:
    recipe = smoke_laboratory_recipe(load_laboratory_recipe("paper2-fusion"))
    assert isinstance(recipe, LaboratoryRecipe)
    write_smoke_task(recipe, tmp_path)
    records, _ = import_scenes(tmp_path, SceneSettings(kind="scenes"), 7)
    assert set(Counter(r.label for r in records)) == set(LABELS)
    for r in records:
        if r.label in ("polyp", "colon"):
            mask = cv2.imread(str(tmp_path / r.path.replace("/img/", "/annot/").replace(".jpg", ".png")), 0)
            x, y, width, height = r.window  # type: ignore[misc]
            assert bool(mask[y : y + height, x : x + width].any()) == (r.label == "polyp")
