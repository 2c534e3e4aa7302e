"""An adapter with phones, rehearsed on this machine: certificates, a broker with accounts and TLS, free ports.

For `foldsight demo --phones` and the tests; the same code makes it as on an adapter.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edge.broker import Broker, free_ports
from edge.config import Config
from edge.pairing import mosquitto
from edge.pairing.adapter import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def rehearse(config: Config, folder: Path, *, host: str, address: str) -> Iterator[tuple[Config, Broker]]:
    """Prepare and start the broker.

    Args:
        config: the settings to start from.
        folder: where certificates, accounts and the list of phones are kept; the caller's to remove.
        host: where phones find page and broker; "" for every address.
        address: what the code tells phones to open.

    Yields:
        The settings as they take effect, for the daemon and the page's server, and the running broker.

    Raises:
        FoldsightError: mosquitto is missing or does not start.
    """
    https_port, websocket_port, mqtt_port = free_ports(3)
    phones = {
        "enabled": True, "host": host, "address": address, "state_dir": folder,
        "https_port": https_port, "websocket_port": websocket_port, "mqtt_port": mqtt_port,
    }  # fmt: skip
    config = Config.model_validate({**config.model_dump(), "phones": {**config.phones.model_dump(), **phones}})
    adapter = Adapter(config)
    adapter.prepare()
    with Broker(phones=adapter.listeners) as broker:
        mqtt = {
            "host": broker.host, "port": broker.port, "username": mosquitto.EDGE, "ca_file": None,
            "password_file": adapter.edge / "password",
        }  # fmt: skip
        yield Config.model_validate({**config.model_dump(), "mqtt": {**config.mqtt.model_dump(), **mqtt}}), broker
