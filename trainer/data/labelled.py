"""Any labels: images with one of several classes, or with any number of labels, from folders or tables.

The task "folds visible or not" has rules of its own (`visibility`, `dataset`); this is for everything else. A record's
label is its class, or its labels joined by `|`; empty for none of them.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.utils.data import Dataset

from trainer.data.augment import AugmentSettings, Rng, degrade, restyle
from trainer.data.importers import IMAGE_SUFFIXES
from trainer.data.manifest import SPLITS, Record, raise_problems
from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.data.pack import Pack
    from trainer.data.types import Image

Balance = Literal["natural", "over", "under"]
NONE = ""
"""The class of images that have none of the labels."""
_BETWEEN = "|"
_CANVAS = 256


class FolderSettings(BaseModel):
    """A folder per class.

    Attributes:
        kind: `folders`.
        folder: below the data root; holds one folder per label. A folder in a class folder (a patient, a video) is a
            group, an image directly in it is its own.
        labels: the classes, in the order of the logits.
        licence: of the images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["folders"]
    folder: str
    labels: list[str] = Field(min_length=2)
    licence: str = "unknown"


class TableSettings(BaseModel):
    """A table with a row per image.

    Attributes:
        kind: `table`.
        table: a CSV below the data root.
        images: the folder below the data root to which its file names relate.
        file: its column of file names.
        group: its column of patients or recordings.
        label: its column of labels.
        labels: per label the words of which one must stand in the column, whatever their case.
        exclusive: whether labels exclude each other. If so, a row with none or several of them is an error, unless
            `others` are left out.
        none: words that say that an image has none of the labels, whatever else stands there.
        others: what happens to rows that name nothing known: they are left out, or they are an error.
        source: what the set is called; the table's folder, if empty.
        licence: of the images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["table"]
    table: str
    images: str
    file: str = "file"
    group: str = "group"
    label: str = "label"
    labels: dict[str, list[str]] = Field(min_length=1)
    exclusive: bool = True
    none: list[str] = []
    others: Literal["leave_out", "refuse"] = "refuse"
    source: str = ""
    licence: str = "unknown"


def import_folders(root: Path, settings: FolderSettings) -> tuple[list[Record], list[str]]:
    """Read a folder per class.

    Returns:
        The records, without splits yet, and notes.

    Raises:
        DataError: a class has no images, or there is a class more.
    """
    base = root / settings.folder
    present = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    other = [name for name in present if name not in settings.labels and not name.startswith(".")]
    empty = [label for label in settings.labels if not _images(base / label)]
    if other or empty:
        said = [f"has no images in {', '.join(empty)}"] if empty else []
        said += [f"holds the unknown class {', '.join(other)}"] if other else []
        raise DataError(f"{base}: {' and '.join(said)}; the recipe's labels are {', '.join(settings.labels)}.")
    records = []
    for label in settings.labels:
        for image in _images(base / label):
            inside = image.relative_to(base / label)
            within = inside.parent.as_posix()
            key = f"{label}/{inside.stem}" if within == "." else within
            records.append(Record(image.relative_to(root).as_posix(), label, f"{settings.folder}/{key}",
                                  settings.folder, "train", settings.licence))  # fmt: skip
    return records, []


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def import_table(root: Path, settings: TableSettings) -> tuple[list[Record], list[str]]:
    """Read a table.

    Returns:
        The records, without splits yet, and a note of the rows that were left out.

    Raises:
        DataError: naming every row that cannot be used.
    """
    path = root / settings.table
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a table below the data root.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save the table as CSV in UTF-8.") from error
    lacking = [c for c in (settings.file, settings.group, settings.label) if not rows or c not in rows[0]]
    if lacking:
        raise DataError(f"{path}: lacks the column {', '.join(lacking)}; name its columns in the recipe.")
    source = settings.source or settings.table.rpartition("/")[0] or "table"
    records, problems, left_out = [], [], 0
    for number, row in enumerate(rows, start=2):
        found = _labels_of(row[settings.label], settings)
        if found is None and settings.others == "leave_out":
            left_out += 1
            continue
        if found is None:
            problems.append(f"row {number}: {settings.label} {row[settings.label]!r} names none of the labels alone")
            continue
        if not row[settings.group]:
            problems.append(f"row {number}: {settings.group} is empty; without it an image may lie in two splits")
        records.append(Record(f"{settings.images}/{row[settings.file]}", found, f"{source}/{row[settings.group]}",
                              source, "train", settings.licence))  # fmt: skip
    raise_problems(str(path), problems)
    notes = [f"{path}: {left_out} rows that name none of the labels left out"] if left_out else []
    return records, notes


def _labels_of(text: str, settings: TableSettings) -> str | None:
    """A row's labels joined; None where it names nothing that is known."""
    said = text.casefold()
    found = [label for label, words in settings.labels.items() if any(word.casefold() in said for word in words)]
    if settings.exclusive:
        return found[0] if len(found) == 1 else None
    if any(word.casefold() in said for word in settings.none):
        return NONE
    return _BETWEEN.join(found) or None


def targets(records: Sequence[Record], labels: Sequence[str], *, exclusive: bool) -> NDArray[Any]:
    """What is true of each record.

    Returns:
        int64 (N,), the class; or bool (N, labels) where they do not exclude each other.
    """
    if exclusive:
        return np.array([list(labels).index(record.label) for record in records], np.int64)
    return np.array([[label in record.label.split(_BETWEEN) for label in labels] for record in records], np.bool_)


def check_labelled(records: Sequence[Record], labels: Sequence[str], *, exclusive: bool) -> None:
    """Bar training over unknown labels, groups in two splits, and labels that a split lacks.

    Raises:
        DataError: naming each problem.
    """
    problems = []
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        own = [record.label] if exclusive else [label for label in record.label.split(_BETWEEN) if label]
        unknown = [label for label in own if label not in labels]
        if unknown:
            known = ", ".join(labels)
            problems.append(f"{record.name()}: unknown label {', '.join(unknown)!r}; the task has {known}")
        places[record.group].setdefault(record.split, record.name())
    for group, splits in places.items():
        if len(splits) > 1:
            where = ", ".join(f"{split} ({name})" for split, name in splits.items())
            problems.append(f"group {group} lies in {where}; put the whole group into one split")
    if not problems:
        for split in SPLITS:
            chosen = [record for record in records if record.split == split]
            truth = targets(chosen, labels, exclusive=exclusive)
            for index, label in enumerate(labels):
                shown = truth == index if exclusive else truth.reshape(len(chosen), len(labels))[:, index]
                if not shown.any():
                    problems.append(f"split {split} has no image labelled {label}; add groups, or drop the label")
    raise_problems("labels", problems)


def split_labelled(records: Sequence[Record], seed: int, shares: Sequence[float] = (0.6, 0.2, 0.2)) -> list[Record]:
    """Give every record a split, whole groups at a time, so that every label is shared out alike.

    Groups are dealt one by one, those with the rarest labels first, each to the split that is furthest behind its share
    of that group's rarest label; ties are drawn.

    Args:
        records: any splits they have are replaced.
        seed: of the order among alike.
        shares: of train, val and test, of the groups of each label.
    """
    rng = np.random.default_rng(seed)
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for label in record.label.split(_BETWEEN):
            held[record.group][f"{record.source}{_BETWEEN}{label}"] += 1
    of_label = Counter(label for labels in held.values() for label in labels)
    names = sorted(held)
    order = [names[i] for i in rng.permutation(len(names))]
    order.sort(key=lambda group: min(of_label[label] for label in held[group]))
    dealt: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    place = {}
    for group in order:
        rarest = min(held[group], key=lambda label: (of_label[label], label))
        behind = [share * of_label[rarest] - dealt[split][rarest] for split, share in zip(SPLITS, shares, strict=True)]
        place[group] = SPLITS[int(np.argmax(behind))]
        for label in held[group]:
            dealt[place[group]][label] += 1
    return [dataclasses.replace(record, split=place[record.group]) for record in records]


class Sampler:
    """Which records an epoch shows, by class frequency.

    `natural`: every record as often as any other. `over`: every class as often as any other, the records of a rare one
    repeated. `under`: likewise, but of every class only as many records per epoch as the rarest one has, drawn anew
    each epoch. Of labels that do not exclude each other each is a class, and so is having none.

    Args:
        truth: int64 (N,), or bool (N, labels).
        balance: which.
    """

    def __init__(self, truth: NDArray[Any], balance: Balance) -> None:
        self._count, self._balance = len(truth), balance
        if truth.ndim == 1:
            pools = [np.flatnonzero(truth == value) for value in np.unique(truth)]
        else:
            pools = [np.flatnonzero(column) for column in truth.T] + [np.flatnonzero(~truth.any(axis=1))]
        self._pools = [pool for pool in pools if len(pool)]

    def draw(self, count: int, rng: Rng) -> NDArray[np.int64]:
        """Places of the records of an epoch of `count` images, (count,)."""
        if self._balance == "natural":
            return _cycled(np.arange(self._count), count, rng)
        pools = self._pools
        if self._balance == "under":
            least = min(len(pool) for pool in pools)
            pools = [rng.permutation(pool)[:least] for pool in pools]
        each = [count // len(pools) + (i < count % len(pools)) for i in range(len(pools))]
        drawn = [_cycled(pool, number, rng) for pool, number in zip(pools, each, strict=True)]
        return rng.permutation(np.concatenate(drawn))


def _cycled(pool: NDArray[np.int64], count: int, rng: Rng) -> NDArray[np.int64]:
    """Every member once before any comes again."""
    turns = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate([*turns, pool[:0]])[:count].astype(np.int64)


class LabelledSet(Dataset[tuple[torch.Tensor, Any, int, torch.Tensor]]):
    """Augmented samples of any labels.

    A sample is a function of (seed, epoch, i) alone.

    Args:
        pack: holds the records.
        records: those of the training split.
        labels: of the task, in the order of the logits.
        exclusive: whether they exclude each other.
        settings: crop, rotation, colour, light, optics; what is about blending and apertures' labels is not used.
        seed: of everything drawn.
        balance: see `Sampler`.
    """

    def __init__(
        self, pack: Pack, records: Sequence[Record], labels: Sequence[str], *, exclusive: bool,
        settings: AugmentSettings, seed: int, balance: Balance = "natural",
    ) -> None:  # fmt: skip
        self._pack, self._settings, self._seed = pack, settings, seed
        self._truth = targets(records, labels, exclusive=exclusive)
        self._places = [pack.index[record] for record in records]
        self._sampler = Sampler(self._truth, balance)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._planned: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._settings.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Draw other samples from now on."""
        self._epoch[0] = epoch

    def __getitem__(self, i: int) -> tuple[torch.Tensor, Any, int, torch.Tensor]:
        """Sample `i`: uint8 (3, side, side) RGB, its class or its labels bool (labels,), its record, and no map."""
        epoch = int(self._epoch[0])
        if self._planned[0] != epoch:
            rng = np.random.default_rng([self._seed, 7, epoch])
            self._planned = epoch, self._sampler.draw(len(self), rng)
        base = int(self._planned[1][i])
        image = self._make(self._places[base], np.random.default_rng([self._seed, epoch, i]))
        truth = self._truth[base]
        label = int(truth) if self._truth.ndim == 1 else torch.from_numpy(truth.astype(np.float32))
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), label, base, torch.zeros(0, 0, 0)

    def _make(self, place: int, rng: Rng) -> Image:
        settings, picture = self._settings, self._pack[place].image
        height, width = picture.shape[:2]
        scale = float(rng.uniform(settings.zoom_min, settings.zoom_max))
        stretch = float(np.exp(rng.normal(0, 0.08)))
        crop = width * scale * stretch, height * scale / stretch
        centre = [length / 2 + float(rng.uniform(-0.5, 0.5)) * abs(length - cut)
                  for length, cut in zip((width, height), crop, strict=True)]  # fmt: skip
        fitted = _CANVAS / max(crop)
        out = max(1, round(crop[0] * fitted)), max(1, round(crop[1] * fitted))
        angle = float(np.clip(rng.normal(0, 0.5), -1, 1)) * settings.rotation
        move = cv2.getRotationMatrix2D((centre[0], centre[1]), angle, fitted)
        move[:, 2] += np.array(out) / 2 - np.array(centre)
        seen = cv2.warpAffine(np.ascontiguousarray(picture), move, out, flags=cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
        if rng.random() < 0.5:  # noqa: PLR2004  a mirror image is as likely
            seen = np.ascontiguousarray(seen[:, ::-1])
        side = settings.side
        small = max(1, round(out[0] * side / _CANVAS)), max(1, round(out[1] * side / _CANVAS))
        image = np.asarray(cv2.resize(seen, small, interpolation=cv2.INTER_AREA))
        image = degrade(restyle(image, (), settings, rng), settings, rng)
        whole = np.zeros((side, side, 3), np.uint8)
        x, y = (side - small[0]) // 2, (side - small[1]) // 2
        whole[y : y + small[1], x : x + small[0]] = image
        return whole
