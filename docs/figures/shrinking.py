"""Ways to do a frame's dearest sub-steps, to be counted: `make arm-cost CALLS=docs/figures/shrinking.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (720, 1280, 3), np.uint8)
CROP = FRAME[9:714, 288:993]  # the phantom's aperture
INPUT = RNG.integers(0, 256, (160, 160, 3), np.uint8)
BUFFER = np.zeros((1, 160, 160, 3), np.uint8)
FINE = RNG.integers(0, 2040, (120, 120)).astype(np.int16)
AREA, LINEAR, NEAREST = cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST


def shrink(image: NDArray[np.uint8], *steps: tuple[int, int, int]) -> Callable[[], object]:
    """Resize in steps of (width, height, interpolation)."""

    def call() -> object:
        shown = image
        for width, height, how in steps:
            shown = np.asarray(cv2.resize(shown, (width, height), interpolation=how), np.uint8)
        return shown

    return call


NUMBERS = RNG.random(1000).tolist()
CALLS = {
    "705 > 160 area": shrink(CROP, (160, 160, AREA)),
    "705 > 352 linear > 160 area": shrink(CROP, (352, 352, LINEAR), (160, 160, AREA)),
    "705 > 320 linear > 160 area": shrink(CROP, (320, 320, LINEAR), (160, 160, AREA)),
    "705 > 352 > 176 halves > 160 linear": shrink(
        CROP[:704, :704], (352, 352, AREA), (176, 176, AREA), (160, 160, LINEAR)
    ),
    "705 > 352 half > 160 linear": shrink(CROP[:704, :704], (352, 352, AREA), (160, 160, LINEAR)),
    "705 > 160 linear": shrink(CROP, (160, 160, LINEAR)),
    "705 > 448 linear > 224 area": shrink(CROP, (448, 448, LINEAR), (224, 224, AREA)),
    "1280 > 384 linear > 192 area": shrink(FRAME, (384, 216, LINEAR), (192, 108, AREA)),
    "1280 > 384 nearest > 192 area": shrink(FRAME, (384, 216, NEAREST), (192, 108, AREA)),
    "1280 > 480 linear": shrink(FRAME, (480, 270, LINEAR)),
    "1280 > 512 linear": shrink(FRAME, (512, 288, LINEAR)),
    "swap channels by numpy": lambda: np.copyto(BUFFER[0], INPUT[:, :, ::-1]),
    "swap channels by OpenCV": lambda: cv2.cvtColor(INPUT, cv2.COLOR_BGR2RGB, dst=BUFFER[0]),
    "Laplacian in 16 bits": lambda: cv2.Laplacian(FINE, cv2.CV_16S),
    "histogram of 120 x 120": lambda: cv2.calcHist([INPUT[20:140, 20:140, 0].copy()], [0], None, [256], [0, 256]),
    "Laplacian in float": lambda: cv2.Laplacian(FINE.astype(np.float32), cv2.CV_32F),
    "round 1000 numbers to 4 decimals": lambda: [round(value, 4) for value in NUMBERS],
    "round 1000 numbers to 1 / 10,000": lambda: [round(value * 1e4) / 1e4 for value in NUMBERS],
}
