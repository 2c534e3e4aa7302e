"""Frames of the phantom as records: rendered when read, so no file holds them and every machine has the same ones.

`phantom:SEED#K` names frame K of the ten that `edge.capture.phantom.training_frames` deals out for SEED in its full
variety: one anatomy and look per seed, which is therefore the group.
"""

from __future__ import annotations

import functools
import threading

import numpy as np

from edge.capture.phantom import Part, Truth, Variety, training_frames
from trainer.data.types import FOLD, GLOTTIS, LABELS, PATHOLOGY, TISSUE, TOOL, TUBE, DataError, Image, Mask

PREFIX = "phantom:"
BLOCK = 10
_DETAIL = 400  # pixels of the larynx plate: enough for pictures that are packed at 256
_GLIMPSE = 0.002  # share of the frame
_LOCK = threading.Lock()


def is_phantom(path: str) -> bool:
    """Whether a record's path names a rendered frame."""
    return path.startswith(PREFIX)


def frame(path: str) -> tuple[Image, Mask, str | None]:
    """Render the frame that a path names.

    Returns:
        uint8 (H, W, 3) BGR; its class map (folds, glottis, pathology, tool, tube, the rest tissue); and its label, None
        where the phantom calls the view ambiguous, or calls it hidden while a glimpse of folds or glottis is left.

    Raises:
        DataError: The path is not of the form `phantom:SEED#K`, K below 10.
    """
    seed, _, index = path.removeprefix(PREFIX).partition("#")
    if not (seed.isdecimal() and index.isdecimal() and int(index) < BLOCK):
        raise DataError(f"{path}: no phantom frame of that name; write phantom:SEED#K with K from 0 to {BLOCK - 1}.")
    with _LOCK:  # threads that read neighbours wait for one rendering instead of doing it twice
        image, truth = _block(int(seed))[int(index)]
    glimpse = not truth.visible and float((truth.folds | truth.glottis).mean()) > _GLIMPSE
    return image, class_map(truth), None if truth.ambiguous or glimpse else LABELS[int(truth.visible)]


def class_map(truth: Truth) -> Mask:
    """A rendered frame's class map, uint8 (H, W): folds, glottis and, where its parts are known, what hides them."""
    classes = np.full(truth.folds.shape, TISSUE, np.uint8)
    classes[truth.folds] = FOLD
    classes[truth.glottis] = GLOTTIS
    if truth.parts is not None:
        for part, number in _CLASSES.items():
            classes[truth.parts == part] = number
    return classes


_CLASSES = {Part.LESION: PATHOLOGY, Part.TUBE: TUBE, Part.INSTRUMENT: TOOL, Part.BLADE: TOOL}


@functools.lru_cache(maxsize=8)
def _block(seed: int) -> tuple[tuple[Image, Truth], ...]:
    return tuple(training_frames(BLOCK, seed, detail=_DETAIL, variety=Variety()))
