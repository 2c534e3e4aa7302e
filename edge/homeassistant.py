"""Home Assistant's MQTT discovery: one retained message that makes the adapter a device there.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload (Home Assistant 2024.11 or newer).
"""

from __future__ import annotations

import json
from typing import Any, Final

from edge import __version__
from edge.messages import ROOT

_EXPIRES_S: Final = {"state": 3, "health": 16}
# Name, topic, template, unit and class of each thing that is shown.
_SENSORS: Final[dict[str, tuple[str, str, str, dict[str, str]]]] = {
    "state": ("State", "state", "{{ value_json.state }}", {}),
    "score": ("Score", "state", "{{ value_json.score | round(2) }}", {}),
    "fps": ("Frames a second", "health", "{{ value_json.fps | round(1) }}", {"unit_of_measurement": "1/s"}),
    "age": (
        "Frame age, p95", "health", "{{ value_json.age_ms.p95 | round(1) }}",
        {"unit_of_measurement": "ms", "device_class": "duration"},
    ),
    "temperature": (
        "Temperature", "health", "{{ value_json.temperature_c }}",
        {"unit_of_measurement": "\u00b0C", "device_class": "temperature"},
    ),
}  # fmt: skip


def topic(prefix: str, device: str) -> str:
    """Where Home Assistant looks for the adapter."""
    return f"{prefix}/device/foldsight_{device}/config"


def discovery(device: str) -> bytes:
    """What it finds there: sensors that expire, and availability that follows the adapter's status."""
    own, name = f"{ROOT}/{device}", f"foldsight_{device}"
    components: dict[str, dict[str, Any]] = {
        key: {
            "platform": "sensor",
            "name": title,
            "unique_id": f"{name}_{key}",
            "state_topic": f"{own}/{kind}",
            "value_template": template,
            "expire_after": _EXPIRES_S[kind],
            **more,
        }
        for key, (title, kind, template, more) in _SENSORS.items()
    }
    payload = {
        "device": {"identifiers": [name], "name": f"Foldsight {device}", "manufacturer": "Foldsight"},
        "origin": {"name": "foldsight", "sw_version": __version__},
        "availability_topic": f"{own}/status",
        "availability_template": "{{ 'online' if value_json.state in ['online', 'degraded'] else 'offline' }}",
        "components": components,
    }
    return json.dumps(payload).encode()
