from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer.data.build import build_records
from trainer.data.manifest import Record
from trainer.data.pack import Pack
from trainer.data.visibility import VisibilitySettings

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from synthetic import write_root


@pytest.fixture(scope="session")
def mask_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("masks"), sequences=4, frames=4, recordings=6, scenes=8)


@pytest.fixture(scope="session")
def mask_records(mask_root: Path) -> list[Record]:
    return build_records(mask_root, VisibilitySettings(phantom_frames=10), seed=3)[0]


@pytest.fixture(scope="session")
def mask_pack(mask_records: list[Record], mask_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.open_or_build(mask_records, mask_root, tmp_path_factory.mktemp("mask_cache"))
