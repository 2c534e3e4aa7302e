"""Dice and intersection over union by torchmetrics, boundary distance by SciPy's distance transform; image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from trainer._torchvision import ensure_torchvision
from trainer.segment.targets import NOTHING_KNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

Measured = dict[str, float]


def decided(sets: NDArray[np.uint8], number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Where a class is, and where that is known.

    Args:
        sets: uint8 (H, W), the sets of classes that pixels may be.
        number: of the class.

    Returns:
        bool (H, W) truth, and bool (H, W) pixels that count; None where the image's mask does not tell this class from
        others.
    """
    known = sets != NOTHING_KNOWN
    bit = np.uint8(1 << number)
    truth, open_to = sets == bit, (sets & bit != 0) & (sets != bit)
    if not known.any() or (open_to & known).any():
        return None
    return truth, known


def measure(found: NDArray[np.bool_], truth: NDArray[np.bool_], known: NDArray[np.bool_]) -> Measured:
    """Compare one class's pixels with its truth.

    Args:
        found: bool (H, W).
        truth: bool (H, W), not empty.
        known: bool (H, W), the pixels that count.

    Returns:
        `dice` and `iou` (0..1), and `distance`: the mean distance between the two boundaries (average symmetric surface
        distance) as a share of the image's diagonal; the whole diagonal where nothing was found.
    """
    ensure_torchvision()
    from torchmetrics.functional.segmentation import dice_score, mean_iou  # noqa: PLC0415  after the shim

    a, b = (torch.from_numpy(np.ascontiguousarray(x & known))[None, None] for x in (found, truth))
    dice = float(dice_score(a.int(), b.int(), 1, input_format="one-hot", aggregation_level="samplewise"))
    iou = float(mean_iou(a, b, 1, input_format="one-hot"))
    return {"dice": dice, "iou": iou, "distance": _boundary_distance(found & known, truth & known)}


def _boundary_distance(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Torchmetrics' own takes memory with the square of the edge's length, and minutes."""
    if not found.any():
        return 1.0
    # Both boundaries lie in the box about the two regions: what is outside it need not be searched.
    rows, columns = ((found | truth).any(axis=axis).nonzero()[0] for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    edges = [region[box] & ~ndimage.binary_erosion(region[box]) for region in (found, truth)]
    away = [ndimage.distance_transform_edt(~edge)[other] for edge, other in zip(edges, reversed(edges), strict=True)]
    return float(np.concatenate(away).mean() / np.hypot(*truth.shape))
