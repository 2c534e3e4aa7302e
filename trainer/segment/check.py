"""Looks at every image and mask before anything is trained: what is wrong is named, with its file."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data.manifest import raise_problems, read_picture
from trainer.data.types import FOLD, GLOTTIS, MAX_CLASS, UNKNOWN, DataError, Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.data.manifest import Record

_BINARY = (0, 1, 255)
_CLASS_NAMES = {FOLD: "vocal folds", GLOTTIS: "glottis"}


def check_masks(records: Sequence[Record], root: Path, progress: Callable[[int], None] | None = None) -> None:
    """Check that every image has a mask of its own size, with known values, and that no class is without a pixel.

    Args:
        records: To be learnt from and tested on.
        root: The data root.
        progress: Told after each image.

    Raises:
        DataError: With everything that is wrong: each file, what it is, and what to do.
    """
    problems: list[str] = []
    pixels: dict[tuple[str, int], int] = defaultdict(int)
    for record in records:
        fault = _fault(record, root, pixels)
        if fault:
            problems.append(fault)
        if progress:
            progress(1)
    for source in sorted({record.source for record in records}):
        of_source = [record for record in records if record.source == source]
        partial = all(record.mask.endswith("#glottis") for record in of_source)
        for number in (GLOTTIS,) if partial else (FOLD, GLOTTIS):
            if not pixels[source, number] and not problems:
                problems.append(
                    f"{root / source}: none of the {len(of_source)} masks (the first is {of_source[0].mask}) holds a "
                    f"pixel of class {number if not partial else 1}, {_CLASS_NAMES[number]}; correct the masks"
                )
    raise_problems("masks", problems)


def _fault(record: Record, root: Path, pixels: dict[tuple[str, int], int]) -> str | None:
    """What is wrong with an image's mask; counts the pixels of each class where nothing is."""
    name, _, kind = record.mask.partition("#")
    file = root / name
    if not name or not file.is_file():
        missing = f"its mask {file} is not there" if name else "has no mask"
        return f"{root / record.path}: {missing}; give one, or remove the image"
    try:
        rows, columns = read_picture(root, record.path).shape[:2]
    except DataError as error:
        return str(error).rstrip(".")
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        return f"{file}: not a readable image; replace it"
    if mask.shape != (rows, columns):
        size = f"the mask is {mask.shape[1]}x{mask.shape[0]}, its image {columns}x{rows}"
        return f"{file}: {size}; give one of the same size"
    known = _BINARY if kind == "glottis" else (*range(MAX_CLASS + 1), UNKNOWN)
    unknown = [int(value) for value in np.unique(mask) if value not in known]
    if unknown:
        right = "0 and 1, or 0 and 255" if kind == "glottis" else f"0 to {MAX_CLASS}, and {UNKNOWN} for unknown"
        return f"{file}: holds the unknown value{'s' if unknown[1:] else ''} {_few(unknown)}; right are {right}"
    _count(mask, record, kind, pixels)
    return None


def _count(mask: Mask, record: Record, kind: str, pixels: dict[tuple[str, int], int]) -> None:
    for number in (FOLD, GLOTTIS):
        there = (mask > 0 if number == GLOTTIS else mask < 0) if kind == "glottis" else mask == number
        pixels[record.source, number] += int(np.count_nonzero(there))


def _few(values: Sequence[int]) -> str:
    listed = ", ".join(map(str, values[:5]))
    return listed + (f" and {len(values) - 5} more" if len(values) > 5 else "")  # noqa: PLR2004
