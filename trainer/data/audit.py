"""What must be right before training: readable images, sane rows, and no image, or near-copy of one, in two splits."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from trainer.data.hashing import Fingerprints, fingerprint, near_pairs, stack
from trainer.data.manifest import SPLITS, Record, raise_problems
from trainer.data.types import LABELS, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.data.types import Image

_PAIRS_LISTED = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Two records of different splits that show the same."""

    first: str
    first_split: str
    second: str
    second_split: str
    exact: bool

    def __str__(self) -> str:
        """One phrase for messages."""
        kind = "same pixels" if self.exact else "near-duplicate"
        return f"{self.first} ({self.first_split}) and {self.second} ({self.second_split}): {kind}"


@dataclasses.dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Attributes:
        problems: Each with place and remedy; they bar training whatever is allowed.
        pairs: Duplicates across splits; they bar training unless allowed.
        images: How many images were compared.
    """

    problems: tuple[str, ...]
    pairs: tuple[Pair, ...]
    images: int

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.problems and not self.pairs


def audit(
    records: Sequence[Record], root: Path, *, max_bits: int = 40, min_correlation: float = 0.97, threads: int = 2
) -> AuditReport:
    """Check records and compare all their images across splits.

    Args:
        records: All of the manifest, in its order: problems name the row that `manifest.write_manifest` gives them.
        root: The data root.
        max_bits: Differing hash bits, of 255, up to which two images may be near-duplicates.
        min_correlation: Correlation of their 32x32 thumbnails from which on they are.
        threads: That decode.

    Returns:
        The report; it does not raise.
    """
    problems = _row_problems(records)

    def look(record: Record) -> tuple[str, Image, Image] | str:
        try:
            image = record.read_image(root)
            mask = record.read_mask(root)
        except DataError as error:
            return str(error).rstrip(".")
        if mask is not None and mask.shape != image.shape[:2]:
            return (
                f"{root / record.mask.partition('#')[0]}: is {mask.shape[1]}x{mask.shape[0]}, its image "
                f"{image.shape[1]}x{image.shape[0]}; give a mask of the image's size"
            )
        return fingerprint(image)

    with ThreadPoolExecutor(threads) as pool:
        looked = list(pool.map(look, records))
    rows = []
    readable = []
    for number, (record, seen) in enumerate(zip(records, looked, strict=True), start=2):
        if isinstance(seen, str):
            problems.append(f"row {number}: {seen}")
        else:
            rows.append(seen)
            readable.append(record)
    pairs = _exact_pairs(readable, [row[0] for row in rows])
    pairs += _near_pairs(readable, stack(rows), max_bits, min_correlation, {(p.first, p.second) for p in pairs})
    return AuditReport(tuple(problems), tuple(pairs), len(rows))


def require_clean(report: AuditReport, *, allow: bool = False) -> None:
    """Bar training over a report that is not clean.

    Args:
        report: Of `audit`.
        allow: Train over duplicates across splits all the same.

    Raises:
        DataError: Naming each problem, or the pairs.
    """
    raise_problems("audit", report.problems)
    if report.pairs and not allow:
        listed = "; ".join(str(pair) for pair in report.pairs[:_PAIRS_LISTED])
        rest = f"; and {len(report.pairs) - _PAIRS_LISTED} more" if len(report.pairs) > _PAIRS_LISTED else ""
        raise DataError(
            f"audit: {len(report.pairs)} duplicates lie across splits: {listed}{rest}. "
            "Give both of a pair the same group, or allow duplicates explicitly."
        )


def _row_problems(records: Sequence[Record]) -> list[str]:
    problems: list[str] = []
    places: dict[str, dict[str, int]] = defaultdict(dict)
    seen: dict[tuple[object, ...], int] = {}
    for number, record in enumerate(records, start=2):
        if record.label not in LABELS:
            problems.append(f"row {number}: unknown label {record.label!r}; use {' or '.join(LABELS)}")
        if record.split not in SPLITS:
            problems.append(f"row {number}: unknown split {record.split!r}; use {', '.join(SPLITS)}")
        places[record.group].setdefault(record.split, number)
        key = (record.path, record.window)
        if key in seen:
            problems.append(f"row {number}: {record.name()} stands in row {seen[key]} already; remove one")
        seen.setdefault(key, number)
    for group, splits in places.items():
        if len(splits) > 1:
            where = ", ".join(f"{split} (row {number})" for split, number in splits.items())
            problems.append(f"group {group} lies in {where}; put the whole group into one split")
    for split in SPLITS:
        labels = {record.label for record in records if record.split == split}
        missing = [label for label in LABELS if label not in labels]
        # Without a test split nothing is measured, which the evaluation says; the other two are needed to train.
        if missing and (labels or split != "test"):
            problems.append(
                f"split {split} has no image labelled {' or '.join(missing)}; move a group there or add images"
            )
    return problems


def _exact_pairs(records: Sequence[Record], pixels: Sequence[str]) -> list[Pair]:
    alike: dict[str, list[Record]] = defaultdict(list)
    for record, digest in zip(records, pixels, strict=True):
        alike[digest].append(record)
    return [
        _pair(first, second, exact=True)
        for same in alike.values()
        for i, first in enumerate(same)
        for second in same[i + 1 :]
        if first.split != second.split
    ]


def _near_pairs(
    records: Sequence[Record], prints: Fingerprints, max_bits: int, min_correlation: float, known: set[tuple[str, str]]
) -> list[Pair]:
    found = []
    for i, j in near_pairs(prints, max_bits, min_correlation):
        first, second = records[i], records[j]
        if first.split != second.split and (first.name(), second.name()) not in known:
            found.append(_pair(first, second, exact=False))
    return found


def _pair(first: Record, second: Record, *, exact: bool) -> Pair:
    return Pair(first.name(), first.split, second.name(), second.split, exact)
