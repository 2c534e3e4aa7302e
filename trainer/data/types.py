"""Names that every module of `trainer.data` shares: image types, labels, mask classes, the error users see."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy.typing as npt

from edge.errors import FoldsightError

Image: TypeAlias = npt.NDArray[Any]
"""uint8 (H, W, 3); BGR as read by OpenCV, RGB once packed."""
Mask: TypeAlias = npt.NDArray[Any]
"""uint8 (H, W): a class map, or a float32 (H, W) weight in 0..1 where said so."""

LABELS = ("no_folds", "folds")
NO_FOLDS, FOLDS = 0, 1

# The class map's numbers are those of the vocalfolds set (Laves et al. 2018, arXiv 1807.06081).
VOID, FOLD, TISSUE, GLOTTIS, PATHOLOGY, TOOL, TUBE = range(7)
UNKNOWN = 255
"""A pixel about which no mask says anything."""
MAX_CLASS = TUBE


class DataError(FoldsightError):
    """Images, masks or a manifest are not fit for training; the message names each place and what to do."""
