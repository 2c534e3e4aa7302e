from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge.service import Notifier, next_session
from edge.telemetry import Telemetry, clock_synced

UNIT = Path(__file__).parents[2] / "systemd" / "foldsight-edge.service"


def test_systemd_hears_ready_progress_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "15000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        notifier = Notifier()
        assert notifier.watchdog_s == 15
        notifier.ready("live: camera")
        notifier.alive()
        notifier.stopping()
        heard = [channel.recv(200) for _ in range(3)]
    assert heard == [b"READY=1\nSTATUS=live: camera", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("x")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().alive()


def test_session_numbers_only_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next_session(tmp_path)
    second = next_session(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1000.0)  # a Pi without a clock battery, after a power cut
    third = next_session(tmp_path)
    assert first < second < third
    (tmp_path / "session").write_text("torn")
    assert next_session(tmp_path) == 1000


def test_a_state_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert next_session(tmp_path / "file" / "state") >= int(time.time()) - 1


def test_telemetry_reads_the_kernels_files(tmp_path: Path) -> None:
    for number, text in enumerate(("48312\n", "61100\n", "off\n")):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    telemetry = Telemetry(tmp_path)
    assert telemetry.temperature_c() == 61.1
    assert telemetry.throttled() == ["under_voltage", "throttled"]
    assert telemetry.memory_mb() == 0
    assert Telemetry(tmp_path / "none").temperature_c() is None
    assert Telemetry(tmp_path / "none").throttled() == []
    assert Telemetry().memory_mb() > 10
    assert clock_synced() in (True, False)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_right_and_locked_up(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert unit.name not in verified.stderr, verified.stderr
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout[-400:]
    text = UNIT.read_text()
    assert "Type=notify" in text
    assert "WatchdogSec=" in text
