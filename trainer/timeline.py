"""What a bundle says over time against what is true: the phantom's script, and real images one after the other.

`python -m trainer.timeline BUNDLE --out timeline.png` plays on the script's own time, through the same analysis and
decision as the device, at several frame rates at once; `--data ROOT --manifest CSV` adds the test images of a data set.
It prints how long a change takes to be said, how often the answer flips, and how much of the time it is right.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.analysis import Analyser
from edge.bundle import Bundle
from edge.capture.phantom import Phantom
from edge.decision import NO_SIGNAL, UNCERTAIN, Decision
from edge.errors import FoldsightError
from trainer.data.manifest import read_manifest
from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from edge.bundle import DecisionSpec
    from trainer.data.manifest import Record

TICKS = 60
"""Frames a second of what is shown; every frame rate looks at every n-th of them."""
RATES = (10, 15, 30, 60)
OUT_OF_BODY = "out_of_body"
"""The phantom's scene, and the reason that a device gives for being uncertain in it."""
_SHORTEST_S = 0.5  # a clear view or its absence must last so long for its detection to be timed
_THUMB = 60  # pixels, height of a thumbnail
_COLOURS = {"finding": "#1b7f79", "other": "#d8a48f", UNCERTAIN: "#e6e2d8", NO_SIGNAL: "#8a8f98"}
_INK, _FAINT, _ALARM = "#22303c", "#9aa5ae", "#b23a48"


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame of a timeline.

    Attributes:
        at_s: seconds from its start.
        image: uint8 (height, width, 3) BGR.
        visible: whether the finding is in view; None where neither answer is wrong.
        scene: what it is, in a word.
    """

    at_s: float
    image: NDArray[np.uint8]
    visible: bool | None
    scene: str


@dataclass(slots=True)
class Truth:
    """What was shown, one entry per tick."""

    at_s: list[float] = field(default_factory=list)
    visible: list[bool | None] = field(default_factory=list)
    scenes: list[tuple[float, str, NDArray[np.uint8]]] = field(default_factory=list)
    """Start, name and a thumbnail of each scene."""

    def add(self, shown: Shown) -> None:
        """Take in a frame."""
        self.at_s.append(shown.at_s)
        self.visible.append(shown.visible)
        if not self.scenes or self.scenes[-1][1] != shown.scene:
            self.scenes.append((shown.at_s, shown.scene, _thumbnail(shown.image)))
        elif shown.at_s - self.scenes[-1][0] < 1.5:  # noqa: PLR2004  the way into a scene is not what it looks like
            self.scenes[-1] = (*self.scenes[-1][:2], _thumbnail(shown.image))

    def clear(self) -> Iterator[tuple[bool, float, float]]:
        """Each clear stretch: whether the finding is in view, its begin and end in seconds."""
        for visible, run in itertools.groupby(zip(self.visible, self.at_s, strict=True), key=lambda pair: pair[0]):
            times = [at_s for _, at_s in run]
            if visible is not None and times[-1] - times[0] >= _SHORTEST_S:
                yield visible, times[0], times[-1] + 1 / TICKS


class Track:
    """What is said of a timeline at one frame rate.

    Args:
        bundle: the model.
        rate: frames a second; a divisor of `TICKS`.
        precision: which artefact, `auto` for the one that a device takes.
    """

    def __init__(self, bundle: Bundle, rate: int, precision: str = "auto") -> None:
        self.rate = rate
        self.analyser = Analyser(bundle, precision=precision)
        self._decision = Decision(bundle.manifest.decision, self.analyser.finding, self.analyser.other)
        self.at_s: list[float] = []
        self.truth: list[bool | None] = []
        self.scenes: list[str] = []
        self.scores: list[float] = []
        """Of the frames, NaN where they were not fit to be judged."""
        self.smoothed: list[float] = []
        self.verdicts: list[str] = []
        """Of the frames alone."""
        self.states: list[str] = []
        self.reasons: list[tuple[str, ...]] = []

    def take(self, tick: int, shown: Shown) -> None:
        """Look at a frame, if it is one of this rate's."""
        if tick % (TICKS // self.rate):
            return
        analysis = self.analyser.analyse(shown.image, shown.at_s)
        good = analysis.quality.good
        verdict = self._decision.frame(shown.at_s, analysis.score if good else None, analysis.quality.reasons)
        self.at_s.append(shown.at_s)
        self.truth.append(shown.visible)
        self.scenes.append(shown.scene)
        self.scores.append(analysis.score if good else float("nan"))
        self.smoothed.append(verdict.score)
        self.verdicts.append(analysis.verdict)
        self.states.append(verdict.state)
        self.reasons.append(analysis.quality.reasons)

    def said_at(self, at_s: float) -> str:
        """The state at a moment."""
        index = int(np.searchsorted(self.at_s, at_s + 1e-9, "right")) - 1
        return self.states[max(0, index)]


@dataclass(frozen=True, slots=True)
class Measures:
    """How well a track follows the truth.

    Attributes:
        detect_s: median time from the finding's clear appearance until the state says so, seconds; None without any.
        detect_worst_s: the longest.
        missed: how many appearances were never said.
        appearances: of how many.
        release_s: median time from its clear absence until the state no longer says it.
        release_worst_s: the longest.
        flips: changes of the state per minute.
        raw_flips: changes per minute of the single frames' verdicts.
        right: share of the unambiguous time in which the state is true.
        unsure: share in which it is neither.
        wrong: share in which it is false.
        told: share in which it is true, or uncertain because no tissue is in view where the scope is out of the body.
        raw_right: the first of these for the single frames' verdicts.
        raw_wrong: the last.
    """

    detect_s: float | None
    detect_worst_s: float | None
    missed: int
    appearances: int
    release_s: float | None
    release_worst_s: float | None
    flips: float
    raw_flips: float
    right: float
    unsure: float
    wrong: float
    told: float
    raw_right: float
    raw_wrong: float


def measure(track: Track, truth: Truth) -> Measures:
    """Compare what was said with what was true."""
    finding, other = track.analyser.finding, track.analyser.other
    detect: list[float] = []
    release: list[float] = []
    missed = 0
    for visible, begin, end in truth.clear():
        answered = _settled(track, begin, end, finding=visible)
        if answered is not None:
            (detect if visible else release).append(answered - begin)
        elif visible:
            missed += 1
        else:
            release.append(end - begin)
    minutes = max(1e-9, (track.at_s[-1] - track.at_s[0]) / 60)
    clear = [k for k, visible in enumerate(track.truth) if visible is not None]

    def share(said: Sequence[str], *, true: bool) -> float:
        wanted = [finding if track.truth[k] == true else other for k in clear]
        return sum(said[k] == want for k, want in zip(clear, wanted, strict=True)) / max(1, len(clear))

    right, wrong = share(track.states, true=True), share(track.states, true=False)
    outside = [
        k for k in clear
        if track.states[k] == UNCERTAIN and track.scenes[k] == OUT_OF_BODY and OUT_OF_BODY in track.reasons[k]
    ]  # fmt: skip
    return Measures(
        _median(detect),
        max(detect, default=None),
        missed,
        len(detect) + missed,
        _median(release),
        max(release, default=None),
        _flips(track.states) / minutes,
        _flips(track.verdicts) / minutes,
        right,
        1 - right - wrong,
        wrong,
        right + len(outside) / max(1, len(clear)),
        share(track.verdicts, true=True),
        share(track.verdicts, true=False),
    )


def _settled(track: Track, begin: float, end: float, *, finding: bool) -> float | None:
    """When in a stretch the state becomes the finding, or something else, and stays so for a while; None for never."""
    said = [(begin, track.said_at(begin))]
    said += [(at_s, state) for at_s, state in zip(track.at_s, track.states, strict=True) if begin < at_s < end]
    as_wanted = [(at_s, (state == track.analyser.finding) is finding) for at_s, state in said]
    for at_s, wanted in as_wanted:
        if wanted and all(ok for later, ok in as_wanted if at_s <= later < at_s + _SHORTEST_S):
            return at_s
    return None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _flips(said: Sequence[str]) -> int:
    return sum(a != b for a, b in itertools.pairwise(said))


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    width = max(1, round(image.shape[1] * _THUMB / image.shape[0]))
    return np.asarray(cv2.resize(image, (width, _THUMB), interpolation=cv2.INTER_AREA)[:, :, ::-1], np.uint8)


# --- what is shown ---------------------------------------------------------------------------------------------------


def phantom_frames(seed: int, seconds: float | None = None) -> Iterator[Shown]:
    """The phantom's whole script, or its first seconds."""
    phantom = Phantom(width=640, height=480, seed=seed)
    for tick in range(round(TICKS * min(phantom.duration, seconds or phantom.duration))):
        image, truth = phantom.render(tick / TICKS)
        if truth is not None:
            yield Shown(tick / TICKS, image, None if truth.ambiguous else truth.visible, truth.scene)


def real_frames(records: Iterable[Record], root: Path, *, groups: int = 20, hold_s: float = 3.0) -> Iterator[Shown]:
    """Images of held-out recordings, with and without folds in turn, each drifting a little as a hand does.

    Args:
        records: of a manifest; those of its test split are used.
        root: its data root.
        groups: how many recordings.
        hold_s: how long each recording is shown, in up to three of its images.
    """
    tick = 0
    for name, chosen in _in_turn([r for r in records if r.split == "test"], groups):
        for record in chosen:
            image = np.asarray(record.read_image(root), np.uint8)
            for _ in range(round(hold_s * TICKS / len(chosen))):
                at_s = tick / TICKS
                yield Shown(at_s, _drifted(image, at_s), record.label_index == 1, name)
                tick += 1


def _in_turn(records: list[Record], groups: int) -> Iterator[tuple[str, list[Record]]]:
    """Up to three images each of recordings that alternate between labels, and between sources within a label."""
    queues: dict[int, list[list[Record]]] = {}
    for label in (0, 1):
        by_source: dict[str, dict[str, list[Record]]] = {}
        for record in sorted((r for r in records if r.label_index == label), key=lambda r: (r.group, r.path)):
            by_source.setdefault(record.source, {}).setdefault(record.group, []).append(record)
        rows = itertools.zip_longest(*(list(found.values()) for found in by_source.values()))
        queues[label] = [group for row in rows for group in row if group is not None]
    for index, pair in enumerate(zip(queues[0], queues[1], strict=False)):
        for group in pair[: max(0, groups - 2 * index)]:
            step = max(1, len(group) // 3)
            yield f"{group[0].source} {group[0].group.rsplit('/', 1)[-1][:9]}", group[::step][:3]


def _drifted(image: NDArray[np.uint8], at_s: float) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    shift = 0.01 * min(height, width) * np.array([np.sin(2.1 * at_s), np.cos(1.7 * at_s)])
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return np.asarray(cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def play(frames: Iterable[Shown], tracks: Sequence[Track]) -> Truth:
    """Show a timeline to every track."""
    truth = Truth()
    for tick, shown in enumerate(frames):
        truth.add(shown)
        for track in tracks:
            track.take(tick, shown)
    return truth


# --- picture ---------------------------------------------------------------------------------------------------------


def draw(timelines: Sequence[tuple[str, Truth, Sequence[Track]]], spec: DecisionSpec, path: Path) -> None:
    """Draw truth, what was said at each rate, the score and the reasons against time."""
    import matplotlib as mpl  # noqa: PLC0415  half a second that importing the measures need not take

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    ratios = (1.1, 0.45 + 0.3 * len(timelines[0][2]), 2.1, 0.9)
    figure = plt.figure(figsize=(15, 5.6 * len(timelines)), layout="constrained")
    panels = figure.subfigures(len(timelines), 1, squeeze=False)[:, 0]
    for panel, (title, truth, tracks) in zip(panels, timelines, strict=True):
        axes = panel.subplots(4, 1, sharex=True, height_ratios=ratios, gridspec_kw={"hspace": 0.04})
        panel.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
        end_s = truth.at_s[-1]
        _draw_scenes(axes[0], truth, end_s)
        _draw_bands(axes[1], truth, tracks)
        _draw_scores(axes[2], tracks, spec)
        _draw_reasons(axes[3], tracks[-1])
        axes[3].set(xlim=(0, end_s), xlabel="seconds of the timeline")
        for axis in axes:
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(colors=_INK, length=0, labelsize=9)
            for begin_s, _, _ in truth.scenes[1:]:
                axis.axvline(begin_s, color=_FAINT, linewidth=0.5, alpha=0.5, zorder=0)
    names = {
        "finding": "folds",
        "other": "no folds",
        UNCERTAIN: "uncertain, or truth ambiguous",
        NO_SIGNAL: "no signal",
    }
    handles = [Patch(color=_COLOURS[key], label=name) for key, name in names.items()]
    panels[0].legend(handles=handles, loc="upper right", ncols=4, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_scenes(axis: Axes, truth: Truth, end_s: float) -> None:
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines["bottom"].set_visible(False)
    box = axis.get_window_extent()
    ends = [begin_s for begin_s, _, _ in truth.scenes[1:]] + [end_s]
    free_s = -np.inf
    for (begin_s, name, thumb), stop_s in zip(truth.scenes, ends, strict=True):
        half = 0.36 * thumb.shape[1] / thumb.shape[0] * end_s * box.height / box.width
        middle = min(max((begin_s + stop_s) / 2, half), end_s - half)
        if middle - half >= free_s:
            axis.imshow(thumb, extent=(middle - half, middle + half, 0.28, 1.0), aspect="auto", zorder=2)
            free_s = middle + half
        label = name.replace("_", " ").replace(" ", "\n", 1)
        axis.text((begin_s + stop_s) / 2, 0.22, label, ha="center", va="top", fontsize=7, color=_INK, linespacing=0.95)
    axis.set_xlim(0, end_s)


def _draw_bands(axis: Axes, truth: Truth, tracks: Sequence[Track]) -> None:
    said = ["finding" if v else UNCERTAIN if v is None else "other" for v in truth.visible]
    _band(axis, len(tracks) + 0.25, truth.at_s, said, height=0.95)
    labels = {track.analyser.finding: "finding", track.analyser.other: "other"} if (track := tracks[0]) else {}
    for row, track in enumerate(reversed(tracks)):
        _band(axis, row, track.at_s, [labels.get(state, state) for state in track.states], height=0.8)
    axis.set_ylim(-0.55, len(tracks) + 0.85)
    axis.set_yticks([*range(len(tracks)), len(tracks) + 0.25], [*(f"{t.rate} fps" for t in reversed(tracks)), "truth"])


def _band(axis: Axes, row: float, at_s: Sequence[float], said: Sequence[str], *, height: float) -> None:
    starts = [k for k in range(len(said)) if k == 0 or said[k] != said[k - 1]]
    ends = [*(at_s[k] for k in starts[1:]), at_s[-1]]
    spans = [(at_s[k], end - at_s[k]) for k, end in zip(starts, ends, strict=True)]
    axis.broken_barh(spans, (row - height / 2, height), facecolors=[_COLOURS[said[k]] for k in starts])


def _draw_scores(axis: Axes, tracks: Sequence[Track], spec: DecisionSpec) -> None:
    finest = tracks[-1]
    axis.axhspan(spec.low, spec.high, color=_COLOURS[UNCERTAIN], alpha=0.6, linewidth=0, zorder=0)
    axis.axhline(spec.threshold, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.plot(finest.at_s, finest.scores, ".", markersize=1.8, color=_FAINT, label=f"each frame, {finest.rate} fps")
    for track, alpha in zip(tracks, np.linspace(0.35, 1, len(tracks)), strict=True):
        axis.plot(
            track.at_s, track.smoothed, color=_COLOURS["finding"], alpha=float(alpha), linewidth=1.3,
            label=f"smoothed, {tracks[0].rate} to {finest.rate} fps" if track is finest else None,
        )  # fmt: skip
    axis.set(ylim=(-0.04, 1.04), yticks=[0, spec.low, spec.threshold, spec.high, 1])
    axis.set_ylabel("score of folds", color=_INK, fontsize=9)
    axis.legend(
        loc="lower right", bbox_to_anchor=(1, 0.98), borderpad=0, frameon=False, fontsize=8, ncols=2, markerscale=4
    )


def _draw_reasons(axis: Axes, track: Track) -> None:
    names = sorted({reason for reasons in track.reasons for reason in reasons}) or ["none"]
    for row, name in enumerate(names):
        at_s = [t for t, reasons in zip(track.at_s, track.reasons, strict=True) if name in reasons]
        axis.plot(at_s, [row] * len(at_s), "|", color=_ALARM, markersize=9, markeredgewidth=1.0)
    axis.set(ylim=(-0.7, len(names) - 0.3), yticks=range(len(names)))
    axis.set_yticklabels([name.replace("_", " ") for name in names])
    axis.grid(axis="y", color="#eceae4", linewidth=0.8)


# --- command ---------------------------------------------------------------------------------------------------------


def table(name: str, measures: dict[int, Measures]) -> str:
    """The measures of a timeline as lines of text."""

    def seconds(value: float | None) -> str:
        return "   - " if value is None else f"{value:5.2f}"

    head = "  fps   detect s (worst)  missed  release s (worst)  flips/min   raw   right unsure  wrong   told"
    lines = [name, head + "  raw right  wrong"]
    lines += [
        f"  {rate:3}   {seconds(m.detect_s)}   ({seconds(m.detect_worst_s)})  {m.missed:2} / {m.appearances:<2}  "
        f"{seconds(m.release_s)}     ({seconds(m.release_worst_s)})   {m.flips:7.1f} {m.raw_flips:7.1f}  "
        f"{m.right:6.1%} {m.unsure:6.1%} {m.wrong:6.1%} {m.told:6.1%}     {m.raw_right:6.1%} {m.raw_wrong:6.1%}"
        for rate, m in measures.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.timeline", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, help="the picture; none is drawn without it")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the phantom")
    parser.add_argument("--seconds", type=float, help="of each script; all of it by default")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    parser.add_argument("--data", type=Path, help="data root of the manifest")
    parser.add_argument("--manifest", type=Path, help="data manifest; the images of its test split are shown")
    parser.add_argument("--groups", type=int, default=20, help="recordings of the manifest to show")
    parser.add_argument("--json", action="store_true", help="print the measures as JSON")
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.manifest is None):
        parser.error("--data and --manifest go together: the data root, and the CSV that lists its images")
    try:
        bundle = Bundle.open(options.bundle)
        shows = [(f"Phantom, seed {seed}", phantom_frames(seed, options.seconds)) for seed in options.seeds]
        if options.manifest is not None:
            records = read_manifest(options.manifest)
            shows.append(("Real images, held out", real_frames(records, options.data, groups=options.groups)))
        played = []
        for name, frames in shows:
            tracks = [Track(bundle, rate, options.precision) for rate in RATES]
            played.append((name, play(frames, tracks), tracks))
    except (FoldsightError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    results = {name: {track.rate: measure(track, truth) for track in tracks} for name, truth, tracks in played}
    if options.json:
        plain = {name: {rate: _as_dict(m) for rate, m in rows.items()} for name, rows in results.items()}
        print(json.dumps(plain, indent=2))
    else:
        print("\n\n".join(table(name, rows) for name, rows in results.items()))
    if options.out is not None:
        draw(played, bundle.manifest.decision, options.out)
    return 0


def _as_dict(measures: Measures) -> dict[str, float | None]:
    return {name: getattr(measures, name) for name in Measures.__slots__}


if __name__ == "__main__":
    sys.exit(main())
