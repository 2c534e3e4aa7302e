"""What the whole daemon writes: one folder, no picture unless it was told to, and a root that may be read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rig import pictures

from edge.broker import Broker
from edge.config import Config
from edge.daemon import Daemon
from edge.messages import json_schemas
from edge.recording import INDEX

pytestmark = pytest.mark.system


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    """A second without, a second with what the tiny model calls folds."""
    import cv2  # noqa: PLC0415

    folder = tmp_path / "a patient's name"
    folder.mkdir()
    for index, image in enumerate([*pictures((165, 165, 150), 25), *pictures((60, 60, 200), 25)]):
        cv2.imwrite(str(folder / f"{index:03}.jpg"), image)
    return folder


class Phone:
    """Hears everything, and asks."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.client = broker.client("phone")
        self.client.on_message = lambda _c, _d, m: self.heard.append(
            (m.topic.split("/", 3)[3], json.loads(m.payload or b"{}"))
        )
        self.client.connect(broker.host, broker.port)
        self.client.subscribe("foldsight/v1/a/#", 1)
        self.client.loop_start()

    def of(self, topic: str, **having: Any) -> list[dict[str, Any]]:
        return [m for t, m in list(self.heard) if t == topic and all(m.get(k) == v for k, v in having.items())]

    def wait(self, topic: str, seconds: float = 15, **having: Any) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not (found := self.of(topic, **having)):
            assert time.monotonic() < deadline, f"no {topic} with {having}: {self.heard[-3:]}"
            time.sleep(0.02)
        return found[-1]

    def ask(self, command: str) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = f"foldsight/v1/a/reply/{command}"
        self.client.publish(f"foldsight/v1/a/cmd/{command}", b"", 1, properties=properties)


@pytest.fixture
def phone(broker: Broker) -> Iterator[Phone]:
    phone = Phone(broker)
    yield phone
    phone.client.disconnect()
    phone.client.loop_stop()


@pytest.fixture
def run(broker: Broker, tiny_bundle: Path, tmp_path: Path, replay: Path) -> Iterator[Callable[..., Daemon]]:
    started: list[tuple[Daemon, threading.Thread]] = []

    def start(**sections: Any) -> Daemon:
        daemon = Daemon(
            Config.model_validate(
                {
                    "device": "a",
                    "state_dir": tmp_path / "state",
                    "capture": {"source": str(replay), "fps": 25},
                    "model": {"bundle": tiny_bundle},
                    "mqtt": {"port": broker.port},
                    **sections,
                }
            )
        )
        thread = threading.Thread(target=daemon.run)
        thread.start()
        started.append((daemon, thread))
        return daemon

    yield start
    for daemon, thread in started:
        daemon.stop()
        thread.join(10)


def test_without_recording_no_picture_is_written_and_a_snapshot_is_refused(
    run: Callable[..., Daemon], phone: Phone, tmp_path: Path
) -> None:
    run()
    phone.wait("state", state="folds")
    phone.ask("snapshot")
    reply = phone.wait("reply/snapshot")
    assert (reply["ok"], reply["detail"]) == (False, "recording is off")
    assert phone.wait("birth")["recording"] == "off"
    assert phone.wait("health")["recording"] is None
    assert {path.name for path in (tmp_path / "state").rglob("*")} - {"spool"} == {"session"}  # a slow broker's


def test_clips_and_snapshots_are_kept_told_and_named_by_nobody(
    run: Callable[..., Daemon], phone: Phone, tmp_path: Path
) -> None:
    run(recording={"enabled": True, "keep_free_mb": 0, "before_s": 1, "after_s": 0.3, "clips": ["finding"]})
    assert phone.wait("birth")["recording"] == "on"
    phone.wait("state", state="folds")
    phone.ask("snapshot")
    assert phone.wait("reply/snapshot")["ok"] is True
    snapshot = phone.wait("event", kind="snapshot", after="written")["detail"]
    clip = phone.wait("event", kind="recording", after="written")["detail"]
    folder = tmp_path / "state" / "recordings"
    with zipfile.ZipFile(folder / clip) as archive:
        index = json.loads(archive.read(INDEX))
    states = [picture["state"] for picture in index["pictures"]]
    assert states[0] != "folds"
    assert states[-1] == "folds" or "folds" in states
    seen = {message["seq"]: message["state"] for message in phone.of("detection")}
    assert all(seen[p["seq"]] == p["state"] for p in index["pictures"] if p["seq"] in seen)
    assert {clip, snapshot} <= {path.name for path in folder.iterdir()}
    heard = list(phone.heard)
    assert "patient" not in json.dumps(heard)
    for topic, message in dict(heard).items():  # the last of each
        if topic in json_schemas():
            jsonschema.Draft202012Validator(json_schemas()[topic]).validate(message)
    assert b"patient" not in b"".join(path.read_bytes() for path in folder.iterdir())


READ_ONLY = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
# Every mount but the state folder, the devices and the kernel's own.
while read -r _ point _; do
    case $point in "$1"|/proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$point" 2>/dev/null || true ;; esac
done </proc/self/mounts
if touch "$2/x" 2>/dev/null || touch /var/tmp/x 2>/dev/null; then echo "the root is writable" >&2; exit 99; fi
shift 2
exec "$@"
"""


@pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False).returncode,
    reason="a mount namespace needs root",
)
def test_with_a_read_only_root_all_it_writes_is_in_one_folder(
    broker: Broker, tiny_bundle: Path, tmp_path: Path, replay: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    settings = {
        "device": "a",
        "capture.source": str(replay),
        "model.bundle": str(tiny_bundle),
        "mqtt.port": broker.port,
        "recording.enabled": "true",
        "recording.keep_free_mb": 0,
        "recording.before_s": 0.5,
        "recording.after_s": 0.2,
    }
    command = [sys.executable, "-m", "edge.cli", "run", "--seconds", "3", "--json"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    environment = {**os.environ, "STATE_DIRECTORY": str(state), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(state), str(tmp_path), *command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["classified"] > 20
    assert "cannot be written" not in done.stderr
    assert "patient" not in done.stderr
    assert {path.name for path in state.iterdir()} - {"spool"} == {"session", "recordings"}  # a slow broker's
    assert list((state / "recordings").glob("clip-*.zip"))
