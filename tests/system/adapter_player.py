"""A played adapter for the tests of the page, message by message, and the truth about the phantom that it may show."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.capture.phantom import Phantom
from edge.preview import Encoder, messages

if TYPE_CHECKING:
    import paho.mqtt.client as paho
    from numpy.typing import NDArray
    from typing_extensions import Self

    from edge.broker import Broker

DEVICE = "adapter-1"


@dataclass(frozen=True)
class Seen:
    """One frame of the phantom and what is really to be seen in it."""

    image: NDArray[np.uint8]
    jpeg: bytes
    aperture: list[float] | None
    regions: list[dict[str, Any]]


class Oracle:
    """A few moments of the phantom while the folds are in view, rendered beforehand.

    Args:
        begin_s: of the phantom's script, seconds.
        frames: how many, a fifth of a second apart; they are shown forwards and backwards in turn.
        width: of the frames, pixels.
        height: of the frames, pixels.
        detail: of the phantom.
    """

    def __init__(
        self, begin_s: float = 18.0, frames: int = 3, *, width: int = 480, height: int = 360, detail: int = 400
    ) -> None:
        phantom = Phantom(width=width, height=height, seed=3, detail=detail)
        encode = Encoder(width=480, max_bytes=40_000)
        seen = [self._judge(phantom, encode, begin_s + index / 5) for index in range(frames)]
        self._ring = [*seen, *seen[-2:0:-1]]

    def hold(self, *seen: Seen) -> None:
        """From now on show these alone."""
        self._ring = list(seen)

    def at(self, seq: int) -> Seen:
        return self._ring[seq % len(self._ring)]

    @staticmethod
    def _judge(phantom: Phantom, encode: Encoder, at_s: float) -> Seen:
        image, truth = phantom.render(at_s)
        assert truth is not None
        height, width = image.shape[:2]
        aperture = None
        if truth.aperture is not None:
            x, y, radius = truth.aperture
            aperture = [(x - radius) / width, (y - radius) / height, 2 * radius / width, 2 * radius / height]
        regions = []
        for label, mask in (("folds", truth.folds), ("glottis", truth.glottis)):
            if mask.any():
                left, top, wide, high = cv2.boundingRect(mask.astype(np.uint8))
                rows, columns = np.nonzero(mask)
                regions.append(
                    {
                        "label": label,
                        "box": [left / width, top / height, wide / width, high / height],
                        "centre": [float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height],
                        "area": float(mask.mean()),
                        "score": 0.9,
                    }
                )
        return Seen(image, encode(image), aperture, regions)


class Device:
    """An adapter as the broker sees it: it says what it is told to, at 30 frames a second.

    With an `oracle` it shows the phantom, and says of each frame what is really to be seen in it.
    """

    def __init__(
        self, broker: Broker, session: int = 1, oracle: Oracle | None = None, client: paho.Client | None = None
    ) -> None:
        """Connect and begin.

        Args:
            broker: where.
            session: number of this start.
            oracle: what it shows; None: no pictures, no places.
            client: with an account, where the broker wants one.
        """
        self.broker = broker
        self.session = session
        self.topic = f"foldsight/v1/{DEVICE}"
        self.showing: dict[str, Any] | None = None
        self.last_sent = 0.0
        self.oracle = oracle
        self.pictures = oracle is not None
        """Whether previews are sent."""
        self.seen: list[int] = []
        """Previews that a page acknowledged."""
        self._seq = 0
        self._since = time.monotonic()
        self._ended = threading.Event()
        self._client = client or broker.client(f"device-{session}")
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{self.topic}/cmd/+")
        self._client.on_message = self._hear
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: dict[str, Any], *, retain: bool = False, expiry: int | None = None) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        envelope = {"schema": 1, "device": DEVICE, "session": self.session, "a_key_of_tomorrow": [1]}
        body = json.dumps({**envelope, **payload})
        self._client.publish(f"{self.topic}/{topic}", body, qos=int(retain), retain=retain, properties=properties)

    def status(self, state: str, *reasons: str, session: int | None = None) -> None:
        more = {} if session is None else {"session": session}
        self.publish("status", {"state": state, "reasons": list(reasons), "at": time.time(), **more}, retain=True)

    def birth(self) -> None:
        model = {"name": "larynx", "version": "0.1.0", "sha256": "0" * 64, "precision": "int8"}
        labels = {"labels": ["no_folds", "folds"], "finding": "folds"}
        self.publish("birth", {"at": time.time(), "software": "0.1.0", "model": model, **labels}, retain=True)

    def show(self, state: str, score: float = 0.5, *reasons: str, since_ms: float = 0.0) -> None:
        """From now on, say this with every frame."""
        self._since = time.monotonic() - since_ms / 1000
        self.showing = {"state": state, "score": score, "reasons": list(reasons), "regions": []}
        self.heartbeat()

    def hush(self) -> None:
        """Say nothing any more, as a daemon that hangs."""
        self.showing = None
        time.sleep(0.05)

    def heartbeat(self) -> None:
        if self.showing is None:
            return
        age = None if self.showing["state"] == "no_signal" else 14.0
        since = (time.monotonic() - self._since) * 1000
        self.publish(
            "state",
            {
                "seq": self._seq,
                "since_ms": since,
                "age_ms": age,
                "sent_ms": time.monotonic() * 1000,
                **{key: value for key, value in self.showing.items() if key != "regions"},
            },
            retain=True,
            expiry=5,
        )
        self.last_sent = time.time()

    def frame(self, **more: Any) -> None:
        showing = self.showing
        if showing is None or showing["state"] == "no_signal":
            return
        self._seq += 1
        score = showing["score"]
        frame = {
            "seq": self._seq,
            "captured_at": time.time() - 0.012,
            "clock_synced": False,
            "age_ms": 12.0,
            "sent_ms": time.monotonic() * 1000,
            "label": "folds" if score > 0.5 else "no_folds",
            "score": score,
            "scores": {"folds": score, "no_folds": 1 - score},
            "state": showing["state"],
            "quality": {"reasons": showing["reasons"]},
            "regions": showing["regions"],
            "model": {"name": "larynx", "version": "0.1.0"},
        }
        if self.oracle is not None:
            view = self.oracle.at(self._seq)
            frame["quality"]["aperture"] = view.aperture
            if showing["state"] == "folds":
                frame["regions"] = view.regions
        self.publish("detection", {**frame, **more}, expiry=1)
        if self.oracle is not None and self.pictures and self._seq % 3 == 0:
            self.preview(self._seq, self.oracle.at(self._seq).jpeg)
        self.last_sent = time.time()

    def preview(self, seq: int, jpeg: bytes) -> None:
        for topic, payload, user in messages(jpeg, seq=seq, session=self.session):
            properties = Properties(PacketTypes.PUBLISH)
            properties.ContentType = "image/jpeg"
            properties.MessageExpiryInterval = 1
            properties.UserProperty = user
            self._client.publish(f"{self.topic}/{topic}", payload, properties=properties)

    def health(self, **more: Any) -> None:
        """What the daemon says every five seconds, as far as the page looks at it."""
        source = {"width": 640, "height": 480}
        values = {"frames": 0, "dropped": {"replaced": 0, "too_old": 0}, "temperature_c": 51.0, "throttled": [], **more}
        self.publish("health", {"at": time.time(), "source": source, **values})

    def _hear(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        name = message.topic.rpartition("/")[2]
        if name == "preview-seen":
            self.seen.append(json.loads(message.payload)["seq"])
        elif name == "ping" and message.properties is not None:
            answer = Properties(PacketTypes.PUBLISH)
            answer.CorrelationData = message.properties.CorrelationData
            client.publish(message.properties.ResponseTopic, b"{}", properties=answer)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        self.birth()
        self.status("online")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        beat = 0
        while not self._ended.wait(1 / 30):
            self.frame()
            beat += 1
            if beat % 30 == 0:
                self.heartbeat()
