"""Perceptual hashes and a vectorised search for near-duplicates among thousands of images."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.optics import find_aperture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trainer.data.manifest import Record
    from trainer.data.types import Image

THUMB_SIDE = 32
_HASH_SIDE = 16
_BITS = _HASH_SIDE * _HASH_SIDE - 1


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What is compared, one row per image.

    Attributes:
        pixels: SHA-256 (hex) of the decoded pixels.
        signs: float32 (N, 255), +1 or -1: the signs of a 16x16 DCT without its first term (Zauner 2010, pHash).
        thumbs: float32 (N, 1024): grey 32x32 thumbnails of zero mean and unit norm.
    """

    pixels: list[str]
    signs: Image
    thumbs: Image


def fingerprint(image: Image) -> tuple[str, Image, Image]:
    """Fingerprint one BGR image: pixel hash, DCT signs, normalised thumbnail.

    The picture inside the aperture is what counts: black surrounds would make all round images alike.
    """
    pixels = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    aperture = find_aperture(image)
    if aperture is not None:
        box = aperture.box
        image = image[box.y : box.y + box.height, box.x : box.x + box.width]
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_HASH_SIDE, :_HASH_SIDE].ravel()[1:]
    signs = np.where(low > np.median(low), np.float32(1), np.float32(-1))
    thumb = cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    thumb -= thumb.mean()
    norm = float(np.linalg.norm(thumb))
    return pixels, signs, thumb / norm if norm > 0 else thumb


def fingerprints(records: Sequence[Record], root: Path, threads: int = 2) -> Fingerprints:
    """Fingerprint the images of records, in their order."""

    def one(record: Record) -> tuple[str, Image, Image]:
        return fingerprint(record.read_image(root))

    with ThreadPoolExecutor(threads) as pool:
        return stack(list(pool.map(one, records)))


def stack(rows: Sequence[tuple[str, Image, Image]]) -> Fingerprints:
    """Put single fingerprints together, in their order."""
    signs = np.array([row[1] for row in rows], np.float32).reshape(len(rows), _BITS)
    thumbs = np.array([row[2] for row in rows], np.float32).reshape(len(rows), THUMB_SIDE * THUMB_SIDE)
    return Fingerprints([row[0] for row in rows], signs, thumbs)


def near_pairs(prints: Fingerprints, max_bits: int = 40, min_correlation: float = 0.97) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, that look alike.

    Args:
        prints: The images.
        max_bits: Hash bits of 255 that may differ.
        min_correlation: Least correlation of the two thumbnails; guards against hashes that agree by composition alone.

    Yields:
        Index pairs.
    """
    block = 1024
    for start in range(0, len(prints.signs), block):
        agreement = prints.signs[start : start + block] @ prints.signs.T
        rows, columns = np.nonzero(agreement >= _BITS - 2 * max_bits)
        rows = rows + start
        keep = rows < columns
        rows, columns = rows[keep], columns[keep]
        for first in range(0, len(rows), 65536):
            some, other = rows[first : first + 65536], columns[first : first + 65536]
            alike = np.einsum("ij,ij->i", prints.thumbs[some], prints.thumbs[other]) >= min_correlation
            yield from zip(some[alike].tolist(), other[alike].tolist(), strict=True)
