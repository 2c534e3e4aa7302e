"""A power cut at any write of a change of the software leaves a device that works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_root import memory_folder

HERE = Path(__file__).parent


@pytest.mark.system
def test_at_every_write_the_power_may_fail() -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("cutting the power at every write wants Linux and a C compiler (cc)")
    with memory_folder() as folder:
        shim = folder / "power_cut.so"
        source = HERE.parent / "system/power_cut.c"
        options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(shim)]
        subprocess.run([compiler, *options, str(source), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parents[1])}
        argv = [sys.executable, str(HERE / "software_cut.py"), str(folder)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    print(result["cuts"])
    assert sum(result["cuts"].values()) >= 200
