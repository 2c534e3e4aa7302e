"""Contact sheets: what the training stream looks like, for eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data.types import FOLDS, LABELS, DataError, Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.data.dataset import TrainSet


def write_sheet(path: Path, images: Sequence[Image], captions: Sequence[str], columns: int = 8) -> None:
    """Write RGB images of one size as a captioned grid.

    Raises:
        DataError: The file cannot be written.
    """
    height, width = images[0].shape[:2]
    blank = np.full((height + 14, width + 4, 3), 40, np.uint8)
    tiles = []
    for image, caption in zip(images, captions, strict=True):
        tile = blank.copy()
        tile[2 : 2 + height, 2 : 2 + width] = image[..., ::-1]
        cv2.putText(
            tile, caption[:30], (3, height + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (80, 255, 255), 1, cv2.LINE_AA
        )
        tiles.append(tile)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise DataError(f"{path}: the sheet cannot be written; choose another folder or a name that ends in .png.")


def draw_maps(image: Image, maps: Image) -> Image:
    """Tint an RGB image uint8 (H, W, 3) by maps float32 (labels, h, w): the first label bluish, the second orange."""
    out = image.astype(np.float32)
    for cells, colour in zip(maps, _TINTS, strict=False):
        share = 0.5 * cv2.resize(cells, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)[..., None]
        out = out * (1 - share) + np.array(colour, np.float32) * share
    return out.astype(np.uint8)


_TINTS = ((86, 180, 233), (230, 159, 0))  # Okabe & Ito 2008: told apart by the colour-blind too


def write_train_sheets(folder: Path, train_set: TrainSet, count: int = 64) -> list[Path]:
    """Write one sheet of the epoch's first `count` samples per label, maps drawn over them; returns the files."""
    written = []
    for label, name in enumerate(LABELS):
        images: list[Image] = []
        captions: list[str] = []
        for i in range(len(train_set)):
            if len(images) == count:
                break
            if train_set.label_of(i) == label:
                pixels, _, _, maps = train_set[i]
                images.append(draw_maps(pixels.numpy().transpose(1, 2, 0), maps.numpy()))
                captions.append(("+ " if label == FOLDS else "- ") + train_set.describe(i))
        path = folder / f"train-{name}.png"
        write_sheet(path, images, captions)
        written.append(path)
    return written
