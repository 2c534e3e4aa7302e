"""Whether one run was really faster than another, or only luckier.

Neighbouring frames are alike, so their number says nothing about certainty. Each run is therefore cut into slices; the
slices are drawn again with replacement (a block bootstrap: Künsch 1989, Annals of Statistics 17) and every figure is
computed anew from each draw. A change counts only where the 95 % interval of the ratio leaves out "no change" and the
change exceeds what each run did by itself between its first half and its second.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edge.bench.report import BUSY_CORES
from edge.bench.sketch import Sketch, middle
from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Figure = Callable[[Floats], Floats]

_DRAWS = 2000
_FEWEST = 5  # slices; below, there is nothing to draw from
_RESOLUTION = 0.005  # width of a bucket: a smaller change cannot be seen
_TAIL_FRAMES = 500  # fewer, and a p99 is a handful of frames

Judgement = Literal["better", "worse", "inside the noise", "too short to tell", "busy machine"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in two runs.

    Attributes:
        name: what it is, with its unit.
        before: in the earlier run.
        after: in this one.
        change: relative, -0.1 is a tenth less; None where `before` is 0.
        low: lower end of its 95 % interval.
        high: upper end.
        noise: what either run changed by itself between its halves, relative.
    """

    name: str
    before: float
    after: float
    change: float | None
    low: float | None
    high: float | None
    noise: float
    judgement: Judgement


def load(path: Path) -> dict[str, Any]:
    """An earlier run, from the JSON that `foldsight bench --json` printed.

    Raises:
        FoldsightError: the file is missing or is something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FoldsightError(
            f"{path} cannot be read ({error.strerror}): give a file that bench --json wrote"
        ) from error
    except ValueError as error:
        raise FoldsightError(f"{path} is not JSON: give a file that bench --json wrote") from error
    if not isinstance(result, dict) or "slices" not in result:
        raise FoldsightError(f"{path} is no benchmark's result: give a file that bench --json wrote")
    return result


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What changed from one run to another.

    Args:
        before: the earlier run's result.
        after: the later one's.

    Returns:
        `changes` (one `Change` each, as a dictionary), `differs` (what else was not the same in the two runs, one
        sentence each) and `notes`.
    """
    names = [f"{name} {share}" for name in _names(before, after) for share in ("p50", "p95", "p99")]
    figures = ["frames/s", "CPU ms/frame", "memory MB", *names]
    busy = max(before["cpu"]["others"], after["cpu"]["others"]) > BUSY_CORES
    changes = [_change(name, before["slices"], after["slices"], busy=busy) for name in figures]
    notes = ["Noise here is that within the two runs. Runs differ from each other by more: repeat what matters."]
    fewest = min(before["frames"], after["frames"])
    if busy:
        notes.append("Other processes kept the machine busy in one run or both: no time is judged better or worse.")
    if fewest < _TAIL_FRAMES:
        notes.append(f"One run has only {fewest} frames: its p99 is a handful of them. Measure for longer.")
    return {"changes": [asdict(change) for change in changes], "differs": _differences(before, after), "notes": notes}


def _names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return ["age", *(name for name in after["stages_ms"] if name in before["stages_ms"])]


def _change(name: str, before: list[dict[str, Any]], after: list[dict[str, Any]], *, busy: bool) -> Change:
    rng = np.random.default_rng(0)
    drawn, values, halves = [], [], []
    for slices in (before, after):
        figure = _figure(name, slices)
        count = len(slices)
        values.append(float(figure(np.ones((1, count)))[0]))
        drawn.append(figure(rng.multinomial(count, np.full(count, 1 / count), _DRAWS).astype(float)))
        first = np.arange(count) < count / 2
        early, late = figure(np.stack([first, ~first]).astype(float)) if count > 1 else (0.0, 0.0)
        halves.append(abs(late / early - 1) if early > 0 else 0.0)
    noise = round(float(max(*halves, _RESOLUTION)), 5)
    if values[0] <= 0 or min(len(before), len(after)) < _FEWEST:
        return Change(name, _round(values[0]), _round(values[1]), None, None, None, noise, "too short to tell")
    change = values[1] / values[0] - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = drawn[1] / drawn[0]
    low, high = np.percentile(ratio[np.isfinite(ratio)], (2.5, 97.5)) - 1
    judgement: Judgement
    if low <= 0 <= high or abs(change) <= noise:
        judgement = "inside the noise"
    elif busy and name not in ("CPU ms/frame", "memory MB"):
        judgement = "busy machine"  # who waited for a core is not known, so the change is not the program's
    else:
        judgement = "better" if (change > 0) == (name == "frames/s") else "worse"
    return Change(
        name,
        _round(values[0]),
        _round(values[1]),
        round(change, 5),
        round(float(low), 5),
        round(float(high), 5),
        noise,
        judgement,
    )


def _round(value: float) -> float:
    return round(value, 4)


def _figure(name: str, slices: list[dict[str, Any]]) -> Figure:
    """How to compute a figure from weights (draws, slices): how often each slice was drawn."""
    frames = np.array([part["frames"] for part in slices], float)
    if name == "frames/s":
        return _ratio(frames, np.array([part["seconds"] for part in slices]))
    if name == "CPU ms/frame":
        return _ratio(1000 * np.array([part["cpu_s"] for part in slices]), frames)
    if name == "memory MB":
        return _ratio(np.array([part["memory_mb"] for part in slices]), np.ones(len(slices)))
    what, _, share = name.rpartition(" ")
    sketches = [Sketch.decode(part["durations"][what]) for part in slices if what in part["durations"]]
    if len(sketches) < len(slices):
        sketches += [Sketch()] * (len(slices) - len(sketches))
    buckets = sorted({bucket for sketch in sketches for bucket in sketch.counts})
    counts = np.array([[sketch.counts[bucket] for bucket in buckets] for sketch in sketches], float)
    milliseconds = np.array([middle(bucket) for bucket in buckets])
    wanted = int(share[1:]) / 100

    def quantile(weights: Floats) -> Floats:
        if not buckets:
            return np.zeros(len(weights))
        cumulative = np.cumsum(weights @ counts, axis=1)
        at = (cumulative >= np.ceil(wanted * cumulative[:, -1:])).argmax(axis=1)
        return np.asarray(milliseconds[at], np.float64)

    return quantile


def _ratio(above: Floats, below: Floats) -> Figure:
    def figure(weights: Floats) -> Floats:
        return np.asarray((weights @ above) / np.maximum(weights @ below, 1e-12), np.float64)

    return figure


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = []
    for part in ("machine", "model", "source"):
        old, new = before.get(part) or {}, after.get(part) or {}
        found += [
            f"{part} {key}: {old.get(key)} before, {new.get(key)} now"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
    for key in ("pace", "budget_ms"):
        if before.get(key) != after.get(key):
            found.append(f"{key}: {before.get(key)} before, {after.get(key)} now")
    return found


def comparison_table(comparison: dict[str, Any], *, every: bool = False) -> str:
    """The comparison for a person.

    Args:
        comparison: what `compare` gave.
        every: all figures; else the p95 of stages is left out.
    """
    lines = [f"{'':<16}{'before':>10}{'now':>10}{'change':>10}   {'95 % interval':<20}"]
    for change in comparison["changes"]:
        name = change["name"]
        stage = not name.startswith("age ") and name.endswith((" p95", " p99"))
        if stage and not every:
            continue
        if change["change"] is None:
            moved, interval = "", ""
        else:
            moved = _percent(change["change"])
            interval = f"{_percent(change['low'])} to {_percent(change['high'])}"
        lines.append(
            f"{name:<16}{change['before']:>10.3f}{change['after']:>10.3f}{moved:>10}   {interval:<20} "
            f"{change['judgement']}"
        )
    if comparison["differs"]:
        lines += ["", "Not the same in both runs, so the change is not one thing's alone:"]
        lines += [f"  {sentence}" for sentence in comparison["differs"]]
    return "\n".join([*lines, "", *comparison["notes"]])


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"
