"""Every fault that camera, clock, broker, network and disk can have, done to the real daemon and seen from outside.

`make faults` prints the table; test_faults.py asserts each row. The daemon, its link and mosquitto are real; only the
camera is scripted. It shows red pictures, which the tests' model calls folds, before and during a fault, and others
afterwards: recovered is who says the new answer, not who repeats the old one. Where the fault is one of the process,
the daemon is a process of its own, started anew as systemd would (`supervised.py`).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rig import HOUR_NS, MAX_AGE_S, SLACK_S, Heard, Image, Rig
from worlds import (
    ImpossibleHereError,
    World,
    across_a_network,
    brokers_small_disk,
    empty,
    fill,
    over_tls,
    plain,
    small_disk,
)

from edge.errors import FoldsightError
from edge.frames import Frame, now_ns
from edge.store import POINTER, Store
from edge.telemetry import Telemetry


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
        broker: whether it is the broker's, so that nobody hears of the change during it.
        anew: whether the daemon is started anew at its end, and notices it only then.
        world: where the daemon lives.
        quick: whether `make test` does it too.
        most_late: results that may come out late: the link's window, and what lies in the sockets; the broker's own
            buffers too, where it is the phone that cannot be reached.
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
    anew: bool = False
    world: Callable[[Path], contextlib.AbstractContextManager[World]] = plain
    quick: bool = True
    most_late: int = 40


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
    phone: str = ""
    lost_results: int = 0
    lost_events: int = 0
    impossible: str = ""


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


def _restarted_at_once(rig: Rig) -> None:
    rig.listener.close()
    rig.broker.restart()
    rig.listener.connect()


def _disk(do: Callable[[Path], None]) -> Callable[[Rig], None]:
    def change(rig: Rig) -> None:
        assert rig.world.disk is not None
        do(rig.world.disk)

    return change


def _filled(rig: Rig) -> None:
    """No room, and a reason to write: the camera fails for a moment, which is an occasion to keep a clip."""
    _disk(fill)(rig)
    rig.daemon.pipeline.event("fault", detail="done on purpose")


def _wires(**change: Any) -> Callable[[Rig], None]:
    """Change the way between daemon and broker, or between broker and phone: near_cut=True, far_loss=0.1."""

    def do(rig: Rig) -> None:
        for key, value in change.items():
            end, _, what = key.partition("_")
            setattr(rig.world.near if end == "near" else rig.world.far, what, value)

    return do


def _board(rig: Rig, flags: str, millidegrees: str) -> None:
    folder = rig.world.state.parent / "board"
    for name, text in (
        ("sys/devices/platform/soc/soc:firmware/get_throttled", flags),
        ("sys/class/thermal/thermal_zone0/temp", millidegrees),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _hot(rig: Rig) -> None:
    """A Pi's own files, read by the daemon's own code."""
    _board(rig, "80008", "86000")
    rig.daemon._telemetry = Telemetry(rig.world.state.parent / "board")


def _cool(rig: Rig) -> None:
    _board(rig, "80000", "61000")


def _install(rig: Rig) -> None:
    """Run a bundle out of the store, as after `foldsight bundle install`."""
    store = Store(rig.world.state)
    rig.installed = store.path(store.install(rig._bundle, trial=False))
    rig.stop()
    rig.start()
    assert rig.listener.first(_is_state("folds"), time.monotonic(), 15)


def _bundle_damaged(rig: Rig) -> None:
    assert rig.installed is not None
    content = bytearray(rig.installed.read_bytes())
    content[len(content) // 2] ^= 0xFF
    rig.installed.write_bytes(content)


def _state_damaged(rig: Rig) -> None:
    for name in ("session", "spool", f"bundles/{POINTER}"):
        (rig.world.state / name).parent.mkdir(exist_ok=True)
        (rig.world.state / name).write_bytes(b"\x00\xff{" * 40)


def _anew(rig: Rig) -> None:
    """As after a power cut."""
    rig.stop()
    rig.start()


def _certificate_damaged(rig: Rig) -> None:
    path = Path(str(rig.world.mqtt["ca_file"]))
    path.with_suffix(".good").write_bytes(path.read_bytes())
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + path.read_bytes()[200:])
    _restarted_at_once(rig)


def _certificate_back(rig: Rig) -> None:
    path = Path(str(rig.world.mqtt["ca_file"]))
    path.write_bytes(path.with_suffix(".good").read_bytes())


def _same_name(rig: Rig) -> None:
    """Another adapter with this one's name, which comes again whenever it is thrown out."""
    rig.other = rig.broker.client(rig.daemon.link.client_id)
    rig.other.reconnect_delay_set(1, 1)
    rig.other.connect(rig.broker.host, rig.broker.port)
    rig.other.loop_start()


def _other_name(rig: Rig) -> None:
    assert rig.other is not None
    rig.other.disconnect()
    rig.other.loop_stop()


_UNCHANGED = ("folds",)
_KEPT_OUT = ("folds", "no_signal", "uncertain")  # it can be converted or must be refused; no finding is made up
_ANY = (*_KEPT_OUT, "no_folds", "none")

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
    Fault("broker killed", lambda rig: rig.broker.kill(), _restarted, seconds=3, states=_UNCHANGED, recover_s=5.0,
          broker=True),
    Fault("broker paused", lambda rig: rig.broker.pause(), lambda rig: rig.broker.resume(), seconds=2.5,
          states=_UNCHANGED, recover_s=3.0, broker=True),
    Fault("broker paused for long", lambda rig: rig.broker.pause(), lambda rig: rig.broker.resume(), seconds=7,
          states=_UNCHANGED, recover_s=5.0, broker=True),
    Fault("broker restarted", _restarted_at_once, lambda _: None, seconds=1.5, states=_UNCHANGED, recover_s=5.0,
          quick=False),
    Fault("broker's disk full", _disk(fill), _disk(empty), states=_UNCHANGED, world=brokers_small_disk,
          quick=False),
    Fault("network to the broker cut", _wires(near_cut=True), _wires(near_cut=False), seconds=4, states=_UNCHANGED,
          recover_s=5.0, broker=True, world=across_a_network),
    Fault("network to the phone cut", _wires(far_cut=True), _wires(far_cut=False), seconds=4, states=_UNCHANGED,
          recover_s=5.0, broker=True, world=across_a_network, quick=False, most_late=1000),
    Fault("network: 10 % loss, 100 ms delay", _wires(near_loss=0.1, near_delay_s=0.1, far_loss=0.1, far_delay_s=0.1),
          _wires(near_loss=0.0, near_delay_s=0.0, far_loss=0.0, far_delay_s=0.0), seconds=6, states=_UNCHANGED,
          recover_s=5.0, world=across_a_network, quick=False),
    Fault("adapter's disk full", _filled, _disk(empty), states=_UNCHANGED, event=("recording", "failing"), notice_s=2.5,
          world=small_disk),
    Fault("too hot, throttled", _hot, _cool, seconds=6, states=_UNCHANGED, event=("ladder", ""), notice_s=4.0,
          quick=False),
    Fault("installed bundle damaged", _bundle_damaged, _anew, seconds=0.5, states=_UNCHANGED, event=("model", ""),
          recover_s=5.0, anew=True),
    Fault("state files damaged", _state_damaged, _anew, seconds=0.5, states=_UNCHANGED, recover_s=5.0, anew=True),
    Fault("certificate damaged", _certificate_damaged, _certificate_back, states=_UNCHANGED, recover_s=5.0, broker=True,
          world=over_tls, quick=False),
    Fault("a second client of the same name", _same_name, _other_name, seconds=5, states=_ANY, event=("fault", ""),
          notice_s=5.0, recover_s=5.0, quick=False),
)  # fmt: skip


@contextlib.contextmanager
def _rig(fault: Fault, bundle: Path) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, fault.world(Path(folder)) as world:
        rig = Rig(bundle, world)
        try:
            yield rig
        finally:
            time.time = _real_time
            if world.broker.log and not rig.ended.is_set():
                with contextlib.suppress(OSError, FoldsightError):
                    world.broker.resume()
            rig.close()


def _is_state(*states: str) -> Callable[[Heard], bool]:
    return lambda heard: heard.topic == "state" and heard.body.get("state") in states


def _follows(heard: Heard) -> bool:
    """Whether a state speaks of the pictures after the fault, which are not red: no folds, or nothing of a body."""
    body = heard.body
    told = heard.topic == "state" and (body["state"] == "no_folds" or "out_of_body" in body["reasons"])
    return told and not heard.retained and not is_late(heard)


def is_late(heard: Heard) -> bool:
    """Whether a result was on its way for longer than a second: a phone does not take it for live."""
    return heard.at - heard.body["sent_ms"] / 1000 > 1


def suffer(fault: Fault, bundle: Path) -> Outcome:
    """Do one fault to a fresh daemon, and say what was seen."""
    outcome = Outcome(fault.name)
    try:
        with _rig(fault, bundle) as rig:
            _suffer(fault, rig, outcome)
    except ImpossibleHereError as error:
        outcome.impossible = str(error)
    return outcome


def _suffer(fault: Fault, rig: Rig, outcome: Outcome) -> None:
    listener = rig.listener
    if listener.first(_is_state("folds"), 0, 15) is None:
        outcome.problems.append("the daemon never came to see folds")
        return
    if fault.name == "installed bundle damaged":
        _install(rig)
    time.sleep(0.7 if not fault.broker else 1.5)  # the broker writes down sessions once a second
    begin = time.monotonic()
    fault.begin(rig)
    if fault.ends:
        rig.ended.wait(20)
    else:
        time.sleep(fault.seconds)
    if not fault.anew:
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
    if fault.anew:
        _look(fault, rig, end, outcome)
    _judge(fault, rig, begin, end, outcome)


def _look(fault: Fault, rig: Rig, begin: float, outcome: Outcome) -> None:
    """What was published while the fault lasted."""
    heard = [h for h in list(rig.listener.heard) if h.at >= begin]
    last = next((h.body for h in reversed(list(rig.listener.heard)) if h.topic == "state"), {})
    outcome.state = " ".join([last.get("state", "none"), *last.get("reasons", [])])
    if fault.broker or fault.anew:
        outcome.state = "folds" if fault.anew else rig.daemon.pipeline.state  # nobody can hear it
    outcome.events = [f"{h.body['kind']} {h.body['after'] or ''}".strip() for h in heard if h.topic == "event"]
    sign = next(
        (
            h.at
            for h in heard
            if (_is_state("no_signal")(h) and "no_signal" in fault.states)
            or (h.topic == "event" and h.body["kind"] != "state" and h.body["detail"] != "done on purpose")
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
    _judge_ages(rig, begin, outcome)
    detections = [h for h in list(rig.listener.heard) if h.topic == "detection" and h.at >= begin]
    outcome.late = sum(is_late(h) for h in detections)
    if fault.broker and outcome.late > fault.most_late:
        outcome.problems.append(f"{outcome.late} detections came out late: they were queued")
    outcome.phone = seen_on_a_phone(list(rig.listener.heard), begin)
    if fault.broker and outcome.noticed_s is None:
        shown = shown_on_a_phone(list(rig.listener.heard), begin)
        outcome.noticed_s = next((round(at - begin, 2) for what, at in shown if what in ("not live", "offline")), None)
    outcome.lost_results, outcome.lost_events = lost(list(rig.listener.heard), begin)
    if outcome.lost_events:
        outcome.problems.append(f"{outcome.lost_events} events were lost")
    changes = [h.body["after"] for h in list(rig.listener.heard) if h.topic == "event" and h.at >= begin]
    if fault.broker and not {"no_folds", "uncertain"} & set(changes):
        outcome.problems.append("the event of the change during the outage never came")
    if fault.states == _UNCHANGED:
        seen = {h.body["state"] for h in list(rig.listener.heard) if h.topic == "state" and begin <= h.at < end}
        if seen - {"folds"}:
            outcome.problems.append(f"the state moved to {', '.join(sorted(seen - {'folds'}))} meanwhile")


def _judge_ages(rig: Rig, begin: float, outcome: Outcome) -> None:
    """Nothing old is published as current."""
    detections = [h for h in list(rig.listener.heard) if h.topic == "detection" and h.at >= begin]
    for heard in detections:
        body = heard.body
        taken = rig.camera.taken.get(body["seq"])
        if taken is None:
            continue  # of a process that was: its camera's numbers began anew
        true_s = body["sent_ms"] / 1000 - taken
        outcome.oldest_ms = round(max(outcome.oldest_ms, 1000 * true_s), 1)
        said_s = body["age_ms"] / 1000
        if not -0.001 <= said_s <= MAX_AGE_S + SLACK_S or abs(said_s - true_s) > MAX_AGE_S + SLACK_S:
            outcome.problems.append(f"frame {body['seq']} was called {said_s:.3f} s old and was {true_s:.3f} s")
            break
    if outcome.oldest_ms > 1000 * (MAX_AGE_S + SLACK_S):
        outcome.problems.append(f"a frame {outcome.oldest_ms:.0f} ms old was published as current")


def shown_on_a_phone(heard: list[Heard], begin: float) -> list[tuple[str, float]]:
    """What a phone shows from the beginning of a fault on, and from when, by the page's rule: a result lives a second.

    `no_signal` holds for 2.5 s, since no detections come with it; a late or retained result is not live.
    """
    shown = [("folds", begin)]
    until = begin + 1

    def show(what: str, at: float) -> None:
        if shown[-1][0] != what:
            shown.append((what, at))

    for message in heard:
        if message.at < begin:
            continue
        if message.at > until:
            show("not live", until)
        if message.topic in ("state", "detection") and not message.retained and not is_late(message):
            state = message.body["state"]
            show(state.replace("_", " "), message.at)
            until = message.at + (2.5 if state == "no_signal" else 1.0)
        elif message.topic == "status" and message.body["state"] in ("offline", "stopped"):
            show(message.body["state"], message.at)
            until = float("inf")
    return shown


def seen_on_a_phone(heard: list[Heard], begin: float) -> str:
    """The same in words."""
    shown = shown_on_a_phone(heard, begin)
    ends = [at for _, at in shown[1:]] + [heard[-1].at]
    words = [
        f"{what} {end - at:.1f} s" if what in ("not live", "offline", "stopped", "no signal") else what
        for (what, at), end in zip(shown, ends, strict=True)
    ]
    if len(words) > 6:
        words = [*words[:3], "...", words[-1]]
    return ", ".join(words)


def lost(heard: list[Heard], begin: float) -> tuple[int, int]:
    """Results that were published and not heard of since a moment, and events that were not heard of at all."""
    results = events = 0
    for session in {h.body.get("session", 0) for h in heard}:
        of = [h for h in heard if h.body.get("session") == session]
        seqs = [h.body["seq"] for h in of if h.topic == "detection" and h.at >= begin]
        before = [h.body["seq"] for h in of if h.topic == "detection" and h.at < begin]
        if seqs:
            results += max(seqs) - (max(before) if before else min(seqs) - 1) - len(set(seqs))
        ids = {h.body["id"] for h in of if h.topic == "event"}
        events += max(ids, default=0) - len(ids)
    return max(0, results), events


def table(outcomes: list[Outcome]) -> str:
    """The outcomes for a person."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = [("fault", "what the phone saw", "noticed s", "recovered s", "lost", "oldest ms", "late")]
    rows += [
        (o.fault, f"not done here: {o.impossible}", "-", "-", "-", "-", "-")
        if o.impossible
        else (
            o.fault,
            o.phone,
            seconds(o.noticed_s),
            seconds(o.recovered_s),
            f"{o.lost_results}, {o.lost_events}",
            f"{o.oldest_ms:.0f}",
            str(o.late),
        )
        for o in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)  # words, then numbers
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(len(line) for line in lines))
    problems = [f"BROKEN  {o.fault}: {problem}" for o in outcomes for problem in o.problems]
    notes = (
        "noticed: until the state, an event or, with nobody to say it, the phone itself says so\n"
        "recovered: from the end of the cause to the phone's new answer\n"
        "lost: frames without a result on the phone, events that never came\n"
        "oldest: the highest true age of a frame when it was published as current\n"
        "late: results that came more than a second after they were sent, which a phone does not take for live"
    )
    return "\n".join([*lines, "", notes, *(["", *problems] if problems else [])])
