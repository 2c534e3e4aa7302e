"""Samples with dense targets: the same for the same seed, and the mask stays on the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer.data.augment import AugmentSettings  # noqa: E402
from trainer.data.types import DataError  # noqa: E402
from trainer.segment.dataset import WEAK, MaskSet  # noqa: E402
from trainer.segment.targets import FOLDS, GLOTTIS, NOTHING_KNOWN  # noqa: E402

SETTINGS = AugmentSettings(side=96, epoch_length=40)


def test_a_sample_follows_from_seed_epoch_and_index(mask_pack: Any) -> None:
    first, again = (MaskSet(mask_pack, mask_pack.records, SETTINGS, 5) for _ in range(2))
    again.set_epoch(1)
    again.set_epoch(0)
    for i in (3, 0, 39):
        a, b = first[i], again[i]
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[3], b[3])
        assert a[1:3] == b[1:3]
    again.set_epoch(1)
    assert not torch.equal(first[3][0], again[3][0])


def test_shapes_and_values(mask_pack: Any) -> None:
    data = MaskSet(mask_pack, mask_pack.records, SETTINGS)
    assert len(data) == 40
    for i in range(20):
        pixels, label, index, sets = data[i]
        assert pixels.shape == (3, 96, 96)
        assert pixels.dtype == sets.dtype == torch.uint8
        assert sets.shape == (96, 96)
        assert int(sets.min()) >= 1
        assert int(sets.max()) <= NOTHING_KNOWN
        assert label == mask_pack.records[index].label_index
        if label == 0:
            assert not bool((sets & (1 << FOLDS | 1 << GLOTTIS) == sets).any())  # a blended-in scene is fold-free too


@pytest.mark.parametrize("changes", [{}, WEAK])
def test_the_mask_stays_on_the_picture(mask_pack: Any, changes: Any) -> None:
    """The drawn glottis is darker than its surroundings and the drawn folds are brighter, wherever they come to lie."""
    records = [r for r in mask_pack.records if r.source == "vocalfolds" and r.label == "folds"]
    plain = dict.fromkeys(("fall_off", "glare", "fog", "aperture", "overlay", "noise", "jpeg", "blend"), 0.0)
    settings = AugmentSettings(**{"side": 96, "epoch_length": 30, **plain, **changes})
    data = MaskSet(mask_pack, records, settings)
    seen = 0
    for i in range(30):
        pixels, _, _, sets = data[i]
        light = pixels.float().mean(dim=0)
        masks = [sets == 1 << number for number in (0, FOLDS, GLOTTIS)]
        if min(int(m.sum()) for m in masks) < 30:
            continue
        other, folds, glottis = (float(light[m & (light > 0)].median()) for m in masks)
        assert glottis < other < folds
        seen += 1
    assert seen > 10


def test_images_whose_masks_say_nothing_take_no_part(mask_pack: Any) -> None:
    silent = [r for r in mask_pack.records if r.label == "folds" and not r.mask]
    bare = [r for r in mask_pack.records if r.source == "kvasir-seg"]
    with pytest.raises(DataError, match="no training image has a mask"):
        MaskSet(mask_pack, silent, SETTINGS)
    drawn = {MaskSet(mask_pack, [*silent, *bare], SETTINGS)[i][2] for i in range(20)}
    assert {mask_pack.records[i].source for i in drawn} == {"kvasir-seg"}


def test_weak_augmentation_leaves_the_pixels_alone(mask_pack: Any) -> None:
    records = [r for r in mask_pack.records if r.source == "vocalfolds" and r.label == "folds"][:1]
    settings = AugmentSettings(side=96, epoch_length=10, **WEAK)
    image = mask_pack[mask_pack.index[records[0]]].image
    for i in range(10):
        pixels, _, _, _ = MaskSet(mask_pack, records, settings)[i]
        inside = pixels.permute(1, 2, 0)[pixels.sum(dim=0) > 0]
        assert np.abs(inside.float().mean(dim=0).numpy() - image.mean(axis=(0, 1))).max() < 12
