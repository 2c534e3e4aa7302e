"""Soft masks: what is certain stays, what is not known is asked, and they follow their picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.augment import AugmentSettings
from trainer.data.blend import blend, fill_in, view
from trainer.data.dataset import TrainSet
from trainer.data.manifest import VIBRATION
from trainer.data.maps import build_maps, soft_masks
from trainer.data.pack import Pack, Packed
from trainer.data.types import FOLD, FOLDS, GLOTTIS, NO_FOLDS, TISSUE, UNKNOWN, VOID, DataError

if TYPE_CHECKING:
    from trainer.data.manifest import Record
    from trainer.data.types import Image

LABELS = ("folds", "glottis")


def answer(folds: int, glottis: int) -> Image:
    return np.stack((np.full((1, 5), folds, np.uint8), np.full((1, 5), glottis, np.uint8)), -1)


CLASSES = np.array([[FOLD, GLOTTIS, TISSUE, UNKNOWN, VOID]], np.uint8)


def test_a_full_mask_is_certain_and_the_rest_is_asked() -> None:
    found = soft_masks(CLASSES, "a.png", answer(100, 50), LABELS)
    assert found[0, :, 0].tolist() == [255, 0, 0, 100, 0]
    assert found[0, :, 1].tolist() == [0, 255, 0, 50, 0]


def test_a_glottis_mask_says_where_no_glottis_is_and_leaves_the_folds_open() -> None:
    classes = np.array([[UNKNOWN, GLOTTIS, UNKNOWN, UNKNOWN, VOID]], np.uint8)
    found = soft_masks(classes, "a.png#glottis", answer(100, 50), LABELS)
    assert found[0, :, 0].tolist() == [100, 0, 100, 100, 0]
    assert found[0, :, 1].tolist() == [0, 255, 0, 0, 0]


def test_a_vibrating_place_is_no_outline() -> None:
    found = soft_masks(
        np.array([[UNKNOWN, GLOTTIS, UNKNOWN, UNKNOWN, VOID]], np.uint8), VIBRATION, answer(9, 8), LABELS
    )
    assert found[0, :, 0].tolist() == [9, 9, 9, 9, 0]
    assert found[0, :, 1].tolist() == [8, 8, 8, 8, 0]


@pytest.fixture(scope="module")
def mapped(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The pack with maps whose teacher finds folds at 30 % and a glottis at 20 % everywhere."""
    path = tmp_path_factory.mktemp("maps") / "maps.npy"
    asked: list[int] = []

    def predict(images: Image) -> Image:
        asked.append(len(images))
        out = np.empty((*images.shape[:3], 2), np.uint8)
        out[...] = (77, 51)
        return out

    build_maps(pack, predict, LABELS, path)
    assert sum(asked) == sum(record.label == "folds" for record in pack.records)  # the others have nothing to find
    return pack.with_maps(path)


def test_pictures_without_folds_have_empty_maps(mapped: Pack) -> None:
    assert mapped.maps is not None
    for record, maps in zip(mapped.records, mapped.maps, strict=True):
        if record.label == "no_folds":
            assert not maps.any()


def test_a_map_of_other_pictures_is_refused(pack: Pack, tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", np.zeros((1, 256, 256, 2), np.uint8))
    with pytest.raises(DataError, match="maps of 1 pictures"):
        pack.with_maps(tmp_path / "maps.npy")


def test_a_label_without_masks_is_refused(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="polyp"):
        build_maps(pack, lambda images: images, ("polyp",), tmp_path / "maps.npy")
    assert not list(tmp_path.iterdir())


SETTINGS = AugmentSettings(epoch_length=40)


def test_the_pixels_are_the_same_with_maps_and_without(pack: Pack, mapped: Pack, records: list[Record]) -> None:
    train = [record for record in records if record.split == "train"]
    plain, dense = TrainSet(pack, train, SETTINGS, 7), TrainSet(mapped, train, SETTINGS, 7)
    some = 0.0
    for i in range(40):
        pixels, label, base, empty = plain[i]
        again, same_label, same_base, maps = dense[i]
        assert (pixels == again).all()
        assert (label, base) == (same_label, same_base)
        assert empty.numel() == 0
        assert maps.shape == (2, 20, 20)
        assert 0 <= float(maps.min()) <= float(maps.max()) <= 1
        if label == NO_FOLDS:
            assert not maps.any()
        elif label == FOLDS:
            some += float(maps.max() > 0.1)
    assert some >= 15  # of twenty; a field stop may hide what a map shows


def disc() -> Packed:
    """A picture that is its own soft mask: bright where the label is."""
    maps = np.zeros((256, 256, 2), np.uint8)
    cv2.ellipse(maps, (150, 110), (50, 25), 30, 0, 360, (255, 255), -1)
    maps[..., 1] = 0
    image = np.repeat(maps[..., :1], 3, axis=2)
    classes = np.where(maps[..., 0] > 0, np.uint8(FOLD), np.uint8(TISSUE))
    return Packed(image, classes, (0.4, 0.3, 0.4, 0.3), sure=True, maps=maps)


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(-180, 180),
    flip=st.tuples(st.booleans(), st.booleans()),
    x=st.floats(-40, 60),
    y=st.floats(-40, 60),
    side=st.floats(120, 300),
)
def test_maps_go_where_their_picture_goes(
    angle: float, flip: tuple[bool, bool], x: float, y: float, side: float
) -> None:
    seen = view(disc(), (x, y, side, side), (160, 160), angle=angle, flip=flip)
    assert seen.maps is not None
    picture, map_ = seen.image[..., 0] > 127, seen.maps[..., 0] > 127
    assert (picture ^ map_).sum() <= 12 + 0.07 * (picture | map_).sum()  # the outline is a pixel's matter


def test_what_is_laid_over_brings_its_own_map() -> None:
    rng = np.random.default_rng(0)
    scene = view(disc(), (0, 0, 256, 256), (160, 160))
    nothing = view(Packed(disc().image, disc().classes, None, sure=False), (0, 0, 256, 256), (160, 160))
    left = np.zeros((160, 160), np.float32)
    left[:, :90] = 1
    maps = blend(scene, nothing, left, rng).maps
    assert scene.maps is not None
    assert maps is not None
    assert not maps[:, :90].any()
    assert (maps[:, 90:] == scene.maps[:, 90:]).all()
    assert scene.maps[:, 90:].any()
    other = blend(nothing, scene, left, rng).maps
    assert other is not None
    assert (other[:, :90] == scene.maps[:, :90]).all()
    assert not other[:, 90:].any()
    filled = fill_in(scene, left, rng).maps
    assert filled is not None
    assert (filled == maps).all()
