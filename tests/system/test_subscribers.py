"""Others who listen: the example of the documentation, and Home Assistant's discovery."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge.broker import find_mosquitto
from edge.display.files import STATIC_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import paho.mqtt.client as paho

    from edge.broker import Broker

BUILT = pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: `make page`")
DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY.parent / "docs" / "examples" / "subscribe.py"
OWN = "foldsight/v1/adapter-1"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


def run_example(publisher: paho.Client, *arguments: str) -> str:
    """The first line that it prints: it must be what is said now, not what was said before it came."""
    publisher.publish(f"{OWN}/state", b'{"state": "folds"}', 1, retain=True).wait_for_publish(20)
    heard: queue.Queue[str] = queue.Queue()
    with subprocess.Popen([sys.executable, str(EXAMPLE), *arguments], stdout=subprocess.PIPE, text=True) as example:
        output = example.stdout
        assert output is not None
        threading.Thread(target=lambda: heard.put(output.readline()), daemon=True).start()
        try:
            for _ in range(150):
                publisher.publish(f"{OWN}/state", b'{"state": "no_signal"}', 1)
                try:
                    return heard.get(timeout=0.2).strip()
                except queue.Empty:
                    continue
        finally:
            example.kill()
    raise AssertionError("it printed nothing")


@contextlib.contextmanager
def connected(client: paho.Client, broker: Broker) -> Iterator[paho.Client]:
    client.connect(broker.host, broker.port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def test_the_example_of_the_documentation(broker: Broker) -> None:
    with connected(broker.client(), broker) as publisher:
        assert run_example(publisher, "adapter-1", broker.host, str(broker.port)) == "no_signal"


@BUILT
def test_the_example_with_an_account_over_tls(phones: Any) -> None:
    account = phones.adapter.pair(phones.adapter.registry.new_token(), "dashboard")
    where = ("adapter-1", "localhost", str(phones.config.phones.mqtt_port))
    with connected(phones.daemon(), phones.broker) as publisher:
        assert run_example(publisher, *where, *account, str(phones.adapter.display / "ca.crt")) == "no_signal"


@BUILT
def test_home_assistant_finds_the_adapter_where_that_is_asked_for(
    rehearse_adapter: Callable[..., Any], tmp_path: Path
) -> None:
    for enabled in (True, False):
        with rehearse_adapter(tmp_path / str(enabled), home_assistant={"enabled": enabled}) as site:
            account = site.account(*site.adapter.pair(site.adapter.registry.new_token(), "home"))
            found: queue.Queue[Any] = queue.Queue()
            account.on_message = lambda _, __, message, found=found: found.put(message)
            account.on_subscribe = lambda _, __, ___, reasons, ____, found=found: found.put(reasons[0].value)
            account.connect("localhost", site.config.phones.mqtt_port)
            account.loop_start()
            account.subscribe("homeassistant/#")
            assert found.get(timeout=30) == (0 if enabled else 135)
            if enabled:
                message = found.get(timeout=30)
                assert message.topic == "homeassistant/device/foldsight_adapter-1/config"
                assert message.retain
                told = json.loads(message.payload)
                assert told["availability_topic"] == f"{OWN}/status"
                for component in told["components"].values():
                    assert component["state_topic"] in {f"{OWN}/state", f"{OWN}/health"}
                    assert component["unique_id"].startswith("foldsight_adapter-1_")
                    assert component["expire_after"] > 0
            account.disconnect()
            account.loop_stop()


def hospital(remote: Broker) -> list[str]:
    """The shipped bridge, to a broker of the test's own instead of the hospital's."""
    changed = {
        "addresses": f"addresses {remote.host}:{remote.port}",
        "restart_timeout": "restart_timeout 1 1",
        **dict.fromkeys(("bridge_cafile", "bridge_insecure", "remote_username", "remote_password"), ""),
    }
    lines = (DEPLOY / "mosquitto" / "bridge.conf").read_text().replace("theatre-3", "adapter-1").splitlines()
    return [changed.get(line.partition(" ")[0], line) for line in lines]


@BUILT
def test_the_bridge_hands_on_what_the_adapter_says_and_nothing_back(broker: Broker, phones: Any) -> None:
    phones.broker.stop()
    phones.broker._settings = tuple(hospital(broker))
    phones.broker.start()
    heard: queue.Queue[Any] = queue.Queue()
    with connected(broker.client(), broker) as far, connected(phones.daemon(), phones.broker) as daemon:
        far.on_message = lambda _, __, message: heard.put(message)
        far.subscribe("foldsight/#", 1)
        for _ in range(100):  # until the bridge stands
            daemon.publish(f"{OWN}/preview", b"a picture", 1)
            daemon.publish(f"{OWN}/status", b"{}", 1, retain=True)
            with contextlib.suppress(queue.Empty):
                if (message := heard.get(timeout=0.2)).topic == f"{OWN}/status":
                    break
        assert message.topic == f"{OWN}/status"
        daemon.subscribe(f"{OWN}/cmd/+", 1)
        daemon.on_message = lambda _, __, message: heard.put(message)
        far.publish(f"{OWN}/cmd/ping", b"from afar", 1).wait_for_publish(20)
        daemon.publish(f"{OWN}/event", b"{}", 1)
        topics = {message.topic}
        while f"{OWN}/event" not in topics:
            topics.add(heard.get(timeout=20).topic)
        assert topics <= {f"{OWN}/status", f"{OWN}/event", f"{OWN}/cmd/ping", f"{OWN}/bridge"}
        assert not any(m.payload == b"a picture" for m in heard.queue)
        commands = [m for m in heard.queue if m.topic.endswith("ping") and not m.retain]
        assert len(commands) <= 1  # far's own, as it subscribes to all; none came to the daemon


@BUILT
def test_renewed_certificates_are_taken_up(phones: Any) -> None:
    adapter, reached = phones.adapter, phones.config.phones

    def shown() -> list[str]:
        found = []
        for port in (reached.https_port, reached.mqtt_port, reached.websocket_port):
            plain = socket.create_connection(("localhost", port), timeout=20)
            with phones.trust.wrap_socket(plain, server_hostname="localhost") as secure:
                found.append(secure.getpeercert()["serialNumber"])
        return found

    account = phones.account(*adapter.pair(adapter.registry.new_token(), "stays"))
    connects: queue.Queue[int] = queue.Queue()
    account.on_connect = lambda _, __, ___, reason, ____: connects.put(reason.value)
    account.connect("localhost", reached.mqtt_port)
    account.loop_start()
    assert connects.get(timeout=20) == 0
    before = shown()
    for folder in (adapter.broker, adapter.display):
        (folder / "server.pem").unlink()
    assert adapter.prepare() == (True, False)
    assert shown() == before
    assert phones.server.reload_certificate()
    assert not phones.server.reload_certificate()
    phones.broker.restart()
    assert not set(shown()) & set(before)
    assert connects.get(timeout=20) == 0  # the phone trusts the new one as the old one, and is back by itself
    account.disconnect()
    account.loop_stop()
