"""A power cut at any write of an installation or a rollback leaves a device with a good bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import tiny_files, tiny_manifest

from edge.bundle import write_bundle

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a file system: the shim knows what a sync would have kept, and need not wait."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="foldsight-cut-") as name:
        yield Path(name)


@pytest.mark.system
def test_at_every_write_the_power_may_fail(folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("cutting the power at every write wants Linux and a C compiler (cc)")
    shim = folder / "power_cut.so"
    build = [
        compiler,
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        str(shim),
        str(HERE / "power_cut.c"),
        "-ldl",
    ]
    subprocess.run(build, check=True)
    files = tiny_files()
    write_bundle(folder / "bundles" / "shipped.zip", tiny_manifest(name="shipped", version="1.0.0"), files)
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        write_bundle(folder / "bundles" / f"{version}.zip", tiny_manifest(version=version), files)
    environment = {k: v for k, v in os.environ.items() if k != "STATE_DIRECTORY"}
    environment |= {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    argv = [sys.executable, str(HERE / "power_cut.py"), str(folder)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    print(result["cuts"])
    assert sum(result["cuts"].values()) >= 200
