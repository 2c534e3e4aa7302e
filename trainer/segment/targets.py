"""What a mask says about each pixel: the set of classes that it may be.

A mask seldom says everything. One of the glottis alone leaves open which other pixels are folds; the vibrating part of
a recording is glottis or a fold's edge; void is unlabelled. So a pixel's target is not a class but a set of classes, as
bits of a uint8: one bit where the class is known, all where nothing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.data import types
from trainer.data.manifest import VIBRATION
from trainer.data.types import LABELS, PATHOLOGY, TISSUE, TOOL, TUBE, UNKNOWN, VOID, Mask

if TYPE_CHECKING:
    from trainer.data.manifest import Record

CLASSES = ("other", "folds", "glottis")
OTHER, FOLDS, GLOTTIS = range(3)
NOTHING_KNOWN = (1 << len(CLASSES)) - 1
"""The set of all classes: a pixel from which nothing is learnt."""


def possible_classes(classes: Mask, record: Record) -> Mask:
    """Turn a packed class map into sets of classes.

    Folds and the glottal space are classes of their own; tissue, pathology, tools, tubes and what lies outside the
    optics' field are other. Of a glottis mask the rest is other or folds, of a vibrating region the inside is folds or
    glottis. An image labelled as without folds is other wherever its mask says nothing. Else the unlabelled (void too,
    which a pack holds as unknown) stays open.

    Args:
        classes: uint8 (H, W) of a `trainer.data.pack.Packed`.
        record: It belongs to.

    Returns:
        uint8 (H, W), a bit per class of `CLASSES`.
    """
    table = np.full(256, NOTHING_KNOWN, np.uint8)
    table[[VOID, TISSUE, PATHOLOGY, TOOL, TUBE]] = 1 << OTHER
    table[types.FOLD], table[types.GLOTTIS] = 1 << FOLDS, 1 << GLOTTIS
    if record.mask == VIBRATION:
        table[types.GLOTTIS] = 1 << FOLDS | 1 << GLOTTIS
    elif record.mask.endswith("#glottis"):
        table[UNKNOWN] = 1 << OTHER | 1 << FOLDS
    if record.label == LABELS[0]:
        table[UNKNOWN] = 1 << OTHER
    return table[classes]
