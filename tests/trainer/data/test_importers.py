from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from synthetic import save, tissue

from trainer.data.importers import SOURCES, import_class_folders, import_phantom, import_sources
from trainer.data.types import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_every_folder_yields_records_with_group_and_licence(data_root: Path) -> None:
    records, notes = import_sources(data_root)
    assert {record.source for record in records} == {"vocalfolds", "bagls", "bagls-glottis", "kvasir-seg"}
    assert notes == [f"openhsv: not below {data_root}, skipped"]
    assert all(record.licence for record in records)
    groups = {record.group for record in records if record.source == "bagls-glottis"}
    assert groups == {"bagls/0", "bagls/1", "bagls/2"}
    assert groups < {record.group for record in records if record.source == "bagls"}
    assert {r.group for r in records if r.source == "vocalfolds"} == {
        "vocalfolds/patient0/seq0",
        "vocalfolds/patient0/seq1",
        "vocalfolds/patient1/seq2",
    }


def test_a_folder_asked_for_by_name_must_be_there(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="openhsv: no such folder"):
        import_sources(data_root, ["bagls", "openhsv"])
    with pytest.raises(DataError, match="no importer of that name; use vocalfolds"):
        import_sources(data_root, ["cats"])
    with pytest.raises(DataError, match="none of vocalfolds"):
        import_sources(tmp_path)
    (tmp_path / "kvasir-seg").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        import_sources(tmp_path)


def test_a_damaged_table_is_named(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "bagls", tmp_path / "bagls")
    (tmp_path / "bagls/frames.csv").write_text("file,video_id\nx.jpg,abc\n", encoding="utf-8")
    with pytest.raises(DataError, match="bagls: its table cannot be read"):
        import_sources(tmp_path)


def test_class_folders_keep_patients_together(tmp_path: Path) -> None:
    save(tmp_path / "ours/folds/p1/a.png", tissue(1))
    save(tmp_path / "ours/no_folds/p1/b.png", tissue(2))
    save(tmp_path / "ours/no_folds/c.png", tissue(3))
    records = list(import_class_folders(tmp_path, "ours", "our own"))
    assert [(r.label, r.group) for r in records] == [
        ("no_folds", "ours/no_folds/c"),
        ("no_folds", "ours/p1"),
        ("folds", "ours/p1"),
    ]
    (tmp_path / "ours/maybe").mkdir()
    with pytest.raises(DataError, match="unknown class maybe"):
        list(import_class_folders(tmp_path, "ours"))
    shutil.rmtree(tmp_path / "ours/folds")
    with pytest.raises(DataError, match="no images in folds"):
        list(import_class_folders(tmp_path, "ours"))


def test_the_phantom_yields_both_labels_and_its_anatomies_as_groups() -> None:
    records = list(import_phantom(30, 1))
    assert {record.label for record in records} == {"folds", "no_folds"}
    assert len({record.group for record in records}) == 3
    assert records == list(import_phantom(30, 1))


def test_all_five_folders_have_an_importer() -> None:
    assert set(SOURCES) == {"vocalfolds", "bagls", "bagls-glottis", "kvasir-seg", "openhsv"}
