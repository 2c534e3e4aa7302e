"""A contact sheet of the phantom: `python -m edge.capture.phantom.sheet --out sheet.jpg`.

It draws the frames that training learns from, with their label and, on request, their parts in colours.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.generate import training_frames
from edge.capture.phantom.parts import Part
from edge.capture.phantom.texture import Bytes, cv
from edge.capture.phantom.variety import Variety

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.capture.phantom.render import Truth

_WORD = {True: "folds", False: "no folds"}


def colours() -> Bytes:
    """One colour per part, BGR uint8 (parts, 3): folds white, the gap dark blue, the others by hue."""
    number = np.arange(len(Part))
    hsv = np.stack([number * 7, np.where(number % 2, 210, 130), 235 - 55 * (number % 3)], axis=-1).astype(np.uint8)
    table = np.asarray(cv.cvtColor(hsv[None], cv.COLOR_HSV2BGR)[0], np.uint8)
    table[Part.OUTSIDE], table[Part.FOLDS], table[Part.GLOTTIS] = (0, 0, 0), (255, 255, 255), (120, 20, 20)
    return table


def tile(image: Bytes, truth: Truth, side: int, *, parts: bool) -> Bytes:
    """A frame, or its parts, in a square of `side` pixels with its label below."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (round(width * scale), round(height * scale))
    if parts and truth.parts is not None:
        small = colours()[cv.resize(truth.parts, size, interpolation=cv.INTER_NEAREST)]
    else:
        small = cv.resize(image, size, interpolation=cv.INTER_AREA)
    out = np.full((side + 15, side + 4, 3), 32, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2 + 2
    out[top : top + size[1], left : left + size[0]] = small
    said = f"{'ambiguous' if truth.ambiguous else _WORD[truth.visible]}: {truth.scene.replace('_', ' ')}"
    colour = (160, 160, 160) if truth.ambiguous else (120, 235, 255) if truth.visible else (255, 190, 140)
    cv.putText(out, said, (4, side + 11), cv.FONT_HERSHEY_SIMPLEX, 0.36, colour, 1, cv.LINE_AA)
    return out


def draw(
    count: int, seed: int, variety: Variety | None, *, side: int = 190, columns: int = 8, parts: bool = False
) -> Bytes:
    """A sheet of `count` frames, each of another larynx, folds and no folds in equal number.

    Args:
        count: how many; half of them shows folds.
        seed: from here on upwards.
        variety: see `training_frames`.
        side: pixels of a tile.
        columns: tiles in a row.
        parts: put each frame's parts beside it.
    """
    wanted = {True: count - count // 2, False: count // 2}
    tiles: list[Bytes] = []
    while any(wanted.values()):
        # The first frame of a larynx is as good as any other.
        for image, truth in training_frames(1, seed, detail=400, variety=variety):
            if not truth.ambiguous and wanted[truth.visible]:
                wanted[truth.visible] -= 1
                tiles.append(tile(image, truth, side, parts=False))
                if parts:
                    tiles.append(tile(image, truth, side, parts=True))
        seed += 1
    blank = np.full_like(tiles[0], 32)
    tiles += [blank] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def main(argv: Sequence[str] | None = None) -> int:
    """Write a sheet; 0, or 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m edge.capture.phantom.sheet", description=__doc__)
    parser.add_argument("--out", required=True, help="the picture, .jpg or .png")
    parser.add_argument("--count", type=int, default=48, help="frames (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="the first larynx (default: 0)")
    parser.add_argument("--side", type=int, default=190, help="pixels of a tile (default: 190)")
    parser.add_argument("--parts", action="store_true", help="each frame's parts beside it")
    parser.add_argument("--plain", action="store_true", help="as the demo shows it, without the wide variety")
    parser.add_argument("--without", default="", help="parts of the variety to leave out, by commas")
    arguments = parser.parse_args(argv)
    try:
        variety = None if arguments.plain else Variety.without(*filter(None, arguments.without.split(",")))
    except ValueError as error:
        parser.error(str(error))
    sheet = draw(arguments.count, arguments.seed, variety, side=arguments.side, parts=arguments.parts)
    quality = [cv.IMWRITE_JPEG_QUALITY, 82] if arguments.out.endswith((".jpg", ".jpeg")) else []
    if not cv.imwrite(arguments.out, sheet, quality):
        parser.error(f"{arguments.out} cannot be written: give a .jpg or .png in a folder that exists")
    return 0


if __name__ == "__main__":
    sys.exit(main())
