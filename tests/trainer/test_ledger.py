"""The ledger of the test split: every reading stands in it, in order, and is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.errors import FoldsightError
from trainer.ledger import LEDGER, note_reading, readings_of


def test_every_reading_is_written_down_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert readings_of(tmp_path) == []
    note_reading(tmp_path / "run", "evaluate", "a" * 64, 924)
    assert "the first time" in capsys.readouterr().err
    found = note_reading(tmp_path / "run", "report", "b" * 64, 10)
    assert "for the 2. time" in capsys.readouterr().err
    assert found == readings_of(tmp_path / "run")
    assert [(r.command, r.models[0], r.images) for r in found] == [("evaluate", "a", 924), ("report", "b", 10)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r.at) for r in found)


def test_a_spoilt_ledger_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("{not json\n")
    with pytest.raises(FoldsightError, match="no ledger any more"):
        readings_of(tmp_path)


def test_what_cannot_be_written_down_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(FoldsightError, match="cannot be written down"):
        note_reading(tmp_path / "run", "evaluate", "a" * 64, 1)
