"""The task "vocal folds visible or not", made from real pixels.

The rule, for images with a class map (`vocalfolds`; class 1 folds, 3 glottal space):

- A whole frame is positive where folds fill at least `min_fold_share` of it, and no more than `max_fold_share`: a frame
  filled by fold tissue shows no fold. A frame without class 1 and 3 is negative. What lies between is left out.
- A negative window holds no pixel of class 1 or 3 and at least `min_tissue_share` of mucosa (class 2 or 4).
- A positive window holds `min_window_fold_share` to `max_fold_share` of folds, at least `min_window_gap_share` of the
  gap between them (class 3, or the tube that fills it, class 6: without it a close window is mere mucosa), and at
  least `min_kept_share` of the folds that its frame shows (a sliver at the edge is not "in view").
- Positive and negative windows come in the same sizes and, per sequence and size, in about the same number, so that
  size, sharpness and magnification say nothing about the label.

`bagls` frames are positive but for a list of recordings seen to show none; `kvasir-seg` frames are negative. From
`bagls-glottis` no negative windows are cut: its masks show the glottis alone, the folds reach further than any
distance that would still leave a window of useful size in a 256 px frame. Its honest negatives are made by removal.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trainer.data.types import FOLD, GLOTTIS, PATHOLOGY, TISSUE, TUBE, UNKNOWN, Mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.data.manifest import Record

EXCLUSIONS = Path(__file__).with_name("bagls_without_folds.csv")
"""Frames of `bagls` seen to show no folds (its label noise): columns file, reason."""


class VisibilitySettings(BaseModel):
    """Areas are shares of the frame or window, sides are pixels of the 512 px frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_fold_share: float = Field(0.02, gt=0, lt=1)
    max_fold_share: float = Field(0.85, gt=0, le=1)
    min_window_fold_share: float = Field(0.12, gt=0, lt=1)
    min_window_gap_share: float = Field(0.01, ge=0, lt=1)
    min_kept_share: float = Field(0.1, ge=0, le=1)
    min_tissue_share: float = Field(0.5, gt=0, le=1)
    window_sides: tuple[int, ...] = (160, 200, 256, 320)
    negatives_per_frame: int = Field(3, ge=0)
    step: int = Field(16, ge=1)
    exclude_noisy_bagls: bool = True
    phantom_frames: int = Field(2000, ge=0)
    """Rendered frames added to the real ones, before the ambiguous ones are left out."""


def apply_visibility(
    records: Sequence[Record], root: Path, settings: VisibilitySettings, seed: int
) -> tuple[list[Record], list[str]]:
    """Turn imported records into the task's records by the rule above.

    Args:
        records: As imported.
        root: The data root.
        settings: Thresholds.
        seed: Which of the possible windows are drawn.

    Returns:
        The records, and notes about what was left out.
    """
    excluded = _read_exclusions() if settings.exclude_noisy_bagls else frozenset()
    kept: list[Record] = []
    masked: dict[str, list[Record]] = defaultdict(list)
    dropped = 0
    for record in records:
        if record.source == "bagls" and Path(record.path).name in excluded:
            dropped += 1
        elif record.mask and "#" not in record.mask and record.window is None:
            masked[record.group].append(record)
        else:
            kept.append(record)
    notes = [f"bagls: {dropped} frames without visible folds left out ({EXCLUSIONS.name})"] if dropped else []
    for group in sorted(masked):
        kept += _group_records(masked[group], root, settings, np.random.default_rng([seed, *group.encode()]))
    return kept, notes


def _read_exclusions() -> frozenset[str]:
    if not EXCLUSIONS.is_file():
        return frozenset()
    with EXCLUSIONS.open(encoding="utf-8", newline="") as rows:
        return frozenset(row["file"] for row in csv.DictReader(rows))


def _group_records(
    frames: Sequence[Record], root: Path, settings: VisibilitySettings, rng: np.random.Generator
) -> list[Record]:
    """Whole frames of one sequence, its negative windows, and as many positive windows of each size."""
    whole: list[Record] = []
    negatives: dict[int, list[Record]] = defaultdict(list)
    positives: dict[int, list[Record]] = defaultdict(list)
    for frame in frames:
        mask = frame.read_mask(root)
        if mask is None:
            continue
        label = whole_frame_label(mask, settings)
        if label is not None:
            whole.append(dataclasses.replace(frame, label=label))
        counts = _WindowCounts(mask)
        sides = [side for side in settings.window_sides if side <= min(mask.shape)]
        found = [(side, *spot) for side in sides for spot in counts.negative(side, settings)]
        for side, x, y in _draw_apart(found, settings.negatives_per_frame, rng):
            negatives[side].append(_window(frame, "no_folds", side, x, y))
        for side in sides:
            for _, x, y in _draw_apart([(side, *spot) for spot in counts.positive(side, settings)], 2, rng):
                positives[side].append(_window(frame, "folds", side, x, y))
    windows: list[Record] = []
    for side in sorted(negatives):
        windows += negatives[side]
        pool = positives[side]
        chosen = rng.permutation(len(pool))[: len(negatives[side])]
        windows += [pool[i] for i in sorted(chosen)]
    return whole + windows


def whole_frame_label(mask: Mask, settings: VisibilitySettings) -> str | None:
    """The label of a whole frame by its class map: `folds`, `no_folds`, or None where it is neither for certain."""
    folds = float((mask == FOLD).mean())
    if settings.min_fold_share <= folds <= settings.max_fold_share:
        return "folds"
    none = not ((mask == FOLD) | (mask == GLOTTIS) | (mask == UNKNOWN)).any()
    return "no_folds" if none else None


class _WindowCounts:
    """Counts of classes in every window of a class map, through integral images."""

    def __init__(self, mask: Mask) -> None:
        self._shape = mask.shape
        self._barred = _integral((mask == FOLD) | (mask == GLOTTIS) | (mask == UNKNOWN))
        self._fold = _integral(mask == FOLD)
        self._gap = _integral((mask == GLOTTIS) | (mask == TUBE))
        self._tissue = _integral((mask == TISSUE) | (mask == PATHOLOGY))

    def negative(self, side: int, settings: VisibilitySettings) -> list[tuple[int, int]]:
        """(x, y) of windows without any fold or glottis pixel and with enough mucosa."""
        good = _windows(self._barred, side, settings.step) == 0
        good &= _windows(self._tissue, side, settings.step) >= settings.min_tissue_share * side * side
        return _spots(good, settings.step)

    def positive(self, side: int, settings: VisibilitySettings) -> list[tuple[int, int]]:
        """(x, y) of windows with enough, and not only, folds."""
        folds = _windows(self._fold, side, settings.step)
        share = folds / (side * side)
        good = (share >= settings.min_window_fold_share) & (share <= settings.max_fold_share)
        good &= _windows(self._gap, side, settings.step) >= settings.min_window_gap_share * side * side
        good &= folds >= settings.min_kept_share * self._fold[-1, -1]
        return _spots(good, settings.step)


def _integral(where: Mask) -> Mask:
    return np.asarray(cv2.integral(where.astype(np.uint8)))


def _windows(integral: Mask, side: int, step: int) -> Mask:
    """Sums over all windows of one side whose corner lies on the grid."""
    total = integral[side:, side:] - integral[:-side, side:] - integral[side:, :-side] + integral[:-side, :-side]
    return np.asarray(total[::step, ::step])


def _spots(good: Mask, step: int) -> list[tuple[int, int]]:
    return [(int(x) * step, int(y) * step) for y, x in np.argwhere(good)]


def _draw_apart(found: list[tuple[int, int, int]], most: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """At most `most` of (side, x, y), sizes drawn alike, and no two of a size nearer than half their side."""
    sides = sorted({side for side, _, _ in found})
    pools = {side: [spot for spot in found if spot[0] == side] for side in sides}
    drawn: list[tuple[int, int, int]] = []
    while sides and len(drawn) < most:
        side = sides[int(rng.integers(len(sides)))]
        pool = pools[side]
        _, x, y = pool[int(rng.integers(len(pool)))]
        drawn.append((side, x, y))
        pools[side] = [spot for spot in pool if max(abs(spot[1] - x), abs(spot[2] - y)) >= side // 2]
        if not pools[side]:
            sides.remove(side)
    return drawn


def _window(frame: Record, label: str, side: int, x: int, y: int) -> Record:
    return dataclasses.replace(frame, label=label, x=x, y=y, width=side, height=side)
