"""From maps to regions: where in the camera's frame the parts of the finding lie, and that over time.

A map's cell is a square of input pixels; its probability is taken for the share of the square that shows the label.
That is what lets box and centre fall between cells: the box ends where the probability, interpolated between cell
centres, falls to half of what it is inside, and the centre is weighted by it, the cells around the region included.

A region is rooted in cells that reach the label's threshold, and grows over those next to it that reach half of it: a
glottis that is narrower than a cell has its whole length so. A label has one region at most. The folds are two, and
mucus or a shadow cuts either into pieces: the region begins with the piece that has the most evidence and takes in any
other that is no speck beside it and lies no farther away than it is long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cv2.typing import MatLike
    from numpy.typing import NDArray

    from edge.bundle import MapSpec
    from edge.geometry import Box

_SPECK = 0.1  # of the largest piece's evidence: less does not count
_REACH = 1.0  # lengths of the largest piece within which another belongs to it
_GROWTH = 0.5  # of the threshold: what cells next to a region need to belong to it
_PRESENT = 0.5  # share of the smoothing time in which a region must have been found
_AROUND = np.ones((3, 3), np.uint8)
_CENTRES = tuple(cell + 0.5 for cell in range(2048))  # no input is larger

_FirstLast = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Region:
    """A place in the camera's frame; all lengths are fractions of its width and height.

    Attributes:
        label: of the map.
        box: left, top, width, height.
        centre: x, y of the centre of mass, which need not be the box's.
        area: share of the frame that the label covers: the expected one, the sum of the cells' probabilities.
        score: mean probability of the cells that reach the threshold.
    """

    label: str
    box: tuple[float, float, float, float]
    centre: tuple[float, float]
    area: float
    score: float


class View(NamedTuple):
    """How a camera's frame came into the model's input.

    Attributes:
        frame: its width and height in pixels.
        crop: the part of it that was used, in its pixels.
        inner: where that lies in the model's input, in the input's pixels; the rest is padding.
    """

    frame: tuple[int, int]
    crop: Box
    inner: Box


def map_probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Calibrated probabilities of map logits: a sigmoid per label, as labels need not exclude each other.

    Args:
        logits: float32, any shape.
        temperature: divides them (Guo et al. 2017, arXiv 1706.04599).

    Returns:
        float32 of the same shape, a new array.
    """
    # By tanh, which no logit makes overflow.
    probabilities = np.asarray(logits * np.float32(0.5 / temperature), np.float32)
    np.tanh(probabilities, probabilities)
    probabilities *= np.float32(0.5)
    probabilities += np.float32(0.5)
    return probabilities


def support(probabilities: NDArray[np.float32], spec: MapSpec, view: View) -> float:
    """The largest probability of any label in any cell that is not padding: how well maps bear out a finding.

    Args:
        probabilities: float32 (rows, columns, labels).
        spec: the maps' description.
        view: how the frame came into the model's input.
    """
    rows, columns = _cells(view.inner, spec.stride)
    return float(np.maximum.reduce(probabilities[rows, columns], axis=None))


def find_regions(probabilities: NDArray[np.float32], spec: MapSpec, view: View) -> tuple[Region, ...]:
    """The regions of one frame by itself, at most one per label, in the order of the labels.

    Args:
        probabilities: float32 (rows, columns, labels) in 0..1.
        spec: labels, thresholds, smallest area.
        view: how the frame came into the model's input.
    """
    rows, columns = _cells(view.inner, spec.stride)
    found = []
    for index, label in enumerate(spec.labels):
        cells = np.ascontiguousarray(probabilities[rows, columns, index])
        extent = _extent(cells, spec.thresholds[label])
        # Fractions of the picture that the model saw: from cells to input pixels, less the padding.
        if extent is None:
            continue
        inner, stride = view.inner, spec.stride
        left, right = (_clip((stride * (columns.start + x) - inner.x) / inner.width) for x in extent.across)
        top, bottom = (_clip((stride * (rows.start + y) - inner.y) / inner.height) for y in extent.down)
        centre_x = _clip((stride * (columns.start + extent.centre[0]) - inner.x) / inner.width)
        centre_y = _clip((stride * (rows.start + extent.centre[1]) - inner.y) / inner.height)
        area = min(1.0, extent.mass * stride * stride / (inner.width * inner.height))
        if area < spec.smallest_area:
            continue
        # And of the frame.
        (width, height), crop = view.frame, view.crop
        wide, high = crop.width / width, crop.height / height
        found.append(
            Region(
                label,
                (crop.x / width + wide * left, crop.y / height + high * top, wide * (right - left),
                 high * (bottom - top)),
                (crop.x / width + wide * centre_x, crop.y / height + high * centre_y),
                area * wide * high,
                extent.score,
            )
        )  # fmt: skip
    return tuple(found)


class RegionSmoother:
    """Regions over time, in seconds, with the time constant of the maps' description.

    As in `edge.decision`, a frame stands for the time since the one before it, and after a gap longer than `expire_s`
    everything begins anew. Smoothed are each label's place and the share of time in which it was found there. A region
    is given only while that share is at least one half: one frame draws no box, and one that misses it takes none away.
    What overlaps the known box nowhere is another place: it is not averaged with it, as between the two may be nothing,
    but replaces it once that has not been found for as long. What moves steadily is drawn where it was `smoothing_s`
    before, or less.

    Args:
        spec: labels and time constant.
        expire_s: the decision's.
    """

    def __init__(self, spec: MapSpec, expire_s: float) -> None:
        self._spec, self._expire_s = spec, expire_s
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing can be seen now."""
        self._last_s: float | None = None
        self._tracks = {label: _Track() for label in self._spec.labels}

    def frame(self, at_s: float, found: Sequence[Region] | None) -> tuple[Region, ...]:
        """Take in one frame.

        Args:
            at_s: monotonic time of its exposure, seconds. One older than the last is taken as simultaneous.
            found: its own regions; None where the frame is not fit to be judged.

        Returns:
            The smoothed regions in the order of the labels; none for a frame that is not fit.
        """
        smoothing_s = self._spec.smoothing_s
        if self._last_s is None or at_s - self._last_s > self._expire_s:
            self.forget()
            begin, elapsed = at_s, smoothing_s / 8
        else:
            begin, elapsed = self._last_s, max(0.0, at_s - self._last_s)
        self._last_s = max(at_s, begin)
        weight = 1 - math.exp(-elapsed / smoothing_s)
        here = {region.label: region for region in found or ()}
        smoothed = [track.update(here.get(label), weight) for label, track in self._tracks.items()]
        return () if found is None else tuple(region for region in smoothed if region is not None)


class _Track:
    """One label's region over time."""

    def __init__(self) -> None:
        self._share = 0.0
        self._known: Region | None = None

    def update(self, found: Region | None, weight: float) -> Region | None:
        known = self._known
        agrees = found is not None and (known is None or _overlap(found, known))
        self._share += weight * (agrees - self._share)
        if found is not None and known is not None and agrees:
            self._known = _mix(known, found, weight)
        elif agrees or self._share < _PRESENT:
            self._known = found
        return self._known if self._share >= _PRESENT else None


class _Extent(NamedTuple):
    """A region in cells: first and last edge across and down, centre x and y, sum of probabilities, mean of them."""

    across: _FirstLast
    down: _FirstLast
    centre: tuple[float, float]
    mass: float
    score: float


def _cells(inner: Box, stride: int) -> tuple[slice, slice]:
    """Rows and columns of the cells that are not wholly padding."""
    rows = slice(inner.y // stride, -(-(inner.y + inner.height) // stride))
    return rows, slice(inner.x // stride, -(-(inner.x + inner.width) // stride))


def _extent(cells: NDArray[np.float32], threshold: float) -> _Extent | None:
    """The region in a map of one label, float32 (rows, columns); None where no cell reaches the threshold.

    On so few cells the calls are what costs: plain lists are quicker than numpy, numpy's ufuncs without their wrappers
    quicker than with them, and pieces are only looked at where there are several.
    """
    root = np.float32(threshold)
    if np.maximum.reduce(cells, axis=None) < root:
        return None
    above = np.asarray(cells >= np.float32(_GROWTH * threshold)).view(np.uint8)
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    if count == 2:  # noqa: PLR2004  the background is a piece too
        chosen, around = above, cv2.dilate(above, _AROUND)
    else:
        chosen = _together(cells, parts, boxes.tolist(), threshold)
        # The cells around the region are partly covered too; those of pieces that were left out are not its own.
        around = cv2.bitwise_and(cv2.dilate(chosen, _AROUND), chosen | (1 - above))
    weights = np.asarray(cv2.copyTo(cells, around), np.float32)
    across, down = np.add.reduce(weights, axis=0).tolist(), np.add.reduce(weights, axis=1).tolist()
    mass = sum(across)
    inside = cells[chosen.view(np.bool_)]
    inside.sort()
    certain = inside[inside.searchsorted(root) :]
    level = 0.5 * float(inside[len(inside) // 2])
    return _Extent(
        _crossings(np.maximum.reduce(weights, axis=0).tolist(), level),
        _crossings(np.maximum.reduce(weights, axis=1).tolist(), level),
        (_balance(across) / mass, _balance(down) / mass),
        mass,
        float(np.add.reduce(certain)) / len(certain),
    )


def _balance(profile: list[float]) -> float:
    """The sum of values by the places of their cells' centres."""
    return math.fsum(map(mul, profile, _CENTRES))


def _together(
    cells: NDArray[np.float32], parts: MatLike, stats: list[list[int]], threshold: float
) -> NDArray[np.uint8]:
    """1 where a cell is of the rooted piece with the most evidence, or of another rooted one that belongs to it.

    Args:
        cells: float32 (rows, columns).
        parts: int32 (rows, columns), number of each cell's piece, 0 for none.
        stats: of each piece left, top, width, height, cells.
        threshold: of the cells that root one.
    """
    roots = set(parts[cells >= np.float32(threshold)].tolist())
    if len(roots) == 1:
        return np.asarray(parts == roots.pop()).view(np.uint8)
    evidence = np.bincount(parts.ravel(), weights=cells.ravel()).tolist()
    main = max(sorted(roots), key=evidence.__getitem__)
    left, top, width, height, _ = stats[main]
    belongs = np.zeros(len(stats), np.uint8)
    for piece in roots:
        x, y, w, h, _ = stats[piece]
        gap = math.hypot(max(x - left - width, left - x - w, 0), max(y - top - height, top - y - h, 0))
        belongs[piece] = evidence[piece] >= _SPECK * evidence[main] and gap <= _REACH * max(width, height)
    return np.asarray(belongs[parts], np.uint8)


def _crossings(values: list[float], level: float) -> _FirstLast:
    """Where a profile over cells first and last crosses a level, in cells; at the farthest, the map's edges."""
    above = [index for index, value in enumerate(values) if value >= level]
    first, last = above[0], above[-1]
    begin, end = 0.0, float(len(values))
    if first > 0:
        low, high = values[first - 1], values[first]
        begin = first + 0.5 - (high - level) / (high - low)
    if last + 1 < len(values):
        low, high = values[last + 1], values[last]
        end = last + 0.5 + (high - level) / (high - low)
    return begin, end


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


def _overlap(a: Region, b: Region) -> bool:
    return all(
        a.box[axis] < b.box[axis] + b.box[axis + 2] and b.box[axis] < a.box[axis] + a.box[axis + 2] for axis in (0, 1)
    )


def _mix(known: Region, found: Region, weight: float) -> Region:
    def mean(a: float, b: float) -> float:
        return a + weight * (b - a)

    left, top, width, height = map(mean, known.box, found.box)
    x, y = map(mean, known.centre, found.centre)
    return Region(
        found.label,
        (left, top, width, height),
        (x, y),
        mean(known.area, found.area),
        mean(known.score, found.score),
    )
