"""Draws docs/figures/pairing.png from the pictures that the tests take of the page.

FOLDSIGHT_SCREENSHOTS=shots .venv/bin/python -m pytest tests/system/test_phone_page.py
.venv/bin/python docs/figures/pairing.py shots
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import segno

HEIGHT = 700
# No adapter has this: an address of the right length, that is all.
EXAMPLE = f"https://theatre-3.local:8443/#pair={'A1b2' * 6}&ca={'0123456789ABCDEF' * 4}"


def main(shots: Path) -> None:
    """Draw the picture from the folder of screenshots."""
    code = np.array(list(segno.make_qr(EXAMPLE, error="m").matrix_iter(border=4)), np.uint8)
    side = HEIGHT * 390 // 844
    drawn = cv2.resize((1 - code) * 255, (side, side), interpolation=cv2.INTER_NEAREST)
    first = np.full((HEIGHT, side, 3), 24, np.uint8)
    top = (HEIGHT - side) // 2
    first[top : top + side] = drawn[..., None]
    cv2.putText(
        first, "$ foldsight pair", (14, top - 16), cv2.FONT_HERSHEY_DUPLEX, 0.55, (230, 230, 230), 1, cv2.LINE_AA
    )
    panels = [first]
    for name in ("pair", "phantom", "revoked"):
        picture = cv2.imread(str(shots / f"{name}-390x844.png"))
        panels.append(cv2.resize(picture, (side, HEIGHT), interpolation=cv2.INTER_AREA))
    gap = np.full((HEIGHT, 16, 3), 255, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
    cv2.imwrite(str(Path(__file__).with_suffix(".png")), row, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
