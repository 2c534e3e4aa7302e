"""What the device says of an image, drawn into it: regions, verdict, and the outline of the scope's image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edge.analysis import Analysis
    from edge.regions import Region

# Okabe and Ito's colours, BGR, told apart under every colour blindness; those first that stand out from tissue.
PALETTE = ((233, 180, 86), (66, 228, 240), (115, 158, 0), (167, 121, 204), (178, 114, 0), (0, 159, 230), (0, 94, 213))
"""Sky blue, yellow, bluish green, reddish purple, blue, orange, vermilion."""
_INK, _PAPER = (255, 255, 255), (24, 24, 24)
_GREY = (170, 170, 170)
_LEGIBLE = 360  # pixels of the shorter side: smaller images are enlarged
_NOTICE = "Research only: no diagnosis"
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(image: NDArray[np.uint8], analysis: Analysis, labels: Sequence[str]) -> NDArray[np.uint8]:
    """A copy of an image with its answer drawn into it.

    Args:
        image: uint8 (height, width, 3) BGR, as it was analysed.
        analysis: what came of it; its `regions` are drawn, of which there are none unless the verdict is the finding.
        labels: of the maps: each has its own colour by its place here, and is named beside its box.

    Returns:
        uint8 (k height, k width, 3) BGR, k so large that its text can be read.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-_LEGIBLE // min(height, width)))
    canvas = image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image.copy()
    scale = min(canvas.shape[:2]) / 480
    line = max(1, round(1.5 * scale))
    if analysis.aperture is not None:
        box, circle = analysis.aperture.box, analysis.aperture.circle
        if circle is not None:
            x, y, radius = (round(factor * value) for value in circle)
            cv2.circle(canvas, (x, y), radius, _GREY, 1, cv2.LINE_AA)
        else:
            corner = (factor * box.x, factor * box.y)
            cv2.rectangle(canvas, (*corner, factor * box.width, factor * box.height), _GREY, 1)
    for region in analysis.regions:
        _draw_region(canvas, region, labels.index(region.label), scale, line)
    said = f"{analysis.verdict} {analysis.score:.2f}"
    if analysis.quality.reasons:
        said += f" ({', '.join(analysis.quality.reasons)})"
    _write(canvas, said, (0, 0), _INK, 0.7 * scale)
    _write(canvas, _NOTICE, (0, canvas.shape[0]), _GREY, 0.4 * scale)
    return canvas


def _draw_region(canvas: NDArray[np.uint8], region: Region, place: int, scale: float, line: int) -> None:
    """The box, a cross at the centre of mass, and what it is, above the box or, for every second label, below it."""
    color = PALETTE[place % len(PALETTE)]
    height, width = canvas.shape[:2]
    left, top = round(region.box[0] * width), round(region.box[1] * height)
    right, bottom = round((region.box[0] + region.box[2]) * width), round((region.box[1] + region.box[3]) * height)
    x, y = round(region.centre[0] * width), round(region.centre[1] * height)
    arm = max(3, round(6 * scale))
    for stroke, ink in ((line + 2, (0, 0, 0)), (line, color)):  # dark beside light: it shows on any tissue
        cv2.rectangle(canvas, (left, top), (right, bottom), ink, stroke)
        cv2.line(canvas, (x - arm, y), (x + arm, y), ink, stroke)
        cv2.line(canvas, (x, y - arm), (x, y + arm), ink, stroke)
    said = f"{region.label} {region.score:.2f}"
    _write(canvas, said, (left, bottom if place % 2 else top), color, 0.55 * scale, below=bool(place % 2))


def _write(
    canvas: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    color: tuple[int, int, int],
    scale: float,
    *,
    below: bool = False,
) -> None:
    """A line of text on dark paper, above or below a point, moved so far that all of it is in the image."""
    height, width = canvas.shape[:2]
    scale = max(0.35, scale)
    (wide, high), descent = cv2.getTextSize(text, _FONT, scale, 1)
    pad = max(2, round(5 * scale))
    if wide + 2 * pad > width:  # a long list of reasons
        scale *= width / (wide + 2 * pad + 1)
        (wide, high), descent = cv2.getTextSize(text, _FONT, scale, 1)
    tall = high + descent + 2 * pad
    left = min(max(0, at[0]), max(0, width - wide - 2 * pad))
    bottom = min(max(tall, at[1] + tall * below), height)
    cv2.rectangle(canvas, (left, bottom - tall), (left + wide + 2 * pad, bottom), _PAPER, cv2.FILLED)
    cv2.putText(canvas, text, (left + pad, bottom - pad - descent), _FONT, scale, color, 1, cv2.LINE_AA)
