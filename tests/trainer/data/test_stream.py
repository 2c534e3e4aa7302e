from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from synthetic import larynx, tissue
from torch.utils.data import DataLoader

from trainer.data import augment
from trainer.data.augment import AugmentSettings, colour_by_tables, colour_table, is_grey
from trainer.data.blend import View, blend, fill_in, fold_weight, own_tissue, shows_folds, soft_mask, view
from trainer.data.dataset import TrainSet, limit_threads
from trainer.data.draw import draw_size
from trainer.data.pack import Pack, Packed
from trainer.data.sheet import write_train_sheets
from trainer.data.types import FOLD, FOLDS, GLOTTIS, NO_FOLDS, UNKNOWN, VOID, DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.data.manifest import Record
    from trainer.data.types import Image

SETTINGS = AugmentSettings(epoch_length=60)


@pytest.fixture(scope="session")
def train_set(pack: Pack, records: list[Record]) -> TrainSet:
    return TrainSet(pack, [record for record in records if record.split == "train"], SETTINGS, seed=7)


def _packed(seed: int) -> Packed:
    image, classes = larynx(seed, 256)
    rows, columns = np.nonzero(classes == FOLD)
    box = columns.min() / 256, rows.min() / 256, np.ptp(columns) / 256, np.ptp(rows) / 256
    return Packed(image[..., ::-1].copy(), classes, box, sure=True)


def _whole(packed: Packed) -> View:
    return view(packed, (0, 0, 256, 256), (160, 160))


# --- photometry ---

STEPS: list[Callable[[Image, np.random.Generator], Image]] = [
    augment.light_fall_off,
    augment.glare_spots,
    augment.fog,
    augment.motion_blur,
    augment.blood,
    augment.mucus,
    augment.smoke,
    augment.interlace,
    augment.match_sharpness,
    augment.put_aperture,
    augment.put_overlay,
    augment.sensor_noise,
    augment.jpeg,
    augment.narrow_band,
    augment.stretch_tones,
    augment.jitter_light,
    augment.jitter_saturation,
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", [(160, 160), (90, 160), (160, 88)])
def test_each_step_is_seeded_and_keeps_shape_type_and_input(
    step: Callable[[Image, np.random.Generator], Image], shape: tuple[int, int]
) -> None:
    image = tissue(1, *shape)
    before = image.copy()
    for seed in range(8):
        once = step(image, np.random.default_rng(seed))
        assert once.shape == image.shape
        assert once.dtype == np.uint8
        assert np.array_equal(once, step(image, np.random.default_rng(seed)))
    assert np.array_equal(image, before)


def test_grey_is_coloured_like_the_reference_and_back() -> None:
    colour = tissue(1)[..., ::-1].copy()
    grey = augment.to_grey(colour)
    assert is_grey(grey)
    assert not is_grey(colour)
    again = colour_by_tables(grey, [colour_table(colour)], np.random.default_rng(0))
    assert not is_grey(again)
    assert np.abs(again.mean(axis=(0, 1)) - colour.mean(axis=(0, 1))).max() < 25


def test_settings_refuse_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        AugmentSettings(blends=0.4)  # type: ignore[call-arg]


# --- compositing ---


def test_a_view_carries_mask_and_focus_along() -> None:
    packed = _packed(1)
    seen = view(packed, (30, 20, 200, 200), (160, 160), angle=25, flip=(True, False))
    rows, columns = np.nonzero(seen.classes == FOLD)
    assert seen.focus is not None
    x, y, width, height = seen.focus
    assert x - 2 <= columns.min()
    assert columns.max() <= x + width + 2
    assert y - 2 <= rows.min()
    assert rows.max() <= y + height + 2


def test_a_view_lays_its_rectangle_where_it_is_told() -> None:
    packed = _packed(2)
    seen = view(packed, (0, 0, 256, 256), (160, 160), target=(40, 60, 64, 64), mirrored=False)
    assert (seen.classes[60:124, 40:104] != UNKNOWN).mean() > 0.95
    outside = seen.classes.copy()
    outside[58:126, 38:106] = UNKNOWN
    assert (outside == UNKNOWN).all()


def test_a_blend_puts_the_patch_where_it_says_and_leaves_the_rest() -> None:
    scene = _whole(Packed(tissue(9)[..., ::-1].copy(), np.full((256, 256), UNKNOWN, np.uint8), None, sure=False))
    packed = _packed(3)
    rng = np.random.default_rng(1)
    place = (40.0, 50.0, 80.0, 80.0)
    patch = view(packed, (60, 20, 190, 190), (160, 160), target=place, mirrored=False)
    weight = soft_mask((160, 160), place, rng)
    done = blend(scene, patch, weight, rng)
    far = weight == 0
    assert np.array_equal(done.image[far], scene.image[far])
    changed = np.abs(done.image.astype(int) - scene.image).max(axis=2)
    assert changed[weight > 0.9].mean() > 5
    assert (np.isin(done.classes, (FOLD, GLOTTIS)) & (weight <= 0.5)).sum() == 0
    assert done.focus is not None


def test_a_patch_takes_on_the_scenes_colour() -> None:
    scene = _whole(
        Packed(np.full((256, 256, 3), (40, 120, 60), np.uint8) + tissue(1) // 8, _packed(1).classes, None, True)
    )
    weight = soft_mask((160, 160), (30, 30, 100, 100), np.random.default_rng(0))
    patch = _whole(_packed(4))
    done = blend(scene, patch, weight, np.random.default_rng(0))
    inside = weight > 0.9
    to_scene = np.abs(done.image[inside].mean(axis=0) - scene.image[inside].mean(axis=0)).max()
    to_patch = np.abs(patch.image[inside].mean(axis=0) - scene.image[inside].mean(axis=0)).max()
    assert to_scene < 0.6 * to_patch
    grey = View(augment.to_grey(scene.image), scene.classes, None)
    assert is_grey(blend(grey, patch, weight, np.random.default_rng(0)).image)


def test_a_patchs_dark_surround_is_not_blended() -> None:
    patch = _whole(_packed(5))
    classes = patch.classes.copy()
    classes[:, :80] = VOID
    scene = _whole(_packed(6))
    done = blend(scene, View(patch.image, classes, None), np.ones((160, 160), np.float32), np.random.default_rng(0))
    assert np.array_equal(done.image[:, :75], scene.image[:, :75])


@pytest.mark.parametrize("seed", range(6))
def test_covering_hides_every_fold_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = _whole(_packed(seed))
    weight = fold_weight(seen, float(rng.uniform(4, 12)))
    folds = np.isin(seen.classes, (FOLD, GLOTTIS))
    assert weight[folds].min() > 0.85
    assert shows_folds(seen, 1 - weight) < 0.1
    tissue_view = own_tissue(seen, weight, weight, rng)
    if tissue_view is not None:
        assert np.abs(tissue_view.image.astype(int) - seen.image).max() > 0
    filled = fill_in(seen, weight, rng)
    # The dark gap is gone.
    assert filled.image[seen.classes == GLOTTIS].mean() > 2 * seen.image[seen.classes == GLOTTIS].mean()


# --- the stream ---


def test_the_stream_is_a_function_of_seed_epoch_and_index(
    pack: Pack, records: list[Record], train_set: TrainSet
) -> None:
    other = TrainSet(pack, [record for record in records if record.split == "train"], SETTINGS, seed=7)
    for i in (5, 0, 33):
        image, label, index, _ = train_set[i]
        assert image.shape == (3, 160, 160)
        assert image.dtype == torch.uint8
        assert torch.equal(image, other[i][0])
        assert (label, index) == other[i][1:3]
    other.set_epoch(1)
    assert not torch.equal(train_set[5][0], other[5][0])


def test_workers_change_nothing_and_see_the_epoch(train_set: TrainSet) -> None:
    limit_threads()
    loader = DataLoader(train_set, batch_size=20, num_workers=2, persistent_workers=True)
    for epoch in (0, 3):
        train_set.set_epoch(epoch)
        images = torch.cat([batch[0] for batch in loader])
        assert torch.equal(images, torch.stack([train_set[i][0] for i in range(len(train_set))]))
    train_set.set_epoch(0)


def test_labels_are_balanced_and_sources_follow_their_weights(pack: Pack, records: list[Record]) -> None:
    train = [record for record in records if record.split == "train"]
    settings = AugmentSettings(
        epoch_length=3000, blend=0, removal=0, source_weights={"phantom": 0.0, "kvasir-seg": 3.0}
    )
    plan = TrainSet(pack, train, settings, 0)._plan(0)
    assert (plan[:, 0] == FOLDS).sum() == 1500
    sources = Counter(pack.records[i].source for label, _, i, _ in plan if label == NO_FOLDS)
    assert sources["phantom"] == 0
    assert sources["kvasir-seg"] / sources["vocalfolds"] == pytest.approx(3, rel=0.3)


def test_blends_and_covers_come_as_often_for_both_labels(train_set: TrainSet) -> None:
    settings = train_set._settings.model_copy(update={"epoch_length": 4000})
    plan = TrainSet(train_set._pack, [train_set._pack.records[i] for i in _used(train_set)], settings, 1)._plan(2)
    for kind in (0, 1, 2):
        share = [(plan[plan[:, 0] == label][:, 1] == kind).mean() for label in (NO_FOLDS, FOLDS)]
        assert share[0] == pytest.approx(share[1], abs=0.05)


def _used(train_set: TrainSet) -> list[int]:
    return [i for pool in train_set._pools for indices in pool.values() for i in indices]


def test_a_positive_keeps_its_folds_and_a_negative_has_none(train_set: TrainSet) -> None:
    """Masks travel with the pixels through crops, blends and covers: what they say in the end is the label."""
    wrong = 0
    for i in range(len(train_set)):
        label, kind, base, _ = (int(v) for v in train_set._plan(0)[i])
        rng = np.random.default_rng([7, 0, i])
        packed = train_set._pack[base]
        make = (train_set._look, train_set._blend, train_set._cover)[kind]
        seen = make(packed, label, draw_size(train_set._settings.side, rng), rng)
        folds = int(np.isin(seen.classes, (FOLD, GLOTTIS)).sum())
        if label == NO_FOLDS:
            assert folds <= 0.002 * seen.classes.size, train_set.describe(i)
        elif packed.sure:
            wrong += folds < 12
    assert wrong == 0


def test_twins_show_one_picture_once_with_its_folds(train_set: TrainSet) -> None:
    settings = train_set._settings.model_copy(update={"epoch_length": 60, "twins": 1.0})
    twins = TrainSet(train_set._pack, [train_set._pack.records[i] for i in _used(train_set)], settings, 3)
    alike = 0
    for i in range(0, 60, 2):
        (first, one, base, _), (second, other, same, _) = twins[i], twins[i + 1]
        assert {one, other} == {0, 1}
        assert base == same
        assert "twin" in twins.describe(i)
        assert not torch.equal(first, second)
        alike += float((first.int() - second.int()).abs().amax(0).lt(24).float().mean()) > 0.4
    assert alike > 20  # the rest is covered at another place, too


def test_empty_labels_and_foreign_records_are_refused(pack: Pack, records: list[Record]) -> None:
    with pytest.raises(DataError, match="no image is labelled no_folds"):
        TrainSet(pack, [record for record in records if record.label == "folds"], SETTINGS, 0)
    import dataclasses  # noqa: PLC0415

    with pytest.raises(DataError, match="are not in the pack"):
        TrainSet(pack, [dataclasses.replace(records[0], group="other")], SETTINGS, 0)


def test_sheets_are_written(train_set: TrainSet, tmp_path: Path) -> None:
    for path in write_train_sheets(tmp_path, train_set, count=5):
        sheet = cv2.imread(str(path))
        assert sheet is not None
        assert sheet.shape[0] > 160


@pytest.mark.parametrize(("removal", "twins"), [(0.2, 0.0), (0.0, 0.0), (0.0, 0.5)])
def test_the_sources_of_a_label_are_those_its_samples_are_made_from(
    pack: Pack, records: list[Record], removal: float, twins: float
) -> None:
    """A larynx whose folds are covered is fold-free, and of its own source."""
    settings = AugmentSettings(epoch_length=400, removal=removal, twins=twins)
    data = TrainSet(pack, [record for record in records if record.split == "train"], settings, seed=7)
    found: dict[int, set[str]] = {0: set(), 1: set()}
    for epoch in range(3):
        for label, _, base, _ in data._plan(epoch).tolist():
            found[label].add(data.origins[base])
    assert {label: sorted(sources) for label, sources in found.items()} == data.cells
    assert data.shows_twins == (twins > 0)
    assert ("bagls-glottis" in data.cells[NO_FOLDS]) == (removal > 0 or twins > 0)
