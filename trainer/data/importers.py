"""Readers of public and private image folders: each yields records, still without windows and with a preliminary split.

`SOURCES` maps a folder's name below the data root to its importer. A missing folder is skipped with a note.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from trainer.data import phantom
from trainer.data.manifest import VIBRATION, Record
from trainer.data.types import LABELS, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

CC_BY = "CC BY 4.0"
CC_BY_NC_SA = "CC BY-NC-SA 4.0 (research only)"
KVASIR_LICENCE = "CC BY 4.0 (its authors ask for research and education use)"
PHANTOM_LICENCE = "Apache-2.0 (rendered by this code)"
OPENHSV_LICENCE = "GPL-3.0 (of its repository)"


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def import_vocalfolds(root: Path) -> Iterator[Record]:
    """Laves et al. 2018 (arXiv 1807.06081): colour frames with seven-class masks; grouped by patient and sequence.

    The label says folds for every frame; `visibility` decides from the mask and cuts the windows.
    """
    folder = root / "vocalfolds"
    for image in _images(folder / "img"):
        inside = image.relative_to(folder / "img")
        mask = folder / "annot" / inside.with_suffix(".png")
        group = f"vocalfolds/{inside.parent.as_posix()}"
        yield Record(
            path=_relative(image, root), label="folds", group=group, source="vocalfolds", split="train", licence=CC_BY,
            mask=_relative(mask, root),
        )  # fmt: skip


def import_bagls(root: Path) -> Iterator[Record]:
    """Gómez et al. 2020 (doi 10.5281/zenodo.3762320): high-speed frames without masks; grouped by recording."""
    folder = root / "bagls"
    table = folder / "frames.csv"
    with table.open(encoding="utf-8", newline="") as rows:
        for row in sorted(csv.DictReader(rows), key=lambda r: r["file"]):
            yield Record(
                path=_relative(folder / "img" / row["file"], root), label="folds",
                group=f"bagls/{int(row['video_id'])}", source="bagls", split="train", licence=CC_BY_NC_SA,
                mask=VIBRATION,
            )  # fmt: skip


def import_bagls_glottis(root: Path) -> Iterator[Record]:
    """Single BAGLS frames with a binary glottis mask; grouped with the `bagls` frames of the same recording."""
    folder = root / "bagls-glottis"
    lines = (folder / "frames.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    for row in sorted(rows, key=lambda r: str(r["file"])):
        yield Record(
            path=_relative(folder / "img" / row["file"], root), label="folds", group=f"bagls/{int(row['Video Id'])}",
            source="bagls-glottis", split="train", licence=CC_BY_NC_SA,
            mask=_relative(folder / "annot" / row["file"], root) + "#glottis",
        )  # fmt: skip


def import_kvasir(root: Path) -> Iterator[Record]:
    """Jha et al. 2020: colonoscopy frames, as scenes without folds. Its polyp masks say nothing about a larynx.

    No patient is known: each image starts as its own group, `splits.merge_near_groups` joins near-duplicates.
    """
    folder = root / "kvasir-seg"
    for image in _images(folder / "img"):
        yield Record(
            path=_relative(image, root), label="no_folds", group=f"kvasir-seg/{image.stem}", source="kvasir-seg",
            split="train", licence=KVASIR_LICENCE,
        )  # fmt: skip


def import_openhsv(root: Path) -> Iterator[Record]:
    """Kist et al. 2021: one colour clip of oscillating folds; every frame, for the test split only."""
    for clip in sorted((root / "openhsv").glob("*.mp4")):
        capture = cv2.VideoCapture(str(clip))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        for index in range(count):
            yield Record(
                path=f"{_relative(clip, root)}#{index}", label="folds", group=f"openhsv/{clip.stem}", source="openhsv",
                split="test", licence=OPENHSV_LICENCE,
            )  # fmt: skip


def import_phantom(count: int, seed: int) -> Iterator[Record]:
    """Frames of the rendered phantom; grouped by anatomy, ambiguous views left out.

    Args:
        count: Frames to render, before the ambiguous ones are left out.
        seed: Which.
    """
    for index in range(count):
        block, k = divmod(index, phantom.BLOCK)
        key = f"{phantom.PREFIX}{seed * 1_000_000 + block}"
        label = phantom.frame(f"{key}#{k}")[2]
        if label is not None:
            yield Record(
                path=f"{key}#{k}", label=label, group=key.replace(":", "/"), source="phantom", split="train",
                licence=PHANTOM_LICENCE, mask=f"{key}#{k}",
            )  # fmt: skip


def import_class_folders(root: Path, folder: str, licence: str = "unknown") -> Iterator[Record]:
    """A plain folder per class: `folder/folds/...` and `folder/no_folds/...` below the data root.

    A folder inside a class folder (a patient, a video) is a group; an image directly in it is its own group.

    Raises:
        DataError: A class folder is missing or empty, or another one stands beside them.
    """
    base = root / folder
    present = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    missing = [label for label in LABELS if label not in present or not _images(base / label)]
    other = [name for name in present if name not in LABELS and not name.startswith(".")]
    if missing or other:
        said = [f"has no images in {' and '.join(missing)}"] if missing else []
        said += [f"holds the unknown class {', '.join(other)}"] if other else []
        raise DataError(f"{base}: {' and '.join(said)}; give one folder per class, {' and '.join(LABELS)}.")
    for label in LABELS:
        for image in _images(base / label):
            inside = image.relative_to(base / label)
            # The same patient may stand in both classes: the class is not part of the group.
            key = inside.parent.as_posix() if inside.parent != Path() else f"{label}/{inside.stem}"
            yield Record(
                path=_relative(image, root), label=label, group=f"{folder}/{key}", source=folder, split="train",
                licence=licence,
            )  # fmt: skip


SOURCES: dict[str, Callable[[Path], Iterator[Record]]] = {
    "vocalfolds": import_vocalfolds,
    "bagls": import_bagls,
    "bagls-glottis": import_bagls_glottis,
    "kvasir-seg": import_kvasir,
    "openhsv": import_openhsv,
}


def import_sources(root: Path, wanted: Sequence[str] | None = None) -> tuple[list[Record], list[str]]:
    """Import known folders below a data root.

    Args:
        root: The data root.
        wanted: Folders to import; None for all known ones that are there.

    Returns:
        The records, and one note per folder that was skipped.

    Raises:
        DataError: A folder asked for by name is unknown, missing or has no images; or nothing was found at all.
    """
    records: list[Record] = []
    notes: list[str] = []
    for name in wanted if wanted is not None else SOURCES:
        if name not in SOURCES:
            raise DataError(f"{name}: no importer of that name; use {', '.join(SOURCES)}, class folders or a CSV.")
        if not (root / name).is_dir():
            if wanted is not None:
                raise DataError(f"{root / name}: no such folder; put the images there or take {name} off the sources.")
            notes.append(f"{name}: not below {root}, skipped")
            continue
        try:
            found = list(SOURCES[name](root))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{root / name}: its table cannot be read ({error}); unpack the set again.") from error
        if not found:
            raise DataError(f"{root / name}: holds no images; unpack the set again or remove the folder.")
        records += found
    if not records:
        raise DataError(f"{root}: none of {', '.join(SOURCES)} is there; name the folder that holds them.")
    return records, notes
