from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import edge.daemon
from edge.capture import SourceInfo
from edge.config import Config
from edge.errors import SourceError
from edge.frames import Frame, now_ns
from edge.messages import json_schemas

HUNG = """
import ctypes, sys, time
import numpy as np
import edge.daemon
from edge import cli
from edge.capture import SourceInfo
from edge.frames import Frame, now_ns

class Camera:
    seq = 0
    def open(self):
        return SourceInfo("hung", "hung", 64, 64, 30)
    def read(self):
        if self.seq == 15:
            print(time.monotonic(), flush=True)
            ctypes.CDLL(None).sleep(1000)  # inside the C library: no exception of Python's gets there
        time.sleep(0.03)
        image = np.random.default_rng(self.seq).integers(0, 255, (64, 64, 3), np.uint8)
        self.seq += 1
        return Frame(image, self.seq, now_ns(), "dequeue", now_ns(), time.time())
    def close(self):
        pass

edge.daemon.choose_source = lambda settings: Camera()
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_driver_that_hangs_ends_the_process_with_a_sentence_and_soon(tiny_bundle: Path, tmp_path: Path) -> None:
    settings = [f"state_dir={tmp_path}", "capture.source=/dev/video0", f"model.bundle={tiny_bundle}", "mqtt.port=1"]
    argv = [sys.executable, "-c", HUNG, "run", *(a for s in settings for a in ("--set", s))]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    ended = time.monotonic()
    hung = float(process.stdout.splitlines()[0])
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("foldsight: the driver of /dev/video0 has not answered for 3.")
    assert last.endswith("cannot be interrupted: the process ends, so that systemd starts it anew")
    assert "Traceback" not in process.stderr
    assert Config().capture.hung_s < ended - hung < Config().capture.hung_s + 3


class Link:
    """Takes what the daemon publishes."""

    unsent = spooled = lost_events = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def live(self, topic: str, payload: bytes, **_: Any) -> bool:
        self.sent.append((topic, json.loads(payload)))
        return True

    def event(self, payload: bytes) -> None:
        self.sent.append(("event", json.loads(payload)))

    def start(self) -> None: ...

    def flush(self) -> None: ...

    def stop(self, payload: bytes) -> None:
        self.sent.append(("status", json.loads(payload)))

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [message for name, message in self.sent if name == topic]


class Camera:
    """Thirty frames a second; some of the images and stamps are wrong."""

    def __init__(self) -> None:
        self.seq = 0
        self.hung = threading.Event()

    def open(self) -> SourceInfo:
        return SourceInfo("scripted", "scripted", 640, 480, 30, "MJPG")

    def read(self) -> Frame:
        self.hung.wait(5)
        time.sleep(1 / 30)
        self.seq += 1
        image = np.random.default_rng(self.seq).integers(0, 255, (64, 96, 3), np.uint8)
        exposed = now_ns() + (10**9 if self.seq % 10 == 5 else -2_000_000)
        return Frame(image[:, :48] if self.seq % 10 == 7 else image, self.seq, exposed, "driver", now_ns(), time.time())

    def close(self) -> None: ...


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    camera = Camera()
    camera.hung.set()
    monkeypatch.setattr(edge.daemon, "choose_source", lambda _: camera)
    monkeypatch.setattr(edge.daemon, "Link", Link)
    monkeypatch.setattr(edge.daemon, "_HEALTH_S", 0.5)
    return camera


def daemon(bundle: Path, folder: Path, **sections: Any) -> edge.daemon.Daemon:
    values = {"state_dir": folder, "model": {"bundle": bundle}, "capture": {"source": "/dev/video0"}, **sections}
    return edge.daemon.Daemon(Config.model_validate(values))


@pytest.mark.usefixtures("camera")
def test_a_budget_that_cannot_be_kept_is_degraded_and_health_says_how_it_is(tiny_bundle: Path, tmp_path: Path) -> None:
    running = daemon(tiny_bundle, tmp_path, latency={"budget_ms": 0.5})
    running.run(2.5)
    link: Any = running.link
    (step,) = [e for e in link.of("event") if e["kind"] == "ladder"]
    assert (step["before"], step["after"]) == ("every frame", "degraded")
    assert [(s["state"], s["reasons"]) for s in link.of("status")] == [
        ("degraded", ["latency budget not kept"]),
        ("stopped", []),
    ]
    health = link.of("health")[-1]
    jsonschema.Draft202012Validator(json_schemas()["health"]).validate(health)
    assert (health["ladder"]["name"], health["ladder"]["rung"], health["ladder"]["every"]) == ("degraded", 4, 4)
    assert 0 < health["ladder"]["since_s"] < 3
    assert "over the budget of 0.5 ms" in health["ladder"]["reason"]
    assert health["skipped"] == health["frames"] - health["classified"] - sum(health["dropped"].values())
    source = health["source"]
    assert (source["width"], source["height"], source["pixel_format"]) == (96, 64, "MJPG")  # and not 640 x 480
    assert source["fps_measured"] == pytest.approx(29, abs=4)
    assert source["rejected"] == {"another_size": pytest.approx(7, abs=3)}
    assert source["stamps_refused"] == pytest.approx(7, abs=3)
    assert 3 < health["fps"] < 12  # every 4th, and not the mean since the start


def test_a_pause_of_the_whole_process_is_not_a_hung_driver(
    camera: Camera, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.daemon, "_PAUSED_S", -1.0)  # as if every tick came late
    running = daemon(tiny_bundle, tmp_path, capture={"source": "/dev/video0", "hung_s": 1})
    threading.Timer(1.0, camera.hung.clear).start()
    threading.Timer(3.0, camera.hung.set).start()
    assert running.run(3.5).classified


@pytest.mark.usefixtures("camera")
def test_a_broker_that_throws_it_out_again_and_again_is_told_once(tiny_bundle: Path, tmp_path: Path) -> None:
    running = daemon(tiny_bundle, tmp_path)
    link: Any = running.link
    link.client_id = "foldsight-a"
    for _ in range(2):
        running._broker_changed(True, "")
        running._broker_changed(False, "the connection ended: Unspecified error")
    assert not [e for e in link.of("event") if e["kind"] == "fault"]
    for _ in range(5):
        running._broker_changed(False, "the connection ended: Unspecified error")
    (fault,) = [e for e in link.of("event") if e["kind"] == "fault"]
    assert fault["detail"].endswith("has another client the name foldsight-a?")


def test_a_hung_driver_is_told_as_a_fault(camera: Camera, tiny_bundle: Path, tmp_path: Path) -> None:
    running = daemon(tiny_bundle, tmp_path, capture={"source": "/dev/video0", "hung_s": 1})
    threading.Timer(1.0, camera.hung.clear).start()
    with pytest.raises(SourceError, match="has not answered"):
        running.run(20)
    camera.hung.set()
    link: Any = running.link
    assert [e["kind"] for e in link.of("event")].count("fault") == 1
    assert link.of("status")[-1]["reasons"] == ["failed"]
