"""`foldsight display`: the page's server as a process of its own."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from edge import homeassistant
from edge.display.metrics import Metrics
from edge.display.server import DisplayServer, DisplaySettings
from edge.errors import FoldsightError
from edge.pairing.adapter import Adapter
from edge.service import Notifier

if TYPE_CHECKING:
    import threading

    from edge.config import Config

log = logging.getLogger(__name__)

CERTIFICATE_EVERY_S: Final = 30.0


def run(config: Config, stop: threading.Event) -> None:
    """Serve until told to stop.

    Args:
        config: the adapter's settings; with `phones.enabled` the page is served over TLS and phones pair.
        stop: ends it.

    Raises:
        FoldsightError: the page is not built, the certificate is missing, or the address is taken.
    """
    notifier = Notifier()
    with contextlib.ExitStack() as stack:
        server = serve(config, stack)
        log.info("the page is served at %s", server.url)
        notifier.ready(server.url)
        while not stop.wait(CERTIFICATE_EVERY_S):
            if server.reload_certificate():
                log.info("a new certificate is in use")
        notifier.stopping()


def serve(config: Config, stack: contextlib.ExitStack) -> DisplayServer:
    """Start the server as the settings have it; the stack stops it, and its subscription to the broker.

    Raises:
        FoldsightError: as for `run`.
    """
    adapter = Adapter(config) if config.phones.enabled else None
    account = None
    if adapter is not None:
        accounts = adapter.accounts()
        account = accounts.username, accounts.password
        try:
            adapter.registry.tidy(accounts.names(), accounts.delete)
        except FoldsightError as error:
            log.warning("the list of phones could not be compared with the broker's: %s", error)
    metrics = stack.enter_context(
        Metrics(
            config.device,
            config.mqtt.host,
            config.mqtt.port,
            account=account,
            phones=None if adapter is None else lambda: len(adapter.registry.phones()),
            announce=_announcements(config),
        )
    )
    text = metrics.text if config.display.metrics else None
    return stack.enter_context(DisplayServer(_settings(config, adapter), pairing=adapter, metrics=text))


def _announcements(config: Config) -> list[tuple[str, bytes]]:
    settings = config.home_assistant
    if not settings.enabled:
        return []
    return [(homeassistant.topic(settings.prefix, config.device), homeassistant.discovery(config.device))]


def _settings(config: Config, adapter: Adapter | None) -> DisplaySettings:
    if adapter is None:
        shown = config.display
        return DisplaySettings(
            config.device, shown.name, host=shown.host, port=shown.port, mqtt_port=shown.websocket_port
        )
    phones = config.phones
    return DisplaySettings(
        config.device,
        config.display.name,
        host=phones.host,
        port=phones.https_port,
        mqtt_port=phones.websocket_port,
        certificate=adapter.display / "server.pem",
        ca_certificate=adapter.authority_certificate(),
    )
