"""The data manifest: one CSV row per image, or per window of an image.

Columns: path, label, group, source, split, licence, mask, x, y, width, height. Paths are relative to the data root.
`path` may name a frame of a video (`clip.mp4#12`, counted from 0) or of the phantom (`phantom:7#3`). `mask` is empty, a
class map in the numbers of `trainer.data.types` (`annot/1.png`), a binary glottis mask (`annot/1.png#glottis`),
or `#vibration`: to be estimated from the frames of the group, a high-speed recording (`trainer.data.vibration`).
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data import phantom
from trainer.data.types import GLOTTIS, LABELS, MAX_CLASS, UNKNOWN, DataError, Image, Mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "group", "source", "split", "licence", "mask", "x", "y", "width", "height")
VIBRATION = "#vibration"
"""A mask that is estimated from the frames of a high-speed recording."""
_WINDOW = ("x", "y", "width", "height")
_REQUIRED = ("path", "label", "group", "source", "split", "licence")
MAX_LISTED = 40
"""How many problems one error message lists before it only counts the rest."""


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image or window.

    Attributes:
        path: Image relative to the data root; `clip.mp4#12` is frame 12 of a clip.
        label: One of `LABELS`.
        group: Patient, recording or sequence; a group is never split.
        source: The set the image comes from; results are reported per source.
        split: `train`, `val` or `test`.
        licence: The images' licence, as the model card will say it.
        mask: Class map relative to the data root, `#glottis` after it for a binary glottis mask; empty for none.
        x: Window's left edge in pixels; None with all four for the whole image.
        y: Window's upper edge.
        width: Window's width in pixels.
        height: Window's height in pixels.
    """

    path: str
    label: str
    group: str
    source: str
    split: str
    licence: str
    mask: str = ""
    x: int | None = None
    y: int | None = None
    width: int | None = None
    height: int | None = None

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """The window as (x, y, width, height) in pixels, or None for the whole image."""
        if self.x is None or self.y is None or self.width is None or self.height is None:
            return None
        return self.x, self.y, self.width, self.height

    @property
    def label_index(self) -> int:
        """The label's place in `LABELS`: 0 without folds, 1 with."""
        return LABELS.index(self.label)

    def name(self) -> str:
        """The path, and the window if there is one, for messages."""
        return self.path if self.window is None else f"{self.path}[{','.join(map(str, self.window))}]"

    def read_image(self, root: Path) -> Image:
        """Read the image or window, uint8 (H, W, 3) BGR.

        Raises:
            DataError: The file is missing, is no image, or the window lies outside it.
        """
        return self._cut(read_picture(root, self.path), root / self.path.partition("#")[0])

    def read_mask(self, root: Path) -> Mask | None:
        """Read the class map of the same window, uint8 (H, W) in the numbers of `types`; None without a file.

        Raises:
            DataError: The file is missing, is no image, or holds other values than its kind allows.
        """
        if not self.mask or self.mask == VIBRATION:
            return None
        return self._cut(_read_class_map(root, self.mask), root / self.mask.partition("#")[0])

    def _cut(self, array: Image, file: Path) -> Image:
        if self.window is None:
            return array
        x, y, width, height = self.window
        rows, columns = array.shape[:2]
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
            raise DataError(
                f"{file}: window {self.window} lies outside the {columns}x{rows} image; correct the manifest."
            )
        return array[y : y + height, x : x + width]


def read_picture(root: Path, path: str) -> Image:
    """Read an image file or a frame of a clip (`clip.mp4#12`), uint8 (H, W, 3) BGR.

    Raises:
        DataError: It is missing or cannot be decoded.
    """
    if phantom.is_phantom(path):
        return phantom.frame(path)[0]
    name, _, frame = path.partition("#")
    file = root / name
    if not file.is_file():
        raise DataError(f"{file}: no such image; correct the path or remove the row.")
    image = cv2.imread(str(file), cv2.IMREAD_COLOR) if not frame else _clip_frame(file, int(frame))
    if image is None:
        raise DataError(f"{file}: not a readable image; replace the file or remove the row.")
    return image


def _clip_frame(file: Path, index: int) -> Image | None:
    frames = _clip(file)
    return frames[index] if index < len(frames) else None


@functools.lru_cache(maxsize=2)
def _clip(file: Path) -> tuple[Image, ...]:
    capture = cv2.VideoCapture(str(file))
    frames: list[Image] = []
    try:
        while True:
            more, frame = capture.read()
            if not more:
                return tuple(frames)
            frames.append(frame)
    finally:
        capture.release()


def _read_class_map(root: Path, mask: str) -> Mask:
    if phantom.is_phantom(mask):
        return phantom.frame(mask)[1]
    name, _, kind = mask.partition("#")
    file = root / name
    raw = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) if file.is_file() else None
    if raw is None:
        raise DataError(f"{file}: no readable mask there; replace the file or empty the row's mask.")
    if kind == "glottis":
        return np.asarray(np.where(raw > 0, np.uint8(GLOTTIS), np.uint8(UNKNOWN)))
    if kind:
        raise DataError(
            f"{file}: unknown kind of mask {kind!r}; use '#glottis', '#vibration' without a file, or nothing."
        )
    if ((raw > MAX_CLASS) & (raw != UNKNOWN)).any():
        raise DataError(
            f"{file}: mask holds values above {MAX_CLASS} that are not {UNKNOWN}; convert it to class numbers."
        )
    return np.asarray(raw)


def read_manifest(path: Path) -> list[Record]:
    """Read a manifest.

    Args:
        path: The CSV file, UTF-8, with at least path, label, group, source, split and licence as columns.

    Returns:
        One record per row, in the file's order.

    Raises:
        DataError: With every problem of the file: row, column, and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a manifest CSV.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save the manifest as CSV in UTF-8.") from error
    rows = csv.DictReader(text.splitlines())
    header = list(rows.fieldnames or [])
    missing = [column for column in _REQUIRED if column not in header]
    unknown = [column for column in header if column not in COLUMNS]
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise DataError(f"{path}: the header {' and '.join(said)}; the columns are {', '.join(COLUMNS)}.")
    records: list[Record] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=2):
        record, found = _parse_row(row)
        problems += [f"row {number}, {column}: {what}" for column, what in found]
        if record is not None:
            records.append(record)
    if not records and not problems:
        problems.append("no rows; list at least one image per label")
    raise_problems(str(path), problems)
    return records


def raise_problems(where: str, problems: Sequence[str]) -> None:
    """Raise one `DataError` that lists all problems, if there are any."""
    if not problems:
        return
    listed = "; ".join(problems[:MAX_LISTED])
    rest = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    raise DataError(f"{where}: {listed}{rest}.")


def _parse_row(row: dict[str, str | None]) -> tuple[Record | None, list[tuple[str, str]]]:
    found: list[tuple[str, str]] = []
    values = {column: (row.get(column) or "").strip() for column in COLUMNS}
    found += [(column, "is empty; fill it in") for column in _REQUIRED if not values[column]]
    if values["label"] and values["label"] not in LABELS:
        found.append(("label", f"is {values['label']!r}; use {' or '.join(LABELS)}"))
    if values["split"] and values["split"] not in SPLITS:
        found.append(("split", f"is {values['split']!r}; use {', '.join(SPLITS)}"))
    found += [
        (column, f"{values[column]!r} leaves the data root; give a path below it")
        for column in ("path", "mask")
        if values[column].startswith("/") or ".." in Path(values[column]).parts
    ]
    window: dict[str, int | None] = {}
    given = [column for column in _WINDOW if values[column]]
    for column in _WINDOW:
        window[column] = None
        if values[column].isdecimal():
            window[column] = int(values[column])
        elif values[column]:
            found.append((column, f"is {values[column]!r}; give whole pixels, not negative"))
    if given and len(given) < len(_WINDOW):
        found.append((given[0], "window is incomplete; give x, y, width and height, or none of them"))
    if None in row:
        found.append(("-", "has more cells than the header; quote values that hold a comma"))
    if found:
        return None, found
    path, label, group, source, split, licence, mask = (values[column] for column in (*_REQUIRED, "mask"))
    return Record(path, label, group, source, split, licence, mask, **window), []


def write_manifest(path: Path, records: Iterable[Record]) -> None:
    """Write a manifest so that a cut-off write leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(COLUMNS)
            for record in records:
                writer.writerow(["" if value is None else value for value in dataclasses.astuple(record)])
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def data_hash(records: Sequence[Record], root: Path) -> str:
    """SHA-256 (hex) over all rows, whatever their order, and over the bytes of every file that they name."""
    total = hashlib.sha256()
    rendered = sorted(record.path for record in records if phantom.is_phantom(record.path))
    if rendered:
        # One frame stands for the renderer: a change of its code changes the hash.
        total.update(np.ascontiguousarray(phantom.frame(rendered[0])[0]).tobytes())
    for record in sorted(records, key=lambda r: (r.path, r.window or (), r.label)):
        total.update("\x1f".join(str(value) for value in dataclasses.astuple(record)).encode())
    names = {name.partition("#")[0] for record in records for name in (record.path, record.mask) if name}
    for name in sorted(names):
        total.update(name.encode())
        file = root / name
        if file.is_file():
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
