"""Images decoded once: a memory-mapped cache of letterboxed pictures and class maps, keyed by the data's hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from edge import optics
from edge.geometry import Box
from trainer.data import vibration
from trainer.data.manifest import VIBRATION, Record, data_hash, read_picture
from trainer.data.types import FOLD, GLOTTIS, LABELS, UNKNOWN, VOID, DataError, Image, Mask

SIDE = 256
_CHUNK = 64
_PART = ".part-"
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """One picture of a pack, without its letterbox bars.

    Attributes:
        image: uint8 (h, w, 3) RGB.
        classes: uint8 (h, w) class map: VOID outside the optics' field, UNKNOWN where no mask says more.
        focus: Where the folds are, (x, y, width, height) as shares of the picture; None where there are none.
        sure: Whether `focus` comes from a mask, not from a guess.
        maps: uint8 (h, w, labels), 255 times the chance that a pixel shows each of the map's labels; None in a pack
            without maps.
    """

    image: Image
    classes: Mask
    focus: tuple[float, float, float, float] | None
    sure: bool
    maps: Image | None = None


class Pack:
    """All pictures of a manifest, ready to be augmented.

    Attributes:
        images: uint8 (N, 256, 256, 3) RGB, memory-mapped, letterboxed in black.
        masks: uint8 (N, 256, 256), 255 where nothing is known.
        rects: int32 (N, 4): x, y, width, height of the picture inside its letterbox.
        records: The N records, in order.
        maps: uint8 (N, 256, 256, labels) soft masks, memory-mapped, letterboxed as the images; None without.
    """

    def __init__(self, folder: Path, maps: Path | None = None) -> None:
        self._folder, self._maps_path = folder, maps
        self.images: Image = np.load(folder / "images.npy", mmap_mode="r")
        self.masks: Mask = np.load(folder / "masks.npy", mmap_mode="r")
        self.rects: Image = np.load(folder / "rects.npy")
        self.focus: Image = np.load(folder / "focus.npy")
        rows = json.loads((folder / "records.json").read_text(encoding="utf-8"))
        self.records = [Record(**row) for row in rows]
        self.index = {record: i for i, record in enumerate(self.records)}
        self.maps: Image | None = None if maps is None else np.load(maps, mmap_mode="r")
        if self.maps is not None and len(self.maps) != len(self.records):
            raise DataError(f"{maps} holds maps of {len(self.maps)} pictures, not of {len(self.records)}; remove it.")

    def with_maps(self, path: Path) -> Pack:
        """The same pictures with the soft masks of an array file."""
        return Pack(self._folder, path)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Packed:
        x, y, width, height = (int(v) for v in self.rects[index])
        *box, sure = (float(v) for v in self.focus[index])
        focus = (box[0], box[1], box[2], box[3]) if box[2] > 0 else None
        rows, columns = slice(y, y + height), slice(x, x + width)
        return Packed(
            np.asarray(self.images[index, rows, columns]),
            np.asarray(self.masks[index, rows, columns]),
            focus,
            sure > 0,
            None if self.maps is None else np.asarray(self.maps[index, rows, columns]),
        )

    def __reduce__(self) -> tuple[type[Pack], tuple[Path, Path | None]]:
        """Workers map the files again instead of copying them."""
        return Pack, (self._folder, self._maps_path)

    @classmethod
    def open_or_build(
        cls,
        records: Sequence[Record],
        root: Path,
        cache: Path = Path("runs/cache"),
        *,
        progress: Progress | None = None,
        threads: int = 2,
    ) -> Pack:
        """Open the cached pack of these records, or decode them into a new one.

        A build that is cut off leaves nothing that a later one could mistake for a pack.

        Args:
            records: What to pack.
            root: The data root.
            cache: Folder of all packs.
            progress: Told how far decoding is.
            threads: That decode.

        Raises:
            DataError: An image or mask cannot be read.
        """
        key = f"{data_hash(records, root)[:24]}-{_code_hash()}"
        folder = cache / key
        if not (folder / "records.json").is_file():
            cache.mkdir(parents=True, exist_ok=True)
            _sweep(cache)
            part = Path(tempfile.mkdtemp(dir=cache, prefix=_PART))
            try:
                _build(part, records, root, progress=progress, threads=threads)
                if folder.exists():
                    shutil.rmtree(folder)
                part.chmod(0o755)  # mkdtemp makes it private
                part.replace(folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
        return cls(folder)


def _code_hash() -> str:
    """Eight digits that change with the code that makes a pack, the device's aperture search among it."""
    return code_hash(Path(optics.__file__).parent, Path(vibration.__file__), Path(__file__))


def code_hash(*places: Path) -> str:
    """Eight digits that change with the source files, or with those in the folders, that are named."""
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _sweep(cache: Path) -> None:
    """Remove what builds that were killed left behind more than a day ago."""
    for part in cache.glob(f"{_PART}*"):
        if time.time() - part.stat().st_mtime > 24 * 3600:
            shutil.rmtree(part, ignore_errors=True)


def _build(
    folder: Path,
    records: Sequence[Record],
    root: Path,
    *,
    progress: Progress | None,
    threads: int,
) -> None:
    count = len(records)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (count, SIDE, SIDE))
    rects = np.zeros((count, 4), np.int32)
    focus = np.zeros((count, 5), np.float32)

    recordings = [r.group if r.mask == VIBRATION else "" for r in records]
    glottis = _Vibrations(records, root)

    def read(index: int) -> None:
        record = records[index]
        image = record.read_image(root)
        classes = glottis(recordings[index], image.shape) if recordings[index] else record.read_mask(root)
        packed = letterbox(image, classes)
        images[index], masks[index], rects[index] = packed
        x, y, width, height = packed[2]
        focus[index] = locate_folds(record, packed[1][y : y + height, x : x + width])

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(records), _CHUNK):
            # Chunks bound the memory; list() brings a thread's error here.
            list(pool.map(read, range(start, min(start + _CHUNK, len(records)))))
            if progress:
                progress(min(start + _CHUNK, len(records)), count)
    images.flush()
    masks.flush()
    np.save(folder / "rects.npy", rects)
    np.save(folder / "focus.npy", focus)
    rows = [dataclasses.asdict(record) for record in records]
    with (folder / "records.json").open("w", encoding="utf-8") as out:
        json.dump(rows, out)
        out.flush()
        os.fsync(out.fileno())
    if progress:
        progress(count, count)


class _Vibrations:
    """The class map of each recording whose mask is to be estimated, made when first asked for."""

    def __init__(self, records: Sequence[Record], root: Path) -> None:
        self._root = root
        self._paths: dict[str, list[str]] = {}
        for record in records:
            if record.mask == VIBRATION:
                self._paths.setdefault(record.group, []).append(record.path)
        self._found: dict[str, Mask | None] = {}
        self._lock = threading.Lock()

    def __call__(self, group: str, shape: tuple[int, ...]) -> Mask | None:
        with self._lock:
            if group not in self._found:
                self._found[group] = self._estimate([read_picture(self._root, path) for path in self._paths[group]])
            classes = self._found[group]
        return classes if classes is not None and classes.shape == shape[:2] else None

    @staticmethod
    def _estimate(frames: Sequence[Image]) -> Mask | None:
        height, width = frames[0].shape[:2]
        aperture = optics.find_aperture(frames[0])
        box = aperture.box if aperture is not None else Box(0, 0, width, height)
        rows, columns = slice(box.y, box.y + box.height), slice(box.x, box.x + box.width)
        inside = vibration.vibrating_glottis([frame[rows, columns] for frame in frames])
        if inside is None:
            return None
        classes = np.full((height, width), UNKNOWN, np.uint8)
        classes[rows, columns] = inside
        return classes


def letterbox(image: Image, classes: Mask | None) -> tuple[Image, Mask, tuple[int, int, int, int]]:
    """Crop to the aperture, fit the longest side to 256, pad.

    Args:
        image: uint8 (H, W, 3) BGR.
        classes: Class map (H, W), or None.

    Returns:
        uint8 (256, 256, 3) RGB, uint8 (256, 256) class map with VOID outside the aperture, and the picture's rectangle.
    """
    if classes is None:
        classes = np.full(image.shape[:2], UNKNOWN, np.uint8)
    classes = np.where(classes == VOID, np.uint8(UNKNOWN), classes)  # a mask's void is unlabelled, not dark
    aperture = optics.find_aperture(image)
    if aperture is not None:
        box = aperture.box
        image = image[box.y : box.y + box.height, box.x : box.x + box.width]
        classes = classes[box.y : box.y + box.height, box.x : box.x + box.width]
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    w, h = max(1, min(SIDE, round(width * scale))), max(1, min(SIDE, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, (w, h), interpolation=interpolation)
    small_classes = cv2.resize(np.ascontiguousarray(classes), (w, h), interpolation=cv2.INTER_NEAREST)
    dark = outside_field(small)
    small_classes = np.where(dark & (small_classes == UNKNOWN), np.uint8(VOID), small_classes)
    x, y = (SIDE - w) // 2, (SIDE - h) // 2
    out = np.zeros((SIDE, SIDE, 3), np.uint8)
    out_classes = np.full((SIDE, SIDE), UNKNOWN, np.uint8)
    out[y : y + h, x : x + w] = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
    out_classes[y : y + h, x : x + w] = small_classes
    return out, out_classes, (x, y, w, h)


def outside_field(image: Image) -> Mask:
    """Where a picture shows nothing: black and connected to its border; bool (H, W).

    A picture of which more than two fifths would be lost is a dark one: then only its corners' black counts.
    """
    level = cv2.blur(image.max(axis=2), (5, 5))
    height, width = level.shape
    for threshold in (14, 6, 2):
        dark = (level <= threshold).astype(np.uint8)
        count, labels = cv2.connectedComponents(dark, connectivity=4)
        rim = np.unique(np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1])))
        touches = np.zeros(count, bool)
        touches[rim] = True
        touches[0] = False
        outside = touches[labels]
        if outside.mean() <= 0.4:  # noqa: PLR2004
            return np.asarray(outside)
    return np.zeros((height, width), bool)


def locate_folds(record: Record, classes: Mask) -> tuple[float, float, float, float, float]:
    """Where the folds are in a picture: x, y, width, height as shares of it, and 1 if a mask says so; zeros for none.

    A glottis alone is widened by what folds commonly add to it (its vibrating part by more); without any mask the
    middle is taken.
    """
    if record.label != LABELS[1]:
        return 0, 0, 0, 0, 0
    height, width = classes.shape
    folds = classes == FOLD
    seen = folds | (classes == GLOTTIS)
    if np.count_nonzero(seen) < 12:  # noqa: PLR2004
        return 0.22, 0.2, 0.56, 0.65, 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if not folds.any() and max(bottom - top, right - left) < 0.14 * max(height, width):
        # Of nearly closed folds only a gap at one end is marked: it does not say how far they reach.
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        return max(0.0, x - 0.25), max(0.0, y - 0.3), min(0.5, 1.25 - x), min(0.6, 1.3 - y), 0
    if not folds.any():
        long = max(bottom - top, right - left, 0.12 * max(height, width))
        more = 1.4 if record.mask == VIBRATION else 1.0
        left, right = left - 0.35 * more * long, right + 0.35 * more * long
        top, bottom = top - 0.3 * more * long, bottom + 0.25 * more * long
    left, top = max(0.0, left / width), max(0.0, top / height)
    return left, top, min(1.0, right / width) - left, min(1.0, bottom / height) - top, 1
