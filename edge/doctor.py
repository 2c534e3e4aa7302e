"""`foldsight doctor`: what an adapter needs, looked at one by one, each with what to do where it is not right.

A warning is something that a person should know; `failed` is what keeps the adapter from its work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from edge import store
from edge.capture import Reader, choose_source, is_camera, public_name
from edge.errors import FoldsightError
from edge.frames import NewestFrameSlot
from edge.messages import ROOT, Health, Status
from edge.runtime import open_runtime
from edge.runtime.ncnn import ncnn_version, open_ncnn
from edge.telemetry import Telemetry, clock_synced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.bundle import Bundle
    from edge.config import Config, Mqtt

Level = Literal["ok", "warning", "failed"]

_UNITS = ("foldsight-edge.service", "mosquitto.service")
_PHONE_UNITS = ("foldsight-display.service", "foldsight-phones.timer")
_RATE_S = 2.0  # over which the camera's real rate is taken: what Reader.fps looks back
_CONNECT_S = 5.0
_HEALTH_S = 6.0  # a running daemon publishes its health every five
_SLOW = 0.8  # of the rate that was asked for
_HOT_C = 80  # where a Pi begins to slow down
_FULL_MB, _SCARCE_MB = 16, 200
_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        name: what was looked at.
        level: how it is.
        text: what was seen.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    level: Level
    text: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def examine(config: Config, root: Path = Path("/")) -> Iterator[Check]:
    """Look at everything, one check after the other.

    Args:
        config: the settings.
        root: where the system's files are looked for; `/` but in tests.
    """
    yield _model(config)
    broker, health = _broker(config)
    yield _camera(config) if health is None else _camera_of_daemon(config, health)
    yield broker
    yield _clock()
    yield _power(Telemetry(root))
    yield _disk(config.effective_state_dir)
    yield from _units(config, root)


def _model(config: Config) -> Check:
    try:
        bundle = store.in_use(config)
        artefact = bundle.artefact("auto" if config.model.runtime == "ncnn" else config.model.precision)
        runtime = open_runtime(bundle, artefact, threads=config.model.threads)
        state = store.Installed() if config.model.bundle else store.Store(config.effective_state_dir).read()
    except FoldsightError as error:
        advice = "install a good one: foldsight bundle install BUNDLE"
        if config.model.bundle is not None:
            advice = "set model.bundle to a good one, or leave it out of the settings"
        return Check("model", "failed", str(error), advice)
    manifest = bundle.manifest
    text = (
        f"{manifest.name} {manifest.version} ({bundle.sha256[:12]}), {artefact.precision}, {runtime.description}; "
        "hashes and golden outputs right"
    )
    ncnn, wrong = _ncnn(config, bundle)
    if ncnn:
        text += f"; {ncnn}: golden outputs right, too"
    if state.starts is not None:
        text += f"; on trial, {state.starts} of {config.model.trial_starts} starts did not end well"
    if bundle.signed:
        text += "; signed by a trusted key"
    elif config.model.bundle is None and state.current is None:
        text += "; it ships with the software"
    gone = state.given_up
    if gone is not None and gone.entry != state.current and gone.reason != store.BY_HAND:
        return Check("model", "warning", text, f"{gone.entry} was given up ({gone.reason}): install a better one")
    if wrong:
        advice = "install foldsight[ncnn] and a bundle with a form for it, or set model.runtime: onnxruntime"
        return Check("model", "warning", f"{text}; ncnn does not serve: {wrong}", advice)
    if not config.model.trusted_keys and (config.model.bundle is not None or state.current is not None):
        return Check("model", "warning", f"{text}; its signature is not checked", "name keys in model.trusted_keys")
    return Check("model", "ok", text)


def _ncnn(config: Config, bundle: Bundle) -> tuple[str, str]:
    """What ncnn says of itself where it may serve, and what is wrong with it."""
    model = config.model
    held = any(artefact.runtime == "ncnn" for artefact in bundle.manifest.artefacts)
    if model.runtime != "ncnn" and not (model.runtime == "auto" and held and ncnn_version() is not None):
        return "", ""
    try:
        return open_ncnn(bundle, model.precision, threads=model.threads)[1].description, ""
    except FoldsightError as error:
        return "", str(error)


def _camera(config: Config) -> Check:
    """Open the source as the daemon would, and watch it for two seconds."""
    capture, name = config.capture, public_name(config.capture.source)
    if (refused := _rights(capture.source)) is not None:
        return refused
    try:
        source = choose_source(capture)
    except FoldsightError as error:
        return Check("camera", "failed", str(error), "correct capture.source in the settings")
    reader = Reader(source, NewestFrameSlot(), tell=lambda _, __: None)
    reader.start()
    deadline = time.monotonic() + capture.open_s
    while not reader.frames and reader.state not in ("lost", "ended") and time.monotonic() < deadline:
        time.sleep(0.05)
    if reader.frames:
        time.sleep(_RATE_S)
    state, reason, rate, info = reader.state, reader.reason, reader.fps, reader.info
    reader.stop(1.0)
    if info is None or not reader.frames or state == "lost":
        silent = f"{name} gave no frame within {capture.open_s:g} s"
        return Check("camera", "failed", reason or silent, "check the plug, the cable, and that nothing else uses it")
    return _rate(config, info.name, (info.width, info.height), info.pixel_format, rate)


def _rights(source: str) -> Check | None:
    device = Path(source)
    if not source.startswith("/dev/") or not device.exists() or os.access(device, os.R_OK | os.W_OK):
        return None
    return Check("camera", "failed", f"{source} may not be opened by this user", "add the user to the group video")


def _camera_of_daemon(config: Config, health: Health) -> Check:
    """The daemon has the camera, and only one can: its word counts."""
    source = health.source
    if source.state != "live":
        text = f"{source.name} is {source.state}, says the running daemon: {source.reason or 'no reason given'}"
        return Check("camera", "failed", text, "check the plug and the cable")
    size = (source.width, source.height)
    return _rate(config, f"{source.name}, in use by the daemon", size, source.pixel_format, source.fps_measured)


def _rate(config: Config, name: str, size: tuple[int, int], pixel_format: str, rate: float) -> Check:
    asked = config.capture
    text = f"{name}: {size[0]} x {size[1]}{f' {pixel_format}' if pixel_format else ''}, {rate:.1f} frames/s"
    if asked.source == "phantom" or not is_camera(asked):
        return Check("camera", "warning", f"{text}; it is no camera", "set capture.source to auto or a camera")
    if rate < _SLOW * asked.fps:
        text += f" of the {asked.fps:g} asked for"
        return Check("camera", "warning", text, "more light, a smaller capture.width and height, or another USB port")
    return Check("camera", "ok", text)


def _broker(config: Config) -> tuple[Check, Health | None]:
    """Connect with the daemon's account under another name; and what the daemon says, if it runs."""
    mqtt, where = config.mqtt, f"{config.mqtt.host}:{config.mqtt.port}"
    look = "is it running? systemctl status mosquitto"
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
    client.connect_timeout = _CONNECT_S
    heard = _Heard(config.device)
    client.on_connect, client.on_message, client.on_subscribe = heard.connected, heard.message, heard.subscribed
    if fault := _identify(client, mqtt):
        return Check("broker", "failed", fault, "run it as root, or check mqtt.password_file and mqtt.ca_file"), None
    try:
        client.connect(mqtt.host, mqtt.port, 10)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Check("broker", "failed", f"no broker answers at {where} ({reason})", look), None
    client.loop_start()
    try:
        if not heard.answered.wait(_CONNECT_S):
            return Check("broker", "failed", f"{where} takes connections but does not answer", look), None
        if heard.refused:
            advice = "check mqtt.username and mqtt.password_file; with phones: foldsight broker prepare"
            return Check("broker", "failed", f"{where} refuses the account: {heard.refused}", advice), None
        if heard.wait_for_status(1.0):
            heard.health_came.wait(_HEALTH_S)
    finally:
        client.disconnect()
        client.loop_stop()
    return _heard(heard, config, where)


def _identify(client: paho.Client, mqtt: Mqtt) -> str:
    """Give a client the daemon's account and certificate; why that cannot be, if so."""
    try:
        if mqtt.ca_file is not None:
            client.tls_set(str(mqtt.ca_file))
        if mqtt.username is not None:
            lines = mqtt.password_file.read_text(encoding="utf-8").splitlines() if mqtt.password_file else []
            client.username_pw_set(mqtt.username, lines[0] if lines else None)
    except (OSError, ValueError) as error:
        return f"account or certificate cannot be read ({error})"
    return ""


def _heard(heard: _Heard, config: Config, where: str) -> tuple[Check, Health | None]:
    mqtt = config.mqtt
    text = f"{where} answers, {f'{mqtt.username} is let in' if mqtt.username else 'without a password'}"
    if heard.barred:
        return Check("broker", "warning", f"{text}, but may not read {ROOT}/{config.device}/", "check its ACL"), None
    if heard.online and heard.health is None:
        advice = "see journalctl -u foldsight-edge"
        return Check("broker", "warning", f"{text}, but the daemon that is online says nothing", advice), None
    return Check("broker", "ok", f"{text}; the daemon is {'online' if heard.online else 'not running'}"), heard.health


class _Heard:
    """What the broker and, over it, the daemon say."""

    def __init__(self, device: str) -> None:
        self._prefix = f"{ROOT}/{device}/"
        self.answered, self.health_came = threading.Event(), threading.Event()
        self._status_came = threading.Event()
        self.refused = ""
        self.barred = self.online = False
        self.health: Health | None = None

    def wait_for_status(self, seconds: float) -> bool:
        """Whether a retained status says that the daemon runs."""
        self._status_came.wait(seconds)
        return self.online

    def connected(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            self.refused = str(reason)
            self.answered.set()
        else:
            client.subscribe([(f"{self._prefix}status", 0), (f"{self._prefix}health", 0)])

    def subscribed(self, _: paho.Client, __: Any, ___: Any, reasons: list[Any], ____: Any) -> None:
        self.barred = any(reason.is_failure for reason in reasons)
        self.answered.set()

    def message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        try:
            if message.topic.endswith("/health"):
                self.health = Health.model_validate_json(message.payload)
                self.health_came.set()
            else:
                self.online = Status.model_validate_json(message.payload).state in ("online", "degraded")
                self._status_came.set()
        except ValidationError:
            return  # another version's: no more than silence


def _clock() -> Check:
    if clock_synced():
        return Check("clock", "ok", "synchronised")
    text = "not synchronised: times in messages and logs may be wrong (ages and decisions do not need them)"
    return Check("clock", "warning", text, "let it reach a time server: timedatectl set-ntp true")


def _power(telemetry: Telemetry) -> Check:
    now, ever, hottest = telemetry.throttled(), telemetry.throttled_since_boot(), telemetry.temperature_c()
    text = "no thermal zone tells the temperature" if hottest is None else f"{hottest:.0f} °C"
    advice = "use the board's own power supply" if {"under_voltage", "over_current"} & {*now, *ever} else "cool it"
    if now:
        return Check("power", "warning", f"{text}; slowed down now: {', '.join(now)}", advice)
    if ever:
        return Check("power", "warning", f"{text}; slowed down since the start: {', '.join(ever)}", advice)
    if hottest is not None and hottest >= _HOT_C:
        return Check("power", "warning", text, "cool it")
    return Check("power", "ok", f"{text}; not slowed down")


def _disk(folder: Path) -> Check:
    """Room, and a real write where the state is kept."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        free_mb = shutil.disk_usage(there).free / 1e6
        with tempfile.NamedTemporaryFile(dir=there, prefix=".foldsight-doctor-") as file:
            file.write(bytes(65536))
            file.flush()
            os.fsync(file.fileno())
    except PermissionError:
        advice = "run it as root, or as the service's user"
        return Check("disk", "warning", f"this user may not look at {there}", advice)
    except OSError as error:
        advice = "make room, or replace the card; see also: dmesg"
        return Check("disk", "failed", f"{there} cannot be written ({error.strerror})", advice)
    text = f"{free_mb:,.0f} MB free at {folder}"
    if free_mb < _FULL_MB:
        return Check("disk", "failed", text, "make room: a bundle may not fit")
    return Check("disk", "warning", text, "make room") if free_mb < _SCARCE_MB else Check("disk", "ok", text)


def _units(config: Config, root: Path) -> Iterator[Check]:
    if not (root / "run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        yield Check("units", "ok", "systemd does not run here: no units to look at")
        return
    for unit in (*_UNITS, *(_PHONE_UNITS if config.phones.enabled else ())):
        yield _unit(unit)


def _unit(unit: str) -> Check:
    asked = ("LoadState", "ActiveState", "SubState", "NRestarts", "StatusText")
    try:
        argv = ["systemctl", "show", unit, "--property", ",".join(asked)]
        output = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Check(unit, "warning", f"systemctl does not answer ({error})", "look at systemd itself")
    said = dict(line.partition("=")[::2] for line in output.splitlines())
    state = f"{said.get('ActiveState')} ({said.get('SubState')})"
    if said.get("LoadState") != "loaded":
        return Check(unit, "warning", f"{said.get('LoadState')}", "install it, if this is an adapter")
    if said.get("ActiveState") == "failed":
        return Check(unit, "failed", state, f"journalctl -u {unit}, then systemctl restart {unit}")
    if said.get("ActiveState") == "inactive":
        return Check(unit, "failed", state, f"systemctl enable --now {unit}")
    restarts = int(said.get("NRestarts") or 0)
    if restarts > _RESTARTS:
        return Check(unit, "warning", f"{state}, restarted {restarts} times", f"journalctl -u {unit}")
    return Check(unit, "ok", f"{state} {said.get('StatusText', '')}".strip())


def line(check: Check) -> str:
    """A check for a person."""
    text = f"{check.level:<9}{check.name:<11}{check.text}"
    return f"{text}\n{'':<20}-> {check.advice}" if check.advice else text
