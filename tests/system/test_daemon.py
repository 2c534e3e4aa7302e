"""The whole daemon as its own process, with a real broker, seen from outside."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jsonschema
import numpy as np
import pytest

from edge.messages import json_schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge.broker import Broker

    Condition = Callable[[dict[str, Any]], bool]

pytestmark = pytest.mark.system

SCHEMAS = json_schemas()


class Listener:
    """mosquitto_sub -V mqttv5 on everything, as an integrator would."""

    def __init__(self, broker: Broker, log: Path) -> None:
        self.log = log
        self._output = log.open("w")
        self._process = subprocess.Popen(
            ["mosquitto_sub", "-V", "mqttv5", "-p", str(broker.port), "-t", "foldsight/v1/#", "-F", "%j"],
            stdout=self._output,
        )

    def messages(self, topic: str | None = None) -> list[dict[str, Any]]:
        """Payloads, with the envelope under `_`, of one topic or all."""
        found = []
        for line in self.log.read_text().splitlines():
            envelope = json.loads(line)
            payload = envelope.pop("payload", None)
            message = {**(json.loads(payload) if isinstance(payload, str) else payload or {}), "_": envelope}
            if topic is None or envelope["topic"].rpartition("/")[2] == topic:
                found.append(message)
        return found

    def wait(
        self, topic: str, condition: Callable[[dict[str, Any]], bool] = bool, seconds: float = 15
    ) -> dict[str, Any]:
        """The first message of a topic that meets a condition."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self.messages(topic):
                if condition(message):
                    return message
            time.sleep(0.05)
        raise AssertionError(f"no {topic} came in {seconds} s; last: {self.messages()[-3:]}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._output.close()


@pytest.fixture
def listener(broker: Broker, tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(broker, tmp_path / "heard.jsonl")
    yield listener
    listener.close()


@pytest.fixture
def daemon(broker: Broker, tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts daemons; ends what is left of them."""
    started: list[subprocess.Popen[str]] = []
    config = tmp_path / "edge.yaml"
    config.write_text(
        f"device: adapter-1\nstate_dir: {tmp_path}/state\nmqtt:\n  port: {broker.port}\n  keepalive_s: 2\n"
        f"model:\n  bundle: {tiny_bundle}\n"
    )

    def start(*argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli", "run", "--config", str(config), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    """Two seconds at 25 frames a second: one without, one with what the tiny model calls folds."""
    folder = tmp_path / "replay"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(50):
        color = (60, 60, 200) if index >= 25 else (165, 165, 150)
        coarse = (np.array(color) + rng.normal(0, 25, (12, 16, 1))).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.jpg"), cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC))
    return folder


def test_every_topic_is_as_designed_and_a_killed_daemon_is_offline(
    daemon: Callable[..., subprocess.Popen[str]], listener: Listener, replay: Path
) -> None:
    process = daemon("--source", str(replay), "--set", "capture.fps=25")
    listener.wait("state", lambda m: m["state"] == "folds")
    listener.wait("state", lambda m: m["state"] == "no_folds")
    listener.wait("health", lambda m: m["classified"] > 60, 20)
    first = listener.wait("birth")
    process.send_signal(signal.SIGKILL)
    offline = listener.wait("status", lambda m: m["state"] == "offline", 8)
    assert offline["session"] == first["session"]

    for message in listener.messages():
        topic = message.pop("_")["topic"].rpartition("/")[2]
        jsonschema.Draft202012Validator(SCHEMAS[topic]).validate(message)
    assert {m["_"]["topic"] for m in listener.messages()} == {
        f"foldsight/v1/adapter-1/{t}" for t in ("status", "birth", "detection", "state", "event", "health")
    }
    envelopes = {t: [m["_"] for m in listener.messages(t)] for t in ("detection", "state", "event", "birth")}
    assert all(e["qos"] == 0 for e in envelopes["detection"])
    assert all(e["properties"]["message-expiry-interval"] <= 1 for e in envelopes["detection"])
    assert all(e["properties"]["content-type"] == "application/json" for t in envelopes.values() for e in t)
    detections = listener.messages("detection")
    numbers = [m["seq"] for m in detections]
    assert numbers == sorted(set(numbers))
    assert all(m["age_ms"] < 500 for m in detections)
    assert not any(str(replay) in json.dumps(m) for m in listener.messages())

    daemon("--source", str(replay))
    second = listener.wait("birth", lambda m: m["session"] > first["session"])
    listener.wait("status", lambda m: m["state"] == "online" and m["session"] == second["session"])


def test_sigterm_says_stopped_and_ends_with_0(
    daemon: Callable[..., subprocess.Popen[str]], listener: Listener, replay: Path
) -> None:
    process = daemon("--source", str(replay), "--json")
    listener.wait("detection")
    process.terminate()
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["classified"] > 0
    listener.wait("status", lambda m: m["state"] == "stopped")
    time.sleep(0.3)
    assert listener.messages("status")[-1]["state"] == "stopped"  # and no will after it


def test_a_replay_ends_with_every_frame_seen(daemon: Callable[..., subprocess.Popen[str]], replay: Path) -> None:
    runs = []
    for _ in range(2):
        options = ("--set", "capture.pace=lossless", "--set", "capture.loop=false", "--set", "capture.fps=25")
        process = daemon("--source", str(replay), "--json", *options)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        runs.append(json.loads(out.splitlines()[-1]))
    assert [r["classified"] for r in runs] == [50, 50]
    assert runs[0]["detections"] == runs[1]["detections"]
    assert runs[0]["dropped"] == {"replaced": 0, "too_old": 0}


def test_the_broker_may_come_late_and_go_and_come_back(
    daemon: Callable[..., subprocess.Popen[str]], broker: Broker, replay: Path, tmp_path: Path
) -> None:
    broker.stop()
    process = daemon("--source", str(replay), "--set", "capture.loop=true")
    time.sleep(2)
    assert process.poll() is None
    broker.start()
    listener = Listener(broker, tmp_path / "one.jsonl")
    listener.wait("detection")
    listener.close()
    broker.restart()
    listener = Listener(broker, tmp_path / "two.jsonl")
    listener.wait("birth")
    listener.wait("detection")
    listener.close()
    assert process.poll() is None


def test_a_source_that_goes_away_is_no_signal_and_comes_back(
    daemon: Callable[..., subprocess.Popen[str]], listener: Listener, replay: Path, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    shutil.copytree(replay, tmp_path / "moved")
    process = daemon("--source", str(tmp_path / "moved"))
    listener.wait("detection")
    shutil.rmtree(tmp_path / "moved")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "foldsight: " in err
    assert "Traceback" not in err
    stopped = listener.wait("status", lambda m: m["state"] == "stopped")
    assert stopped["reasons"] == ["failed"]


def test_a_missing_camera_is_degraded_and_no_signal_and_the_daemon_stays(
    daemon: Callable[..., subprocess.Popen[str]], listener: Listener
) -> None:
    process = daemon("--source", "/dev/video63")
    listener.wait("status", lambda m: m["state"] == "degraded")
    state = listener.wait("state", lambda m: m["reasons"] == ["source_lost"])
    assert state["state"] == "no_signal"
    event = listener.wait("event", lambda m: m["kind"] == "source")
    assert "is not there" in event["detail"]
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 0
