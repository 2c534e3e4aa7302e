"""The soak's mechanism, in seconds: the daemon as its own process, a real broker, a verdict. No timing is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench import soak

pytestmark = pytest.mark.system


def test_a_short_soak_comes_to_a_verdict(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--bundle", str(tiny_bundle), "--size", "160x120", "--slower", "1000"]
    assert soak.main(["--for", "12s", *common, "--memory-mb", "50"]) == 0
    out, err = capsys.readouterr()
    assert out.count("kept") == 4
    assert len(err.splitlines()) == 10

    assert soak.main(["--for", "3s", *common, "--memory-mb", "-500", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["kept"]
    assert [check["name"] for check in result["checks"] if not check["kept"]] == ["memory growth"]
    assert sum(part["frames"] for part in result["parts"]) > 30
    assert all(part["memory_mb"] > 20 for part in result["parts"])


def test_a_daemon_that_cannot_start_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--bundle", str(tmp_path / "none.zip"), "--for", "3s"]) == 1
    err = capsys.readouterr().err
    assert "gave no frame" in err
    assert "is not there" in err
    assert "Traceback" not in err
