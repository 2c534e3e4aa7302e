"""Answers on disk: what is read is what was written, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import ConfigError, FoldsightError
from trainer.answers import SplitAnswers, Study, StudyRow, load_answers, load_study


def answers(count: int = 6, **changed: Any) -> SplitAnswers:
    rng = np.random.default_rng(count)
    parts = {
        "logits": rng.normal(size=(count, 2)).astype(np.float32),
        "labels": rng.integers(0, 2, count),
        "ids": np.array([f"image-{i}" for i in range(count)]),
        "groups": np.array([f"group-{i // 2}" for i in range(count)]),
        "sources": np.full(count, "one"),
    }
    return SplitAnswers(**(parts | changed))


def study(**changed: Any) -> Study:
    rows = [
        StudyRow(name="scratch", title="from scratch", answers={"0": {"val": "scratch.npz"}}),
        StudyRow(name="teacher", title="teacher", answers={"0": {"val": "teacher.npz"}}),
    ]
    return Study(**({"name": "s", "labels": ["no_folds", "folds"], "rows": rows} | changed))


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = answers()
    written.save(tmp_path / "deep" / "a.npz")
    read = SplitAnswers.load(tmp_path / "deep" / "a.npz")
    for name in ("logits", "labels", "ids", "groups", "sources"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": np.array([0, 1, 0, 1, 0, 2])}, "no logit"),
        ({"ids": np.full(6, "same")}, "same id"),
        ({"groups": np.full(5, "g")}, "different lengths"),
        ({"logits": np.full((6, 2), np.nan, np.float32)}, "no numbers"),
        ({"labels": np.ones((6, 3), bool)}, "differ in shape"),
    ],
)
def test_what_does_not_fit_is_refused(changed: Any, said: str, tmp_path: Path) -> None:
    answers(**changed).save(tmp_path / "a.npz")
    with pytest.raises(FoldsightError, match=said):
        SplitAnswers.load(tmp_path / "a.npz")


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    with pytest.raises(FoldsightError, match="measure again"):
        SplitAnswers.load(tmp_path / "a.npz")
    with pytest.raises(FoldsightError, match="measure again"):
        SplitAnswers.load(tmp_path / "missing.npz")


def test_a_study_keeps_and_orders_its_answers(tmp_path: Path) -> None:
    first = answers()
    turned = np.arange(6)[::-1]
    first.save(tmp_path / "scratch.npz")
    other = SplitAnswers(first.logits[turned] + 1, *(getattr(first, n)[turned] for n in ("labels", "ids", "groups")),
                         sources=first.sources[turned])  # fmt: skip
    other.save(tmp_path / "teacher.npz")
    study().save(tmp_path)
    read, folder = load_study(tmp_path)
    assert read == study()
    found = load_answers(read, folder)["val"]
    assert np.array_equal(found["teacher"]["0"].ids, first.ids)
    assert np.allclose(found["teacher"]["0"].logits, first.logits + 1)


def test_rows_on_other_images_are_refused(tmp_path: Path) -> None:
    answers().save(tmp_path / "scratch.npz")
    answers(ids=np.array([f"other-{i}" for i in range(6)])).save(tmp_path / "teacher.npz")
    with pytest.raises(FoldsightError, match="other images of the val split"):
        load_answers(study(), tmp_path)
    answers(labels=1 - answers().labels).save(tmp_path / "teacher.npz")
    with pytest.raises(FoldsightError, match="other labels"):
        load_answers(study(), tmp_path)


@pytest.mark.parametrize("changed", [{"baseline": "nobody"}, {"finding": "polyp"}, {"unknown": 1}])
def test_a_study_that_makes_no_sense_is_refused(changed: Any) -> None:
    with pytest.raises(ValueError, match=r"nobody|polyp|unknown"):
        study(**changed)


def test_no_study_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study there"):
        load_study(tmp_path)
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(ConfigError, match="labels"):
        load_study(tmp_path)
