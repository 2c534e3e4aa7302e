"""What a fleet is watched with: rules and board name only what adapters export, and the load program measures truly."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from edge.display.metrics import Metrics

FLEET = Path(__file__).parents[2] / "deploy" / "fleet"
HEALTH = {
    "session": 1, "frames": 100, "classified": 90, "skipped": 5, "over_budget": 1, "unsent": 2, "lost_events": 0,
    "dropped": {"replaced": 4, "too_old": 1}, "fps": 29.9, "age_ms": {"p50": 4.0, "p95": 5.0, "p99": 9.0, "max": 12.0},
    "temperatures_c": {"cpu": 61.0}, "throttled": ["under_voltage"], "memory_mb": 290.0, "ladder": {"rung": 0},
    "uptime_s": 60.0, "recording": {"megabytes": 1.5, "dropped": 0, "failed": 1},
}  # fmt: skip
# Kinds of series that Prometheus itself makes.
OWN = {"up"}
WORDS = {
    "sum", "count", "max", "min", "by", "on", "rate", "increase", "resets", "unless", "vector", "or", "and",
    "label_values",
}  # fmt: skip


@pytest.fixture(scope="module")
def exported() -> dict[str, set[tuple[str, str]]]:
    """Every series that an adapter exports, with the labels that it has there."""
    metrics = Metrics("adapter-1", "127.0.0.1", 1, phones=lambda: 2)
    now = time.monotonic()
    metrics._heard = {
        "health": (now, HEALTH),
        "status": (now, {"state": "online"}),
        "birth": (now, {"device": "a", "software": "1", "model": {"name": "folds", "version": "1.0.0"}}),
    }
    found: dict[str, set[tuple[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels.items())
    return found


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FLEET / "grafana.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FLEET / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def expressions() -> list[str]:
    queries = [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in board()["templating"]["list"] if variable["type"] == "query"]
    return [*queries, *(rule["expr"] for rule in rules())]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_there(expression: str, exported: dict[str, set[tuple[str, str]]]) -> None:
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on) \([^)]*\)|, adapter\)", " ", expression)
    names = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS
    assert names
    assert names <= exported.keys() | OWN, f"not exported: {names - exported.keys()}"
    for name, selectors in re.findall(r"(foldsight_\w+)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selectors):
            if label in {"adapter", "job", "instance"}:
                continue  # of the scraping
            there = {v for key, v in exported[name] if key == label}
            wanted = re.compile(value) if operator == "=~" else re.compile(re.escape(value))
            assert any(wanted.fullmatch(v) for v in there), f"{name} has no {label} {value}: {there}"


def test_everything_that_is_exported_is_on_the_board_or_watched(exported: dict[str, set[tuple[str, str]]]) -> None:
    used = " ".join(expressions())
    assert {name for name in exported if name not in used} <= {"foldsight_classified_total"}


def test_every_rule_says_what_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))


def test_the_board_is_whole() -> None:
    panels = board()["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"


def test_the_scraping_asks_for_what_the_page_server_has() -> None:
    (job,) = yaml.safe_load((FLEET / "prometheus.yml").read_text())["scrape_configs"]
    assert (job["scheme"], job["metrics_path"]) == ("https", "/metrics")
    assert job["relabel_configs"][0]["target_label"] == "adapter"
    name = re.fullmatch(job["relabel_configs"][0]["regex"], "theatre-3.local:8443")
    assert name
    assert name[1] == "theatre-3"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_own_tool_agrees(tmp_path: Path) -> None:
    shutil.copytree(FLEET, tmp_path / "fleet")
    (tmp_path / "fleet" / "adapters.json").write_text("[]")
    (tmp_path / "fleet" / "adapters-ca.crt").touch()
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path / "fleet", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_small_load_arrives_whole() -> None:
    argv = [sys.executable, str(FLEET / "load.py"), "--adapters", "20", "--detections", "5", "--seconds", "2", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["connected"], row["lost"], row["unacknowledged"], row["hung_up"]) == (20, 0, 0, 0)
    assert row["sent_a_second"] == pytest.approx(20 * (1 + 0.2 + 0.25 + 5), rel=0.05)
    assert row["heard_a_second"] == row["sent_a_second"]
    assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
