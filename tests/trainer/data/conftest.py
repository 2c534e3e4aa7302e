from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainer.data.build import build_records
from trainer.data.manifest import Record
from trainer.data.pack import Pack
from trainer.data.visibility import VisibilitySettings

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import write_root

SETTINGS = VisibilitySettings(phantom_frames=20)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def records(data_root: Path) -> list[Record]:
    return build_records(data_root, SETTINGS, seed=3)[0]


@pytest.fixture(scope="session")
def pack(records: list[Record], data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.open_or_build(records, data_root, tmp_path_factory.mktemp("cache"))
