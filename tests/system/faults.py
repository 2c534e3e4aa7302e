"""Every fault that a camera, a clock or a broker can have, done to the real daemon and seen from the broker.

`make faults` prints the table; test_faults.py asserts each row. The daemon, its link and mosquitto are real; only the
camera is scripted. It shows red pictures, which the tests' model calls folds, before and during a fault, and others
afterwards: recovered is who says the new answer, not who repeats the old one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import paho.mqtt.client as paho
from numpy.typing import NDArray
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

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


class Listener:
    """A consumer with a session that outlives a broken connection, as an archive of events has."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.heard: list[Heard] = []
        self._client: paho.Client | None = None
        self.connect(first=True)

    def connect(self, *, first: bool = False) -> None:
        """Connect, or connect anew to the same session."""
        self.close()
        subscribed = threading.Event()
        client = self._broker.client("listener")
        client.on_connect = lambda c, *_: c.subscribe("foldsight/v1/#", 1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _c, _d, m: self.heard.append(
            Heard(time.monotonic(), m.topic.rpartition("/")[2], json.loads(m.payload) if m.payload else {})
        )
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600
        client.connect(self._broker.host, self._broker.port, clean_start=first, properties=properties)
        client.loop_start()
        self._client = client
        assert subscribed.wait(10), "the broker does not answer the listener"

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

    def __init__(self, bundle: Path, folder: Path, broker: Broker) -> None:
        self.broker, self.camera, self.listener = broker, Camera(), Listener(broker)
        self._bundle, self._folder = bundle, folder
        self.failure: FoldsightError | None = None
        self.ended = threading.Event()
        self.start()

    def start(self) -> None:
        """A new daemon, as systemd would start it."""
        config = Config.model_validate(
            {
                "device": "adapter-1",
                "state_dir": self._folder,
                "capture": {"source": "phantom", "fps": FPS},  # a name by which the daemon knows that it is a camera
                "model": {"bundle": self._bundle},
                "latency": {"max_age_ms": 1000 * MAX_AGE_S},
                "mqtt": {"port": self.broker.port, "keepalive_s": 2},
            }
        )
        with mock.patch.object(edge.daemon, "choose_source", return_value=self.camera):
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

    def close(self) -> None:
        """End all of it."""
        self.camera.hung.set()
        self.daemon.stop()
        self._thread.join(10)
        self.listener.close()


@dataclass(frozen=True)
class Fault:
    """One fault, and what must come of it.

    Attributes:
        name: as the table calls it.
        begin: makes it happen.
        end: makes it go away.
        seconds: for how long it lasts.
        states: what the state may be at its end.
        reason: what the state's reasons must name.
        event: (kind, words) of an event that must be published.
        notice_s: within which the state or the event must be there; None where nothing is to be noticed.
        recover_s: within which the state must follow the camera again.
        ends: whether the daemon gives up, for systemd to start it anew.
        broker: whether it is the broker's.
    """

    name: str
    begin: Callable[[Rig], None]
    end: Callable[[Rig], None]
    seconds: float = 2.5
    states: tuple[str, ...] = ("no_signal",)
    reason: str = ""
    event: tuple[str, str] | None = None
    notice_s: float | None = None
    recover_s: float = 1.5
    ends: bool = False
    broker: bool = False


@dataclass
class Outcome:
    """A row of the table."""

    fault: str
    state: str = ""
    events: list[str] = field(default_factory=list)
    noticed_s: float | None = None
    recovered_s: float | None = None
    oldest_ms: float = 0.0
    late: int = 0
    problems: list[str] = field(default_factory=list)


def _spoil(change: Callable[[Frame], Frame] | None) -> Callable[[Rig], None]:
    def begin(rig: Rig) -> None:
        rig.camera.spoil = change

    return begin


def _heal(rig: Rig) -> None:
    rig.camera.spoil = None


def _image(change: Callable[[Image], Any]) -> Callable[[Rig], None]:
    return _spoil(lambda frame: replace(frame, image=change(frame.image)))


def _stamp(ns: int) -> Callable[[Rig], None]:
    return _spoil(lambda frame: replace(frame, exposed_ns=frame.exposed_ns + ns))


def _once(ns: int) -> Callable[[Rig], None]:
    """One frame's stamp is wrong, and no other."""

    def begin(rig: Rig) -> None:
        left = [ns]
        rig.camera.spoil = lambda f: replace(f, exposed_ns=f.exposed_ns + left.pop()) if left else f

    return begin


def _still(noise: float) -> Callable[[Rig], None]:
    """The same picture for ever, stamped anew each time.

    With noise it is a paused scope behind a frame grabber: its own sensor's grain stands still, the grabber's is new.
    """

    def begin(rig: Rig) -> None:
        rng = np.random.default_rng(1)
        kept: list[Image] = []

        def change(frame: Frame) -> Frame:
            paused = frame.image + (rng.normal(0, 3 * noise, frame.image.shape) if noise else 0)
            kept[:] = kept or [paused.clip(0, 255).astype(np.uint8)]
            grain = rng.normal(0, noise, frame.image.shape) if noise else 0
            return replace(frame, image=(kept[0] + grain).clip(0, 255).astype(np.uint8))

        rig.camera.spoil = change

    return begin


def _gone(rig: Rig) -> None:
    rig.camera.gone = True


def _back(rig: Rig) -> None:
    rig.camera.gone = False


def _back_from_zero(rig: Rig) -> None:
    """Plugged in again, its clock counts from there."""
    started = now_ns()
    rig.camera.spoil = lambda frame: replace(frame, exposed_ns=frame.exposed_ns - started)
    rig.camera.gone = False


_real_time = time.time


def _wall_clock(seconds: float) -> Callable[[Rig], None]:
    return lambda _: setattr(time, "time", lambda: _real_time() + seconds)


def _right_clock(_: Rig) -> None:
    time.time = _real_time


def _restarted(rig: Rig) -> None:
    rig.broker.start()
    rig.listener.connect()


_UNCHANGED = ("folds",)
_KEPT_OUT = (
    "folds",
    "no_signal",
    "uncertain",
)  # whether it can be converted or must be refused, it is no finding made up

FAULTS = (
    Fault("source gone mid-frame", _gone, _back, reason="source_lost", event=("source", "lost"), notice_s=0.5,
          recover_s=3.0),
    Fault("source gone, back with stamps from zero", _gone, _back_from_zero, reason="source_lost", recover_s=3.0),
    Fault("source hung", lambda rig: rig.camera.hung.clear(), lambda rig: rig.camera.hung.set(), seconds=2,
          reason="no_frames", event=("state", "no_signal"), notice_s=1.5, recover_s=2.0),
    Fault("source hung for good", lambda rig: rig.camera.hung.clear(), lambda rig: rig.camera.hung.set(),
          event=("fault", ""), notice_s=1.5, recover_s=4.0, ends=True),
    Fault("same frame for ever", _still(0), _heal, reason="frozen", event=("state", "no_signal"), notice_s=1.6),
    Fault("same frame, grabber's noise", _still(1), _heal, seconds=3.5, reason="frozen", event=("state", "no_signal"),
          notice_s=2.5),
    Fault("stamps an hour ahead", _stamp(HOUR_NS), _heal, states=_KEPT_OUT),
    Fault("stamps an hour back", _stamp(-HOUR_NS), _heal, states=_KEPT_OUT),
    Fault("stamps 0.3 s ahead", _stamp(300_000_000), _heal, states=_KEPT_OUT),
    Fault("one stamp 10 s ahead", _once(10_000_000_000), _heal, seconds=1, states=_UNCHANGED),
    Fault("one stamp 10 s back", _once(-10_000_000_000), _heal, seconds=1, states=_UNCHANGED),
    Fault("half-sized frames", _image(lambda i: cv2.resize(i, None, fx=0.5, fy=0.5)), _heal, states=_UNCHANGED),
    Fault("frames cut in half", _image(lambda i: i[: len(i) // 2]), _heal, states=_UNCHANGED),
    Fault("empty frames", _image(lambda i: i[:0]), _heal, notice_s=1.6, recover_s=3.0),
    Fault("grey frames", _image(lambda i: cv2.cvtColor(i, cv2.COLOR_BGR2GRAY)), _heal, states=_KEPT_OUT, recover_s=3.0),
    Fault("BGRA frames", _image(lambda i: cv2.cvtColor(i, cv2.COLOR_BGR2BGRA)), _heal, states=_KEPT_OUT, recover_s=3.0),
    Fault("YUYV frames", _image(lambda i: np.ascontiguousarray(i[..., :2])), _heal, states=_KEPT_OUT, recover_s=3.0),
    Fault("16-bit frames", _image(lambda i: i.astype(np.uint16) << 2), _heal, states=_KEPT_OUT, recover_s=3.0),
    Fault("wall clock an hour on", _wall_clock(3600), _right_clock, states=_UNCHANGED),
    Fault("wall clock an hour back", _wall_clock(-3600), _right_clock, states=_UNCHANGED),
    Fault("broker killed", lambda rig: rig.broker.kill(), _restarted, seconds=3, states=_UNCHANGED, recover_s=6.0,
          broker=True),
    Fault("broker paused", lambda rig: rig.broker.pause(), lambda rig: rig.broker.resume(), seconds=2.5,
          states=_UNCHANGED, recover_s=3.0, broker=True),
    Fault("broker paused for long", lambda rig: rig.broker.pause(), lambda rig: rig.broker.resume(), seconds=7,
          states=_UNCHANGED, recover_s=6.5, broker=True),
)  # fmt: skip


@contextlib.contextmanager
def _rig(bundle: Path) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as folder, Broker(persistence=True) as broker:
        rig = Rig(bundle, Path(folder), broker)
        try:
            yield rig
        finally:
            time.time = _real_time
            if broker.log and not rig.ended.is_set():
                with contextlib.suppress(OSError, FoldsightError):
                    broker.resume()
            rig.close()


def _is_state(*states: str) -> Callable[[Heard], bool]:
    return lambda heard: heard.topic == "state" and heard.body.get("state") in states


def _follows(heard: Heard) -> bool:
    """Whether a state speaks of the pictures after the fault, which are not red: no folds, or nothing of a body."""
    body = heard.body
    return heard.topic == "state" and (body["state"] == "no_folds" or "out_of_body" in body["reasons"])


def suffer(fault: Fault, bundle: Path) -> Outcome:
    """Do one fault to a fresh daemon, and say what was seen."""
    outcome = Outcome(fault.name)
    with _rig(bundle) as rig:
        listener = rig.listener
        if listener.first(_is_state("folds"), 0, 15) is None:
            outcome.problems.append("the daemon never came to see folds")
            return outcome
        time.sleep(0.7 if not fault.broker else 1.5)  # the broker writes down sessions once a second
        begin = time.monotonic()
        fault.begin(rig)
        if fault.ends:
            rig.ended.wait(20)
        else:
            time.sleep(fault.seconds)
        _look(fault, rig, begin, outcome)
        if fault.broker:
            rig.camera.red = False  # the change happens while nobody can hear of it
            time.sleep(1.0)
        end = time.monotonic()
        rig.camera.red = False
        fault.end(rig)
        if fault.ends:
            rig.start()
        found = listener.first(_follows, end, fault.recover_s + 4)
        outcome.recovered_s = None if found is None else round(found.at - end, 2)
        if fault.broker:
            time.sleep(0.5)  # what was held back comes out
        _judge(fault, rig, begin, end, outcome)
    return outcome


def _look(fault: Fault, rig: Rig, begin: float, outcome: Outcome) -> None:
    """What was published while the fault lasted."""
    heard = [h for h in list(rig.listener.heard) if h.at >= begin]
    last = next((h.body for h in reversed(list(rig.listener.heard)) if h.topic == "state"), {})
    outcome.state = " ".join([last.get("state", "none"), *last.get("reasons", [])])
    if fault.broker:
        outcome.state = rig.daemon.pipeline.state  # nobody can hear it
    outcome.events = [f"{h.body['kind']} {h.body['after'] or ''}".strip() for h in heard if h.topic == "event"]
    sign = next(
        (
            h.at
            for h in heard
            if (_is_state("no_signal")(h) and "no_signal" in fault.states)
            or (h.topic == "event" and h.body["kind"] != "state")
        ),
        None,
    )
    outcome.noticed_s = None if sign is None else round(sign - begin, 2)
    state = outcome.state.split(" ", maxsplit=1)[0]
    if state not in fault.states and not fault.ends:
        outcome.problems.append(f"the state was {outcome.state}, not {' or '.join(fault.states)}")
    if fault.reason and fault.reason not in outcome.state:
        outcome.problems.append(f"the state's reasons do not name {fault.reason}")
    if fault.notice_s is not None and (outcome.noticed_s is None or outcome.noticed_s > fault.notice_s):
        outcome.problems.append(f"it was noticed after {outcome.noticed_s} s, not within {fault.notice_s}")
    wanted = fault.event
    if wanted is not None and not any(
        h.topic == "event" and h.body["kind"] == wanted[0] and wanted[1] in (h.body["after"] or "") for h in heard
    ):
        outcome.problems.append(f"no event {' '.join(wanted).strip()}")
    if fault.ends:
        outcome.state += f", ended after {time.monotonic() - begin:.1f} s"
        if not rig.ended.is_set():
            outcome.problems.append("the daemon did not give up")
    if not fault.ends and rig.ended.is_set():
        outcome.problems.append(f"the daemon ended: {rig.failure}")


def _judge(fault: Fault, rig: Rig, begin: float, end: float, outcome: Outcome) -> None:
    """What must hold whatever the fault."""
    if outcome.recovered_s is None or outcome.recovered_s > fault.recover_s:
        outcome.problems.append(f"it recovered after {outcome.recovered_s} s, not within {fault.recover_s}")
    if not fault.ends and rig.ended.is_set() and not any("ended" in p for p in outcome.problems):
        outcome.problems.append(f"the daemon ended: {rig.failure}")
    detections = [h for h in list(rig.listener.heard) if h.topic == "detection" and h.at >= begin]
    for heard in detections:
        body = heard.body
        true_s = body["sent_ms"] / 1000 - rig.camera.taken[body["seq"]]
        outcome.oldest_ms = round(max(outcome.oldest_ms, 1000 * true_s), 1)
        said_s = body["age_ms"] / 1000
        if not -0.001 <= said_s <= MAX_AGE_S + SLACK_S or abs(said_s - true_s) > MAX_AGE_S + SLACK_S:
            outcome.problems.append(f"frame {body['seq']} was called {said_s:.3f} s old and was {true_s:.3f} s")
            break
    if outcome.oldest_ms > 1000 * (MAX_AGE_S + SLACK_S):
        outcome.problems.append(f"a frame {outcome.oldest_ms:.0f} ms old was published as current")
    outcome.late = sum(h.at - h.body["sent_ms"] / 1000 > 1 for h in detections)
    if fault.broker and outcome.late > 40:  # the link's window, and what lay in the sockets
        outcome.problems.append(f"{outcome.late} detections came out late: they were queued")
    changes = [h.body["after"] for h in list(rig.listener.heard) if h.topic == "event" and h.at >= begin]
    if fault.broker and not {"no_folds", "uncertain"} & set(changes):
        outcome.problems.append("the event of the change during the outage never came")
    if fault.states == _UNCHANGED:
        seen = {h.body["state"] for h in list(rig.listener.heard) if h.topic == "state" and begin <= h.at < end}
        if seen - {"folds"}:
            outcome.problems.append(f"the state moved to {', '.join(sorted(seen - {'folds'}))} meanwhile")


def table(outcomes: list[Outcome]) -> str:
    """The outcomes for a person."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = [("fault", "state meanwhile", "events meanwhile", "noticed s", "recovered s", "oldest ms", "late")]
    rows += [
        (
            o.fault,
            o.state,
            ", ".join(dict.fromkeys(o.events)) or "-",
            seconds(o.noticed_s),
            seconds(o.recovered_s),
            f"{o.oldest_ms:.0f}",
            str(o.late),
        )
        for o in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)  # words, then numbers
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    problems = [f"BROKEN  {o.fault}: {problem}" for o in outcomes for problem in o.problems]
    notes = (
        "oldest: the highest true age of a frame when it was published as current\n"
        "late: detections that a paused broker gave out more than a second after they were sent"
    )
    return "\n".join([*lines, "", notes, *(["", *problems] if problems else [])])


def main() -> int:
    """Print the table; 1 where a row is not as it must be."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("only", nargs="*", help="words of the faults to do (default: all)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from conftest import tiny_files, tiny_manifest  # noqa: PLC0415  the tests' own, which pytest finds by itself

    from edge.bundle import write_bundle  # noqa: PLC0415

    chosen = [f for f in FAULTS if not arguments.only or any(word in f.name for word in arguments.only)]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "redness.zip")
        write_bundle(bundle, tiny_manifest(), tiny_files())
        for fault in chosen:
            if sys.stderr.isatty():
                print(f"\r{fault.name:<40}", end="", file=sys.stderr, flush=True)
            outcomes.append(suffer(fault, bundle))
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    print(json.dumps([asdict(o) for o in outcomes]) if arguments.json else table(outcomes))
    return 1 if any(o.problems for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
