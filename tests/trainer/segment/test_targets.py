"""Which classes a pixel may be, as its mask, its kind and its image's label say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer.data.manifest import Record
from trainer.data.types import FOLD, GLOTTIS, PATHOLOGY, TISSUE, TOOL, TUBE, UNKNOWN, VOID
from trainer.segment.targets import NOTHING_KNOWN, possible_classes

OTHER, FOLDS, GAP = 1, 2, 4


def record(mask: str, label: str = "folds") -> Record:
    return Record("a.png", label, "g", "vocalfolds", "train", "x", mask)


def possible(numbers: Any, of: Any) -> Any:
    return possible_classes(np.array([numbers], np.uint8), of)[0].tolist()


def test_a_full_mask_names_every_pixel_and_leaves_the_unlabelled_open() -> None:
    numbers = [VOID, FOLD, TISSUE, GLOTTIS, PATHOLOGY, TOOL, TUBE, UNKNOWN]
    assert possible(numbers, record("m.png")) == [OTHER, FOLDS, OTHER, GAP, OTHER, OTHER, OTHER, NOTHING_KNOWN]


def test_beside_a_glottis_mask_anything_may_be_folds() -> None:
    assert possible([GLOTTIS, UNKNOWN, VOID], record("m.png#glottis")) == [GAP, OTHER | FOLDS, OTHER]


def test_what_vibrates_is_glottis_or_folds() -> None:
    assert possible([GLOTTIS, UNKNOWN, VOID], record("#vibration")) == [FOLDS | GAP, NOTHING_KNOWN, OTHER]


@pytest.mark.parametrize("mask", ["", "m.png"])
def test_without_folds_everything_is_other(mask: Any) -> None:
    assert possible([UNKNOWN, TISSUE, VOID], record(mask, "no_folds")) == [OTHER, OTHER, OTHER]
