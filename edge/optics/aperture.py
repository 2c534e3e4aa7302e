"""Where the scope's bright image lies within a frame: in one image, and followed over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from edge.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORKING_SIDE = 192  # the search needs no more pixels, and costs less than a millisecond so
_DARKEST = 40  # grey level that no surround exceeds
_PEAK = 0.08  # share of the frame in the surround's three most frequent levels
_FOOT = 0.2  # of the peak's height: there its noise ends
_NARROW = 10  # grey levels from its top to its foot; tissue spreads wider
_FLAT = 0.93  # share of what lies outside the outline that must be of the surround's level
_RIM = 0.6  # share of the outline at which it must get darker at once
_KERNEL = np.ones((5, 5), np.uint8)
_FULL_FRAME = 0.97  # share of the frame from which on there is no aperture to speak of
_SMALLEST = 0.06  # share of the frame below which the bright part is a lamp or a label, not the scope's image
_FIT_TOLERANCE = 0.04  # mean distance of the rim's points from the fitted circle, in radii
_ROUND = 0.013  # their median distance once the rim is known to a fraction of a pixel; an octagon has 0.02
_REACH = 5.0  # working pixels that the rim is searched inwards and outwards of the first fit
_RAYS = 96
_LEAST_RAYS = 16  # with a rim on fewer of them the image is not called round
_KNEE = 0.25  # where on the way from dark to bright the rim lies: light falls off within the image, not outside it
_STEP = 3.0  # grey levels: less of a step is no rim
_CLEAN = 0.004  # share of the pixels at one grey level below which a threshold there cuts through nothing

_WITHIN, _BEYOND = 0.95, 1.04  # of the radius: between these the rim of a known circle must still be seen
_HOLDS = 0.06  # of its rays by which fewer may show it than when it was searched; more, and it is searched again

_SAME = 0.9  # overlap from which on two findings are the same aperture
_LARGER = 0.02  # of the longer side: how far a finding must reach beyond the known aperture to be a larger one
_EARLY_S = 0.004  # a frame that comes a little before its time is searched all the same

_ANGLES = np.arange(_RAYS) * (2 * np.pi / _RAYS)
_COS, _SIN = np.cos(_ANGLES)[:, None], np.sin(_ANGLES)[:, None]
_OFFSETS = np.arange(-_REACH, _REACH + 0.25, 0.5)[None, :]


@dataclass(frozen=True, slots=True)
class Aperture:
    """The scope's bright image within a frame.

    Attributes:
        box: its bounding rectangle in pixels of the frame.
        circle: centre x, centre y and radius in pixels where the rim is round, else None; a tracker's is that of its
            last search, not smoothed.
    """

    box: Box
    circle: tuple[float, float, float] | None


def find_aperture(image: NDArray[np.uint8]) -> Aperture | None:
    """Find the bright image that an endoscope leaves within a dark frame. Each image stands alone.

    Args:
        image: uint8 (height, width, 3) BGR.

    Returns:
        The aperture, or None where the image fills the frame or nothing bright enough stands out: then the whole frame
        is used.
    """
    found = _search(image)
    return found if isinstance(found, Aperture) else None


class ApertureTracker:
    """Follows the aperture of a live source.

    A search costs up to a millisecond, and the scope's optics do not move within the camera's frame: it is looked for
    `1 / every_s` times a second, and its position smoothed. As long as a round one's rim is seen where it was, at a
    hundredth of a search's cost, looking is enough, and it is searched once in `trust_s`. What a search finds is
    believed by what it would cost if it were wrong: light outside the known aperture cannot be, so a larger one is
    taken at once; a smaller one, which dark tissue may feign and which would cut tissue off, has to be found for
    `hold_s`. A dark frame says nothing. All times are in seconds, so that the frame rate does not matter.

    Args:
        every_s: time between two searches.
        smoothing_s: time constant of the position's exponential smoothing.
        hold_s: how long a smaller or displaced aperture must be found before it is taken.
        trust_s: how long a rim that is seen is believed without a search.
    """

    def __init__(
        self, *, every_s: float = 0.2, smoothing_s: float = 1.0, hold_s: float = 1.2, trust_s: float = 1.0
    ) -> None:
        self._every_s, self._smoothing_s, self._hold_s, self._trust_s = every_s, smoothing_s, hold_s, trust_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: another source."""
        self._frame = (0, 0)
        self._looked_s = self._searched_s = -math.inf
        self._rays: _Rays | None = None
        self._known: _Rim | None = None
        self._rival: _Rim | None = None
        self._rival_since_s = 0.0
        self._aperture: Aperture | None = None

    def update(self, image: NDArray[np.uint8], at_s: float) -> Aperture | None:
        """The aperture at a moment.

        Args:
            image: uint8 (height, width, 3) BGR. Another size than the last one's is another source.
            at_s: when it was taken, seconds. An earlier time than the last one's is another source.

        Returns:
            As `find_aperture`.
        """
        frame = (image.shape[1], image.shape[0])
        if frame != self._frame or at_s < self._looked_s:
            self.reset()
            self._frame = frame
        if at_s - self._looked_s < self._every_s - _EARLY_S:
            return self._aperture
        self._looked_s = at_s
        if at_s - self._searched_s < self._trust_s - _EARLY_S and self._rays is not None and self._rays.hold(image):
            self._rival = None
            return self._aperture
        elapsed, self._searched_s = at_s - self._searched_s, at_s
        found = _search(image)
        if found is not None:
            self._believe(_Rim.of(found, frame), at_s, elapsed)
        circle = None if self._aperture is None else self._aperture.circle
        self._rays = None if circle is None or self._rival is not None or found is None else _Rays(circle, image)
        return self._aperture

    def _believe(self, found: _Rim, at_s: float, elapsed: float) -> None:
        known = self._known
        if known is None or found.exceeds(known):
            self._take(found)
        elif found.overlap(known) > _SAME:
            self._rival = None
            weight = 1 - math.exp(-elapsed / self._smoothing_s)
            self._take(_Rim(known.edges + weight * (found.edges - known.edges), found.circle))
        elif self._rival is None or found.overlap(self._rival) < _SAME:
            self._rival, self._rival_since_s = found, at_s
        elif at_s - self._rival_since_s >= self._hold_s:
            self._take(found)

    def _take(self, rim: _Rim) -> None:
        self._known, self._rival = rim, None
        width, height = self._frame
        left, top, right, bottom = (round(float(edge)) for edge in rim.edges)
        box = Box(left, top, right - left, bottom - top).clipped(width, height)
        whole = box == (0, 0, width, height) and rim.circle is None
        self._aperture = None if whole else Aperture(box, rim.circle)


@dataclass(frozen=True, slots=True)
class _Rim:
    """Left, top, right and bottom edge in pixels, float64 (4,), and the circle."""

    edges: NDArray[np.float64]
    circle: tuple[float, float, float] | None

    @classmethod
    def of(cls, found: Aperture | Literal["whole"], frame: tuple[int, int]) -> _Rim:
        if found == "whole":
            return cls(np.array([0.0, 0.0, *frame]), None)
        box = found.box
        return cls(np.array([box.x, box.y, box.x + box.width, box.y + box.height], np.float64), found.circle)

    def exceeds(self, other: _Rim) -> bool:
        """Whether it holds the other, and there is light well outside the other."""
        beyond = (self.edges - other.edges) * np.array([-1, -1, 1, 1])
        side = float((other.edges[2:] - other.edges[:2]).max())
        return bool((beyond > -_LARGER * side).all() and (beyond > _LARGER * side).any())

    def overlap(self, other: _Rim) -> float:
        """Intersection over union."""
        low, high = np.maximum(self.edges[:2], other.edges[:2]), np.minimum(self.edges[2:], other.edges[2:])
        shared = float(np.prod(np.maximum(high - low, 0)))
        areas = [float(np.prod(rim.edges[2:] - rim.edges[:2])) for rim in (self, other)]
        return shared / max(1.0, sum(areas) - shared)


class _Rays:
    """Pairs of pixels within and beyond a known circle, and on how many of them it gets darker outwards.

    Args:
        circle: centre x, centre y and radius in pixels of the frame.
        image: the frame in which it was found.
    """

    def __init__(self, circle: tuple[float, float, float], image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        x, y, radius = circle
        across = np.rint(x + radius * np.array([_WITHIN, _BEYOND]) * _COS).astype(np.intp)
        down = np.rint(y + radius * np.array([_WITHIN, _BEYOND]) * _SIN).astype(np.intp)
        seen = ((across >= 0) & (across < width) & (down >= 0) & (down < height)).all(axis=1)
        self._at = (down * width + across)[seen].T.copy()
        self._least: float = self._count(image) - _HOLDS * len(self._at[0])

    def hold(self, image: NDArray[np.uint8]) -> bool:
        """Whether the rim is still seen there; never with fewer rays than say anything."""
        rays = len(self._at[0])
        return rays >= _LEAST_RAYS and self._count(image) >= max(self._least, _RIM * rays)

    def _count(self, image: NDArray[np.uint8]) -> int:
        levels = np.maximum.reduce(image.reshape(-1, 3).take(self._at, axis=0), axis=2)
        # Beyond it there must be next to nothing: a wider image is brighter here, too.
        return int(np.count_nonzero((levels[0] >= levels[1] + np.uint8(_STEP)) & (levels[1] <= _DARKEST)))


def _search(image: NDArray[np.uint8]) -> Aperture | Literal["whole"] | None:
    """The aperture, that the image fills the frame, or that it is too dark to tell."""
    height, width = image.shape[:2]
    scale = min(1.0, _WORKING_SIDE / max(height, width))
    raw = _brightness(image, scale)
    level = np.asarray(cv2.GaussianBlur(raw, (5, 5), 0), np.uint8)
    outline, share = _bright_region(level)
    if share > _FULL_FRAME:
        return "whole"
    if share < _SMALLEST:
        return None
    circle = _fit_circle(outline.astype(np.float64), (level.shape[1], level.shape[0]))
    if circle is not None:
        circle = _refine(raw, circle)
    if circle is None:
        x, y, w, h = cv2.boundingRect(outline)
        box = Box(round(x / scale), round(y / scale), round(w / scale), round(h / scale))
        return Aperture(box.clipped(width, height), None)
    cx, cy, radius = (circle[0] + 0.5) / scale, (circle[1] + 0.5) / scale, circle[2] / scale  # pixel centres to edges
    box = Box(round(cx - radius), round(cy - radius), round(2 * radius), round(2 * radius))
    return Aperture(box.clipped(width, height), (cx, cy, radius))


def _brightness(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """The brightest channel of a small copy."""
    height, width = image.shape[:2]
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    if max(2 * w, 2 * h) < max(width, height):
        # Of a large frame single pixels, four for one of the copy: averaging all would take longer than all the rest.
        image = np.asarray(cv2.resize(image, (2 * w, 2 * h), interpolation=cv2.INTER_NEAREST), np.uint8)
    if (w, h) != (width, height):
        image = np.asarray(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
    blue, green, red = cv2.split(image)
    return np.asarray(cv2.max(cv2.max(blue, green), red), np.uint8)


def _bright_region(level: NDArray[np.uint8]) -> tuple[NDArray[np.int32], float]:
    """Convex hull of the part of the frame that light reaches, int32 (N, 2) in working pixels, and its share of it."""
    density = cv2.calcHist([level], [0], None, [256], [0, 256]).ravel() / level.size
    bright = int(np.searchsorted(np.cumsum(density), 0.97))
    usual = round(min(max(0.14 * bright, 10.0), 30.0))
    # A surround is a narrow peak of dark levels. Where the usual threshold does not lie in a gap above it, because the
    # surround is not black or the tissue nearly is, the peak's own foot may part them better.
    smooth = np.convolve(density, np.full(3, 1 / 3), "same")
    peak = int(np.argmax(smooth[:_DARKEST]))
    ended = smooth[peak : peak + _NARROW] < _FOOT * smooth[peak]
    foot = peak + int(np.argmax(ended)) + 1
    if ended.any() and 3 * smooth[peak] > _PEAK and foot < bright and (foot > usual or smooth[usual] > _CLEAN):
        outline, share = _outline(level, foot)
        fair = _SMALLEST <= share <= _FULL_FRAME
        if fair and _is_flat(level, outline, peak, foot) and _has_rim(level, outline):
            return outline, share
    return _outline(level, usual)


def _outline(level: NDArray[np.uint8], threshold: int) -> tuple[NDArray[np.int32], float]:
    """Convex hull of the largest part brighter than `threshold`, and its share of the frame."""
    _, mask = cv2.threshold(level, threshold, 255, cv2.THRESH_BINARY)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _KERNEL)  # labels and hot pixels go
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.zeros((0, 2), np.int32), 0.0
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    return np.asarray(hull[:, 0], np.int32), float(cv2.contourArea(hull)) / level.size


def _is_flat(level: NDArray[np.uint8], outline: NDArray[np.int32], peak: int, foot: int) -> bool:
    """Whether nearly all outside the outline is surround, neither brighter nor darker."""
    outside = cv2.fillConvexPoly(np.full(level.shape, 255, np.uint8), outline, 0)
    surround = cv2.bitwise_and(outside, cv2.inRange(level, max(0, 2 * peak - foot), foot))
    return cv2.countNonZero(surround) > _FLAT * cv2.countNonZero(outside)


def _has_rim(level: NDArray[np.uint8], outline: NDArray[np.int32]) -> bool:
    """Whether it gets darker at once outside the outline, nearly all around: shadows of tissue end slowly."""
    height, width = level.shape
    ends = np.roll(outline, -1, axis=0)
    points = np.concatenate([outline * (1 - k) + ends * k for k in (0.0, 0.25, 0.5, 0.75)])
    away = points - points.mean(axis=0)
    away *= 3 / np.maximum(np.hypot(away[:, 0], away[:, 1]), 1)[:, None]
    outer, inner = np.rint(points + away).astype(int), np.rint(points - away).astype(int)
    inside = ((outer >= 0) & (outer < (width, height))).all(axis=1)
    if inside.sum() < _LEAST_RAYS:
        return False
    outer, inner = outer[inside], inner[inside]
    step = level[inner[:, 1], inner[:, 0]].astype(int) - level[outer[:, 1], outer[:, 0]]
    return bool((step >= _STEP).mean() > _RIM)


def _fit_circle(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float] | None:
    """Least-squares circle (Kasa 1976) through the rim's points that do not lie on the frame's edge."""
    inside = (points > 1).all(axis=1) & (points[:, 0] < size[0] - 2) & (points[:, 1] < size[1] - 2)
    rim = points[inside]
    if len(rim) < 8:  # noqa: PLR2004  too few to say that they are round
        return None
    x, y, radius = _kasa(rim)
    error = np.abs(np.hypot(rim[:, 0] - x, rim[:, 1] - y) - radius).mean()
    return None if radius < 1 or error > _FIT_TOLERANCE * radius else (x, y, radius)


def _kasa(points: NDArray[np.float64]) -> tuple[float, float, float]:
    design = np.column_stack((2 * points, np.ones(len(points))))
    (x, y, c), *_ = np.linalg.lstsq(design, (points**2).sum(axis=1), rcond=None)
    return float(x), float(y), float(np.sqrt(max(0.0, c + x * x + y * y)))


def _refine(raw: NDArray[np.uint8], circle: tuple[float, float, float]) -> tuple[float, float, float] | None:
    """Bring a circle to a fraction of a working pixel: find the rim's step on rays, and fit again without outliers."""
    height, width = raw.shape
    x, y, radius = circle
    at = (radius + _OFFSETS).astype(np.float32)
    xs, ys = (x + at * _COS).astype(np.float32), (y + at * _SIN).astype(np.float32)
    profile = cv2.remap(raw, xs, ys, cv2.INTER_LINEAR).astype(np.float32)
    seen = (xs.min(1) > 0) & (ys.min(1) > 0) & (xs.max(1) < width - 1) & (ys.max(1) < height - 1)
    inner, outer = np.median(profile[:, :6], axis=1), np.median(profile[:, -6:], axis=1)
    seen &= inner - outer >= _STEP
    if seen.sum() < _LEAST_RAYS:
        return circle
    profile, inner, outer = profile[seen], inner[seen], outer[seen]
    cut = (outer + _KNEE * (inner - outer))[:, None]
    # From outside inwards, the first crossing.
    crossing = profile.shape[1] - 1 - np.argmax((profile >= cut)[:, ::-1], axis=1)
    crossing = np.minimum(crossing, profile.shape[1] - 2)
    rows = np.arange(len(profile))
    high, low = profile[rows, crossing], profile[rows, crossing + 1]
    part = np.clip((high - cut[:, 0]) / np.maximum(high - low, 1e-3), 0, 1)
    found = radius - _REACH + 0.5 * (crossing + part)
    points = np.column_stack((x + found * _COS[seen, 0], y + found * _SIN[seen, 0]))
    fitted = circle
    for turn in range(2):
        fitted = _kasa(points)
        far = np.abs(np.hypot(points[:, 0] - fitted[0], points[:, 1] - fitted[1]) - fitted[2])
        if turn == 0 and float(np.median(far)) > _ROUND * radius:
            return None
        keep = far <= max(2.5 * float(np.median(far)), 0.25)
        if keep.sum() < _LEAST_RAYS:
            break
        points = points[keep]
    moved = max(abs(new - old) for new, old in zip(fitted, circle, strict=True))
    return fitted if moved <= _REACH else circle
