"""`/metrics` for Prometheus: how the adapter is, as it tells the broker, and how this server's subscription stands.

What was heard longer ago than a few of its periods is left out, so that nothing old looks current on a dashboard.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.messages import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

log = logging.getLogger(__name__)

HEALTH_S: Final = 16.0
"""Three periods of the daemon's health message, and a second."""
_STATUSES: Final = ("online", "degraded", "stopped", "offline")
_COUNTERS: Final = {
    "frames": "Frames that the source delivered.",
    "classified": "Frames that were classified.",
    "skipped": "Frames that were left out on purpose, on a lower rung of the ladder.",
    "over_budget": "Frames published later than the latency budget.",
    "unsent": "Live messages let go because the broker was away or slow.",
    "lost_events": "Events that fell out of the full spool.",
}


class Metrics(Collector):
    """Listens to one adapter and gives what it heard as metrics: `with Metrics(...) as metrics: metrics.text()`.

    Args:
        device: the adapter's name in topics.
        host: the broker.
        port: its port.
        account: username and password; None for a broker that takes anyone.
        phones: how many phones are paired; None where there is no pairing.
        announce: retained (topic, payload) to publish on every connect.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        device: str,
        host: str,
        port: int,
        *,
        account: tuple[str, str] | None = None,
        phones: Callable[[], int] | None = None,
        announce: Sequence[tuple[str, bytes]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic, self._phones, self._clock = f"{ROOT}/{device}", phones, clock
        self._announce = tuple(announce)
        self._heard: dict[str, tuple[float, dict[str, Any]]] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        if account is not None:
            self._client.username_pw_set(*account)
        self._client.on_connect, self._client.on_message = self._connected, self._message
        self._client.reconnect_delay_set(1, 10)
        self._where = host, port
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """What Prometheus reads, of this moment."""
        return generate_latest(self._registry)

    def __enter__(self) -> Self:
        self._client.connect_async(*self._where, keepalive=10)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        yield GaugeMetricFamily(
            "foldsight_broker_connected", "Whether the broker answers this server.", float(self._client.is_connected())
        )
        if self._phones is not None:
            yield GaugeMetricFamily("foldsight_phones_paired", "Phones that are paired.", self._phones())
        status = self._last("status", float("inf"))
        state = status.get("state") if self._client.is_connected() else None
        family = GaugeMetricFamily("foldsight_status", "What the adapter says of itself; one is 1.", labels=["status"])
        for name in _STATUSES:
            family.add_metric([name], float(state == name))
        yield family
        if birth := self._last("birth", float("inf")):
            model = birth.get("model", {})
            yield InfoMetricFamily(
                "foldsight_adapter",
                "What the adapter is.",
                {"device": str(birth.get("device")), "software": str(birth.get("software")),
                 "model": str(model.get("name")), "model_version": str(model.get("version"))},
            )  # fmt: skip
        if health := self._last("health", HEALTH_S):
            yield from _of_health(health)

    def _last(self, kind: str, within_s: float) -> dict[str, Any]:
        at, payload = self._heard.get(kind, (-float("inf"), {}))
        return payload if self._clock() - at <= within_s else {}

    def _connected(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refuses the page's server: %s", reason)
            return
        client.subscribe([(f"{self._topic}/{kind}", 0) for kind in ("status", "birth", "health")])
        for topic, payload in self._announce:
            client.publish(topic, payload, 1, retain=True)

    def _message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        try:
            payload = json.loads(message.payload)
        except ValueError:
            return
        if not isinstance(payload, dict):
            return
        kind = message.topic.rpartition("/")[2]
        known = self._heard.get(kind, (0.0, {}))[1]
        # The late will of an old session says nothing about the new one.
        if payload.get("session", 0) >= known.get("session", 0):
            self._heard[kind] = self._clock(), payload


def _of_health(health: dict[str, Any]) -> Iterator[Metric]:
    for key, text in _COUNTERS.items():
        if key in health:
            yield CounterMetricFamily(f"foldsight_{key}", text, health[key])
    dropped = CounterMetricFamily("foldsight_dropped", "Frames that were dropped, by reason.", labels=["reason"])
    for reason, count in health.get("dropped", {}).items():
        dropped.add_metric([reason], count)
    yield dropped
    yield GaugeMetricFamily("foldsight_fps", "Frames classified a second.", health.get("fps", 0))
    age = health.get("age_ms", {})
    ages = GaugeMetricFamily(
        "foldsight_age_seconds", "From exposure to publishing, over the last minute.", labels=["quantile"]
    )
    for quantile, key in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"), ("1", "max")):
        if key in age:
            ages.add_metric([quantile], age[key] / 1000)
    yield ages
    temperatures = GaugeMetricFamily("foldsight_temperature_celsius", "By thermal zone.", labels=["zone"])
    for zone, value in health.get("temperatures_c", {}).items():
        temperatures.add_metric([zone], value)
    yield temperatures
    throttled = GaugeMetricFamily("foldsight_throttled", "What slows the processor down now.", labels=["reason"])
    for reason in health.get("throttled", []):
        throttled.add_metric([reason], 1)
    yield throttled
    yield from _of_recording(health.get("recording"))
    for name, text, value in (
        ("foldsight_memory_bytes", "Of the daemon.", health.get("memory_mb", 0) * 1e6),
        ("foldsight_ladder_rung", "0 is the best.", health.get("ladder", {}).get("rung", 0)),
        ("foldsight_uptime_seconds", "Since the daemon was started.", health.get("uptime_s", 0)),
    ):
        yield GaugeMetricFamily(name, text, value)


def _of_recording(recording: dict[str, Any] | None) -> Iterator[Metric]:
    yield GaugeMetricFamily("foldsight_recording", "Whether pictures are kept on the adapter.", float(bool(recording)))
    if recording:
        kept = 1e6 * recording.get("megabytes", 0)
        yield GaugeMetricFamily("foldsight_recording_bytes", "Of all clips and snapshots that are kept.", kept)
        lost = CounterMetricFamily("foldsight_recordings_lost", "That were not kept, by reason.", labels=["reason"])
        for reason in ("dropped", "failed"):
            lost.add_metric([reason], recording.get(reason, 0))
        yield lost
