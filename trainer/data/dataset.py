"""The training stream: balanced over labels and sources, composited, augmented, and the same for the same seed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.data.augment import AugmentSettings, Rng, colour_table, degrade, is_grey, restyle
from trainer.data.blend import (
    Rect,
    View,
    blend,
    fill_in,
    fold_weight,
    own_tissue,
    shows_folds,
    soft_mask,
    unknown_like,
    view,
)
from trainer.data.draw import draw_crop, draw_record, draw_size, draw_turn
from trainer.data.pack import SIDE, Packed
from trainer.data.types import FOLD, FOLDS, GLOTTIS, LABELS, NO_FOLDS, TOOL, TUBE, VOID, DataError, Image, Mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.data.manifest import Record
    from trainer.data.pack import Pack

_GAP = (GLOTTIS, TUBE)
_TRIES = 8
_TISSUES = 8
_MOST_COVERED = 0.72  # share of a view; more leaves nothing of the larynx
_SMALLEST = 20  # pixels of the output that a blended larynx's folds have in length
PLAIN, BLEND, COVER = range(3)
_BLACK = 8  # brightest channel of a pixel that shows nothing


class TrainSet(Dataset[tuple[torch.Tensor, int, int, torch.Tensor]]):
    """Augmented samples from a pack, with soft masks where the pack has them.

    A sample is a function of (seed, epoch, i) alone: neither the number of workers nor the order of access changes it.
    """

    def __init__(
        self,
        pack: Pack,
        records: Sequence[Record],
        settings: AugmentSettings | None = None,
        seed: int = 0,
        *,
        stride: int = 8,
    ) -> None:
        """Prepare the pools that samples are drawn from.

        Args:
            pack: Holds every one of the records.
            records: Those of the training split.
            settings: How samples are made.
            seed: Of everything drawn.
            stride: Pixels of a sample's side that one cell of its map stands for.

        Raises:
            DataError: A record is not in the pack, or a label has no record.
        """
        self._pack = pack
        self._settings = settings or AugmentSettings()
        self._seed, self._stride = seed, stride
        # Shared, so that workers that live for several epochs see the epoch change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._planned: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0))
        absent = [record.name() for record in records if record not in pack.index]
        if absent:
            raise DataError(
                f"{absent[0]} and {len(absent) - 1} more are not in the pack; build it from the same records."
            )
        self._pools: list[dict[str, list[int]]] = [defaultdict(list), defaultdict(list)]
        for record in records:
            self._pools[record.label_index][record.source].append(pack.index[record])
        for label, pool in zip(LABELS, self._pools, strict=True):
            if not pool:
                raise DataError(
                    f"training split: no image is labelled {label}; add some, or correct the manifest's splits."
                )
        self._donors = self._choose_donors()
        self._coverable = self._choose_coverable()
        self._tables = self._learn_colours()
        self._focuses = [pack.focus[i, :4] for pool in self._pools[FOLDS].values() for i in pool]

    def __len__(self) -> int:
        return self._settings.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Draw other samples from now on; call it before each epoch."""
        self._epoch[0] = epoch

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int, torch.Tensor]:
        """Make sample `i` of the epoch.

        Returns:
            uint8 (3, side, side) RGB; the label, 0 or 1; the place in `pack.records` of the record it is made from; and
            float32 (labels, side / stride, side / stride), the chance that each cell shows each of the map's labels,
            without any label where the pack has no maps.
        """
        epoch = int(self._epoch[0])
        label, kind, base, drawn = (int(v) for v in self._plan(epoch)[i])
        twin = self._is_twin(i)
        image, maps = self._make(label, kind, base, twin=twin, seeds=[self._seed, epoch, drawn])
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), label, base, torch.from_numpy(maps)

    @property
    def cells(self) -> dict[int, list[str]]:
        """By label, the sources of the records that its samples are made from.

        Larynges whose folds are covered bring their own source to the fold-free.
        """
        covered = list(self._coverable) if self._settings.removal > 0 or self.shows_twins else []
        found = {label: {*pool, *covered} for label, pool in enumerate(self._pools)}
        weights = self._settings.source_weights
        never = {source for sources in found.values() for source in sources if weights.get(source, 1.0) == 0}
        # Where nothing but sources of no weight is left, they are drawn alike (`draw_record`).
        return {label: sorted(sources - never or sources) for label, sources in found.items()}

    @property
    def shows_twins(self) -> bool:
        """Whether some couples of samples are twins: that needs pictures whose folds a mask locates."""
        return self._settings.twins > 0 and bool(self._coverable)

    @property
    def origins(self) -> list[str]:
        """Source of each of the pack's records, which are what samples say they are made from."""
        return [record.source for record in self._pack.records]

    def label_of(self, i: int) -> int:
        """The label of sample `i` of the epoch, without making it."""
        return int(self._plan(int(self._epoch[0]))[i][0])

    def _is_twin(self, i: int) -> bool:
        """Whether sample `i` shows the same picture as its neighbour in the plan."""
        plan = self._plan(int(self._epoch[0]))
        return bool(plan[i, 3] != i or (i + 1 < len(plan) and plan[i + 1, 3] == i))

    def describe(self, i: int) -> str:
        """In a word or two, what sample `i` is made of, for contact sheets."""
        _, kind, base, _ = (int(v) for v in self._plan(int(self._epoch[0]))[i])
        return f"{('plain', 'blend', 'cover')[kind]}{' twin' * self._is_twin(i)} {self._pack.records[base].source}"

    # --- pools ---

    def _choose_donors(self) -> dict[str, list[int]]:
        """Positives whose folds are still seen as folds when small: with a glottis in the mask, or without a mask."""
        donors: dict[str, list[int]] = {}
        for source, pool in self._pools[FOLDS].items():
            good = [i for i in pool if self._glottis_seen(self._pack[i])]
            if good:
                donors[source] = good
        return donors or dict(self._pools[FOLDS])

    @staticmethod
    def _glottis_seen(packed: Packed) -> bool:
        if not packed.sure or not (packed.classes == FOLD).any():
            return True
        return bool((packed.classes == GLOTTIS).mean() >= 0.01)  # noqa: PLR2004

    def _choose_coverable(self) -> dict[str, list[int]]:
        """Positives whose folds a mask locates and that leave something to see when these are covered."""
        found: dict[str, list[int]] = {}
        for source, pool in self._pools[FOLDS].items():
            good = []
            for i in pool:
                packed = self._pack[i]
                share = np.isin(packed.classes, (FOLD, GLOTTIS)).mean()
                box = packed.focus[2] * packed.focus[3] if packed.focus else 1.0
                if packed.sure and max(share, 0.7 * box) < 0.45:  # noqa: PLR2004
                    good.append(i)
            if good:
                found[source] = good
        return found

    def _learn_colours(self) -> list[Any]:
        """Colour tables of at most 200 colour images of the training split, both labels alike."""
        rng = np.random.default_rng([self._seed, 1])
        tables = []
        for pool in self._pools:
            real = [i for source, indices in sorted(pool.items()) for i in indices if source != "phantom"]
            for i in rng.permutation(real)[:400]:
                packed = self._pack[int(i)]
                if not is_grey(packed.image):
                    # Instruments and tubes have no mucosa's colour.
                    tables.append(colour_table(packed.image, ~np.isin(packed.classes, (VOID, TOOL, TUBE))))
        return [tables[int(i)] for i in rng.permutation(len(tables))[:200]]

    def _draw(self, pools: dict[str, list[int]], rng: Rng) -> int:
        return draw_record(pools, self._settings.source_weights, rng)

    def _draw_negative(self, rng: Rng) -> Packed:
        return self._pack[self._draw(self._pools[NO_FOLDS], rng)]

    def _plan(self, epoch: int) -> np.ndarray[Any, Any]:
        """(label, kind, record, sample whose draws it shares) of every sample of an epoch; twins stand side by side."""
        if self._planned[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            count = self._settings.epoch_length
            first = np.repeat(rng.integers(0, 2, (count + 1) // 2), 2)[:count]
            labels = (np.arange(count) + first) % 2
            draws = rng.random(count)
            plan = np.empty((count, 4), np.int64)
            for i, (label, draw) in enumerate(zip(labels, draws, strict=True)):
                kind = BLEND if draw < self._settings.blend else PLAIN
                if self._settings.blend <= draw < self._settings.blend + self._settings.removal and self._coverable:
                    kind = COVER
                pools: dict[str, list[int]] = self._pools[label]
                if kind == COVER:
                    pools = self._coverable
                elif kind == BLEND and label == FOLDS:
                    pools = self._donors
                plan[i] = label, kind, self._draw(pools, rng), i
            if self.shows_twins:
                self._pair(plan, rng)
            self._planned = (epoch, plan)
        return self._planned[1]

    def _pair(self, plan: np.ndarray[Any, Any], rng: Rng) -> None:
        """Turn a share of the couples of a plan into twins: one picture, once with its folds and once without."""
        composed = self._settings.blend + self._settings.removal
        blended = self._settings.blend / composed if composed else 0.5
        for i in range(0, len(plan) - 1, 2):
            if rng.random() < self._settings.twins:
                kind = BLEND if rng.random() < blended else COVER
                plan[i : i + 2, 1:] = kind, self._draw(self._coverable, rng), i

    # --- samples ---

    def _make(self, label: int, kind: int, base: int, *, twin: bool, seeds: list[int]) -> tuple[Image, Mask]:
        rng, style = np.random.default_rng(seeds), np.random.default_rng([*seeds, 1])
        size = draw_size(self._settings.side, rng)
        packed = self._pack[base]
        if kind == BLEND:
            seen = self._blend(packed, label, size, rng, twin=twin)
        elif kind == COVER:
            seen = self._cover(packed, label, size, rng)
        else:
            seen = self._look(packed, label, size, rng)
        # From draws of its own: twins, whose tissue is drawn apart, are lit, blurred and compressed alike.
        image = degrade(restyle(seen.image, self._tables, self._settings, style), self._settings, style)
        side = self._settings.side
        out = np.zeros((side, side, 3), np.uint8)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        inside = slice(top, top + size[0]), slice(left, left + size[1])
        out[inside] = image
        if self._pack.maps is None:
            return out, np.zeros((0, 0, 0), np.float32)
        maps = np.zeros((side, side, self._pack.maps.shape[3]), np.uint8)
        if label == FOLDS and seen.maps is not None:
            # What the field stop or an overlay blackened is not to be seen any more.
            gone = (image.max(axis=2) < _BLACK) & (seen.image.max(axis=2) > 4 * _BLACK)
            maps[inside] = np.where(gone[..., None], np.uint8(0), seen.maps)
        cells = side // self._stride
        small = cv2.resize(maps, (cells, cells), interpolation=cv2.INTER_AREA).reshape(cells, cells, -1)
        return out, np.ascontiguousarray(small.transpose(2, 0, 1), np.float32) / np.float32(255)

    def _look(
        self, packed: Packed, label: int, size: tuple[int, int], rng: Rng, zoom: tuple[float, float] | None = None
    ) -> View:
        """A random crop; of a positive one that keeps its folds, of a negative one drawn in the same way."""
        zoom = zoom or (self._settings.zoom_min, self._settings.zoom_max)
        focus = packed.focus
        if focus is None:
            # A negative is cropped as if it had the folds of a drawn positive.
            drawn = self._focuses[int(rng.integers(len(self._focuses)))]
            focus = (float(drawn[0]), float(drawn[1]), float(drawn[2]), float(drawn[3]))
        height, width = packed.image.shape[:2]
        box = (focus[0] * width, focus[1] * height, focus[2] * width, focus[3] * height)
        angle, flip = draw_turn(self._settings.rotation, rng)
        for _ in range(_TRIES):
            rect = draw_crop(width, height, size, zoom, rng)
            if _kept(box, rect) < 0.6:  # noqa: PLR2004
                continue
            seen = view(packed, rect, size, angle=angle, flip=flip)
            if label == NO_FOLDS or not packed.sure or _folds_kept(packed, seen, rect):
                return seen
        return view(packed, self._whole(width, height, size), size, angle=angle / 4, flip=flip)

    def _whole(self, width: int, height: int, size: tuple[int, int]) -> Rect:
        """The largest rectangle of nearly the frame's shape inside a picture; rather squeezed by up to 1.3 than cut."""
        shape = size[1] / size[0]
        w, h = min(width, height * shape * 1.3), min(height, width / shape * 1.3)
        return (width - w) / 2, (height - h) / 2, w, h

    def _scene(self, size: tuple[int, int], rng: Rng) -> View:
        """A view without folds: a negative, or a larynx whose folds are covered."""
        if self._coverable and rng.random() < 0.3:  # noqa: PLR2004
            return self._cover(self._pack[self._draw(self._coverable, rng)], NO_FOLDS, size, rng)
        return self._look(self._draw_negative(rng), NO_FOLDS, size, rng)

    def _target(self, aspect: float, size: tuple[int, int], rng: Rng) -> Rect:
        """A place in a scene: 0.25 to 0.67 of its width, of the given width over height, wholly inside."""
        share = float(rng.uniform(self._settings.patch_min, self._settings.patch_max))
        width = share * min(size[1], size[0] * 4 / 3)
        height = width / aspect
        if height > 0.85 * size[0]:
            width, height = width * 0.85 * size[0] / height, 0.85 * size[0]
        x = float(rng.uniform(0.02, 0.98)) * (size[1] - width)
        y = float(rng.uniform(0.02, 0.98)) * (size[0] - height)
        return x, y, width, height

    def _blend(self, donor: Packed, label: int, size: tuple[int, int], rng: Rng, *, twin: bool = False) -> View:
        """Blend folds, or something fold-free, into a scene without folds.

        A fold-free twin is the very patch that its sibling blends in, its folds covered.
        """
        scene = self._scene(size, rng)
        if label == NO_FOLDS and not twin and self._coverable and rng.random() < self._settings.covered_donors:
            # A larynx without its folds, or nothing would tell that it is the folds that count, not the larynx.
            larynx = self._pack[self._draw(self._coverable, rng)]
            rows, columns = larynx.image.shape[:2]
            shrunk = (round(rows * 160 / SIDE), round(columns * 160 / SIDE))
            seen = self._cover(larynx, NO_FOLDS, shrunk, rng)
            donor = Packed(seen.image, seen.classes, larynx.focus, sure=True)  # without maps: nothing is left to find
        height, width = donor.image.shape[:2]
        focus = donor.focus
        if focus is None:
            drawn = self._focuses[int(rng.integers(len(self._focuses)))]
            focus = (float(drawn[0]), float(drawn[1]), float(drawn[2]), float(drawn[3]))
        source = _around(focus, width, height, float(rng.uniform(1.2, 3.2)))
        place = self._target(source[2] / source[3], size, rng)
        seen_side = max(focus[2] * width * place[2] / source[2], focus[3] * height * place[3] / source[3])
        if seen_side < _SMALLEST:
            # Folds of a few pixels are no finding: show less around them, so that they are larger in the same place.
            tighter = _around(focus, width, height, 1.2)
            shape = place[2] / place[3]
            across = max(tighter[2], tighter[3] * shape)
            middle = (tighter[0] + tighter[2] / 2, tighter[1] + tighter[3] / 2)
            source = (middle[0] - across / 2, middle[1] - across / shape / 2, across, across / shape)
        angle, flip = draw_turn(self._settings.rotation, rng)
        patch = view(donor, source, size, angle=angle, flip=flip, target=place, mirrored=False)
        weight = soft_mask(size, place, rng)
        if label == NO_FOLDS and twin:
            folds = fold_weight(patch, max(1.5, float(rng.uniform(0.03, 0.1)) * place[2]))
            return blend(scene, self._hide(patch, folds, folds, size, rng), weight, rng)
        if label == FOLDS and donor.sure and shows_folds(patch, weight) < 0.6:  # noqa: PLR2004
            weight = np.maximum(weight, fold_weight(patch, 0.06 * place[2]))
        return blend(scene, patch, weight, rng)

    def _cover(self, packed: Packed, label: int, size: tuple[int, int], rng: Rng) -> View:
        """Cover the folds with tissue; or, for a positive, anything but the folds."""
        # Neither so close that nothing is left beside the folds, nor so wide that the mirror shows them again.
        base = self._look(packed, FOLDS, size, rng, (max(0.8, self._settings.zoom_min), 1.0))
        folds = fold_weight(base, float(rng.uniform(4, 12)))
        if folds.mean() > _MOST_COVERED:
            return base if label == FOLDS else self._look(self._draw_negative(rng), NO_FOLDS, size, rng)
        weight = folds
        if label == FOLDS:
            focus = base.focus or (0, 0, 0, 0)
            place = self._target(max(0.4, min(2.5, focus[2] / max(1.0, focus[3]))), size, rng)
            weight = soft_mask(size, place, rng) * np.clip(1 - 1.5 * folds, 0, 1)
        covered = self._hide(base, weight, folds, size, rng)
        return View(covered.image, covered.classes, base.focus if label == FOLDS else None, covered.maps)

    def _hide(self, base: View, weight: Mask, folds: Mask, size: tuple[int, int], rng: Rng) -> View:
        """Lay tissue over a place of a view: its own, a foreign one's, or at last a mere continuation."""
        tissue = own_tissue(base, weight, folds, rng) if rng.random() < 0.6 else None  # noqa: PLR2004
        for _ in range(_TISSUES if tissue is None else 0):
            other = self._look(self._draw_negative(rng), NO_FOLDS, size, rng)
            # Tissue with a black corner there would leave the folds in sight.
            if float(weight[other.classes == VOID].sum()) < 0.002 * float(weight.sum()):
                tissue = View(other.image, unknown_like(other.image), None)
                break
        return fill_in(base, weight, rng) if tissue is None else blend(base, tissue, weight, rng)


def _kept(box: Rect, rect: Rect) -> float:
    """Share of the smaller of two rectangles that lies in both."""
    across = min(box[0] + box[2], rect[0] + rect[2]) - max(box[0], rect[0])
    down = min(box[1] + box[3], rect[1] + rect[3]) - max(box[1], rect[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / max(1e-6, min(box[2] * box[3], rect[2] * rect[3]))


def _folds_kept(packed: Packed, seen: View, rect: Rect) -> bool:
    """Whether a crop keeps a third of the known folds, or is filled by them to a tenth, and the gap between them.

    Without that gap, folds close by are mere mucosa; where the picture itself shows none, none is asked for.
    """
    gap = int(np.isin(packed.classes, _GAP).sum())
    if gap >= 0.01 * packed.classes.size and np.isin(seen.classes, _GAP).mean() < 0.004:  # noqa: PLR2004
        return False
    before = int(np.isin(packed.classes, (FOLD, GLOTTIS)).sum())
    after = int(np.isin(seen.classes, (FOLD, GLOTTIS)).sum())
    share = after / seen.classes.size
    kept = after * rect[2] * rect[3] / seen.classes.size / max(1, before)
    return share >= 0.1 or (kept >= 0.35 and after >= 12)  # noqa: PLR2004


def _around(focus: Rect, width: int, height: int, factor: float) -> Rect:
    """A rectangle about the folds with context, in pixels, kept inside the picture."""
    x, y, w, h = focus[0] * width, focus[1] * height, focus[2] * width, focus[3] * height
    side = max(w, h) * 0.35
    w2, h2 = min(width, max(w * factor, w + side * (factor - 1))), min(height, h * (1 + (factor - 1) * 0.6))
    left = min(max(0.0, x + w / 2 - w2 / 2), width - w2)
    top = min(max(0.0, y + h / 2 - h2 / 2), height - h2)
    return left, top, w2, h2


def limit_threads() -> None:
    """Keep OpenCV to one thread: workers are the parallelism. Call it before they are forked.

    A thread pool that a fork has cut off from its threads hangs.
    """
    cv2.setNumThreads(1)
