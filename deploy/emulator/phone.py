# ruff: noqa: INP001
"""A phone beside the emulated adapter: it pairs as phones do, and writes down what it is told and when.

What it makes of that are pure functions: what a person would have seen, and whether any of it was stale.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions
from prepared import SetupError

from edge.pairing.certificates import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST = "localhost"  # a name that the adapter's certificates are for
SILENT_S = 1.0  # a page that has heard nothing fresh for so long shows nothing as live (docs/integrator.md)
_CLAIMS = ("detection", "state")
_SPEAKS_NOT_OF_FRAMES = ("no_signal",)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it arrived.

    Attributes:
        at: seconds on this machine's monotonic clock.
        topic: its last level.
        retained: whether the broker had kept it from before.
        body: its JSON.
    """

    at: float
    topic: str
    retained: bool
    body: dict[str, Any]

    @property
    def fresh(self) -> bool:
        """Whether a page could show something as live because of it."""
        return self.topic in _CLAIMS and not self.retained

    @property
    def claims(self) -> bool:
        """Whether it says what a frame shows, and so could be stale."""
        return self.fresh and self.body.get("state") not in _SPEAKS_NOT_OF_FRAMES

    @property
    def session(self) -> int:
        """Of the daemon."""
        return int(self.body.get("session", 0))


@dataclass(frozen=True, slots=True)
class Sign:
    """What first tells a person that something is wrong, and how long after its begin."""

    seconds: float
    what: str


def noticed(heard: Sequence[Heard], begin: float, until: float) -> Sign | None:
    """The first sign of a fault between two moments; None where nothing showed.

    That is a status other than `online`, the state `no_signal`, or a silence in which a page shows nothing as live.
    """
    signs = []
    told = (h for h in heard if begin < h.at <= until and not h.retained)
    for message in told:
        state = message.body.get("state")
        if (message.topic == "status" and state != "online") or (message.topic == "state" and state == "no_signal"):
            signs.append((message.at, str(state)))
            break
    fresh = [h.at for h in heard if h.fresh and h.at <= until]
    last = max((at for at in fresh if at <= begin), default=begin)
    for at in (*(at for at in fresh if at > begin), until):
        if at - last > SILENT_S:
            signs.append((max(begin, last + SILENT_S), "silence"))
            break
        last = at
    if not signs:
        return None
    at, what = min(signs)
    return Sign(round(at - begin, 2), what)


def stale(heard: Sequence[Heard], begin: float, end: float, session: int, age_s: float) -> list[Heard]:
    """What spoke of frames that could not be current any more.

    Args:
        heard: all that came.
        begin: when frames ended.
        end: when they could come again.
        session: of the daemon at `begin`.
        age_s: how old a frame may be when it is published; a second more is what a page allows on the way.

    Returns:
        Claims that came between, claims of an earlier session than one already heard, and claims of too high an age.
    """
    newest, found = session, []
    for message in heard:
        if message.at <= begin or not message.claims:
            continue
        between = begin + age_s + SILENT_S < message.at < end
        late = (message.body.get("age_ms") or 0) > 1000 * age_s
        if between or late or message.session < newest:
            found.append(message)
        newest = max(newest, message.session)
    return found


@dataclass
class Phone:
    """Subscribes through the forwarded ports, and connects again by itself whenever it is cut off.

    Attributes:
        heard: everything, in order.
    """

    device: str
    https_port: int
    mqtt_port: int
    heard: list[Heard] = field(default_factory=list)
    _client: paho.Client | None = None
    _more: threading.Condition = field(default_factory=threading.Condition)

    def pair(self, address: str) -> None:
        """Do what a phone does that has read the code.

        Args:
            address: what the code holds: the page's URL, with token and the authority's fingerprint behind `#`.

        Raises:
            SetupError: the authority is another one, or the adapter refuses.
        """
        wanted = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).fragment))
        page = f"https://{HOST}:{self.https_port}"
        try:
            unknown = ssl._create_unverified_context()  # noqa: S323, SLF001  as a browser, once; the fingerprint decides
            with urllib.request.urlopen(f"{page}/ca.crt", timeout=60, context=unknown) as answer:  # noqa: S310
                authority = answer.read()
            if fingerprint(authority) != wanted["ca"]:
                raise SetupError("the adapter's certificate is not the one whose fingerprint the code holds")
            trusted = ssl.create_default_context(cadata=authority.decode())
            request = urllib.request.Request(  # noqa: S310  the URL is made above
                f"{page}/api/pair",
                json.dumps({"token": wanted["pair"], "name": "rehearsal"}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:  # noqa: S310
                account = json.load(answer)
        except (OSError, KeyError, ValueError) as error:
            said = error.read().decode(errors="replace")[:200] if isinstance(error, urllib.error.HTTPError) else error
            raise SetupError(f"the phone could not be paired with the emulated adapter: {said}") from error
        self._connect(account["username"], account["password"], trusted)

    def _connect(self, username: str, password: str, trusted: ssl.SSLContext) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=username, protocol=paho.MQTTv5)
        client.username_pw_set(username, password)
        client.tls_set_context(trusted)
        client.reconnect_delay_set(1, 2)
        topic = f"foldsight/v1/{self.device}/#"
        client.on_connect = lambda c, *_: c.subscribe(topic, options=SubscribeOptions(qos=1, retainAsPublished=False))
        client.on_message = lambda _c, _d, message: self._take(message)
        client.connect_async(HOST, self.mqtt_port, keepalive=15)
        client.loop_start()
        self._client = client

    def _take(self, message: paho.MQTTMessage) -> None:
        try:
            body = json.loads(message.payload)
        except ValueError:
            return  # the retained message was taken away, or a picture
        with self._more:
            self.heard.append(Heard(time.monotonic(), message.topic.rpartition("/")[2], message.retain, body))
            self._more.notify_all()

    def first(self, condition: Callable[[Heard], bool], after: float, within_s: float) -> Heard | None:
        """The first message that came after a moment and meets a condition, waiting for it."""
        deadline = time.monotonic() + within_s
        with self._more:
            while True:
                found = next((h for h in self.heard if h.at > after and condition(h)), None)
                left = deadline - time.monotonic()
                if found is not None or left <= 0:
                    return found
                self._more.wait(left)

    def live(self, after: float, within_s: float, session: int = 0) -> Heard | None:
        """The first detection after a moment, of a session no older than one."""
        return self.first(lambda h: h.topic == "detection" and h.claims and h.session >= session, after, within_s)

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
