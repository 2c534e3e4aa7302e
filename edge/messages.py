"""What goes on the wire, as types. The JSON Schemas in docs/schemas are generated from these (`foldsight schema`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

SCHEMA: Literal[1] = 1
CONTENT_TYPE = "application/json"
ROOT = "foldsight/v1"

_SENT = "Monotonic clock at publishing, ms. Only differences mean anything: a receiver learns from them how late it is."

DeviceStatus = Literal["online", "degraded", "stopped", "offline"]


class Message(BaseModel):
    """What every message carries. Consumers ignore keys that they do not know."""

    model_config = ConfigDict(frozen=True)

    schema_: Literal[1] = Field(default=SCHEMA, serialization_alias="schema", validation_alias="schema")
    device: str
    session: int = Field(description="Grows with every start of the daemon; an older one is history.")

    def encode(self) -> bytes:
        """The payload: UTF-8 JSON."""
        return self.model_dump_json(by_alias=True).encode()


def encoded(values: dict[str, object]) -> bytes:
    """The payload of values that are right already, just as `Message.encode` would give it.

    For what is sent at a frame's rate: a model for each message costs three times as much as the JSON.
    """
    return to_json(values, inf_nan_mode="null")


class ModelId(BaseModel):
    """Which model a message speaks for."""

    name: str
    version: str


class ModelIdentity(ModelId):
    """The same, with what makes it unmistakable."""

    sha256: str = Field(description="Of the bundle's manifest, which holds the hash of every other file.")
    precision: str
    signed: bool = Field(default=False, description="Whether a key that this adapter trusts signed it.")


class Status(Message):
    """Whether the device is there. Retained, and also the will."""

    state: DeviceStatus
    reasons: list[str] = []
    at: float = Field(description="Wall clock, seconds since 1970. A label: not for computing ages.")


class Birth(Message):
    """What the device is. Retained, published on every connect."""

    at: float
    software: str
    model: ModelIdentity
    labels: list[str]
    finding: str
    config_sha256: str
    budget_ms: float
    source: str
    runtime: str
    schemas: dict[str, int]
    recording: Literal["off", "on", "encrypted"] = Field(
        default="off",
        description="Whether pictures are kept on the adapter's disk, and whether only their owner can open them.",
    )


class Region(BaseModel):
    """A place, smoothed. Lengths are fractions of the camera's whole frame, not of the scope's image within it."""

    label: str = Field(description="A part of the finding, as the model's maps call it.")
    box: tuple[float, float, float, float] = Field(description="Left, top, width, height.")
    centre: tuple[float, float] = Field(description="x, y of the centre of mass, which need not be the box's middle.")
    area: float = Field(description="Share of the frame that it covers.")
    score: float = Field(description="Mean probability of what lies in it.")


class Quality(BaseModel):
    """Whether the frame was fit to be judged. With any reason, its score does not count."""

    reasons: list[str]
    brightness: float
    contrast: float
    over_exposed: float
    sharpness: float
    aperture: tuple[float, float, float, float] | None = Field(
        description="x, y, width, height of the scope's bright image as fractions of the frame; null: all of it."
    )


class Detection(Message):
    """One classified frame. Not retained, expires in a second."""

    seq: int
    captured_at: float = Field(description="Wall clock at the exposure, seconds since 1970. A label only.")
    clock_synced: bool
    age_ms: float = Field(description="From exposure to publishing, by the monotonic clock.")
    sent_ms: float = Field(description=_SENT)
    stamp: str = Field(description="How the exposure time is known: sensor, driver, dequeue, synthetic.")
    label: str
    score: float = Field(description="Calibrated score of the finding in this frame alone.")
    scores: dict[str, float]
    state: str = Field(description="The smoothed decision: a label, uncertain, or no_signal.")
    quality: Quality
    regions: list[Region] = Field(
        description="Where the finding's parts are, one each at most. Only while the state is the finding and this "
        "frame is fit to be judged; else empty, as it is with a model that has no maps."
    )
    stages_ms: dict[str, float]
    budget_ms: float
    over_budget: bool
    dropped: int = Field(description="Frames of this session that were replaced by newer ones or too old.")
    model: ModelId


class State(Message):
    """The smoothed decision. Retained, expires; on every change and once a second."""

    seq: int | None = Field(description="The last frame it rests on; null where there is none.")
    state: str
    score: float
    since_ms: float = Field(description="For how long the state has been this.")
    sent_ms: float = Field(description=_SENT)
    age_ms: float | None = Field(description="Age of the last frame it rests on; null where there is none.")
    reasons: list[str]


class Event(Message):
    """A transition or a fault. Kept in a bounded spool while the broker is away."""

    id: int
    at: float
    clock_synced: bool
    kind: Literal["state", "source", "status", "ladder", "fault", "snapshot", "model", "recording"]
    before: str | None = None
    after: str | None = None
    detail: str = ""


class Percentiles(BaseModel):
    """Of a set of milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    p999: float
    max: float


class SourceHealth(BaseModel):
    """What the camera or replay really gives."""

    state: str
    reason: str = Field(description="Why it is lost; empty for a replay, whose file's name could be a patient's.")
    reopened: int
    name: str
    kind: str = ""
    width: int = 0
    height: int = 0
    fps: float = Field(default=0, description="As the source claims.")
    fps_measured: float = Field(default=0, description="As frames really came, over the last two seconds.")
    pixel_format: str = ""
    stamps_refused: int = Field(default=0, description="Exposure times that could not be; the dequeue counts instead.")
    converted: dict[str, int] = Field(default={}, description="Images made BGR, by what they were.")
    rejected: dict[str, int] = Field(default={}, description="Images that were not handed on, by reason.")


class LadderHealth(BaseModel):
    """How much is being done to keep frames within the budget."""

    rung: int = Field(description="0 is the best; the last is degraded.")
    name: str
    every: int = Field(description="One of so many frames is classified.")
    since_s: float | None = Field(description="For how long, seconds; null: since the start.")
    reason: str = Field(description="Why the last step was made; empty before the first.")


class RecordingHealth(BaseModel):
    """What is kept on the adapter's disk."""

    encrypted: bool
    kept: int = Field(description="Clips and snapshots that are there.")
    megabytes: float = Field(description="Of those together.")
    written: int = Field(description="Since the start.")
    dropped: int = Field(description="Let go because the disk was too slow.")
    failed: int = Field(description="That could not be written.")
    problem: str = Field(description="Why the last one could not be kept; empty while all is well.")


class Health(Message):
    """How the device is, every 5 seconds."""

    at: float
    uptime_s: float
    fps: float = Field(description="Frames classified a second since the last message of this kind.")
    frames: int
    classified: int
    skipped: int = Field(description="Frames that were not classified on purpose, on a lower rung of the ladder.")
    age_ms: Percentiles = Field(description="Exposure to publish, over the last minute.")
    age_total_ms: Percentiles = Field(description="The same since the start.")
    stages_ms: dict[str, Percentiles]
    over_budget: int
    dropped: dict[str, int]
    states: dict[str, int] = Field(description="Classified frames by the state they ended in.")
    ladder: LadderHealth
    source: SourceHealth
    unsent: int = Field(description="Live messages that were let go because the broker was away or slow.")
    spooled: int = Field(description="Events waiting for the broker.")
    lost_events: int = Field(description="Events that fell out of the full spool.")
    temperature_c: float | None = Field(description="Of the hottest thermal zone.")
    temperatures_c: dict[str, float] = Field(description="By thermal zone.")
    throttled: list[str] = Field(
        description="What slows the processor down now: under_voltage, frequency_capped, throttled, temperature_limit, "
        "over_current; empty where nothing, or unknown."
    )
    throttled_since_boot: list[str] = Field(description="The same, of any moment since the device was started.")
    memory_mb: float
    clock_synced: bool
    recording: RecordingHealth | None = Field(
        default=None, description="Null: recording is off, and no picture is written."
    )


class Reply(Message):
    """The answer to a request on `cmd/<name>`, on its response topic with its correlation data."""

    command: str
    ok: bool
    detail: str = ""
    at: float


TOPICS: dict[str, type[Message]] = {
    "status": Status,
    "birth": Birth,
    "detection": Detection,
    "state": State,
    "event": Event,
    "health": Health,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of each topic's payload, by topic."""
    schemas = {}
    every: dict[str, type[Message]] = {**TOPICS, "reply": Reply}
    for topic, message in every.items():
        schema = message.model_json_schema(mode="serialization", by_alias=True)
        schemas[topic] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"{ROOT}/{topic}",
            **schema,
        }
    return schemas
