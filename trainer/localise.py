"""How well a bundle's regions lie where masks say, and how often other anatomy is taken for the finding.

Everything goes through the device's own analysis, frame by frame; the phantom also through its smoothing over time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge.analysis import Analyser
from edge.capture.phantom import Phantom
from edge.regions import RegionSmoother
from trainer.console import Meter
from trainer.data.manifest import VIBRATION
from trainer.data.maps import CLASSES
from trainer.data.types import FOLD, LABELS, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import Bundle
    from edge.regions import Region
    from trainer.data.manifest import Record

RATES = (10, 30, 60)
_LEAST = 0.004  # share of the frame: a label that shows less of itself is neither there nor absent


class Place(NamedTuple):
    """Where a mask is: box (left, top, width, height) and centre of mass, as fractions of the frame."""

    box: tuple[float, float, float, float]
    centre: tuple[float, float]


def place_of(mask: NDArray[np.bool_]) -> Place | None:
    """Box and centre of a mask (H, W); None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    height, width = mask.shape
    left, top = columns[0] / width, rows[0] / height
    y, x = np.nonzero(mask)
    return Place(
        (float(left), float(top), float((columns[-1] + 1) / width - left), float((rows[-1] + 1) / height - top)),
        (float((x.mean() + 0.5) / width), float((y.mean() + 0.5) / height)),
    )


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (a[2] * a[3] + b[2] * b[3] - across * down)


@dataclass
class Tally:
    """What was found of a label in the images of a source.

    Attributes:
        shown: images that show it.
        absent: images that do not.
        found: of those that show it, how many have a region.
        invented: of those that do not.
        errors: distance of the centres, as shares of the frame's longer side.
        overlaps: IoU of the boxes.
        groups: of the images that show it.
    """

    shown: int = 0
    absent: int = 0
    found: int = 0
    invented: int = 0
    errors: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)

    def add(self, truth: NDArray[np.bool_], region: Region | None, group: str) -> None:
        """Take in an image: its mask, and the label's region."""
        share, place = float(truth.mean()), place_of(truth)
        if place is None:
            self.absent += 1
            self.invented += region is not None
        elif share >= _LEAST:
            self.shown += 1
            self.groups.add(group)
            if region is not None:
                height, width = truth.shape
                self.found += 1
                dx, dy = region.centre[0] - place.centre[0], region.centre[1] - place.centre[1]
                self.errors.append(float(np.hypot(dx * width, dy * height)) / max(width, height))
                self.overlaps.append(box_iou(region.box, place.box))

    def figures(self) -> dict[str, Any]:
        """For JSON: counts, shares, and percentiles of the regions that were found."""
        return {
            "shown": self.shown,
            "groups": len(self.groups),
            "found": self.found / self.shown if self.shown else None,
            "absent": self.absent,
            "invented": self.invented / self.absent if self.absent else None,
            "centre_error_p50": _percentile(self.errors, 50),
            "centre_error_p90": _percentile(self.errors, 90),
            "box_iou_p50": _percentile(self.overlaps, 50),
            "box_iou_mean": float(np.mean(self.overlaps)) if self.overlaps else None,
        }


def _percentile(values: list[float], at: float) -> float | None:
    return float(np.percentile(values, at)) if values else None


def localise_images(bundle: Bundle, records: Sequence[Record], root: Path) -> dict[str, dict[str, Any]]:
    """Regions of single images against their masks.

    Args:
        bundle: with maps.
        records: of which those with a mask, and those without the finding, count.
        root: the data root.

    Returns:
        By source and label, `Tally.figures`.
    """
    analyser, labels = Analyser(bundle), _labels(bundle)
    tallies: dict[str, dict[str, Tally]] = defaultdict(lambda: {label: Tally() for label in labels})
    with Meter("regions of single images", len(records)) as meter:
        for record in records:
            meter.advance(1)
            masks = _masks(record, root, labels)
            if not masks:
                continue
            analysis = analyser.analyse(np.ascontiguousarray(record.read_image(root)))
            here = {region.label: region for region in analysis.places}
            for label, mask in masks.items():
                tallies[record.source][label].add(mask, here.get(label), record.group)
    return {source: {label: t.figures() for label, t in found.items()} for source, found in sorted(tallies.items())}


def _masks(record: Record, root: Path, labels: Iterable[str]) -> dict[str, NDArray[np.bool_]]:
    """The labels of which a record's mask tells, each with where it is."""
    if record.label != LABELS[1]:
        shape = record.read_image(root).shape[:2]
        return {label: np.zeros(shape, np.bool_) for label in labels}
    classes = None if record.mask in ("", VIBRATION) else record.read_mask(root)
    if classes is None:
        return {}
    told = [label for label in labels if CLASSES[label] != FOLD or not record.mask.endswith("#glottis")]
    return {label: (classes == CLASSES[label]) & (classes != UNKNOWN) for label in told}


def localise_phantom(bundle: Bundle, seeds: Sequence[int], rates: Sequence[int] = RATES) -> dict[str, dict[str, Any]]:
    """Smoothed regions of the phantom's whole script at several frame rates against its truth.

    Frames that the phantom calls ambiguous do not count.

    Returns:
        By rate and label, `Tally.figures`.
    """
    labels, spec = _labels(bundle), bundle.manifest.outputs.maps
    if spec is None:
        raise ValueError(bundle.path)
    found: dict[str, dict[str, Any]] = {}
    for rate in rates:
        tallies = {label: Tally() for label in labels}
        for seed in seeds:
            phantom, analyser = Phantom(width=640, height=360, seed=seed), Analyser(bundle)
            smoother = RegionSmoother(spec, bundle.manifest.decision.expire_s)
            ticks = int(phantom.duration * rate)
            with Meter(f"phantom {seed} at {rate} frames a second", ticks) as meter:
                for tick in range(ticks):
                    meter.advance(1)
                    image, truth = phantom.render(tick / rate)
                    analysis = analyser.analyse(image, tick / rate)
                    smoothed = smoother.frame(tick / rate, analysis.places if analysis.quality.good else None)
                    if truth is None or truth.ambiguous:
                        continue
                    here = {region.label: region for region in smoothed}
                    masks = {"folds": truth.folds, "glottis": truth.glottis}
                    for label in labels:
                        mask = masks[label] if truth.visible else np.zeros_like(masks[label])
                        tallies[label].add(mask, here.get(label), f"phantom-{seed}")
        found[f"{rate} frames/s"] = {label: tally.figures() for label, tally in tallies.items()}
    return found


def _labels(bundle: Bundle) -> list[str]:
    spec = bundle.manifest.outputs.maps
    return [] if spec is None else spec.labels


def other_anatomy(bundle: Bundle, records: Sequence[Record], root: Path) -> dict[str, dict[str, Any]]:
    """What single frames say with certainty, before and after each guard.

    Guards in their order: `score` alone, `quality` of the frame, and what the model itself says of it (`unfamiliar`,
    `unsupported`). A frame counts as confidently the finding where its score reaches the decision's `high`.

    Returns:
        By source and label: `images`, `groups`, and how many are confidently the finding after each guard.
    """
    analyser = Analyser(bundle)
    high = bundle.manifest.decision.high
    rows: dict[str, dict[str, Any]] = {}
    groups: dict[str, set[str]] = defaultdict(set)
    with Meter("asking about other anatomy", len(records)) as meter:
        for record in records:
            meter.advance(1)
            analysis = analyser.analyse(np.ascontiguousarray(record.read_image(root)))
            key = f"{record.source} {record.label}"
            row = rows.setdefault(key, {"images": 0, "groups": 0, "score": 0, "quality": 0, "model": 0})
            groups[key].add(record.group)
            row["images"] += 1
            sure = analysis.score >= high
            own = {"unfamiliar", "unsupported"}
            row["score"] += sure
            row["quality"] += sure and set(analysis.quality.reasons) <= own
            row["model"] += analysis.verdict == analyser.finding
    for key, row in rows.items():
        row["groups"] = len(groups[key])
    return dict(sorted(rows.items()))
