"""A many-class task from the public sets: which scope is this, and what does it see?

Classes: `larynx` (colour, intra-operative), three high-speed larynx cameras, `polyp` and `colon` (windows of one size
of colonoscopy with and without a polyp, cut from the same frames by their masks). A class is partly a camera: this
compares methods of distillation with each other, and says nothing about anatomy.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.data.importers import import_sources
from trainer.data.types import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.manifest import Record

LABELS = ("larynx", "kaypentax", "wolf", "phantom_v210", "polyp", "colon")
_CAMERAS = {"KayPentax HSV 9710 (Photron)": "kaypentax", "HERS 5562 Endocam Wolf": "wolf",
            "Phantom v210": "phantom_v210"}  # fmt: skip
_STEP = 8
_SHOWN = 0.5  # of a polyp's area that its window must hold
_SOURCES = ("vocalfolds", "bagls", "kvasir-seg")


class SceneSettings(BaseModel):
    """The task.

    Attributes:
        kind: `scenes`.
        window: side of the colonoscopy windows, as a share of the frame's shorter side.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["scenes"]
    window: float = 0.5


def import_scenes(root: Path, settings: SceneSettings, seed: int) -> tuple[list[Record], list[str]]:
    """Read the public sets as scenes.

    Returns:
        The records, without splits yet, and notes.

    Raises:
        DataError: a set is missing, or names a camera that is not known.
    """
    records, notes = import_sources(root, _SOURCES)
    with (root / "bagls" / "frames.csv").open(encoding="utf-8", newline="") as stream:
        cameras = {row["file"]: row["camera"] for row in csv.DictReader(stream)}
    found, rng = [], np.random.default_rng([seed, 8])
    for record in records:
        if record.source == "vocalfolds":
            found.append(dataclasses.replace(record, label="larynx", mask=""))
        elif record.source == "bagls":
            camera = cameras[record.path.rpartition("/")[2]]
            if camera not in _CAMERAS:
                raise DataError(f"{root / 'bagls' / 'frames.csv'}: {record.path} has the unknown camera {camera!r}.")
            found.append(dataclasses.replace(record, label=_CAMERAS[camera], mask=""))
        else:
            window = _window(root, record, settings.window, rng, polyp=len(found) % 2 == 0)
            if window is not None:
                found.append(window)
    return found, notes


def _window(root: Path, record: Record, share: float, rng: np.random.Generator, *, polyp: bool) -> Record | None:
    """A drawn window with, or without, the polyp; None where the frame has none such."""
    file = root / record.path.replace("/img/", "/annot/")
    mask = cv2.imread(str(file.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{file.with_suffix('.png')}: no readable mask there; unpack the set again.")
    shown = (mask > 0).astype(np.float64)
    height, width = shown.shape
    side = int(share * min(height, width))
    total = cv2.integral(shown)
    ys, xs = np.arange(0, height - side + 1, _STEP), np.arange(0, width - side + 1, _STEP)
    inside = (total[np.ix_(ys + side, xs + side)] - total[np.ix_(ys, xs + side)]
              - total[np.ix_(ys + side, xs)] + total[np.ix_(ys, xs)])  # fmt: skip
    fit = inside >= _SHOWN * min(shown.sum(), side * side) if polyp else inside == 0
    places = np.argwhere(fit & (shown.sum() > 0))
    if not len(places):
        return None
    row, column = places[int(rng.integers(len(places)))]
    return dataclasses.replace(record, label="polyp" if polyp else "colon", mask="", x=int(xs[column]), y=int(ys[row]),
                               width=side, height=side)  # fmt: skip
