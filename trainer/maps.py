"""Maps as the device computes them, against masks brought into the model's input by the device's own geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge.bundle import MapSpec
from edge.optics import find_aperture
from edge.preprocess import Preprocessor
from edge.regions import map_probabilities
from trainer.console import Meter
from trainer.data.manifest import VIBRATION
from trainer.data.maps import CLASSES
from trainer.data.types import GLOTTIS, LABELS, UNKNOWN, VOID
from trainer.models import MAP_STRIDE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import InputSpec
    from trainer.data.manifest import Record
    from trainer.recipe import MapSettings

_TEMPERATURES = np.geomspace(0.25, 4.0, 81)
_THRESHOLDS = np.arange(0.2, 0.8001, 0.02)
_HALF = 0.5
_UNSUPPORTED = 0.01  # share of the right findings on validation that may lose their answer to `support_floor`


@dataclass(frozen=True)
class MapTruth:
    """What masks say about the cells of a model input's map.

    Attributes:
        share: float32 (N, h, w, labels), part of each cell that shows the label.
        known: bool (N, h, w, labels), whether the mask says so of most of the cell.
    """

    share: NDArray[np.float32]
    known: NDArray[np.bool_]


def map_truth(records: Sequence[Record], root: Path, spec: InputSpec, labels: Sequence[str]) -> MapTruth:
    """Bring the records' masks into the model's input as the device brings their images, and average them over cells.

    An image without folds has nothing anywhere; one with folds but without a mask says nothing. Of a mask of the
    glottis alone it is not known which cells show folds.

    Args:
        records: the images.
        root: the data root.
        spec: the model's input.
        labels: of the map.
    """
    preprocess = Preprocessor(spec)
    shape = (len(records), spec.height // MAP_STRIDE, spec.width // MAP_STRIDE, len(labels))
    share, known = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    with Meter("masks as the device would see them", len(records)) as meter:
        for index, record in enumerate(records):
            meter.advance(1)
            if record.label != LABELS[1]:
                known[index] = True
                continue
            classes = None if record.mask in ("", VIBRATION) else record.read_mask(root)
            if classes is None:
                continue
            image = np.ascontiguousarray(record.read_image(root))
            aperture = find_aperture(image)
            box = None if aperture is None else aperture.box
            preprocess(image, box)
            if box is not None:
                classes = classes[box.y : box.y + box.height, box.x : box.x + box.width]
            blank = np.isin(classes, (UNKNOWN, VOID))
            for channel, label in enumerate(labels):
                number = CLASSES[label]
                silent = np.zeros_like(blank) if record.mask.endswith("#glottis") and number == GLOTTIS else blank
                share[index, ..., channel] = _cells(classes == number, preprocess, spec)
                known[index, ..., channel] = _cells(silent, preprocess, spec) < _HALF
    return MapTruth(share, known)


def _cells(where: NDArray[np.bool_], preprocess: Preprocessor, spec: InputSpec) -> NDArray[np.float32]:
    inner = preprocess.inner
    whole = np.zeros((spec.height, spec.width), np.float32)
    fitted = cv2.resize(where.astype(np.float32), (inner.width, inner.height), interpolation=cv2.INTER_AREA)
    whole[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width] = fitted
    size = (spec.width // MAP_STRIDE, spec.height // MAP_STRIDE)
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.float32)


def choose_maps(
    logits: NDArray[np.float32], truth: MapTruth, scores: NDArray[np.float64], found: NDArray[np.bool_],
    settings: MapSettings,
) -> MapSpec:  # fmt: skip
    """Temperature, thresholds and the floor of support, from the validation split of the model that ships.

    The temperature has the lowest cross-entropy over the known cells; a label's threshold the best Dice over those of
    all images together. The floor of support is what 1 % of the images with folds that are rightly found fall below.

    Args:
        logits: (N, h, w, labels).
        truth: of the same images.
        scores: (N,), calibrated score of the finding, less the threshold: above 0 it is found.
        found: (N,), whether the image shows the finding and is fit to be judged.
        settings: labels and what else is wanted.
    """
    wide, share, known = logits.astype(np.float64), truth.share, truth.known

    def loss(temperature: float) -> float:
        scaled = wide[known] / temperature
        return float((np.logaddexp(0, scaled) - share[known] * scaled).mean())

    temperature = round(float(min(_TEMPERATURES, key=loss)), 4)
    chances = map_probabilities(logits, temperature)
    thresholds = {}
    for channel, label in enumerate(settings.labels):
        told = known[..., channel]
        here, there = chances[..., channel][told], share[..., channel][told] >= _HALF
        thresholds[label] = round(float(max(_THRESHOLDS, key=lambda at: _dice(here >= at, there))), 2)
    right = found & (scores > 0)
    best = chances.reshape(len(chances), -1).max(1)[right]
    floor = min(_HALF, float(np.quantile(best, _UNSUPPORTED))) if len(best) else None
    return MapSpec(
        labels=settings.labels,
        stride=MAP_STRIDE,
        temperature=temperature,
        thresholds=thresholds,
        smoothing_s=settings.smoothing_s,
        support_floor=None if floor is None else round(floor, 4),
    )


def _dice(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = int(said.sum()) + int(truth.sum())
    return 2 * int((said & truth).sum()) / total if total else 1.0


def map_figures(
    logits: NDArray[np.float32], truth: MapTruth, spec: MapSpec, sources: NDArray[np.str_]
) -> dict[str, dict[str, Any]]:
    """Dice over the known cells of each source's images together, by label; None where no cell shows the label.

    Returns:
        For JSON, by source: `images` that say something, and per label `dice` and `cells` that show it.
    """
    chances = map_probabilities(logits, spec.temperature)
    figures: dict[str, dict[str, Any]] = {}
    for source in sorted(set(sources.tolist())):
        inside = sources == source
        entry: dict[str, Any] = {"images": int(truth.known[inside].any(axis=(1, 2, 3)).sum())}
        for channel, label in enumerate(spec.labels):
            told = truth.known[inside][..., channel]
            there = truth.share[inside][..., channel][told] >= _HALF
            said = chances[inside][..., channel][told] >= spec.thresholds[label]
            entry[label] = {"dice": _dice(said, there) if there.any() else None, "cells": int(there.sum()),
                            "wrong_cells": float(said[~there].mean()) if (~there).any() else None}  # fmt: skip
        figures[source] = entry
    return figures
