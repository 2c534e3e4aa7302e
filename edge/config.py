"""The YAML file as typed settings. Every fault is told at once: file, line, key, value, and what would be right."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMITTED_BUNDLE = Path(__file__).parent / "models" / "visibility.zip"
"""The model bundle that ships with Foldsight."""
DEFAULT_PATH = Path("/etc/foldsight/edge.yaml")

Port = Annotated[int, Field(ge=1, le=65535)]


def default_device() -> str:
    """A name from the host's: lower case, digits and hyphens, as topics and host names both allow."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")
    return name[:48] or "adapter"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class Capture(_Section):
    """Where frames come from."""

    source: str = Field(default="auto", min_length=1)
    """`auto` (a Pi camera, else the first V4L2 camera), `picamera`, `picamera:N`, a Jetson's `csi`, `csi:N`,
    `/dev/videoN` or a link under /dev/v4l/by-id, `phantom`, a video file, a folder of images, a stream's URL (rtsp://,
    http://), or `gst:` and a GStreamer pipeline without its sink."""
    width: int = Field(default=1280, ge=64, le=7680)
    """Asked of the camera, pixels; what it really gives is published."""
    height: int = Field(default=720, ge=64, le=4320)
    """Asked of the camera, pixels."""
    fps: float = Field(default=30, gt=0, le=240)
    """Asked of the camera, and the pace of the phantom and of an image folder, frames a second."""
    timeout_s: float = Field(default=1.0, ge=0.1, le=30)
    """Without a frame for so long the state is `no_signal`, and the source is opened anew."""
    hung_s: float = Field(default=3.0, ge=1, le=60)
    """A driver that has not answered for so long will not, and cannot be interrupted: the process ends, and systemd
    starts it anew."""
    open_s: float = Field(default=15.0, ge=1, le=120)
    """The same while it is being opened, its first frame included: some cameras take seconds to start."""
    frozen_s: float = Field(default=1.0, ge=0.2, le=60)
    """The same image for so long is a frozen source: `no_signal`."""
    pace: Literal["live", "lossless"] = "live"
    """Of a replay: `live` at the file's own rate, the newest frame winning; `lossless` as fast as the model goes,
    losing none."""
    loop: bool = True
    """Whether a replay begins again at its end."""
    seed: int = Field(default=0, ge=0)
    """Of the phantom."""


class Model(_Section):
    """Which model, and how it is run."""

    bundle: Path | None = None
    """The model bundle; by default the one that `foldsight bundle install` installed, else the one that ships."""
    precision: Literal["auto", "int8", "fp32"] = "auto"
    """Which artefact of the bundle; `auto` takes the quickest with `runtime: auto`, else INT8 where there is one."""
    runtime: Literal["auto", "onnxruntime", "ncnn", "tensorrt"] = "auto"
    """What runs it. `auto` follows what was measured on this machine, and remembers; `ncnn` takes the bundle's form for
    it; `tensorrt` builds an engine from the bundle's graph for it beside the running model, and changes over. Where
    they cannot be had, ONNX Runtime goes on."""
    engine: Literal["auto", "int8", "fp16"] = "auto"
    """Precision of the TensorRT engine; `auto` is INT8 where the bundle has a graph for it, else half."""
    threads: int = Field(default=1, ge=1, le=16)
    """Threads for one inference."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys, as files or folders of *.pub: a bundle must be signed by one of them. Empty: it need not be signed.
    The bundle that ships is trusted as the software is."""
    trial_s: float = Field(default=60, ge=0, le=3600)
    """A newly installed bundle is on trial until the daemon has classified frames for so long undisturbed; 0: never."""
    trial_starts: int = Field(default=3, ge=1, le=100)
    """After so many starts on trial that did not end well the bundle before is used again."""


class Latency(_Section):
    """What a frame's age may be, from its exposure to its publishing."""

    budget_ms: float = Field(default=100, gt=0, le=10000)
    """Within which a frame should be published; above it, it is counted and marked. It runs from the exposure, and a
    camera's own readout and transfer take a good part of it before the daemon has the frame."""
    max_age_ms: float = Field(default=500, gt=0, le=10000)
    """Above which a frame is dropped and counted, never published as current."""
    ladder: bool = True
    """Whether to classify fewer frames, then with the bundle's smaller model, while the budget is not kept."""


class Mqtt(_Section):
    """The broker."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: Port = 1883
    username: str | None = None
    password_file: Path | None = None
    """A file whose first line is the password; never the password itself."""
    ca_file: Path | None = None
    """CA certificate(s); with it, the connection is TLS."""
    keepalive_s: int = Field(default=5, ge=2, le=300)
    """The broker speaks the will after one and a half of these without a word."""
    spool: int = Field(default=256, ge=0, le=10000)
    """Events kept while the broker is away; beyond it the oldest goes, and is counted."""


class Display(_Section):
    """The phone page's web server, `foldsight display`."""

    host: str = "127.0.0.1"
    """Where it listens without phones: plain HTTP, no pairing, meant for this machine alone."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes a free one."""
    websocket_port: Port = 9001
    """The broker's WebSocket listener, as the page reaches it; without phones."""
    name: str = Field(default="", max_length=40)
    """What the page calls the adapter, such as `Theatre 3`; empty: its name in topics. Never a patient's."""
    metrics: bool = True
    """Whether `/metrics` tells Prometheus how the adapter is."""


class Phones(_Section):
    """Phones over the network: pairing, TLS, an account for each. `foldsight broker prepare` makes what they need."""

    enabled: bool = False
    host: str = ""
    """Where the page's server and the broker listen for phones; empty: on every address."""
    https_port: Port = 8443
    """The page."""
    websocket_port: Port = 8884
    """MQTT over secure WebSocket, which the page uses."""
    mqtt_port: Port = 8883
    """MQTT over TLS, for other subscribers."""
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")] | None = None
    """What the code tells phones to open; by default the machine's name in mDNS, NAME.local."""
    names: tuple[str, ...] = ()
    """Further host names that the certificates are for."""
    limit: int = Field(default=8, ge=1, le=64)
    """Phones that may be paired at the same time."""
    state_dir: Path = Path("/var/lib/foldsight-phones")
    """Certificates, accounts, and the list of phones."""


class HomeAssistant(_Section):
    """Discovery by Home Assistant, announced by the page's server."""

    enabled: bool = False
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,48}$")] = "homeassistant"


class Preview(_Section):
    """Pictures for the phone's live view: images leave the device only where this is on, and only to paired phones.

    They are small JPEGs on the topic `preview`, which the adapter's own broker hands to accounts of this adapter alone.
    """

    enabled: bool = False
    """Whether pictures of the patient may leave the device, to paired phones."""
    fps: float = Field(default=10, gt=0, le=10)
    """At most so many a second; fewer while a phone acknowledges them slowly, one a second while none does."""
    max_kb: int = Field(default=40, ge=4, le=40)
    """Of one picture, kilobytes (1000 bytes); its quality follows."""
    width: int = Field(default=480, ge=64, le=1280)
    """Of the picture, pixels. It is the camera's whole frame, scaled; smaller frames are not enlarged."""


class Recording(_Section):
    """Pictures of the patient on this adapter's disk, below `state_dir`: none is written unless this is on."""

    enabled: bool = False
    """Whether clips and snapshots may be kept."""
    clips: tuple[Literal["finding", "fault"], ...] = ("finding", "fault")
    """When a clip is kept by itself: the state becomes the finding, or something fails. Empty: snapshots alone."""
    before_s: float = Field(default=5, ge=0, le=30)
    """How much of the time before is in a clip; it waits in memory, at most 16 MB."""
    after_s: float = Field(default=5, ge=0, le=30)
    """How much of the time after; prolonged by what happens meanwhile, to a minute."""
    fps: float = Field(default=10, gt=0, le=30)
    """Pictures a second in a clip."""
    width: int = Field(default=640, ge=64, le=1920)
    """Of a clip's pictures, pixels; smaller frames are not enlarged. A snapshot is the camera's whole frame."""
    max_mb: int = Field(default=500, ge=1, le=1_000_000)
    """Of all recordings together; the oldest go first."""
    max_age_days: float = Field(default=7, gt=0, le=3650)
    """Older ones are deleted, by the adapter's clock; also after recording was switched off."""
    keep_free_mb: int = Field(default=200, ge=0, le=1_000_000)
    """Of the disk, for everything else."""
    recipient: Path | None = None
    """A public key's file (`foldsight recording keygen`): what is kept can then be opened with its private half alone,
    which is not on the adapter."""


class Config(_Section):
    """All of it. Every setting has a default that works on a Pi with a camera and a local broker."""

    device: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")] = Field(default_factory=default_device)
    """The adapter's name in topics: lower case letters, digits and hyphens. Never a patient's."""
    state_dir: Path = Path("/var/lib/foldsight")
    """The one folder that the daemon writes: session number, bundles, events that wait, recordings. systemd's
    STATE_DIRECTORY goes before it."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    capture: Capture = Capture()
    model: Model = Model()
    latency: Latency = Latency()
    mqtt: Mqtt = Mqtt()
    display: Display = Display()
    preview: Preview = Preview()
    recording: Recording = Recording()
    phones: Phones = Phones()
    home_assistant: HomeAssistant = HomeAssistant()

    @property
    def sha256(self) -> str:
        """Identity of the effective settings."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def effective_state_dir(self) -> Path:
        """The state directory, systemd's where there is one."""
        return Path(os.environ.get("STATE_DIRECTORY") or self.state_dir)


Key = tuple[str, ...]


class _Source:
    """Where each key of a YAML file stands, for errors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {}
        self.data: dict[str, Any] = {}
        self.faults: list[str] = []
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): check path and permissions") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from error
        if data is None:
            return
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: the file must hold settings (key: value), not {type(data).__name__}")
        self.data = data
        self._walk(root, ())

    def _walk(self, node: Any, key: Key) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key_node, value_node in node.value:
            inner = (*key, str(key_node.value))
            if inner in self.lines:
                line = key_node.start_mark.line + 1
                self.faults.append(
                    f"{self.path}:{line}: {'.'.join(inner)} is given twice (first in line {self.lines[inner]})"
                )
            self.lines[inner] = key_node.start_mark.line + 1
            self._walk(value_node, inner)


def drop_ins(path: Path) -> list[Path]:
    """The files of NAME.d beside NAME.yaml, in the order in which they apply."""
    folder = path.with_suffix(".d")
    return sorted(folder.glob("*.yaml")) if folder.is_dir() else []


def load(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Read the settings: defaults, then the file, then its drop-ins, then overrides.

    Args:
        path: the file; None for /etc/foldsight/edge.yaml where it exists, else the defaults.
        overrides: settings from the command line, nested like the file.

    Raises:
        ConfigError: one line per fault, all of them.
    """
    if path is None and DEFAULT_PATH.is_file():
        path = DEFAULT_PATH
    sources = [] if path is None else [_Source(p) for p in (path, *drop_ins(path))]
    merged: dict[str, Any] = {}
    origin: dict[Key, str] = {}
    faults: list[str] = []
    for source in sources:
        faults += source.faults
        _merge(merged, source.data)
        origin.update({key: f"{source.path}:{line}" for key, line in source.lines.items()})
    _merge(merged, overrides or {})
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        faults += [_sentence(fault, origin) for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from error
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def changes(config: Config) -> dict[str, Any]:
    """Only the settings that differ from the defaults, nested like the file."""
    return _difference(config.model_dump(mode="json"), Config().model_dump(mode="json"))


def _difference(data: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            if inner := _difference(value, default[key]):
                result[key] = inner
        elif value != default[key]:
            result[key] = value
    return result


def _merge(into: dict[str, Any], data: dict[str, Any]) -> None:
    for key, value in data.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _sentence(fault: Any, origin: dict[Key, str]) -> str:
    key: Key = tuple(str(part) for part in fault["loc"])
    where = origin.get(key) or next((origin[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origin), "settings")
    name = ".".join(key) or "the file"
    if fault["type"] == "extra_forbidden":
        near = _nearest(key)
        hint = f"did you mean {near}?" if near else f"known here: {', '.join(_siblings(key))}"
        return f"{where}: {name} is not a setting; {hint}"
    value = json.dumps(fault["input"], default=str)
    message = fault["msg"].replace("Input should be", "it should be").replace("String should", "it should")
    if fault["type"] == "string_pattern_mismatch":
        message = "it should be 1 to 48 lower case letters, digits and hyphens"
    return f"{where}: {name} is {value}; {message}"


def _siblings(key: Key) -> list[str]:
    section: Any = Config
    for part in key[:-1]:
        field = section.model_fields.get(part)
        if field is None:
            return []
        section = field.annotation
    return list(section.model_fields)


def _nearest(key: Key) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415  only for an error

    siblings = _siblings(key)
    every = {(*s, name): ".".join((*s, name)) for s, names in _sections() for name in names}
    found: Iterable[str] = get_close_matches(key[-1], siblings, 1)
    for name in found:
        return ".".join((*key[:-1], name))
    # The right key in the wrong section is as frequent as a typing error.
    return next((text for path, text in every.items() if path[-1] == key[-1] and path != key), None)


def _sections() -> list[tuple[Key, list[str]]]:
    sections: list[tuple[Key, list[str]]] = [((), list(Config.model_fields))]
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append(((name,), list(field.annotation.model_fields)))
    return sections
