"""A sane adapter, and broken ones: each is told from the others, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Rehearsed

import edge.doctor
from edge import cli
from edge.broker import Broker
from edge.capture import SourceInfo
from edge.config import Config
from edge.doctor import Check, examine
from edge.errors import SourceError
from edge.frames import Frame, now_ns
from edge.messages import Status

Settings = Callable[..., Config]


class Camera:
    """Thirty frames a second; or fewer, or none."""

    def __init__(self, fps: float = 30, *, fault: str = "") -> None:
        self.fps, self.fault, self.seq = fps, fault, 0

    def open(self) -> SourceInfo:
        if self.fault:
            raise SourceError(self.fault)
        return SourceInfo("scripted", "/dev/video0", 64, 48, 30, "MJPG")

    def read(self) -> Frame:
        time.sleep(1 / self.fps)
        self.seq += 1
        image = np.random.default_rng(self.seq).integers(0, 255, (48, 64, 3), np.uint8)
        return Frame(image, self.seq, now_ns(), "dequeue", now_ns(), time.time())

    def close(self) -> None: ...


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[[Camera], None]:
    """Plugs a camera in, instead of the good one."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(edge.doctor, "clock_synced", lambda: True)
    monkeypatch.setattr(edge.doctor, "_RATE_S", 0.7)

    def plug(camera: Camera) -> None:
        monkeypatch.setattr(edge.doctor, "choose_source", lambda _: camera)

    plug(Camera())
    return plug


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a healthy board."""
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("47300\n")
    (zone / "type").write_text("cpu-thermal\n")
    firmware = tmp_path / "root/sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("0\n")
    return tmp_path / "root"


@pytest.fixture
def adapter(tiny_bundle: Path, tmp_path: Path, plug: Any) -> Settings:
    del plug

    def adapter(**sections: Any) -> Config:
        model = {"bundle": tiny_bundle, **sections.pop("model", {})}
        capture = {"source": "/dev/video0", "open_s": 2, "fps": 30, **sections.pop("capture", {})}
        values = {"device": "adapter-1", "state_dir": tmp_path / "state", "model": model, "capture": capture}
        return Config.model_validate({**values, **sections})

    return adapter


def seen(config: Config, root: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(config, root)}


def levels(checks: dict[str, Check]) -> dict[str, str]:
    """All that is not ok."""
    return {name: check.level for name, check in checks.items() if check.level != "ok"}


AWAY = {"mqtt": {"port": 1}}  # the tests of other things need no broker


def test_a_sane_adapter_has_nothing_to_do(adapter: Settings, broker: Broker, root: Path, tmp_path: Path) -> None:
    from edge import keys  # noqa: PLC0415
    from edge.bundle import sign_bundle  # noqa: PLC0415

    keys.make(tmp_path / "release")
    bundle = shutil.copy(adapter().model.bundle or "", tmp_path / "signed.zip")
    sign_bundle(bundle, keys.load_private(tmp_path / "release"))
    model = {"bundle": bundle, "trusted_keys": [tmp_path / "release.pub"]}
    checks = seen(adapter(model=model, mqtt={"port": broker.port}), root)
    assert levels(checks) == {}
    assert list(checks) == ["model", "camera", "broker", "clock", "power", "disk", "units"]
    assert "signed by a trusted key" in checks["model"].text
    assert checks["camera"].text.startswith("/dev/video0: 64 x 48 MJPG, 2")  # 28 or 29 frames a second, really
    assert "47 °C" in checks["power"].text
    assert "the daemon is not running" in checks["broker"].text
    assert not any(check.advice for check in checks.values())


def test_no_camera(adapter: Settings, plug: Callable[[Camera], None], root: Path) -> None:
    plug(Camera(fault="/dev/video0 is not there: check that the camera is plugged in"))
    check = seen(adapter(**AWAY), root)["camera"]
    assert (check.level, check.text) == ("failed", "/dev/video0 is not there: check that the camera is plugged in")


def test_a_camera_that_hangs_is_not_waited_for(adapter: Settings, plug: Callable[[Camera], None], root: Path) -> None:
    plug(Camera(fps=0.05))
    begun = time.monotonic()
    check = seen(adapter(**AWAY), root)["camera"]
    assert (check.level, check.text) == ("failed", "/dev/video0 gave no frame within 2 s")
    assert time.monotonic() - begun < 10


def test_a_camera_slower_than_asked_for(adapter: Settings, plug: Callable[[Camera], None], root: Path) -> None:
    plug(Camera(fps=10))
    check = seen(adapter(**AWAY), root)["camera"]
    assert check.level == "warning"
    assert "of the 30 asked for" in check.text
    assert "more light" in check.advice


def test_a_device_that_this_user_may_not_open(adapter: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.doctor.os, "access", lambda *_: False)
    check = seen(adapter(**AWAY, capture={"source": "/dev/null"}), root)["camera"]
    assert (check.level, check.advice) == ("failed", "add the user to the group video")


def test_the_phantom_is_no_camera(adapter: Settings, root: Path) -> None:
    check = seen(adapter(**AWAY, capture={"source": "phantom"}), root)["camera"]
    assert check.level == "warning"
    assert "it is no camera" in check.text


def test_a_damaged_bundle(adapter: Settings, root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    content = bytearray(Path(adapter().model.bundle or "").read_bytes())
    content[len(content) // 2] ^= 255
    bad.write_bytes(content)
    check = seen(adapter(**AWAY, model={"bundle": bad}), root)["model"]
    assert check.level == "failed"
    assert str(bad) in check.text
    assert "set model.bundle to a good one" in check.advice


def test_a_bundle_whose_signature_nobody_checks(adapter: Settings, root: Path) -> None:
    check = seen(adapter(**AWAY), root)["model"]
    assert check.level == "warning"
    assert "its signature is not checked" in check.text


def test_a_bundle_that_was_given_up_is_told_until_a_better_one_works(adapter: Settings, root: Path) -> None:
    from edge.store import Store, begin  # noqa: PLC0415

    settings = adapter(**AWAY)
    shelf = Store(settings.state_dir)
    entry = shelf.install(settings.model.bundle or Path())
    assert "on trial, 0 of 3 starts" in seen(installed(settings), root)["model"].text
    shelf.path(entry).write_bytes(b"rotten")
    check = seen(installed(settings), root)["model"]
    assert (check.level, check.advice) == ("failed", "install a good one: foldsight bundle install BUNDLE")
    assert begin(installed(settings)).given_up
    check = seen(installed(settings), root)["model"]
    assert check.level == "warning"
    assert "was given up" in check.advice
    shelf.install(settings.model.bundle or Path())
    trial = begin(installed(settings)).trial
    assert trial is not None
    trial.update(0, 1, sound=True)
    assert trial.update(61, 1000, sound=True)
    assert "given up" not in seen(installed(settings), root)["model"].advice
    shelf.roll_back("by hand")
    assert seen(installed(settings), root)["model"].level == "ok"


def installed(config: Config) -> Config:
    """The same without a bundle of the settings' own."""
    return config.model_copy(update={"model": config.model.model_copy(update={"bundle": None})})


def test_broker_away(adapter: Settings, root: Path) -> None:
    check = seen(adapter(**AWAY), root)["broker"]
    assert (check.level, check.text) == ("failed", "no broker answers at 127.0.0.1:1 (Connection refused)")
    assert "systemctl status mosquitto" in check.advice


def test_a_broker_that_hangs(adapter: Settings, broker: Broker, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.doctor, "_CONNECT_S", 1.0)
    broker.pause()
    try:
        check = seen(adapter(mqtt={"port": broker.port}), root)["broker"]
    finally:
        broker.resume()
    assert check.level == "failed"
    assert "does not answer" in check.text


def test_wrong_and_missing_passwords(phones: Rehearsed, adapter: Settings, root: Path, tmp_path: Path) -> None:
    mqtt = phones.config.mqtt.model_dump()
    assert seen(adapter(mqtt=mqtt), root)["broker"].level == "ok"
    wrong = tmp_path / "password"
    wrong.write_text("guess\n")
    check = seen(adapter(mqtt={**mqtt, "password_file": wrong}), root)["broker"]
    assert check.level == "failed"
    assert "refuses the account: Not authorized" in check.text
    check = seen(adapter(mqtt={**mqtt, "password_file": tmp_path / "none"}), root)["broker"]
    assert check.level == "failed"
    assert "cannot be read" in check.text


def test_the_running_daemon_is_asked_and_its_camera_left_alone(
    adapter: Settings, broker: Broker, plug: Callable[[Camera], None], root: Path
) -> None:
    plug(Camera(fault="/dev/video0 cannot be opened as a camera: it may be in use"))
    client = broker.client()
    client.connect(broker.host, broker.port)
    client.loop_start()
    source = {"state": "live", "reason": "", "reopened": 0, "name": "/dev/video0", "width": 640, "height": 480,
              "fps_measured": 29.6, "pixel_format": "MJPG"}  # fmt: skip
    config = adapter(mqtt={"port": broker.port})
    prefix = "foldsight/v1/adapter-1/"
    status = Status(device="adapter-1", session=1, state="online", at=0)
    client.publish(f"{prefix}status", status.encode(), 1, retain=True).wait_for_publish(5)
    client.publish(f"{prefix}health", json.dumps(health(source)), 1, retain=True).wait_for_publish(5)
    check = seen(config, root)["camera"]
    assert (check.level, check.text) == ("ok", "/dev/video0, in use by the daemon: 640 x 480 MJPG, 29.6 frames/s")
    lost = {**source, "state": "lost", "reason": "/dev/video0 stopped delivering"}
    client.publish(f"{prefix}health", json.dumps(health(lost)), 1, retain=True).wait_for_publish(5)
    check = seen(config, root)["camera"]
    client.disconnect()
    client.loop_stop()
    assert check.level == "failed"
    assert "stopped delivering" in check.text


def health(source: dict[str, Any]) -> dict[str, Any]:
    none = {"count": 0, "p50": 0, "p95": 0, "p99": 0, "p999": 0, "max": 0}
    numbers = dict.fromkeys(
        ("at", "uptime_s", "fps", "frames", "classified", "skipped", "over_budget", "unsent", "spooled", "lost_events",
         "memory_mb"), 1)  # fmt: skip
    ladder = {"rung": 0, "name": "", "every": 1, "since_s": None, "reason": ""}
    return {"schema": 1, "device": "adapter-1", "session": 1, **numbers, "age_ms": none, "age_total_ms": none,
            "stages_ms": {}, "dropped": {}, "states": {}, "ladder": ladder, "source": source, "temperature_c": None,
            "temperatures_c": {}, "throttled": [], "throttled_since_boot": [], "clock_synced": True}  # fmt: skip


def test_a_clock_that_is_not_synchronised(adapter: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.doctor, "clock_synced", lambda: False)
    check = seen(adapter(**AWAY), root)["clock"]
    assert (check.level, check.advice) == ("warning", "let it reach a time server: timedatectl set-ntp true")


@pytest.mark.parametrize(
    ("flags", "words", "advice"),
    [("0x1", "now: under_voltage", "power supply"), ("0x80000", "since the start: temperature_limit", "cool it")],
)
def test_a_weak_supply_and_a_hot_board(adapter: Settings, root: Path, flags: str, words: str, advice: str) -> None:
    (root / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text(flags)
    check = seen(adapter(**AWAY), root)["power"]
    assert check.level == "warning"
    assert words in check.text
    assert advice in check.advice


FULL = """
set -e
mount -t tmpfs -o size=256k tmpfs "$1"
head -c 1M /dev/zero > "$1/full" 2>/dev/null || true
shift
exec "$@"
"""


def test_a_full_disk(tiny_bundle: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    state = tmp_path / "state"
    state.mkdir()
    probe = ["-rm", "mount", "-t", "tmpfs", "tmpfs", str(state)]
    if unshare is None or subprocess.run([unshare, *probe], capture_output=True, check=False).returncode:
        pytest.skip("a small disk of one's own wants user namespaces (unshare -rm), which this machine does not allow")
    settings = ["capture.source=phantom", f"model.bundle={tiny_bundle}", f"state_dir={state}", "mqtt.port=1"]
    argv = [sys.executable, "-m", "edge.cli", "doctor", "--json", *(a for s in settings for a in ("--set", s))]
    environment = {k: v for k, v in os.environ.items() if k != "STATE_DIRECTORY"}
    done = subprocess.run([unshare, "-rm", "sh", "-c", FULL, "sh", str(state), *argv], env=environment,
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 1, done.stderr
    (check,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "disk"]
    assert (check["level"], check["text"]) == ("failed", f"{state} cannot be written (No space left on device)")


SYSTEMCTL = """#!/bin/sh
case "$2" in
foldsight-edge.service) echo "LoadState=loaded
ActiveState=failed
SubState=failed
NRestarts=8";;
*) echo "LoadState=loaded
ActiveState=active
SubState=running
NRestarts=0
StatusText=live";;
esac
"""


def test_a_unit_that_failed(adapter: Settings, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text(SYSTEMCTL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (root / "run/systemd/system").mkdir(parents=True)
    checks = seen(adapter(**AWAY), root)
    check = checks["foldsight-edge.service"]
    assert (check.level, check.text) == ("failed", "failed (failed)")
    assert "journalctl -u foldsight-edge.service" in check.advice
    assert checks["mosquitto.service"] == Check("mosquitto.service", "ok", "active (running) live")


def test_the_command_says_it_line_by_line_and_ends_with_1(
    adapter: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(json.dumps(adapter(**AWAY).model_dump(mode="json")))
    assert cli.main(["doctor", "--config", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "failed   broker     no broker answers at 127.0.0.1:1 (Connection refused)" in lines
    assert lines[lines.index("failed   broker     no broker answers at 127.0.0.1:1 (Connection refused)") + 1].endswith(
        "-> is it running? systemctl status mosquitto"
    )
