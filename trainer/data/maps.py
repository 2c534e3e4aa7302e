"""Soft masks for a pack: what masks say, where there are any, and a segmentation teacher's answer elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap

from trainer.data.manifest import VIBRATION
from trainer.data.types import FOLD, GLOTTIS, LABELS, UNKNOWN, VOID, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainer.data.pack import Pack
    from trainer.data.types import Image

    Predict = Callable[[Image], Image]
    """uint8 (n, 256, 256, 3) RGB -> uint8 (n, 256, 256, labels), 255 times the chance of each label."""
    Progress = Callable[[int, int], None]

CLASSES = {"folds": FOLD, "glottis": GLOTTIS}
"""What a map can show, and its number in the class maps."""
_BATCH = 16


def build_maps(
    pack: Pack, predict: Predict, labels: Sequence[str], path: Path, *, progress: Progress | None = None
) -> None:
    """Write the soft masks of all pictures of a pack into one array file.

    A picture without folds has nothing anywhere. In one with folds, pixels that a mask names are certain; about the
    others the teacher is asked.

    Args:
        pack: The pictures.
        predict: The teacher.
        labels: Of the map, keys of `CLASSES`.
        path: The file, uint8 (N, 256, 256, labels); it appears only once it is whole.
        progress: Told how far it is.

    Raises:
        DataError: A label has no masks.
    """
    unknown = [label for label in labels if label not in CLASSES]
    if unknown:
        raise DataError(f"{', '.join(unknown)}: no mask shows that; the map's labels can be {', '.join(CLASSES)}.")
    part = path.with_name(path.name + ".part")
    shape = (*pack.masks.shape, len(labels))
    maps = open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    shown = [i for i, record in enumerate(pack.records) if record.label == LABELS[1]]
    for start in range(0, len(shown), _BATCH):
        batch = shown[start : start + _BATCH]
        answers = predict(np.asarray(pack.images[batch]))
        for i, answer in zip(batch, answers, strict=True):
            maps[i] = soft_masks(np.asarray(pack.masks[i]), pack.records[i].mask, answer, labels)
        if progress:
            progress(min(start + _BATCH, len(shown)), len(shown))
    maps.flush()
    part.replace(path)


def soft_masks(classes: Image, mask: str, answer: Image, labels: Sequence[str]) -> Image:
    """One picture's soft masks, uint8 (H, W, labels).

    A mask of the glottis alone says where there is none too, but of the folds only that they are not within it. A place
    that vibrates is no outline: it says nothing here.

    Args:
        classes: Its class map, uint8 (H, W).
        mask: The record's `mask`, which says what kind of map that is.
        answer: The teacher's, uint8 (H, W, labels).
        labels: Of the map.
    """
    out = answer.copy()
    known = (classes != UNKNOWN) & (mask != VIBRATION)
    glottis_alone = mask.endswith("#glottis")
    for channel, label in enumerate(labels):
        number = CLASSES[label]
        certain = np.ones_like(known) if glottis_alone and number == GLOTTIS else known
        out[..., channel] = np.where(certain, np.where(classes == number, 255, 0), out[..., channel])
    out[classes == VOID] = 0
    return np.asarray(out)
