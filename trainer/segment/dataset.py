"""Augmented images with dense targets: the same sample for the same seed, epoch and index."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.data.augment import AugmentSettings, Rng, colour_table, degrade, is_grey, restyle
from trainer.data.blend import View, blend, soft_mask, view
from trainer.data.draw import draw_crop, draw_record, draw_size, draw_turn
from trainer.data.pack import Packed
from trainer.data.types import LABELS, UNKNOWN, DataError, Image, Mask
from trainer.segment.targets import NOTHING_KNOWN, OTHER, possible_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.data.blend import Rect
    from trainer.data.manifest import Record
    from trainer.data.pack import Pack

_ASPECTS = (1.0, 1.0, 1.1, 1.25, 4 / 3, 4 / 3, 16 / 9, 0.85)
"""Width over height of the picture inside the square input."""
_BLACK = 8  # brightest channel of a pixel that shows nothing
_COLOURS = 100

_STRONG = ("blend", "grey", "colour_grey", "narrow_band", "recolour", "aperture", "overlay", "glare", "fog", "motion",
           "blood", "mucus", "smoke", "interlace", "twins", "fall_off", "sharpness", "noise", "jpeg", "strength",
           "rotation")  # fmt: skip
WEAK = {**dict.fromkeys(_STRONG, 0.0), "zoom_min": 0.8, "zoom_max": 1.0}
"""Changes of `AugmentSettings` that leave crops of four fifths or more, shifts and flips: weak augmentation."""


class MaskSet(Dataset[tuple[torch.Tensor, int, int, torch.Tensor]]):
    """Cropped, shifted, scaled, turned, mirrored, restyled and degraded samples of a pack, with their sets of classes.

    Some are laid, smaller, into a scene without folds: the colour masks show larynges from near, scopes are often
    farther. Sources are drawn by their weight (`AugmentSettings.source_weights`), records within a source alike.
    Images whose masks say nothing take no part.
    """

    def __init__(self, pack: Pack, records: Sequence[Record], settings: AugmentSettings, seed: int = 0) -> None:
        """Find out which images tell anything.

        Args:
            pack: Holds every one of the records.
            records: To draw from.
            settings: How samples are made; nothing is covered.
            seed: Of everything drawn.

        Raises:
            DataError: A record is not in the pack, or no mask says anything.
        """
        self._pack, self._settings, self._seed, self._epoch = pack, settings, seed, 0
        absent = [record.name() for record in records if record not in pack.index]
        if absent:
            raise DataError(f"{absent[0]} and {len(absent) - 1} more are not in the pack; build it from these records.")
        pools: dict[str, list[int]] = defaultdict(list)
        for record in records:
            index = pack.index[record]
            if record.label == LABELS[0] or (record.mask and (pack[index].classes < UNKNOWN).any()):
                pools[record.source].append(index)
        if not pools:
            raise DataError("no training image has a mask, and none is labelled no_folds: there is nothing to learn")
        self._pools = dict(pools)
        self._scenes = [i for pool in pools.values() for i in pool if pack.records[i].label == LABELS[0]]
        self._tables = self._learn_colours()

    def __len__(self) -> int:
        return self._settings.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Draw other samples from now on; call it before each epoch."""
        self._epoch = epoch

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int, torch.Tensor]:
        """Make sample `i` of the epoch.

        Returns:
            uint8 (3, side, side) RGB; its record's label, 0 or 1; the record's place in `pack.records`; and uint8
            (side, side), the set of classes that each pixel may be.
        """
        rng = np.random.default_rng([self._seed, self._epoch, i])
        index = self._draw(rng)
        image, sets = self._make(index, rng)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, self._pack.records[index].label_index, index, torch.from_numpy(sets)

    def _draw(self, rng: Rng) -> int:
        return draw_record(self._pools, self._settings.source_weights, rng)

    def _learn_colours(self) -> list[Mask]:
        rng = np.random.default_rng([self._seed, 1])
        real = [i for source, pool in sorted(self._pools.items()) for i in pool if source != "phantom"]
        images = [self._pack[int(i)].image for i in rng.permutation(real)[: 2 * _COLOURS]]
        return [colour_table(image) for image in images if not is_grey(image)][:_COLOURS]

    def _make(self, index: int, rng: Rng) -> tuple[Image, Mask]:
        settings = self._settings
        side = settings.side
        size = draw_size(side, rng, _ASPECTS)
        if self._scenes and rng.random() < settings.blend:
            scene = self._look(self._scenes[int(rng.integers(len(self._scenes)))], size, rng)
            share = float(rng.uniform(settings.patch_min, 1))
            width, height = size[1] * share, size[0] * share
            place = float(rng.uniform(0, size[1] - width)), float(rng.uniform(0, size[0] - height)), width, height
            seen = blend(scene, self._look(index, size, rng, place), soft_mask(size, place, rng), rng)
        else:
            seen = self._look(index, size, rng)
        image = degrade(restyle(seen.image, self._tables, settings, rng), settings, rng)
        # What the field stop or an overlay blackened shows nothing any more.
        gone = (cv2.blur(image, (5, 5)).max(axis=2) < _BLACK) & (seen.image.max(axis=2) > 4 * _BLACK)
        sets = seen.classes & NOTHING_KNOWN
        sets[gone & (sets != NOTHING_KNOWN)] = 1 << OTHER
        out, out_sets = np.zeros((side, side, 3), np.uint8), np.full((side, side), 1 << OTHER, np.uint8)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        inside = slice(top, top + size[0]), slice(left, left + size[1])
        out[inside], out_sets[inside] = image, sets
        return out, out_sets

    def _look(self, index: int, size: tuple[int, int], rng: Rng, place: Rect | None = None) -> View:
        """A random crop, turned and mirrored; laid into `place` of the view, or all over it."""
        settings, packed = self._settings, self._pack[index]
        sets = possible_classes(packed.classes, self._pack.records[index])
        angle, flip = draw_turn(settings.rotation, rng)
        height, width = packed.image.shape[:2]
        rect = draw_crop(width, height, size, (settings.zoom_min, settings.zoom_max), rng)
        known = Packed(packed.image, sets, None, sure=False)
        return view(known, rect, size, angle=angle, flip=flip, target=place, mirrored=place is None)
