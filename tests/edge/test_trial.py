"""The daemon with a newly installed bundle: it stays, or the one before comes back."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_files, tiny_manifest

import edge.daemon
from edge.broker import Broker
from edge.bundle import write_bundle
from edge.capture import SourceInfo
from edge.config import Config
from edge.errors import BundleError, SourceError
from edge.frames import Frame
from edge.store import Store

FILES = tiny_files()


class Link:
    """Takes what the daemon publishes."""

    unsent = spooled = lost_events = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.events: list[dict[str, Any]] = []

    def live(self, *_: Any, **__: Any) -> bool:
        return True

    def event(self, payload: bytes) -> None:
        self.events.append(json.loads(payload))

    def start(self) -> None: ...

    def flush(self) -> None: ...

    def stop(self, _: bytes) -> None: ...


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Version 1.0.0 has proven itself, 1.1.0 is on trial."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(edge.daemon, "Link", Link)
    shelf = Store(tmp_path / "state")
    for version in ("1.0.0", "1.1.0"):
        path = tmp_path / f"{version}.zip"
        write_bundle(path, tiny_manifest(version=version), FILES)
        shelf.install(path, trial=version == "1.1.0")
    return shelf


def settings(shelf: Store, **sections: Any) -> dict[str, Any]:
    capture = {"source": "phantom", "width": 320, "height": 240, **sections.pop("capture", {})}
    model = {"trial_starts": 1, **sections.pop("model", {})}
    latency = {"budget_ms": 5000, "max_age_ms": 5000}  # this is not about time
    return {"state_dir": str(shelf.folder.parent), "capture": capture, "model": model, "latency": latency, **sections}


def daemon(shelf: Store, **sections: Any) -> tuple[edge.daemon.Daemon, Any]:
    made = edge.daemon.Daemon(Config.model_validate(settings(shelf, **sections)))
    return made, made.link


def models(link: Any) -> list[dict[str, Any]]:
    return [event for event in link.events if event["kind"] == "model"]


def test_a_daemon_killed_during_the_trial_comes_back_with_the_bundle_before(shelf: Store, tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(json.dumps(settings(shelf, mqtt={"port": 1})))
    argv = [sys.executable, "-m", "edge.cli", "run", "--config", str(file)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not shelf.read().starts and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert shelf.read().starts == 1
    running, link = daemon(shelf)
    assert running.run(0.2).model == "redness 1.0.0"
    (event,) = models(link)
    assert event["before"].startswith("redness 1.1.0")
    assert event["after"].startswith("redness 1.0.0")
    assert event["detail"] == "the daemon ended once during its trial"
    assert shelf.read().current is not None


def test_a_bundle_that_works_passes(shelf: Store) -> None:
    running, link = daemon(shelf, model={"trial_s": 0.5})
    running.run(1.5)
    (event,) = models(link)
    assert event["after"].startswith("redness 1.1.0")
    assert event["detail"] == "it has passed its trial"
    state = shelf.read()
    assert (state.starts, state.current and state.current.version) == (None, "1.1.0")
    assert state.previous is not None


def test_a_stop_in_the_middle_is_no_fault(shelf: Store) -> None:
    for _ in range(2):
        running, link = daemon(shelf)
        assert running.run(0.2).model == "redness 1.1.0"
        assert not models(link)
    assert shelf.read().starts == 0


def test_a_model_that_hangs_has_failed(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    running, _ = daemon(shelf, capture={"hung_s": 1})
    monkeypatch.setattr(running.analyser, "analyse", lambda *_: time.sleep(30))
    with pytest.raises(BundleError, match="the model has not answered"):
        running.run(20)
    assert shelf.read().starts == 1


def test_a_pipeline_that_fails_has_failed(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such operator")

    running, _ = daemon(shelf)
    monkeypatch.setattr(running.analyser, "analyse", broken)
    with pytest.raises(RuntimeError):
        running.run(20)
    assert shelf.read().starts == 1


def test_a_camera_that_hangs_is_not_the_bundles_fault(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def open(self) -> SourceInfo:
            return SourceInfo("hung", "hung", 64, 64, 30)

        def read(self) -> Frame:
            time.sleep(30)
            raise SourceError("never")

        def close(self) -> None: ...

    monkeypatch.setattr(edge.daemon, "choose_source", lambda _: Camera())
    running, _ = daemon(shelf, capture={"source": "/dev/video0", "hung_s": 1, "open_s": 1})
    with pytest.raises(SourceError, match="cannot be interrupted"):
        running.run(20)
    assert shelf.read().starts == 0


def test_a_newly_installed_bundle_is_taken_up_without_a_new_start(shelf: Store, broker: Broker, tmp_path: Path) -> None:
    """And without the connection: the real daemon, the real broker, SIGHUP and cmd/reload."""
    file = tmp_path / "edge.yaml"
    values = settings(shelf, mqtt={"port": broker.port}, device="adapter-1", model={"trial_starts": 3})
    file.write_text(json.dumps(values))
    births: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    sessions, detected, left = set(), set(), []

    def heard(_: Any, __: Any, message: Any) -> None:
        payload, kind = json.loads(message.payload), message.topic.rpartition("/")[2]
        sessions.add(payload["session"])
        if kind == "birth":
            births.append(payload["model"])
        elif kind == "event" and payload["kind"] == "model":
            events.append(payload)
        elif kind == "detection":
            detected.add(payload["model"]["version"])
        elif kind == "status" and payload["state"] in ("offline", "stopped"):
            left.append(payload)

    client = broker.client()
    client.on_message = heard
    client.connect(broker.host, broker.port)
    client.subscribe([(f"foldsight/v1/adapter-1/{topic}", 1) for topic in ("birth", "event", "detection", "status")])
    client.loop_start()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", "run", "--config", str(file)], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: "1.1.0" in detected)
        for version, ask in (
            ("1.2.0", lambda: process.send_signal(signal.SIGHUP)),
            ("1.3.0", lambda: client.publish("foldsight/v1/adapter-1/cmd/reload", b"", 1)),
        ):
            path = tmp_path / f"{version}.zip"
            write_bundle(path, tiny_manifest(version=version), FILES)
            shelf.install(path)
            ask()
            wait_until(lambda v=version: v in detected and births[-1]["version"] == v)
        process.send_signal(signal.SIGHUP)  # nothing new: nothing happens
        time.sleep(0.5)
        assert process.poll() is None
        assert (len(sessions), len(births), left) == (1, 3, [])
        assert [event["detail"] for event in events] == ["reloaded", "reloaded"]
        assert shelf.read().starts == 1
    finally:
        process.terminate()
        process.wait()
        client.loop_stop()
    assert shelf.read().starts == 0  # and this end was a good one


def test_a_bundle_that_cannot_be_taken_up_leaves_the_running_one(shelf: Store, tmp_path: Path) -> None:
    running, link = daemon(shelf)
    path = tmp_path / "1.2.0.zip"
    write_bundle(path, tiny_manifest(version="1.2.0"), FILES)
    entry = shelf.install(path)
    shelf.path(entry).write_bytes(b"rotten")
    timer = threading.Timer(0.5, running.reload)
    timer.start()
    assert running.run(2).model == "redness 1.0.0"  # what it was before that proved itself; 1.1.0 never did
    assert models(link)[0]["before"].startswith("redness 1.2.0")
    assert "damaged" in models(link)[0]["detail"]


def test_the_model_before_a_reload_is_freed(shelf: Store, tmp_path: Path) -> None:
    running, link = daemon(shelf)
    former = weakref.ref(running.analyser.runtime)
    path = tmp_path / "1.2.0.zip"
    write_bundle(path, tiny_manifest(version="1.2.0"), FILES)
    shelf.install(path)
    threading.Timer(0.3, running.reload).start()
    assert running.run(2).model == "redness 1.2.0"
    assert [event["detail"] for event in models(link)] == ["reloaded"]
    gc.collect()
    assert former() is None


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
