"""A daemon that faults are done to: scripted camera, real link, real broker, and a listener outside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import paho.mqtt.client as paho
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from worlds import World

import edge.config
import edge.daemon
from edge.broker import Broker
from edge.capture import SourceInfo
from edge.config import Config
from edge.errors import FoldsightError, SourceError
from edge.frames import Frame, now_ns

FPS = 30
MAX_AGE_S = 0.5
SLACK_S = 0.25  # a shared machine's own delays
HOUR_NS = 3_600_000_000_000

Image = NDArray[np.uint8]


def pictures(color: tuple[int, int, int], count: int = 45) -> list[Image]:
    """Pictures of 240 x 320, all different, sharp enough to be judged."""
    rng = np.random.default_rng(sum(color))
    coarse = [rng.normal(color, 25, (12, 16, 3)).clip(0, 255).astype(np.uint8) for _ in range(count)]
    return [np.asarray(cv2.resize(c, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8) for c in coarse]


class Camera:
    """A source that does what it is told.

    Attributes:
        red: whether it shows what the model calls folds.
        spoil: what happens to each frame.
        gone: whether it fails, in the middle of a frame and at opening.
        hung: cleared, reading blocks.
        taken: when each frame was really taken, monotonic seconds, by its number.
    """

    def __init__(self) -> None:
        self._pictures = {True: pictures((60, 60, 200)), False: pictures((140, 140, 60))}
        self.red = True
        self.spoil: Callable[[Frame], Frame] | None = None
        self.gone = False
        self.hung = threading.Event()
        self.hung.set()
        self.taken: dict[int, float] = {}
        self._seq = 0
        self._next = 0.0

    def open(self) -> SourceInfo:
        """As a driver does, or does not."""
        if self.gone:
            raise SourceError("/dev/video0 is not there: plug the camera in")
        return SourceInfo("scripted", "scripted", 320, 240, FPS, "BGR3")

    def read(self) -> Frame:
        """The next frame at its tick."""
        self._next = max(self._next + 1 / FPS, time.monotonic())
        half = (self._next - time.monotonic()) / 2
        time.sleep(max(0.0, half))
        if self.gone:
            raise SourceError("/dev/video0 stopped delivering: the camera was unplugged in the middle of a frame")
        self.hung.wait()
        time.sleep(max(0.0, self._next - time.monotonic()))
        now = now_ns()
        self.taken[self._seq] = now / 1e9
        ring = self._pictures[self.red]
        frame = Frame(ring[self._seq % len(ring)], self._seq, now, "driver", now, time.time())
        self._seq += 1
        return frame if self.spoil is None else self.spoil(frame)

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it arrived."""

    at: float
    topic: str
    body: dict[str, Any]
    retained: bool = False


class Listener:
    """A consumer with a session that outlives a broken connection, as an archive of events has."""

    def __init__(self, broker: Broker, where: tuple[str, int]) -> None:
        self._broker, self._where, self.since = broker, where, 0.0
        self.heard: list[Heard] = []
        self.events: set[tuple[int, int]] = set()
        self._client: paho.Client | None = None
        self.connect(first=True)

    def connect(self, *, first: bool = False) -> None:
        """Connect, or connect anew to the same session."""
        self.close()
        subscribed = threading.Event()
        client = self._broker.client("listener")
        client.on_connect = lambda c, *_: c.subscribe("foldsight/v1/#", 1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = self._hear
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600
        # Not `True`: paho would begin each of its own reconnections with an empty session.
        begins = paho.MQTT_CLEAN_START_FIRST_ONLY if first else False
        client.connect(*self._where, keepalive=5, clean_start=begins, properties=properties)
        client.loop_start()
        client.reconnect_delay_set(1, 1)
        self._client = client
        assert subscribed.wait(10), "the broker does not answer the listener"
        self.since = time.monotonic()

    def _hear(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        topic, body = message.topic.rpartition("/")[2], json.loads(message.payload or b"{}")
        if topic == "event":
            self.events.add((body["session"], body["id"]))
        self.heard.append(Heard(time.monotonic(), topic, body, bool(message.retain)))

    def close(self) -> None:
        """Disconnect; the session stays."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def first(self, condition: Callable[[Heard], bool], after: float, within: float) -> Heard | None:
        """The first message that arrived after a moment and meets a condition, waiting for it."""
        deadline = time.monotonic() + within
        while True:
            found = next((h for h in list(self.heard) if h.at >= after and condition(h)), None)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


class Rig:
    """Broker, listener, scripted camera, and the daemon between them."""

    def __init__(self, bundle: Path, world: World) -> None:
        self.world, self.broker, self.camera = world, world.broker, Camera()
        self.listener = Listener(world.broker, world.phone)
        self._bundle = bundle
        self.installed: Path | None = None
        """A bundle in the daemon's store, which the settings then do not name."""
        self.other: paho.Client | None = None
        self.failure: FoldsightError | None = None
        self.ended = threading.Event()
        self.start()

    def start(self) -> None:
        """A new daemon, as systemd would start it."""
        config = Config.model_validate(
            {
                "device": "adapter-1",
                "state_dir": self.world.state,
                "capture": {"source": "phantom", "fps": FPS},  # a name by which the daemon knows that it is a camera
                "model": {} if self.installed else {"bundle": self._bundle},
                "latency": {"max_age_ms": 1000 * MAX_AGE_S},
                "mqtt": {"keepalive_s": 2, **self.world.mqtt},
                **self.world.settings,
            }
        )
        with (
            mock.patch.object(edge.daemon, "choose_source", return_value=self.camera),
            mock.patch.object(edge.config, "COMMITTED_BUNDLE", self._bundle),
        ):
            self.daemon = edge.daemon.Daemon(config)
        self.failure = None
        self.ended.clear()
        self._thread = threading.Thread(target=self._run, args=(self.daemon,), daemon=True)
        self._thread.start()

    def _run(self, daemon: edge.daemon.Daemon) -> None:
        try:
            daemon.run()
        except FoldsightError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001  the row says it
            self.failure = FoldsightError(f"{type(error).__name__}: {error}")
        finally:
            self.ended.set()

    def stop(self) -> None:
        """End the daemon, and wait."""
        self.daemon.stop()
        self._thread.join(10)

    def close(self) -> None:
        """End all of it."""
        if self.other is not None:
            self.other.loop_stop()
        self.camera.hung.set()
        self.stop()
        self.listener.close()
