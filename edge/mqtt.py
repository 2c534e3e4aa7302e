"""The link to the broker: paho, MQTT 5.

Live messages never queue: while the broker is away or slow they are let go and counted. Events wait in a bounded spool
and are sent until acknowledged. Every connection gets a client of its own, so that nothing that a lost connection had
not sent can come out later and look new.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.messages import CONTENT_TYPE, ROOT
from edge.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge.config import Mqtt

log = logging.getLogger(__name__)

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0)
_IN_FLIGHT = 32  # live messages handed to the socket and not yet gone; more means that the broker is slow
_IN_FLIGHT_BESIDE_PICTURE = 4  # the same for a picture: results go before it
_CONNECT_TIMEOUT_S = 5.0
# Eight phones that measure the way and acknowledge ten previews a second stay below this. Whoever asks for more has all
# commands turned off for a while: reading them alone would make frames older.
_COMMANDS, _COMMANDS_A_SECOND, _DEAF_S = 200.0, 120.0, 5.0
_ANSWER_TIMEOUT_S = 5.0
TAKEN_OVER = "taken over"
"""In the reason of a disconnect, where the broker gives one: another client came with the same name."""


class Link:
    """The daemon's side of the broker.

    Attributes:
        client_id: the name by which the broker knows this side; of two with the same name it drops the first.
        unsent: live messages that were let go.
    """

    def __init__(
        self,
        settings: Mqtt,
        *,
        device: str,
        session: int,
        will: bytes,
        hello: Callable[[], list[tuple[str, bytes]]],
        command: Callable[[str, bytes], bytes],
        changed: Callable[[bool, str], None] = lambda connected, why: None,  # noqa: ARG005
        spool: Path | None = None,
    ) -> None:
        """Connect nothing yet.

        Args:
            settings: the broker.
            device: the adapter's name in topics.
            session: number of this start, part of the client id.
            will: the status that the broker speaks when this side dies.
            hello: retained (topic, payload) to publish on every connect.
            command: called with a command's name and payload on the network's thread, gives the reply's payload.
            changed: called with (connected, reason) when the connection comes or goes.
            spool: the file in which events outlive this process; None: they wait in memory.
        """
        self._settings, self._session = settings, session
        self.prefix = f"{ROOT}/{device}/"
        self.client_id = f"foldsight-{device}"
        self._will, self._hello, self._command, self._changed = will, hello, command, changed
        self._stop = threading.Event()
        self._down = threading.Event()
        self._lock = threading.Lock()
        self._client: paho.Client | None = None
        self._spool = Spool(settings.spool, spool)
        # Recent ones only: numbers come round again after 65,535, and live messages use them too.
        self._acknowledged: deque[int] = deque(maxlen=1024)
        self._sent = self._gone = 0
        self._commands_left, self._commands_at, self._deaf_until = _COMMANDS, time.monotonic(), 0.0
        self.unsent = self.connects = 0
        self._last_fault = ""
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this client."""
        return self._client is not None

    @property
    def spooled(self) -> int:
        """Events that wait for the broker's acknowledgement."""
        return len(self._spool)

    @property
    def lost_events(self) -> int:
        """Events that fell out of the full spool."""
        return self._spool.lost

    def start(self) -> None:
        """Connect, and stay connected until stopped."""
        self._spool.start()
        self._thread.start()

    def stop(self, farewell: bytes | None = None, timeout_s: float = 2.0) -> None:
        """Say the last status, wait for its acknowledgement, disconnect."""
        client = self._client
        if client is not None and farewell is not None:
            message = self._publish(client, "status", farewell, 1, True, _fixed())
            try:
                message.wait_for_publish(timeout_s)
            except (RuntimeError, ValueError) as error:
                log.debug("no farewell: %s", error)
        self._stop.set()
        self._down.set()
        self._thread.join(timeout_s + 1)
        self._spool.stop()

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        """Publish something that is only of use now; False where it was let go."""
        client = self._client
        if client is None or self._sent - self._gone >= _IN_FLIGHT:
            self.unsent += 1
            return False
        self._publish(client, topic, payload, qos, retain, _fixed(expiry_s))
        return True

    def picture(self, messages: list[tuple[str, bytes, list[tuple[str, str]]]], *, content_type: str) -> bool:
        """Publish a picture, but only while nothing else waits for the network; False where it was let go.

        Args:
            messages: topic, payload and user properties of each message that it is made of.
            content_type: of all of them.
        """
        client = self._client
        if client is None or self._sent - self._gone >= _IN_FLIGHT_BESIDE_PICTURE:
            return False
        for topic, payload, user in messages:
            properties = _properties(expiry_s=1, content_type=content_type)
            properties.UserProperty = user
            self._publish(client, topic, payload, 0, False, properties)
        return True

    def event(self, payload: bytes) -> None:
        """Publish an event, now or when the broker is back."""
        self._spool.add(payload)
        self.flush()

    def flush(self) -> None:
        """Send what waits in the spool and forget what was acknowledged. Call it now and then."""
        with self._lock:
            client = self._client
            self._spool.settle(self._acknowledged)
            if client is None:
                return
            if 0 < self._deaf_until < time.monotonic():
                self._listen(client)
            for waiting in self._spool.waiting():
                if waiting.mid is None:
                    waiting.mid = self._publish(client, "event", waiting.payload, 1, False, _fixed()).mid

    def _publish(
        self, client: paho.Client, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties
    ) -> paho.MQTTMessageInfo:
        self._sent += 1
        return client.publish(self.prefix + topic, payload, qos, retain, properties)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._down.clear()
            accepted = threading.Event()
            client: paho.Client | None = None
            try:
                client = self._make(accepted)
                client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, clean_start=True)
                client.loop_start()
                if accepted.wait(_ANSWER_TIMEOUT_S) and not self._down.is_set():
                    failures = 0
                    self._down.wait()
                elif not self._down.is_set():
                    self._fault("it accepts connections but does not answer")
            except (OSError, ValueError) as error:
                self._fault(getattr(error, "strerror", None) or str(error))
            finally:
                if client is not None:
                    self._drop(client)
            if not self._stop.is_set():
                self._stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    def _drop(self, client: paho.Client) -> None:
        was = self._client is client
        with self._lock:
            self._client = None
            self._spool.connected(False)
            self._acknowledged.clear()
            self._sent = self._gone = 0
        client.disconnect()
        client.loop_stop()
        if was:
            self._changed(False, self._last_fault or "disconnected")

    def _make(self, accepted: threading.Event) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self.client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.will_set(self.prefix + "status", self._will, 1, retain=True, properties=_properties(will=True))
        if settings.ca_file is not None:
            client.tls_set(str(settings.ca_file))
        if settings.username is not None:
            client.username_pw_set(settings.username, self._password())

        def on_connect(_: paho.Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if reason.is_failure:
                self._fault(f"it refuses this client: {reason}")
                self._down.set()
                return
            self._listen(client)
            for topic, payload in self._hello():
                self._publish(client, topic, payload, 1, True, _fixed())
            self.connects += 1
            self._last_fault = ""
            self._spool.connected(True)
            self._client = client
            accepted.set()
            self._changed(True, "")

        def on_disconnect(_: paho.Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if not self._stop.is_set():
                self._fault(f"the connection ended: {reason}")
            self._down.set()

        def on_publish(_: paho.Client, __: Any, mid: int, ___: Any, ____: Any) -> None:
            # No lock here: paho holds its own while it calls, and takes it again in publish().
            self._gone += 1
            self._acknowledged.append(mid)

        def on_message(_: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
            self._answer(client, message)

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_publish, client.on_message = on_publish, on_message
        return client

    def _listen(self, client: paho.Client) -> None:
        self._commands_left, self._deaf_until = _COMMANDS, 0.0
        client.subscribe(self.prefix + "cmd/+", 1)

    def _is_flood(self, client: paho.Client) -> bool:
        now = time.monotonic()
        earned = (now - self._commands_at) * _COMMANDS_A_SECOND
        self._commands_left, self._commands_at = min(_COMMANDS, self._commands_left + earned), now
        if self._deaf_until:
            return True  # what was on its way
        if self._commands_left >= 1:
            self._commands_left -= 1
            return False
        log.warning("more than %d commands a second: none is taken for %.0f s", _COMMANDS_A_SECOND, _DEAF_S)
        self._deaf_until = now + _DEAF_S
        client.unsubscribe(self.prefix + "cmd/+")
        return True

    def _answer(self, client: paho.Client, message: paho.MQTTMessage) -> None:
        if self._is_flood(client):
            return
        properties = message.properties
        topic = getattr(properties, "ResponseTopic", None)
        reply = self._command(message.topic.rpartition("/")[2], bytes(message.payload))
        if topic is None or not self._may_answer_on(topic):
            return
        answer = _properties(expiry_s=10)
        if (correlation := getattr(properties, "CorrelationData", None)) is not None:
            answer.CorrelationData = correlation
        self._sent += 1
        client.publish(topic, reply, 1, properties=answer)

    def _may_answer_on(self, topic: str) -> bool:
        # Who may only ask must not have the daemon speak in its own name, as on `detection`, nor trip over a wildcard.
        own = topic.startswith(f"{ROOT}/") and not topic.startswith(f"{self.prefix}reply/")
        return bool(topic) and not own and not set("+#\0") & set(topic) and not topic.startswith("$")

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return None
        try:
            return path.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError) as error:
            raise ValueError(f"the password cannot be read from {path} ({error})") from error

    def _fault(self, why: str) -> None:
        if why != self._last_fault:  # the first failure is told, then silence until it changes
            log.warning("broker %s:%d: %s; trying again", self._settings.host, self._settings.port, why)
        self._last_fault = why


def _properties(expiry_s: int | None = None, *, will: bool = False, content_type: str = CONTENT_TYPE) -> Properties:
    properties = Properties(  # type: ignore[no-untyped-call]
        PacketTypes.WILLMESSAGE if will else PacketTypes.PUBLISH
    )
    properties.ContentType = content_type
    if content_type == CONTENT_TYPE:
        properties.PayloadFormatIndicator = 1
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    return properties


class _Packed(Properties):
    """Properties as bytes: paho would put them together anew for every message, at half of the whole packet's cost."""

    def __init__(self, properties: Properties) -> None:
        self.__dict__.update(vars(properties), packed=properties.pack())  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        """What goes into the packet."""
        packed: bytes = self.__dict__["packed"]
        return packed


@functools.cache
def _fixed(expiry_s: int | None = None) -> Properties:
    """The properties of a message that has none of its own."""
    return _Packed(_properties(expiry_s))
