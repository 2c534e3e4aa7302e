"""Whether an image is fit to be judged: light, contrast, sharpness, colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.geometry import Box


_CLIPPED = 250  # grey level that counts as over-exposed, within sensor noise
_DETAIL = (
    0.98  # quantile of the local detail that is looked at: the sharpest edges, of which every usable view has some
)
_WARM = 0.05  # how much of its light a pixel of tissue has in red beyond green and blue
_UNLIT = 20  # sum of the channels below which a pixel has no colour to speak of
_EARLY_S = 0.004  # a frame that comes a little before its time is measured all the same


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Where a frame stops being fit to be judged, by measurement.

    Measured on inputs of 160 x 160. Of real frames 1.5 % of `bagls` (a third of them all but white) and none of
    `vocalfolds`, `kvasir-seg` and `openhsv` are gated; of the phantom's clear views of the folds none, of its fog and
    its room all. Blurred by 4 pixels all real frames are gated, behind a veil of light that leaves 40 % of the contrast
    99 %.

    Attributes:
        blank_contrast: standard deviation in grey levels, below which there is nothing in the picture. The flattest
            real frame looked at has 5.6.
        dark_level: mean grey level below which noise outweighs tissue. The darkest real frame looked at, readable, has
            23.
        bright_share: share of clipped pixels from which on there is too little left to judge.
        sharpness: local detail as a share of the brightness, below which the picture is blurred.
        veiled: darkest over brightest grey level (5 % and 95 % quantiles) from which on a lack of sharpness is fog:
            a veil of light lies over what should be dark.
        colour: mean spread of the channels as a share of the light, below which a camera is taken for a grey one.
        warm_share: share of pixels that are redder than green or blue, below which a coloured picture shows no tissue.
    """

    blank_contrast: float = 2.0
    dark_level: float = 12.0
    bright_share: float = 0.5
    sharpness: float = 0.057
    veiled: float = 0.3
    colour: float = 0.12
    warm_share: float = 0.4


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on the model's input, and why it is not fit to be judged, if it is not.

    Attributes:
        brightness: mean grey level.
        contrast: standard deviation of the grey levels.
        over_exposed: share of clipped pixels.
        sharpness: local detail, the 98 % quantile of the absolute Laplacian, as a share of the brightness: darkness
            alone does not make a picture blurred, nor a large clipped or smooth part a sharp one.
        reasons: `blank`, `dark`, `over_exposed`, `out_of_body`, `blurred`, `fogged`.
    """

    brightness: float
    contrast: float
    over_exposed: float
    sharpness: float
    reasons: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether the classifier's word counts."""
        return not self.reasons


class QualityMeter:
    """Measures the frames of a live source: light and contrast of every one, sharpness and colour some times a second.

    Sharpness and colour are two thirds of the cost, and neither lens nor view changes them within `every_s`; up to 20
    frames a second all of it is measured anew.

    Args:
        limits: where each measure turns into a reason.
        every_s: for how long sharpness and colour may be older than the frame.
    """

    def __init__(self, limits: QualityLimits, *, every_s: float = 0.05) -> None:
        self._limits, self._every_s = limits, every_s
        self._known: tuple[float, bool] | None = None
        self._known_s, self._inner = 0.0, (0, 0, 0, 0)

    def measure(self, model_input: NDArray[np.uint8], inner: Box, at_s: float | None) -> Quality:
        """As `measure_quality`.

        Args:
            model_input: uint8 (1, height, width, 3) RGB.
            inner: the part of it that is not padding.
            at_s: when it was taken, seconds; None: the image stands alone.
        """
        fresh = at_s is not None and 0 <= at_s - self._known_s < self._every_s - _EARLY_S and inner == self._inner
        known = self._known if fresh else None
        quality, measured = _measure(model_input, inner, self._limits, known)
        if at_s is None or measured is None:
            self._known = None
        elif known is None:
            self._known, self._known_s, self._inner = measured, at_s, inner
        return quality


def measure_quality(model_input: NDArray[np.uint8], inner: Box, limits: QualityLimits) -> Quality:
    """Measure light, contrast, sharpness and colour on the image that the model sees.

    Only a colour camera can tell that it is out of the body: tissue under white light is red. What a grey camera shows
    of a room is left to the classifier and to the energy of its logits. Under narrow-band light tissue is green and
    blue: such frames are called out of the body, as the model was not trained on them either.

    Args:
        model_input: uint8 (1, height, width, 3) RGB.
        inner: the part of it that is not padding.
        limits: where each measure turns into a reason.

    Returns:
        The measures, taken over the middle three quarters so that the aperture's rim does not count.
    """
    return _measure(model_input, inner, limits, None)[0]


def _measure(
    model_input: NDArray[np.uint8], inner: Box, limits: QualityLimits, known: tuple[float, bool] | None
) -> tuple[Quality, tuple[float, bool] | None]:
    """The measures; and detail and whether the colour is not tissue's, `known` or new, None where it was not asked."""
    dx, dy = inner.width // 8, inner.height // 8
    top, left = inner.y + dy, inner.x + dx
    centre = model_input[0, top : top + inner.height - 2 * dy, left : left + inner.width - 2 * dx]
    grey = np.asarray(cv2.cvtColor(centre, cv2.COLOR_RGB2GRAY), np.uint8)
    mean, deviation = cv2.meanStdDev(grey)
    brightness, contrast = float(mean[0, 0]), float(deviation[0, 0])
    over = np.count_nonzero(grey >= _CLIPPED) / max(1, grey.size)
    detail = _detail(grey) if known is None else known[0]
    sharpness = detail / (brightness + 1)
    reasons = []
    if contrast < limits.blank_contrast:
        reasons.append("blank")
    if brightness < limits.dark_level:
        reasons.append("dark")
    if over > limits.bright_share:
        reasons.append("over_exposed")
    if reasons:
        return Quality(brightness, contrast, over, sharpness, tuple(reasons)), None
    elsewhere = _is_elsewhere(centre, limits) if known is None else known[1]
    if elsewhere:
        reasons.append("out_of_body")
    elif sharpness < limits.sharpness:
        levels = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()) / max(1, grey.size)
        low, high = np.searchsorted(levels, (0.05, 0.95))
        reasons.append("fogged" if low > limits.veiled * high else "blurred")
    return Quality(brightness, contrast, over, sharpness, tuple(reasons)), (detail, elsewhere)


def _detail(grey: NDArray[np.uint8]) -> float:
    """Grey levels by which the sharpest edges stand out."""
    # Blur first, so that noise does not pass for detail; in eighths of a level, as dark pictures have few levels.
    fine = cv2.GaussianBlur(np.asarray(grey, np.int16) * 8, (3, 3), 0)
    # In float the Laplacian is as exact, and four times as cheap: OpenCV has no fast path for it in 16 bits.
    edges = cv2.convertScaleAbs(cv2.Laplacian(fine.astype(np.float32), cv2.CV_32F), alpha=0.5)
    steps = np.cumsum(cv2.calcHist([edges], [0], None, [256], [0, 256]).ravel())
    return float(np.searchsorted(steps, _DETAIL * steps[-1])) / 4


def _is_elsewhere(centre: NDArray[np.uint8], limits: QualityLimits) -> bool:
    """Whether a coloured picture lacks the red of tissue."""
    # Averages, as noise has colours of its own; where it halves exactly, OpenCV is ten times as fast.
    twice = cv2.resize(centre, (48, 48), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(twice, (24, 24), interpolation=cv2.INTER_AREA)
    colours = np.asarray(small, np.float32).reshape(-1, 3).T.copy()
    red, other = colours[0], np.maximum(colours[1], colours[2])
    total = np.maximum(np.add.reduce(colours, axis=0), _UNLIT)
    spread = np.maximum.reduce(colours, axis=0) - np.minimum.reduce(colours, axis=0)
    if float(np.add.reduce(spread / total)) * 3 < limits.colour * len(red):
        return False
    return bool(np.count_nonzero((red - other) * 3 > _WARM * total) < limits.warm_share * len(red))
