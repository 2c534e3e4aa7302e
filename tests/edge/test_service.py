from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge.service import Notifier, last_session, next_session
from edge.telemetry import Telemetry, clock_synced

UNITS = Path(__file__).parents[2] / "systemd"


def test_systemd_hears_ready_progress_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
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
    assert telemetry.temperatures_c() == {"thermal_zone0": 48.312, "thermal_zone1": 61.1}
    assert telemetry.throttled() == ["under_voltage", "throttled"]
    assert telemetry.throttled_since_boot() == ["throttled", "under_voltage"]
    assert telemetry.memory_mb() == 0
    assert Telemetry(tmp_path / "none").temperature_c() is None
    assert Telemetry(tmp_path / "none").throttled() == []
    assert Telemetry().memory_mb() > 10
    assert clock_synced() in (True, False)


class Board:
    """A device's files, and a clock that only the test moves."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 100.0
        self.telemetry = Telemetry(root, lambda: self.now)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")


@pytest.mark.parametrize(
    "folder",
    ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware", "soc:firmware"],
    ids=["Pi 4", "Pi 5", "old"],
)
def test_a_pis_flags_now_and_since_boot_are_read_every_two_seconds_at_most(tmp_path: Path, folder: str) -> None:
    board = Board(tmp_path)
    flags = f"sys/devices/platform/{folder}/get_throttled"
    board.write(flags, "80008")
    assert board.telemetry.throttled() == ["temperature_limit"]
    board.write(flags, "80000")
    board.now += 1.9
    assert board.telemetry.throttled() == ["temperature_limit"]
    board.now += 0.2
    assert board.telemetry.throttled() == []
    assert board.telemetry.throttled_since_boot() == ["temperature_limit"]


def test_a_pi_whose_kernel_only_has_the_voltage_alarm(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.write("sys/class/hwmon/hwmon0/name", "cpu_thermal")
    board.write("sys/class/hwmon/hwmon1/name", "rpi_volt")
    board.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1")
    assert board.telemetry.throttled() == ["under_voltage"]


def test_a_jetsons_zones_over_currents_and_cooling(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for number, (kind, text) in enumerate(
        (("cpu-thermal", "63625"), ("gpu-thermal", "58000"), ("tj-thermal", "64100"))
    ):
        board.write(f"sys/class/thermal/thermal_zone{number}/type", kind)
        board.write(f"sys/class/thermal/thermal_zone{number}/temp", text)
    board.write("sys/class/hwmon/hwmon3/name", "soctherm_oc")
    board.write("sys/class/hwmon/hwmon3/oc1_event_cnt", "0")
    board.write("sys/class/hwmon/hwmon3/oc3_event_cnt", "7")
    board.write("sys/class/thermal/cooling_device0/type", "pwm-fan")
    board.write("sys/class/thermal/cooling_device0/cur_state", "3")
    board.write("sys/class/thermal/cooling_device1/type", "cpufreq-cpu0")
    board.write("sys/class/thermal/cooling_device1/cur_state", "0")
    telemetry = board.telemetry
    assert telemetry.temperatures_c() == {"cpu-thermal": 63.625, "gpu-thermal": 58.0, "tj-thermal": 64.1}
    assert telemetry.temperature_c() == 64.1
    assert telemetry.throttled() == []
    assert telemetry.throttled_since_boot() == ["over_current"]
    board.write("sys/class/hwmon/hwmon3/oc3_event_cnt", "9")
    board.write("sys/class/thermal/cooling_device1/cur_state", "2")
    board.now += 5
    assert telemetry.throttled() == ["over_current", "frequency_capped"]
    board.now += 5
    assert telemetry.throttled() == ["frequency_capped"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("edge", "Type=notify"),
        ("display", "Type=notify"),
        ("phones", "Type=oneshot"),
        ("trial", "Type=notify"),
        ("degraded", "Type=oneshot"),
    ],
)
def test_the_units_are_right_and_locked_up(tmp_path: Path, name: str, kind: str) -> None:
    shipped = (UNITS / f"foldsight-{name}.service").read_text()
    unit = tmp_path / f"foldsight-{name}.service"
    unit.write_text(re.sub(r"=(-?)/opt/foldsight/\S+", r"=\1/bin/true", shipped))
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
    assert kind in shipped
    assert ("WatchdogSec=" in shipped) == (name == "edge")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_target_and_the_jetsons_drop_in_are_right(tmp_path: Path) -> None:
    for path in (*UNITS.glob("foldsight*"), UNITS.parent / "deploy/config/edge-phones.conf"):
        (tmp_path / path.name).write_text(re.sub(r"=(-?)/opt/foldsight/\S+", r"=\1/bin/true", path.read_text()))
    folder = tmp_path / "foldsight-edge.service.d"
    folder.mkdir()
    shutil.copy(UNITS / "jetson/foldsight-edge.conf", folder / "jetson.conf")
    (tmp_path / "edge-phones.conf").rename(folder / "phones.conf")
    names = [str(tmp_path / name) for name in ("foldsight.target", "foldsight-edge.service", "foldsight-phones.timer")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    told = [line for line in verified.stderr.splitlines() if "foldsight" in line and "nvargus" not in line]
    assert not told, verified.stderr


def test_each_service_ends_and_starts_with_the_target() -> None:
    for path in (UNITS / f"foldsight-{name}" for name in ("edge.service", "display.service", "phones.timer")):
        text = path.read_text()
        assert "PartOf=foldsight.target\n" in text
        assert "WantedBy=foldsight.target\n" in text
    assert "DefaultDependencies=no" in (UNITS / "foldsight.target").read_text()  # else boot waits for the camera


def test_the_number_of_the_last_start_is_known(tmp_path: Path) -> None:
    assert last_session(tmp_path) >= int(time.time()) - 1
    number = next_session(tmp_path)
    assert last_session(tmp_path) == number
