"""The web server's description of itself, whether the server keeps to it, and its metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.broker import find_mosquitto
from edge.display.api import openapi
from edge.display.metrics import HEALTH_S, Metrics
from edge.display.server import DisplayServer, DisplaySettings
from edge.pairing.registry import TokenRefused

if TYPE_CHECKING:
    from edge.broker import Broker

DOCS = Path(__file__).parents[2] / "docs"


class Pairing:
    """Refuses every token."""

    def pair(self, token: str, name: str) -> tuple[str, str]:
        assert token
        assert name
        raise TokenRefused


def test_the_shipped_description_is_the_servers() -> None:
    def shape(description: dict[str, Any]) -> Any:  # the rest is FastAPI's, and changes with its version
        answers = {
            (path, method): sorted(operation["responses"])
            for path, operations in description["paths"].items()
            for method, operation in operations.items()
        }
        parts = description["components"]["schemas"].items()
        return answers, {name: sorted(part["properties"]) for name, part in parts}

    shipped = json.loads((DOCS / "openapi.json").read_text())
    assert shape(shipped) == shape(openapi()), "run `foldsight schema --of openapi > docs/openapi.json`"


def test_schemathesis_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.display.app.REQUESTS", 1e9)
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "openapi.json").write_text(json.dumps(openapi()))
    settings = DisplaySettings(device="a", port=0, static_folder=tmp_path)
    with DisplayServer(settings, pairing=Pairing()) as server:
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", server.url),
                *("--phases", "coverage,fuzzing", "--checks", "all", "-n", "40", "--generation-deterministic"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-3000:]
    assert "3 selected / 3 total" in found.stdout


HEALTH = {
    "schema": 1, "device": "a", "session": 7, "at": 0.0, "uptime_s": 61.5, "fps": 29.5, "frames": 1800,
    "classified": 1790, "skipped": 4, "age_ms": {"count": 9, "p50": 12.5, "p95": 20, "p99": 31, "p999": 40, "max": 44},
    "over_budget": 3, "dropped": {"replaced": 6, "too_old": 0}, "ladder": {"rung": 1, "name": "every 2nd", "every": 2},
    "unsent": 2, "lost_events": 0, "temperatures_c": {"cpu-thermal": 61.1}, "throttled": ["under_voltage"],
    "memory_mb": 120.0,
}  # fmt: skip


def values(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def say(broker: Broker, kind: str, **payload: Any) -> None:
    client = broker.client()
    client.connect(broker.host, broker.port)
    client.loop_start()
    client.publish(f"foldsight/v1/a/{kind}", json.dumps(payload), 1, retain=kind == "status").wait_for_publish(5)
    client.disconnect()
    client.loop_stop()


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_metrics_are_what_the_adapter_says_and_end_when_it_falls_silent(broker: Broker, tmp_path: Path) -> None:
    now = [0.0]
    (tmp_path / "index.html").write_text("<!doctype html>")
    settings = DisplaySettings(device="a", port=0, static_folder=tmp_path)
    with (
        Metrics("a", broker.host, broker.port, phones=lambda: 2, clock=lambda: now[0]) as metrics,
        DisplayServer(settings, metrics=metrics.text) as server,
    ):

        def read(url: str = f"{server.url}metrics") -> dict[tuple[str, tuple[str, ...]], float]:
            with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  its own server
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                return values(answer.read().decode())

        def wait_for(key: tuple[str, tuple[str, ...]], value: float) -> dict[tuple[str, tuple[str, ...]], float]:
            deadline = time.monotonic() + 30
            while (found := read()).get(key) != value:
                assert time.monotonic() < deadline, found
                time.sleep(0.05)
            return found

        first = wait_for(("foldsight_broker_connected", ()), 1)
        assert first["foldsight_phones_paired", ()] == 2
        assert not any(name == "foldsight_fps" for name, _ in first)
        say(broker, "status", session=7, state="online", reasons=[])
        say(broker, "health", **HEALTH)
        found = wait_for(("foldsight_fps", ()), 29.5)
        wait_for(("foldsight_status", ("online",)), 1)
        assert found["foldsight_frames_total", ()] == 1800
        assert found["foldsight_age_seconds", ("0.99",)] == 0.031
        assert found["foldsight_dropped_total", ("replaced",)] == 6
        assert found["foldsight_temperature_celsius", ("cpu-thermal",)] == 61.1
        assert found["foldsight_throttled", ("under_voltage",)] == 1
        assert found["foldsight_ladder_rung", ()] == 1
        assert found["foldsight_memory_bytes", ()] == 120e6
        say(broker, "status", session=6, state="offline", reasons=[])  # the late will of an older session
        say(broker, "health", **(HEALTH | {"frames": 1900}))
        assert wait_for(("foldsight_frames_total", ()), 1900)["foldsight_status", ("offline",)] == 0
        now[0] += HEALTH_S + 0.1
        assert not any(name in {"foldsight_fps", "foldsight_frames_total"} for name, _ in read())
        broker.stop()
        gone = wait_for(("foldsight_broker_connected", ()), 0)
        assert gone["foldsight_status", ("online",)] == 0
