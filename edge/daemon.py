"""The daemon: joins source, model, decision and broker, and watches that they get on."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edge import __version__, messages
from edge.capture import Reader, choose_source, is_camera, public_name
from edge.choice import open_analyser, start_engine
from edge.errors import BundleError, SourceError
from edge.frames import NewestFrameSlot, now_ns
from edge.mqtt import TAKEN_OVER, Link
from edge.pipeline import Pipeline
from edge.preview import SEEN, Preview
from edge.recording import Origin, Recorder, retain
from edge.service import Notifier, next_session
from edge.store import begin, changed
from edge.telemetry import Telemetry, clock_synced

if TYPE_CHECKING:
    from edge.config import Config
    from edge.store import Chosen

log = logging.getLogger(__name__)

_TICK_S = 0.2
_HEALTH_S = 5.0
_COMMANDS = ("ping", "reload", "snapshot")
_OFTEN, _OFTEN_WITHIN_S, _DOUBT_EVERY_S = 3, 10.0, 60.0
_PAUSED_S = 1.0  # a tick so late means that the whole process stood still, not its driver


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to."""

    seconds: float
    frames: int
    classified: int
    fps: float
    age_ms: dict[str, float]
    over_budget: int
    budget_ms: float
    dropped: dict[str, int]
    skipped: int
    detections: dict[str, int]
    stages_ms: dict[str, dict[str, float]]
    unsent: int
    source: str
    model: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class Daemon:
    """One run from start to stop.

    Args:
        config: the settings.

    Raises:
        FoldsightError: the bundle or the source cannot be used at all.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        source = choose_source(config.capture)  # what is wrong here says nothing against a bundle on trial
        chosen = begin(config)
        self.bundle, self._trial = chosen.bundle, chosen.trial
        self.analyser = open_analyser(config, self.bundle)
        self.session = next_session(config.effective_state_dir)
        self._telemetry = Telemetry()
        self._notifier = Notifier()
        self._slot = NewestFrameSlot()
        self._reader = Reader(
            source,
            self._slot,
            lossless=config.capture.pace == "lossless",
            tell=self._source_changed,
        )
        self._lost_s: deque[float] = deque(maxlen=_OFTEN)  # when the broker was lost
        self._doubted_s = float("-inf")
        self._link = Link(
            config.mqtt,
            device=config.device,
            session=self.session,
            will=self._status("offline", ["connection lost"]).encode(),
            hello=self._hello,
            command=self._command,
            changed=self._broker_changed,
            spool=config.effective_state_dir / "spool",
        )
        self._preview: Preview | None = None
        if config.preview.enabled:
            self._preview = Preview(config.preview, session=self.session, outlet=self._link)
        self._recorder: Recorder | None = None
        if config.recording.enabled:
            self._recorder = Recorder(
                config.recording,
                config.effective_state_dir,
                origin=Origin(config.device, self.session, self._model_id),
                tell=lambda kind, after, detail: self.pipeline.event(kind, after=after, detail=detail),
            )
        self.pipeline = Pipeline(
            config,
            session=self.session,
            reader=self._reader,
            slot=self._slot,
            analyser=self.analyser,
            outlet=self._link,
            preview=self._preview,
            recorder=self._recorder,
        )
        if chosen.fault:
            self.pipeline.event("fault", detail=chosen.fault)
        self._tell_given_up(chosen)
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._failure: BaseException | None = None
        self._said: list[str] = []
        self._begun_s = time.monotonic()
        self._reported = (self._begun_s, 0)  # when, and how many frames had been classified
        self._first_frame_s = 0.0

    @property
    def link(self) -> Link:
        """The connection to the broker."""
        return self._link

    def stop(self) -> None:
        """End the run; may be called from a signal handler or another thread."""
        self._stop.set()

    def reload(self) -> None:
        """Change to a newly installed bundle, if there is one; may be called from a signal handler or a thread."""
        self._reload.set()

    def run(self, seconds: float | None = None) -> Summary:
        """Run until stopped, until a replay ends, or for some seconds after the first classified frame.

        Raises:
            SourceError: the source's driver hangs and only a new process can help, or a replay cannot be read.
        BundleError: the model hangs.
            Exception: whatever ended the pipeline's thread.
        """
        self._begun_s = time.monotonic()
        self._notifier.status(f"waiting for the first frame: {self._public_source}")
        self._link.start()
        self._reader.start()
        if self._preview is not None:
            self._preview.start()
        if self._recorder is not None:
            self._recorder.start()
        else:
            kept = (self.config.recording, self.config.effective_state_dir, self._stop)
            threading.Thread(target=retain, args=kept, name="recordings", daemon=True).start()
        thread = threading.Thread(target=self._pipe, name="pipeline", daemon=True)
        thread.start()
        threading.Thread(target=self._reloads, name="reload", daemon=True).start()
        start_engine(self.config, self.analyser, self._tell_engine)
        try:
            self._watch(thread, seconds)
        finally:
            self._notifier.stopping()
            self._stop.set()
            self._reload.set()
            summary = self.summary()
            self._reader.stop(0.2 if self._failure else 2.0)  # a driver that hangs is not waited for
            thread.join(2)
            if self._preview is not None:
                self._preview.stop()
            if self._recorder is not None:
                self._recorder.stop()
            self._link.flush()
            reasons = [] if self._failure is None else ["failed"]  # its sentence may hold a path; the log has it
            self._link.stop(self._status("stopped", reasons).encode())
            if self._trial is not None and (self._failure is None or isinstance(self._failure, SourceError)):
                self._trial.ended_well()
        if self._failure is not None:
            raise self._failure
        return summary

    def summary(self) -> Summary:
        """What the run has come to so far."""
        pipeline, counts = self.pipeline, self.pipeline.counts
        age = pipeline.age.total.percentiles()
        seconds = max(1e-9, (now_ns() / 1e9) - self._first_frame_s) if counts.classified else 0.0
        return Summary(
            seconds=round(seconds, 2),
            frames=self._reader.frames,
            classified=counts.classified,
            fps=round(counts.classified / seconds, 2) if seconds else 0.0,
            age_ms={"p50": age.p50, "p95": age.p95, "p99": age.p99, "max": age.max},
            over_budget=counts.over_budget,
            budget_ms=self.config.latency.budget_ms,
            dropped={"replaced": self._slot.replaced, "too_old": counts.too_old},
            skipped=counts.skipped,
            detections=dict(counts.states),
            stages_ms={
                name: {"p50": p.p50, "p95": p.p95, "p99": p.p99}
                for name, p in ((n, m.total.percentiles()) for n, m in pipeline.stages.items())
            },
            unsent=self._link.unsent,
            source=self._reader.info.name if self._reader.info else public_name(self.config.capture.source),
            model=f"{self.bundle.manifest.name} {self.bundle.manifest.version}",
        )

    def _pipe(self) -> None:
        try:
            while not self._stop.is_set():
                if not self.pipeline.step():
                    return
                if not self._first_frame_s and self.pipeline.counts.classified:
                    self._first_frame_s = time.monotonic()
        except Exception as error:
            log.exception("the pipeline failed")
            self._failure = error
        finally:
            self._stop.set()

    def _watch(self, thread: threading.Thread, seconds: float | None) -> None:
        ready = False
        next_health_s = 0.0
        ticked_s = trusted_s = time.monotonic()
        while not self._stop.wait(_TICK_S) and thread.is_alive():
            now_s = time.monotonic()
            trusted_s = now_s if now_s - ticked_s > _PAUSED_S else trusted_s
            ticked_s = now_s
            if now_s - trusted_s > self._hung_s and (hung := self._hung()):
                blamed = BundleError if hung.startswith("the model") else SourceError
                self._failure = blamed(f"{hung}: the process ends, so that systemd starts it anew")
                self.pipeline.event("fault", detail=str(self._failure))
                return
            if self._reader.state == "lost" and not is_camera(self.config.capture):
                self._failure = SourceError(self._reader.reason)
                return
            self._notifier.alive()
            if (throttled := self._telemetry.throttled()) != self.pipeline.throttled:
                self.pipeline.throttled = throttled
                next_health_s = now_s  # said at once
            self._tell_status()
            self._try_bundle(now_s)
            if not ready and self.pipeline.counts.classified:
                ready = True
                self._notifier.ready(f"live: {self._reader.info.name if self._reader.info else ''}")
            self._link.flush()
            if now_s >= next_health_s:
                next_health_s = now_s + _HEALTH_S
                self._report(now_s)
            if seconds is not None and self._first_frame_s and now_s - self._first_frame_s >= seconds:
                return

    def _try_bundle(self, now_s: float) -> None:
        sound = self._reader.state == "live" and not self._degraded
        if self._trial is not None and self._trial.update(now_s, self.pipeline.counts.classified, sound=sound):
            log.info("the model bundle %s has passed its trial", self._model_name)
            self.pipeline.event("model", after=self._model_name, detail="it has passed its trial")

    @property
    def _model_name(self) -> str:
        manifest = self.bundle.manifest
        return f"{manifest.name} {manifest.version} ({self.bundle.sha256[:12]})"

    @property
    def _hung_s(self) -> float:
        return max(self.config.capture.hung_s, 3 / self.config.capture.fps)  # a slow camera is not a hung one

    def _hung(self) -> str:
        """What stands still, if anything: progress is fed to the watchdog, not time."""
        if not is_camera(self.config.capture):
            return ""
        seconds = self._reader.hangs(open_s=self.config.capture.open_s, read_s=self._hung_s)
        if seconds:
            name = public_name(self.config.capture.source)
            return f"the driver of {name} has not answered for {seconds:.1f} s and cannot be interrupted"
        seconds = (now_ns() - self.pipeline.progress_ns) / 1e9
        return f"the model has not answered for {seconds:.1f} s" if seconds > self._hung_s else ""

    def _source_changed(self, state: str, reason: str) -> None:
        log.log(logging.WARNING if state == "lost" else logging.INFO, "source: %s %s", state, reason)
        self.pipeline.event("source", after=state, detail=reason if is_camera(self.config.capture) else "")

    def _broker_changed(self, connected: bool, why: str) -> None:
        log.info("broker: %s", "connected" if connected else why)
        if connected or self._stop.is_set():
            return
        now_s, lost = time.monotonic(), self._lost_s
        lost.append(now_s)
        # Not every broker says why it threw a client out (mosquitto 2.0.11 does not).
        often = len(lost) == lost.maxlen and now_s - lost[0] < _OFTEN_WITHIN_S
        if (often or TAKEN_OVER in why.lower()) and now_s - self._doubted_s > _DOUBT_EVERY_S:
            self._doubted_s = now_s
            name = self._link.client_id
            self.pipeline.event(
                "fault", detail=f"the broker ends the connection again and again: has another client the name {name}?"
            )

    @property
    def _degraded(self) -> list[str]:
        """Why the device cannot do what it should; empty where it can."""
        lost = ["source lost"] if self._reader.state == "lost" else []
        return [*lost, *(["latency budget not kept"] if self.pipeline.ladder.rung.degraded else [])]

    def _tell_status(self) -> None:
        reasons = self._degraded
        if reasons == self._said:
            return
        self._said = reasons
        status = self._status("degraded" if reasons else "online", reasons)
        self._link.live("status", status.encode(), qos=1, retain=True, expiry_s=None)
        self._notifier.status(f"degraded: {', '.join(reasons)}" if reasons else "live")

    def _report(self, now_s: float) -> None:
        pipeline, counts = self.pipeline, self.pipeline.counts
        pipeline.clock_synced = clock_synced()
        age = pipeline.age.last_minute(now_s)
        message = messages.Health(
            device=self.config.device,
            session=self.session,
            at=time.time(),
            uptime_s=round(now_s - self._begun_s, 1),
            fps=self._fps(now_s),
            frames=self._reader.frames,
            classified=counts.classified,
            skipped=counts.skipped,
            age_ms=age,
            age_total_ms=pipeline.age.total.percentiles(),
            stages_ms={name: meter.last_minute(now_s) for name, meter in pipeline.stages.items()},
            over_budget=counts.over_budget,
            dropped={"replaced": self._slot.replaced, "too_old": counts.too_old},
            states=dict(counts.states),
            ladder=self._ladder(now_s),
            source=self._source(),
            unsent=self._link.unsent,
            spooled=self._link.spooled,
            lost_events=self._link.lost_events,
            temperature_c=self._telemetry.temperature_c(),
            temperatures_c=self._telemetry.temperatures_c(),
            throttled=self._telemetry.throttled(),
            throttled_since_boot=self._telemetry.throttled_since_boot(),
            memory_mb=round(self._telemetry.memory_mb(), 1),
            clock_synced=pipeline.clock_synced,
            recording=None if self._recorder is None else self._recorder.health,
        )
        self._link.live("health", message.encode(), expiry_s=10)

    def _fps(self, now_s: float) -> float:
        """Frames classified a second since the last call."""
        (before_s, before), classified = self._reported, self.pipeline.counts.classified
        self._reported = now_s, classified
        return round((classified - before) / max(1e-3, now_s - before_s), 2)

    def _ladder(self, now_s: float) -> messages.LadderHealth:
        ladder = self.pipeline.ladder
        stepped = math.isfinite(ladder.since_s)
        return messages.LadderHealth(
            rung=ladder.index,
            name=ladder.rung.name,
            every=ladder.rung.every,
            since_s=round(now_s - ladder.since_s, 1) if stepped else None,
            reason=ladder.reason,
        )

    def _source(self) -> messages.SourceHealth:
        reader, info = self._reader, self._reader.info
        return messages.SourceHealth(
            state=reader.state,
            reason=reader.reason if is_camera(self.config.capture) else "",
            reopened=reader.reopened,
            name=self._public_source,
            kind=info.kind if info else "",
            width=info.width if info else 0,
            height=info.height if info else 0,
            fps=round(info.fps, 2) if info else 0,
            fps_measured=round(reader.fps, 2),
            pixel_format=info.pixel_format if info else "",
            stamps_refused=reader.stamps.refused,
            converted=dict(reader.images.converted),
            rejected=dict(reader.images.rejected),
        )

    @property
    def _public_source(self) -> str:
        """The source's name as it may leave the device: a file's could be a patient's, an address holds passwords."""
        return public_name(self.config.capture.source) if is_camera(self.config.capture) else "replay"

    def _status(self, state: messages.DeviceStatus, reasons: list[str]) -> messages.Status:
        return messages.Status(
            device=self.config.device, session=self.session, state=state, reasons=reasons, at=time.time()
        )

    def _reloads(self) -> None:
        """Load the bundle that was installed meanwhile beside the one that runs, on a thread of its own."""
        while self._reload.wait() and not self._stop.is_set():
            self._reload.clear()
            try:
                if not changed(self.config, self.bundle):
                    log.info("reload: the model bundle %s is the one to be used already", self._model_name)
                    continue
                chosen = begin(self.config)
                analyser = open_analyser(self.config, chosen.bundle)
                self.pipeline.change_model(analyser)
            except Exception as error:  # noqa: BLE001  the model that runs is good, and goes on
                log.error("reload: %s; the model bundle %s stays", error, self._model_name)  # noqa: TRY400  a sentence
                self.pipeline.event("fault", detail=f"reload failed, {self._model_name} stays")
                continue
            before = self._model_name
            self.bundle, self.analyser, self._trial = chosen.bundle, analyser, chosen.trial
            self._tell_given_up(chosen)
            self.pipeline.event("model", before=before, after=self._model_name, detail="reloaded")
            log.info("reload: the model bundle is %s", self._model_name)
            self._link.live("birth", self._birth().encode(), qos=1, retain=True, expiry_s=None)
            start_engine(self.config, analyser, self._tell_engine)

    def _tell_engine(self, sentence: str, *, fault: bool, changed: bool) -> None:
        log.log(logging.WARNING if fault else logging.INFO, "engine: %s", sentence)
        if fault or changed:  # its sentence may hold a path; the log has it
            detail = "the runtime that was wanted does not serve" if fault else "another runtime serves"
            self.pipeline.event("fault" if fault else "model", after=self.analyser.runtime.description, detail=detail)
        if changed:
            self._link.live("birth", self._birth().encode(), qos=1, retain=True, expiry_s=None)

    def _tell_given_up(self, chosen: Chosen) -> None:
        for gone in chosen.given_up:
            self.pipeline.event("model", before=str(gone.entry), after=self._model_name, detail=gone.reason)

    def _hello(self) -> list[tuple[str, bytes]]:
        reasons = self._degraded
        status = self._status("degraded" if reasons else "online", reasons)
        return [("birth", self._birth().encode()), ("status", status.encode())]

    def _birth(self) -> messages.Birth:
        manifest = self.bundle.manifest
        return messages.Birth(
            device=self.config.device,
            session=self.session,
            at=time.time(),
            software=__version__,
            model=messages.ModelIdentity(
                name=manifest.name,
                version=manifest.version,
                sha256=self.bundle.sha256,
                precision=self.analyser.artefact.precision,
                signed=self.bundle.signed,
            ),
            labels=manifest.labels,
            finding=manifest.finding,
            config_sha256=self.config.sha256,
            budget_ms=self.config.latency.budget_ms,
            source=self._public_source,
            runtime=self.analyser.runtime.description,
            schemas=dict.fromkeys(messages.TOPICS, messages.SCHEMA),
            recording=self._records,
        )

    @property
    def _records(self) -> Literal["off", "on", "encrypted"]:
        if not self.config.recording.enabled:
            return "off"
        return "on" if self.config.recording.recipient is None else "encrypted"

    def _model_id(self) -> messages.ModelId:
        manifest = self.bundle.manifest
        return messages.ModelId(name=manifest.name, version=manifest.version)

    def _command(self, name: str, payload: bytes) -> bytes:
        if name == SEEN and self._preview is not None:
            self._preview.seen(payload)
        if name == "reload":
            self.reload()
        refused = ""
        if name not in _COMMANDS:
            refused = f"this adapter knows the commands {', '.join(_COMMANDS)}"
        elif name == "snapshot":
            refused = "recording is off" if self._recorder is None else self._recorder.snapshot()
        return messages.Reply(
            device=self.config.device,
            session=self.session,
            command=name[:32],
            ok=not refused,
            detail=refused,
            at=time.time(),
        ).encode()


def log_to_stderr(level: str) -> None:
    """Plain lines on stderr, as journald wants them."""
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
