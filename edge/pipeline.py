"""The loop that every frame goes through: newest-frame slot, analysis, decision, publishing; with clock and ladder.

One thread, no queue. docs/architecture.md tells a frame's way in half a page.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edge import messages
from edge.analysis import STAGES, Analyser, Analysis
from edge.decision import NO_SIGNAL, Decision, Verdict
from edge.frames import Frame, NewestFrameSlot, now_ns
from edge.latency import Ladder, Sample
from edge.optics import FrozenDetector
from edge.recording import occasion
from edge.regions import Region, RegionSmoother
from edge.runtime import open_runtime
from edge.stats import Meter

if TYPE_CHECKING:
    from edge.capture import Reader
    from edge.config import Config
    from edge.preview import Preview
    from edge.recording import Recorder
    from edge.runtime import Runtime

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_STATE_EXPIRY_S = 3  # of the retained state: three missed heartbeats, and the broker forgets it
_POLL_S = 0.05  # how late a vanished source may be noticed on top of its time-out
_BLIND_S = 0.25  # no rung leaves the decision longer without a classified frame


class Outlet(Protocol):
    """Where messages go; edge.mqtt.Link is one."""

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        """Publish something that is only of use now."""
        ...

    def event(self, payload: bytes) -> None:
        """Publish something that must arrive."""
        ...


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    frames: int = 0
    """Frames taken from the slot."""
    classified: int = 0
    skipped: int = 0
    """Not classified on purpose, on a lower rung of the ladder."""
    over_budget: int = 0
    too_old: int = 0
    states: Counter[str] = field(default_factory=Counter)


class Pipeline:
    """Takes the newest frame, judges it, decides, publishes.

    Args:
        config: the settings.
        session: number of this start.
        reader: reads the source into `slot`.
        slot: where its newest frame waits.
        analyser: judges one frame.
        outlet: where messages go.
        preview: who makes pictures of frames whose detection was published, if anybody.
        recorder: who keeps some of them on the disk, if anybody.
    """

    def __init__(
        self,
        config: Config,
        *,
        session: int,
        reader: Reader,
        slot: NewestFrameSlot,
        analyser: Analyser,
        outlet: Outlet,
        preview: Preview | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._config, self._session, self._preview, self._recorder = config, session, preview, recorder
        self._reader, self._slot, self._outlet = reader, slot, outlet
        self._lossless = config.capture.pace == "lossless"
        self._adapts = config.latency.ladder and not self._lossless
        self._coming: tuple[Analyser, Runtime | None] | None = None
        self._take_up(analyser, self._open_smaller(analyser))
        self.throttled: list[str] = []
        """What slows the processor down now. Set by the daemon, which asks the kernel now and then."""
        self._last: Frame | None = None
        self._last_taken_s = time.monotonic()
        self._said_s = 0.0
        self._frozen = FrozenDetector(config.capture.frozen_s)
        self._at_s = 0.0  # the clock on which decisions run: of the last frame
        self._state = ""
        self._event_id = 0
        self.clock_synced = False
        """Set by the daemon, which asks the kernel now and then."""
        self.counts = Counts()
        self.age = Meter()
        self.stages = {name: Meter() for name in ("wait", *STAGES, "decide", "publish")}
        self.progress_ns = now_ns()
        """Monotonic time at which the loop last went round, with a frame or without."""

    @property
    def dropped(self) -> int:
        """Frames that were replaced by newer ones before their turn, or too old when it came."""
        return self._slot.replaced + self.counts.too_old

    def change_model(self, analyser: Analyser) -> None:
        """Judge with another model from the next frame on; to be called on another thread, which does the loading."""
        smaller = self._open_smaller(analyser)
        for runtime in filter(None, (analyser.runtime, smaller)):
            runtime.infer(analyser.model_input)  # the first inference is the slowest
        self._coming = analyser, smaller

    def _open_smaller(self, analyser: Analyser) -> Runtime | None:
        smaller = analyser.bundle.smaller(analyser.artefact.precision)
        if smaller is None:
            return None
        return open_runtime(analyser.bundle, smaller, threads=self._config.model.threads)

    def _take_up(self, analyser: Analyser, smaller: Runtime | None) -> None:
        """Everything that comes from the model: what another one saw does not count for it."""
        manifest = analyser.manifest
        self._analyser, self._full, self._smaller = analyser, analyser.runtime, smaller
        self._decision = Decision(manifest.decision, analyser.finding, analyser.other)
        maps = manifest.outputs.maps
        self._smoother = None if maps is None else RegionSmoother(maps, manifest.decision.expire_s)
        self._model = messages.ModelId(name=manifest.name, version=manifest.version).model_dump()
        self.ladder = Ladder(self._config.latency.budget_ms, smaller=smaller is not None)

    def step(self) -> bool:
        """Take one frame, or notice that none came; False once the source has ended and its last frame was taken."""
        frame = self._slot.take(_POLL_S)
        if frame is not None:
            self._take(frame)
        elif self._slot.closed:
            self._publish_state(self._decision.no_signal(time.monotonic(), "ended"))
            return False
        else:
            self._idle()
        self.progress_ns = now_ns()
        return True

    def event(self, kind: str, *, before: str | None = None, after: str | None = None, detail: str = "") -> None:
        """Publish an event."""
        self._event_id += 1
        message = messages.Event.model_validate(
            {
                **self._identity(),
                "id": self._event_id,
                "at": time.time(),
                "clock_synced": self.clock_synced,
                "kind": kind,
                "before": before,
                "after": after,
                "detail": detail,
            }
        )
        self._outlet.event(message.encode())
        if self._recorder is not None and (why := occasion(kind, before, after, self._analyser.finding)):
            self._recorder.begin(why)

    def _identity(self) -> dict[str, object]:
        return {"device": self._config.device, "session": self._session}

    def _idle(self) -> None:
        """No frame came: is the source still there?"""
        now_s = time.monotonic()
        waited_s = now_s - self._last_taken_s
        if self._reader.state != "live":
            self._at_s = 0.0  # what comes next is another run of the source, and its stamps may lie further back
            verdict = self._decision.no_signal(now_s, f"source_{self._reader.state}")
        elif waited_s > self._config.capture.timeout_s:
            verdict = self._decision.no_signal(now_s, "no_frames")
        elif self._lossless:
            return  # a replay's timeline stands still while no frame comes
        else:
            verdict = self._decision.current(now_s)
        self._publish_state(verdict)

    def _take(self, frame: Frame) -> None:
        taken = now_ns()
        self._last_taken_s = taken / 1e9
        self.counts.frames += 1
        if self._coming is not None:
            (analyser, smaller), self._coming = self._coming, None
            self._take_up(analyser, smaller)
        wait_ms = frame.age_ms(taken)
        if self._too_old(frame, taken, taken):
            return
        if self._skips(frame):
            self.counts.skipped += 1
            self._publish_state(self._decision.current(taken / 1e9))
            return
        # A frame that counts from its dequeue may seem to come after the next one: this clock does not go back.
        at_s = self._at_s = max(self._at_s, frame.decided_at_s)
        analysis = self._analyser.analyse(frame.image, at_s)
        judged = now_ns()
        if self._too_old(frame, taken, judged):
            return
        reasons = analysis.quality.reasons
        if self._frozen.update(frame.image, at_s):
            reasons = (*reasons, "frozen")
            verdict = self._decision.no_signal(at_s, "frozen")
        else:
            score = analysis.score if analysis.quality.good else None
            verdict = self._decision.frame(at_s, score, reasons)
        regions = self._regions(at_s, analysis, verdict)
        decided = now_ns()
        if self._too_old(frame, taken, decided):  # the processor may have been taken away meanwhile
            return
        self._last = frame
        age_ms = frame.age_ms(decided)
        over = age_ms > self._config.latency.budget_ms
        stages_ms = {
            "wait": wait_ms,
            **{name: ns / 1e6 for name, ns in zip(STAGES, analysis.stages_ns, strict=True)},
            # All the rest: calibration and regions are part of the analysis, and of the decision.
            "decide": (decided - taken - sum(analysis.stages_ns)) / 1e6,
        }
        self.counts.classified += 1
        self.counts.over_budget += over
        self.counts.states[verdict.state] += 1
        detection = self._detection(frame, analysis, verdict, reasons, regions, stages_ms, age_ms, over)
        self._outlet.live("detection", messages.encoded(detection))
        self._publish_state(verdict)
        if self._preview is not None and verdict.state != NO_SIGNAL:
            self._preview.offer(frame)
        if self._recorder is not None:
            self._recorder.offer(frame, verdict.state)
        done = now_ns()
        at_s = done / 1e9
        self.age.add(age_ms, at_s)
        for name, value in stages_ms.items():
            self.stages[name].add(value, at_s)
        self.stages["publish"].add((done - decided) / 1e6, at_s)
        self._adapt(frame, taken, done, age_ms)

    def _regions(self, at_s: float, analysis: Analysis, verdict: Verdict) -> tuple[Region, ...]:
        """The smoothed regions that may be shown with a frame.

        None where the state is anything but the finding: a box would say "here they are" beside a headline that says
        that they are not, or that nobody knows. None with a frame that is not fit, though the state outlasts it.
        """
        if self._smoother is None:
            return ()
        smoothed = self._smoother.frame(at_s, analysis.places if analysis.quality.good else None)
        return smoothed if verdict.state == self._analyser.finding else ()

    def _too_old(self, frame: Frame, taken: int, now: int) -> bool:
        """Whether a frame must not be published as current any more; it is dropped and counted."""
        age_ms = frame.age_ms(now)
        if self._lossless or age_ms <= self._config.latency.max_age_ms:
            return False
        self.counts.too_old += 1
        self._publish_state(self._decision.current(now / 1e9))
        self._adapt(frame, taken, now, age_ms)
        return True

    def _skips(self, frame: Frame) -> bool:
        """Whether the ladder leaves this frame out."""
        last = self._last
        return (
            last is not None
            and 0 < frame.seq - last.seq < self.ladder.rung.every
            and 0 <= frame.exposed_ns - last.exposed_ns < _BLIND_S * 1e9
        )

    def _adapt(self, frame: Frame, taken: int, done: int, age_ms: float) -> None:
        """Tell the ladder what a frame took, and work from now on as it says."""
        if not self._adapts:
            return
        delivery_ms = frame.age_ms(frame.dequeued_ns)
        step = self.ladder.add(Sample(done / 1e9, frame.seq, delivery_ms, (done - taken) / 1e6, age_ms), self.throttled)
        if step is None:
            return
        if self._smaller is not None:
            self._analyser.runtime = self._smaller if step.after.smaller else self._full
        log.warning("ladder: %s, then %s: %s", step.before.name, step.after.name, step.reason)
        self.event("ladder", before=step.before.name, after=step.after.name, detail=step.reason)

    def _detection(
        self,
        frame: Frame,
        analysis: Analysis,
        verdict: Verdict,
        reasons: tuple[str, ...],
        regions: tuple[Region, ...],
        stages_ms: dict[str, float],
        age_ms: float,
        over: bool,
    ) -> dict[str, object]:
        """The values of a `messages.Detection`, in the order of its fields: tests hold them against it."""
        height, width = frame.image.shape[:2]
        quality, labels = analysis.quality, self._analyser.manifest.labels
        box = None if analysis.aperture is None else analysis.aperture.box
        return {
            "schema": messages.SCHEMA,
            "device": self._config.device,
            "session": self._session,
            "seq": frame.seq,
            "captured_at": round(frame.wall_time, 4),
            "clock_synced": self.clock_synced,
            "age_ms": round(age_ms, 3),
            "sent_ms": round(now_ns() / 1e6, 1),
            "stamp": frame.stamp,
            "label": analysis.label,
            "score": round(analysis.score, 4),
            "scores": {label: round(s, 4) for label, s in zip(labels, analysis.scores.tolist(), strict=True)},
            "state": verdict.state,
            "quality": {
                "reasons": reasons,
                "brightness": round(quality.brightness, 1),
                "contrast": round(quality.contrast, 1),
                "over_exposed": round(quality.over_exposed, 3),
                "sharpness": round(quality.sharpness, 3),
                "aperture": None if box is None else _rounded(box.as_fractions(width, height)),
            },
            "regions": [
                {
                    "label": region.label,
                    "box": _rounded(region.box),
                    "centre": (round(region.centre[0], 4), round(region.centre[1], 4)),
                    "area": round(region.area, 5),
                    "score": round(region.score, 4),
                }
                for region in regions
            ],
            "stages_ms": {name: round(value, 3) for name, value in stages_ms.items()},
            "budget_ms": self._config.latency.budget_ms,
            "over_budget": over,
            "dropped": self.dropped,
            "model": self._model,
        }

    def _publish_state(self, verdict: Verdict) -> None:
        if self._smoother is not None and verdict.state == NO_SIGNAL:
            self._smoother.forget()  # what was seen before says nothing about what is seen after
        now_s = time.monotonic()
        if verdict.state == self._state and now_s - self._said_s < _HEARTBEAT_S:
            return
        if verdict.state != self._state:
            self.event("state", before=self._state or None, after=verdict.state, detail=", ".join(verdict.reasons))
            self._state = verdict.state
        self._said_s = now_s
        seen = None if verdict.state == NO_SIGNAL else self._last
        # A lossless replay decides on its own time line.
        clock_s = now_s if seen is None or seen.timeline_ns is None else seen.decided_at_s
        message = messages.State.model_construct(
            schema_=messages.SCHEMA,
            device=self._config.device,
            session=self._session,
            seq=None if seen is None else seen.seq,
            state=verdict.state,
            score=round(verdict.score, 4),
            since_ms=round(1000 * max(0.0, clock_s - verdict.since_s), 1) if verdict.since_s > 0 else 0.0,
            sent_ms=round(now_ns() / 1e6, 1),
            age_ms=None if seen is None else round(seen.age_ms(), 3),
            reasons=list(verdict.reasons),
        )
        self._outlet.live("state", message.encode(), qos=1, retain=True, expiry_s=_STATE_EXPIRY_S)

    @property
    def state(self) -> str:
        """The state that was published last."""
        return self._state or NO_SIGNAL


def _rounded(values: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return (round(values[0], 4), round(values[1], 4), round(values[2], 4), round(values[3], 4))
