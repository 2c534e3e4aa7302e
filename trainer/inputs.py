"""Images as the device sees them: every record through edge's own optics and preprocessing, kept as one array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap

from edge.optics import QualityLimits, find_aperture, measure_quality
from edge.preprocess import Preprocessor
from trainer.console import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import InputSpec
    from trainer.data.manifest import Record


@dataclass(frozen=True)
class Inputs:
    """Model inputs with what they are.

    Attributes:
        images: uint8 (N, H, W, 3) RGB, mapped from disk.
        labels: int64 (N,).
        fit: bool (N,), whether the device finds the image fit to be judged.
        records: the N records.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    fit: NDArray[np.bool_]
    records: tuple[Record, ...]

    @property
    def sources(self) -> NDArray[np.str_]:
        """Source of each image."""
        return np.array([record.source for record in self.records])

    @property
    def groups(self) -> NDArray[np.str_]:
        """Group of each image."""
        return np.array([record.group for record in self.records])

    def take(self, kept: NDArray[np.int64]) -> Inputs:
        """Those of some images, by their indices."""
        return Inputs(self.images[kept], self.labels[kept], self.fit[kept], tuple(self.records[k] for k in kept))


def prepare_inputs(
    records: Sequence[Record], root: Path, spec: InputSpec, cache: Path, labels: Sequence[str]
) -> Inputs:
    """Bring every record through edge's aperture search and preprocessing, as the device would a frame.

    Args:
        records: what to prepare.
        root: the data root.
        spec: the model's input.
        cache: a folder that holds the result from then on; its name must stand for data and spec.
        labels: the labels in order.

    Returns:
        The inputs in the records' order.
    """
    if not (cache / "fit.npy").exists():
        cache.mkdir(parents=True, exist_ok=True)
        shape = (len(records), spec.height, spec.width, 3)
        images = open_memmap(cache / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        fit = np.zeros(len(records), np.bool_)
        preprocess, limits = Preprocessor(spec), QualityLimits()
        with Meter("preparing as the device does", len(records)) as meter:
            for index, record in enumerate(records):
                image = np.ascontiguousarray(record.read_image(root))
                aperture = find_aperture(image)
                images[index] = preprocess(image, None if aperture is None else aperture.box)[0]
                fit[index] = measure_quality(preprocess.buffer, preprocess.inner, limits).good
                meter.advance(1)
        images.flush()
        with (cache / "fit.part").open("wb") as stream:
            np.save(stream, fit)
        (cache / "fit.part").replace(cache / "fit.npy")  # last: it says that the rest is whole
    truth = np.array([list(labels).index(record.label) for record in records], np.int64)
    return Inputs(np.load(cache / "images.npy", mmap_mode="r"), truth, np.load(cache / "fit.npy"), tuple(records))
