from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.config import Mqtt
from edge.mqtt import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge.broker import Broker


def wait_for(condition: Callable[[], bool], seconds: float = 8) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


class Subscriber:
    """Keeps every message below foldsight/ with its topic, retain flag and properties."""

    def __init__(self, broker: Broker) -> None:
        self.messages: list[Any] = []
        self.client = broker.client()
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = lambda _, __, message: self.messages.append(message)
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        self.client.subscribe("foldsight/#", 1)
        assert ready.wait(5)

    def of(self, topic: str) -> list[Any]:
        return [m for m in self.messages if m.topic == f"foldsight/v1/a/{topic}"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def linked(broker: Broker, **settings: Any) -> Iterator[Link]:
    link = make_link(broker.port, **settings)
    link.start()
    try:
        assert wait_for(lambda: link.connected)
        yield link
    finally:
        link.stop()


def make_link(port: int, **settings: Any) -> Link:
    return Link(
        Mqtt(port=port, keepalive_s=2, **settings),
        device="a",
        session=7,
        will=json.dumps({"state": "offline", "session": 7}).encode(),
        hello=lambda: [("birth", b'{"hello": 1}'), ("status", b'{"state": "online"}')],
        command=lambda name, payload: json.dumps({"command": name, "got": payload.decode()}).encode(),
    )


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker)
    yield subscriber
    subscriber.close()


def test_hello_is_retained_live_expires_and_the_farewell_replaces_the_status(
    broker: Broker, subscriber: Subscriber
) -> None:
    with linked(broker) as link:
        assert link.live("detection", b'{"seq": 1}')
        assert wait_for(lambda: bool(subscriber.of("detection")))
        late = Subscriber(broker)
        assert wait_for(lambda: {m.topic.rpartition("/")[2] for m in late.messages} == {"birth", "status"})
        late.close()
        link.stop(b'{"state": "stopped"}')
    detection = subscriber.of("detection")[0]
    assert detection.properties.ContentType == "application/json"
    assert detection.properties.MessageExpiryInterval <= 1
    assert not detection.retain
    assert wait_for(lambda: subscriber.of("status")[-1].payload == b'{"state": "stopped"}')
    time.sleep(0.2)
    assert not any(b"offline" in m.payload for m in subscriber.of("status"))


def test_live_messages_are_let_go_and_events_wait_while_the_broker_is_away(
    broker: Broker, subscriber: Subscriber
) -> None:
    with linked(broker, spool=5) as link:
        subscriber.close()
        broker.stop()
        assert wait_for(lambda: not link.connected)
        for number in range(8):
            link.event(b"%d" % number)
            assert not link.live("detection", b"x")
        assert link.unsent == 8
        assert (link.spooled, link.lost_events) == (5, 3)
        broker.start()
        again = Subscriber(broker)
        assert wait_for(lambda: link.connected)

        def all_there() -> bool:
            link.flush()
            return {m.payload for m in again.of("event")} >= {b"3", b"4", b"5", b"6", b"7"} and not link.spooled

        assert wait_for(all_there)
        assert not again.of("detection")
        assert link.connects == 2
        again.close()


def test_a_broker_that_hangs_costs_no_memory_and_is_left(broker: Broker) -> None:
    with linked(broker) as link:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            payload = b"x" * 900
            sent = sum(link.live("state", payload, qos=1) for _ in range(5000))
            assert sent <= 40
            assert link.unsent >= 4900
            assert wait_for(lambda: not link.connected, 10)
            assert time.monotonic() - begin < 9
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert wait_for(lambda: link.connected)


def test_commands_are_answered_with_their_correlation_data(broker: Broker) -> None:
    with linked(broker):
        asker = broker.client()
        answers: list[Any] = []
        asker.on_message = lambda _, __, message: answers.append(message)
        asker.connect(broker.host, broker.port)
        asker.loop_start()
        asker.subscribe("answers/1", 1)
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = "answers/1", b"42"
        time.sleep(0.2)
        asker.publish("foldsight/v1/a/cmd/ping", b"hi", 1, properties=properties)
        assert wait_for(lambda: bool(answers))
        assert answers[0].properties.CorrelationData == b"42"
        assert json.loads(answers[0].payload) == {"command": "ping", "got": "hi"}
        asker.disconnect()
        asker.loop_stop()


@pytest.mark.parametrize("topic", ["foldsight/v1/a/detection", "foldsight/v1/b/reply/1", "foldsight/v1/a/reply/#"])
def test_nobody_has_the_daemon_speak_in_its_own_name(broker: Broker, topic: str) -> None:
    with linked(broker) as link:
        asker = broker.client()
        heard: list[str] = []
        asker.on_message = lambda _, __, message: heard.append(message.topic)
        asker.connect(broker.host, broker.port)
        asker.loop_start()
        asker.subscribe([("foldsight/v1/a/detection", 1), ("foldsight/v1/+/reply/#", 1)])
        time.sleep(0.2)
        for response in (topic, "foldsight/v1/a/reply/2"):
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = response
            asker.publish("foldsight/v1/a/cmd/ping", b"hi", 1, properties=properties)
        assert wait_for(lambda: bool(heard))
        assert heard == ["foldsight/v1/a/reply/2"]
        assert link.connects == 1
        asker.disconnect()
        asker.loop_stop()


def test_a_flood_of_commands_turns_them_off_for_a_while(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge.mqtt._COMMANDS", 20.0)
    monkeypatch.setattr("edge.mqtt._COMMANDS_A_SECOND", 0.001)
    monkeypatch.setattr("edge.mqtt._DEAF_S", 1.0)
    with linked(broker) as link:
        asker = broker.client()
        heard: list[bytes] = []
        asker.on_message = lambda _, __, message: heard.append(message.payload)
        asker.connect(broker.host, broker.port)
        asker.loop_start()
        asker.subscribe("answers/1", 1)
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "answers/1"
        time.sleep(0.2)
        for _ in range(500):
            asker.publish("foldsight/v1/a/cmd/ping", b"hi", 0, properties=properties)
        assert wait_for(lambda: "none is taken for 1 s" in caplog.text)
        time.sleep(0.5)
        assert len(heard) == 20
        link.flush()
        assert link.live("detection", b"x")
        time.sleep(0.8)
        link.flush()  # the daemon does so all the time
        time.sleep(0.2)
        asker.publish("foldsight/v1/a/cmd/ping", b"again", 1, properties=properties)
        assert wait_for(lambda: len(heard) == 21)
        assert link.connects == 1
        assert caplog.text.count("none is taken") == 1
        asker.disconnect()
        asker.loop_stop()


def test_a_broker_that_is_absent_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    link = make_link(1)
    link.start()
    time.sleep(1.2)
    assert not link.live("detection", b"x")
    link.stop()
    told = [r for r in caplog.records if "127.0.0.1:1" in r.getMessage()]
    assert len(told) == 1
    assert "trying again" in told[0].getMessage()


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    link = make_link(1, ca_file=tmp_path / "ca.crt")
    link.start()
    assert wait_for(lambda: link._last_fault)
    time.sleep(0.3)
    assert link._thread.is_alive()
    link.stop()


def test_a_broker_that_refuses_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from edge.broker import Broker  # noqa: PLC0415  with settings of its own

    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    accounts = tmp_path / "accounts"
    accounts.write_text("")
    with Broker() as broker:
        broker.stop()
        broker._settings = ("allow_anonymous false", f"password_file {accounts}")
        with pytest.raises(Exception, match="does not answer"):
            broker._wait_until_it_answers()
        link = make_link(broker.port, username="me", password_file=secret)
        link.start()
        time.sleep(0.5)
        link.stop()
    assert any("trying again" in r.getMessage() for r in caplog.records)
