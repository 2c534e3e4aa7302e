"""What the scope's optics did to a frame: where its bright image lies, and whether it is fit to be judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORKING_SIDE = 192  # the search needs no more pixels, and costs less than a millisecond so
_FULL_FRAME = 0.97  # share of the frame from which on there is no aperture to speak of
_SMALLEST = 0.06  # share of the frame below which the bright part is a lamp or a label, not the scope's image
_FIT_TOLERANCE = 0.04  # mean distance of the rim's points from the fitted circle, in radii


@dataclass(frozen=True, slots=True)
class Aperture:
    """The scope's bright image within a frame.

    Attributes:
        box: its bounding rectangle in pixels of the frame.
        circle: centre x, centre y and radius in pixels where the rim is round, else None.
    """

    box: Box
    circle: tuple[float, float, float] | None


def find_aperture(image: NDArray[np.uint8]) -> Aperture | None:
    """Find the bright image that an endoscope leaves within a dark frame.

    Args:
        image: uint8 (height, width, 3) BGR.

    Returns:
        The aperture, or None where the image fills the frame or nothing bright enough stands out: then the whole frame
        is used.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    level = cv2.GaussianBlur(small.max(axis=2), (5, 5), 0)
    bright = float(np.percentile(level, 97))
    threshold = min(max(0.14 * bright, 10.0), 30.0)
    mask = (level > threshold).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))  # labels and hot pixels go
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:  # noqa: PLR2004  the background alone
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    contours, _ = cv2.findContours((labels == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    share = cv2.contourArea(hull) / (size[0] * size[1])
    if share > _FULL_FRAME or share < _SMALLEST:
        return None
    circle = _fit_circle(hull.reshape(-1, 2).astype(np.float64), size)
    if circle is None:
        x, y, w, h = cv2.boundingRect(hull)
        box = Box(round(x / scale), round(y / scale), round(w / scale), round(h / scale))
        return Aperture(box.clipped(width, height), None)
    # Pixel centres to pixel edges; smoothing lets the rim creep outwards by about a working pixel.
    cx, cy, radius = (circle[0] + 0.5) / scale, (circle[1] + 0.5) / scale, (circle[2] - 0.75) / scale
    box = Box(round(cx - radius), round(cy - radius), round(2 * radius), round(2 * radius))
    return Aperture(box.clipped(width, height), (cx, cy, radius))


def _fit_circle(points: NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float] | None:
    """Least-squares circle (Kasa 1976) through the rim's points that do not lie on the frame's edge."""
    inside = (points > 1).all(axis=1) & (points[:, 0] < size[0] - 2) & (points[:, 1] < size[1] - 2)
    rim = points[inside]
    if len(rim) < 8:  # noqa: PLR2004  too few to say that they are round
        return None
    design = np.column_stack((2 * rim, np.ones(len(rim))))
    (x, y, c), *_ = np.linalg.lstsq(design, (rim**2).sum(axis=1), rcond=None)
    radius = float(np.sqrt(max(0.0, c + x * x + y * y)))
    error = np.abs(np.hypot(rim[:, 0] - x, rim[:, 1] - y) - radius).mean()
    if radius < 1 or error > _FIT_TOLERANCE * radius:
        return None
    return float(x), float(y), radius


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Where a frame stops being fit to be judged. Levels are of 0..255, shares of 0..1."""

    blank_contrast: float = 2.0
    dark_level: float = 12.0
    bright_share: float = 0.5
    sharpness: float = 1.2


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on the model's input, and why it is not fit to be judged, if it is not."""

    brightness: float
    contrast: float
    over_exposed: float
    sharpness: float
    reasons: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the classifier's word counts."""
        return not self.reasons


def measure_quality(model_input: NDArray[np.uint8], inner: Box, limits: QualityLimits) -> Quality:
    """Measure light, contrast and sharpness on the image that the model sees.

    Args:
        model_input: uint8 (1, height, width, 3) RGB.
        inner: the part of it that is not padding.
        limits: where each measure turns into a reason.

    Returns:
        Brightness (mean level), contrast (standard deviation), share of over-exposed pixels, and sharpness (mean
        absolute Laplacian), taken over the middle three quarters so that the aperture's rim does not count.
    """
    dx, dy = inner.width // 8, inner.height // 8
    top, left = inner.y + dy, inner.x + dx
    centre = model_input[0, top : top + inner.height - 2 * dy, left : left + inner.width - 2 * dx]
    grey = cv2.cvtColor(np.ascontiguousarray(centre), cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    brightness, contrast = float(mean[0, 0]), float(deviation[0, 0])
    over = float(np.count_nonzero(grey >= 250)) / max(1, grey.size)  # noqa: PLR2004  clipped, within sensor noise
    # Blur first, so that sensor noise does not pass for detail.
    smooth = cv2.GaussianBlur(grey, (3, 3), 0)
    sharpness = float(cv2.mean(cv2.convertScaleAbs(cv2.Laplacian(smooth, cv2.CV_16S)))[0])
    reasons = []
    if contrast < limits.blank_contrast:
        reasons.append("blank")
    if brightness < limits.dark_level:
        reasons.append("dark")
    if over > limits.bright_share:
        reasons.append("over_exposed")
    if not reasons and sharpness < limits.sharpness:
        reasons.append("blurred")
    return Quality(brightness, contrast, over, sharpness, tuple(reasons))
