"""What happens when: scenes as numbers (`State`), a list of timed segments (`Script`), and the way between them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, fields, replace

import numpy as np

from edge.capture.phantom.texture import ease


@dataclass(frozen=True, slots=True)
class State:
    """Everything that changes from frame to frame. Lengths in scene units (the folds are 0.9 long)."""

    x: float = 0.0  # where the camera looks
    y: float = 0.0
    span: float = 1.15  # half the width of the view
    roll: float = 0.0  # radians, on top of the look's own
    tilt_x: float = 0.0  # perspective, 0 = straight on
    tilt_y: float = 0.0
    opening: float = 0.02  # half width of the glottis at the vocal processes
    breathing: float = 0.0  # how far it swings with the breath
    voice: float = 0.0  # amplitude of the vibration
    epiglottis: float = 0.0  # 0 away, 1 over the whole glottis
    near: float = 0.0  # 1: the epiglottis' edge fills the front of the view
    room: float = 0.0  # weights of the other plates; the larynx has the rest
    mouth: float = 0.0
    trachea: float = 0.0
    fog: float = 0.0
    smear: float = 0.0  # defocus, 0..1
    dark: float = 0.0
    glare: float = 0.0
    blood: float = 0.0
    mucus: float = 0.0
    tremor: float = 1.0
    nose: float = 0.0  # weights of places that the default script does not visit
    gullet: float = 0.0
    bronchi: float = 0.0
    teeth: float = 0.0
    lag: float = 0.0  # see `posture.Posture`
    squeeze: float = 0.0
    smoke: float = 0.0
    drops: float = 0.0  # of water on the lens

    @property
    def elsewhere(self) -> list[tuple[str, float]]:
        """The other plates' names and weights."""
        return [(name, getattr(self, name)) for name in PLACES]


PLACES = ("mouth", "room", "trachea", "nose", "gullet", "bronchi", "teeth")
_FIELDS = tuple(f.name for f in fields(State))
_PLACES = [_FIELDS.index(name) for name in PLACES]
_SMEAR = _FIELDS.index("smear")

SCENES: dict[str, State] = {
    "out_of_body": State(room=1.0, span=1.0, epiglottis=1.0, tremor=3.0),
    "mouth": State(mouth=1.0, span=1.15, epiglottis=1.0),
    "pharynx": State(mouth=1.0, span=0.55, y=0.28, epiglottis=1.0, tremor=1.5),
    "epiglottis": State(y=-0.35, span=1.35, epiglottis=1.0, near=1.0, opening=0.12),
    "breathing": State(y=0.02, span=1.10, opening=0.20, breathing=0.06),
    "phonation": State(y=0.0, span=0.95, opening=0.004, voice=0.030),
    "closed": State(y=0.0, span=1.0, opening=0.0),
    "fog": State(y=0.0, span=1.05, opening=0.16, breathing=0.04, fog=0.85, smear=0.35),
    "pyriform": State(x=0.98, y=0.45, span=0.52, roll=0.25, opening=0.05),
    "glare": State(y=0.0, span=1.0, opening=0.10, breathing=0.04, glare=0.8),
    "blood": State(y=0.02, span=0.95, opening=0.12, breathing=0.04, blood=0.7, mucus=0.5),
    "trachea": State(trachea=1.0, y=0.12, span=0.25, opening=0.28, tremor=0.6),
    "wall": State(x=-1.25, y=0.9, span=0.35, smear=0.5, tremor=1.5),
    # The default script does not visit these.
    "far": State(y=-0.10, span=1.65, opening=0.14, breathing=0.04, epiglottis=0.25),
    "paramedian": State(y=0.0, span=1.0, opening=0.13, lag=0.8, breathing=0.02),
    "squeeze": State(y=0.0, span=1.0, opening=0.0, squeeze=0.24),
    "vallecula": State(y=-1.15, span=0.55, epiglottis=0.0, opening=0.10),
    "arytenoid": State(x=0.12, y=0.95, span=0.42, opening=0.05),
    "nose": State(nose=1.0, span=1.0, epiglottis=1.0),
    "gullet": State(gullet=1.0, span=0.8, epiglottis=1.0),
    "bronchi": State(bronchi=1.0, span=0.9, epiglottis=1.0),
    "teeth": State(teeth=1.0, span=1.2, epiglottis=1.0, tremor=2.0),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """One scene of a script.

    Attributes:
        scene: a key of `SCENES`.
        seconds: how long it lasts, the way into it included.
        changes: fields of `State` that differ from the scene's own.
    """

    scene: str
    seconds: float
    changes: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scene not in SCENES:
            raise ValueError(f"the phantom has no scene {self.scene!r}: choose one of {', '.join(sorted(SCENES))}")
        if not np.isfinite(self.seconds) or self.seconds <= 0:
            raise ValueError(f"scene {self.scene!r} lasts {self.seconds} s: give it more than 0 seconds")
        unknown = sorted(set(self.changes) - set(_FIELDS))
        if unknown:
            raise ValueError(f"scene {self.scene!r} has no parameter {unknown[0]!r}: choose from {', '.join(_FIELDS)}")
        if self.state.span <= 0:
            raise ValueError(f"scene {self.scene!r} has a span of {self.state.span}: give more than 0")

    @property
    def state(self) -> State:
        """The scene's state with the segment's changes."""
        return replace(SCENES[self.scene], **self.changes)


class Script:
    """Timed segments that loop; `at` says what is going on at a time.

    Args:
        segments: at least one.
        travel: the longest way from one scene into the next, seconds (never more than 45 % of the scene).
    """

    def __init__(self, segments: list[Segment], *, travel: float = 1.4) -> None:
        if not segments:
            raise ValueError("the phantom's script is empty: give it at least one segment")
        self.segments = tuple(segments)
        self.travel = travel
        self._ends = np.cumsum([s.seconds for s in segments]).tolist()
        self._targets = [np.array([getattr(s.state, name) for name in _FIELDS]) for s in segments]
        self.duration = float(self._ends[-1])

    def at(self, t: float) -> tuple[str, State]:
        """Return the scene's name and the state at `t` seconds; a scene is named once the way into it is half done."""
        t %= self.duration
        index = min(bisect_right(self._ends, t), len(self.segments) - 1)
        segment = self.segments[index]
        since = t - (self._ends[index] - segment.seconds)
        way = min(self.travel, 0.45 * segment.seconds)
        target = self._targets[index]
        share = since / way if way > 0 else 1.0
        if share >= 1.0 or len(self.segments) == 1:
            return segment.scene, State(*target.tolist())
        before = self._targets[index - 1]
        weight = ease(share)
        mixed = before + (target - before) * weight
        # A field of view is a ratio: it grows by factors.
        span = _FIELDS.index("span")
        mixed[span] = before[span] ** (1 - weight) * target[span] ** weight
        # Places replace each other quickly, and the tip is too near to be in focus meanwhile.
        for place in _PLACES:
            mixed[place] = before[place] + (target[place] - before[place]) * ease((weight - 0.36) / 0.28)
        if np.any(before[_PLACES] != target[_PLACES]):
            mixed[_SMEAR] = max(mixed[_SMEAR], 0.9 * ease(1.0 - abs(weight - 0.5) / 0.42))
        name = segment.scene if weight >= 0.5 else self.segments[index - 1].scene  # noqa: PLR2004 # half way
        return name, State(*mixed.tolist())


def default_script(seed: int) -> Script:
    """Return about a minute of an examination; the seed varies timing, distances and how bad the bad moments are."""
    rng = np.random.default_rng([seed, 31])

    def about(seconds: float) -> float:
        return float(seconds * rng.uniform(0.85, 1.15))

    side = float(rng.choice([-1.0, 1.0]))

    def view(scene: str, seconds: float, **changes: float) -> Segment:
        own = SCENES[scene]
        drift = {
            "span": changes.pop("span", own.span) * float(rng.uniform(0.88, 1.15)),
            "x": changes.pop("x", own.x) + float(rng.normal(0, 0.05)),
            "y": changes.pop("y", own.y) + float(rng.normal(0, 0.05)),
            "roll": changes.pop("roll", own.roll) + float(rng.normal(0, 0.10)),
        }
        return Segment(scene, about(seconds), drift | changes)

    return Script(
        [
            view("out_of_body", 4.0),
            view("mouth", 4.5),
            view("pharynx", 3.5),
            view("epiglottis", 5.5),
            view("breathing", 6.5),
            view("phonation", 6.5),
            view("fog", 4.5, fog=float(rng.uniform(0.78, 0.95))),
            view("breathing", 4.0, span=0.95),
            view("pyriform", 5.0, x=side * 0.98, roll=side * 0.25),
            view("closed", 2.5),
            view("phonation", 3.5, span=0.8, voice=0.04),
            view("glare", 3.5, glare=float(rng.uniform(0.6, 0.9))),
            view("blood", 4.0),
            view("trachea", 5.5),
            view("epiglottis", 3.0, span=1.6),
            view("mouth", 3.0),
        ]
    )
