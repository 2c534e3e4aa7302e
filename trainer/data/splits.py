"""Splits by group: a patient, a recording or a cluster of near-duplicates lies in one split only."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.hashing import fingerprints, near_pairs
from trainer.data.manifest import SPLITS, Record
from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SHARES = (0.7, 0.15, 0.15)
"""Shares of train, val and test."""

FIXED = {
    # Two patients cannot fill three splits: sequences are split, which still shares patients (the report says so).
    # Sequence 3 has hardly a negative window, so it cannot be held out; sequence 2 can, and 7 is the large test.
    "vocalfolds/patient1/seq1": "train",
    "vocalfolds/patient1/seq2": "val",
    "vocalfolds/patient1/seq3": "train",
    "vocalfolds/patient1/seq4": "train",
    "vocalfolds/patient2/seq7": "test",
    "vocalfolds/patient2/seq8": "train",
}
_TEST_ONLY_SOURCES = frozenset({"openhsv"})
_SHARES_OF = {"phantom": (0.85, 0.15, 0.0)}  # rendered frames test nothing about real ones


def split_by_group(
    records: Sequence[Record], seed: int, fixed: Mapping[str, str] = FIXED, shares: Sequence[float] = SHARES
) -> list[Record]:
    """Give every record a split, whole groups at a time, stratified by source.

    Sources that share a group (`bagls` and `bagls-glottis`) are drawn together. Groups in `fixed` keep their place;
    sources with one frame-rich group for testing only (`openhsv`) go to test.

    Args:
        records: Any splits they have are replaced.
        seed: Of the draw.
        fixed: Split of a group, where it is not drawn.
        shares: Shares of the groups for train, val, test; they sum to 1.

    Returns:
        New records in the same order.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    for record in records:
        sources[record.group].add(record.source)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    place = dict(fixed)
    first_of_source = {s: min(g for g in sources if s in sources[g]) for names in sources.values() for s in names}
    for group, names in sources.items():
        if names & _TEST_ONLY_SOURCES:
            place[group] = "test"
        elif group not in place:
            # All groups of sources that share groups form one stratum: bagls with bagls-glottis.
            strata[tuple(sorted({first_of_source[name].split("/")[0] for name in names}))].append(group)
    for stratum, groups in sorted(strata.items()):
        rng = np.random.default_rng([seed, *"|".join(stratum).encode()])
        order = [sorted(groups)[i] for i in rng.permutation(len(groups))]
        of_source = _SHARES_OF.get(stratum[0], shares)
        bounds = np.round(np.cumsum(of_source)[:-1] * len(order)).astype(int)
        for split, part in zip(SPLITS, np.split(np.array(order, dtype=object), bounds), strict=True):
            place.update(dict.fromkeys(part.tolist(), split))
    return [dataclasses.replace(record, split=place[record.group]) for record in records]


def leave_out(records: Sequence[Record], sources: Sequence[str]) -> list[Record]:
    """Move whole sources to the test split, and with them every record that shares a group with one of theirs.

    Args:
        records: With their splits.
        sources: What training and validation are not to see.

    Returns:
        New records in the same order.

    Raises:
        DataError: A source has no record.
    """
    known = {record.source for record in records}
    absent = [source for source in sources if source not in known]
    if absent:
        raise DataError(f"{', '.join(absent)} cannot be left out: the sources are {', '.join(sorted(known))}.")
    groups = {record.group for record in records if record.source in sources}
    return [dataclasses.replace(r, split="test") if r.group in groups else r for r in records]


def merge_near_groups(
    records: Sequence[Record], root: Path, max_bits: int = 50, min_correlation: float = 0.93
) -> tuple[list[Record], int]:
    """Join groups that hold near-duplicates of each other, so that no split can separate them.

    Args:
        records: With groups as imported; windows count as their frame.
        root: The data root.
        max_bits: As in `hashing.near_pairs`; looser than in `audit`, since joining too much costs little.
        min_correlation: As in `hashing.near_pairs`.

    Returns:
        Records whose joined groups carry the name of the first of them, and how many groups vanished.
    """
    frames: dict[str, Record] = {}
    for record in records:
        frames.setdefault(record.path, dataclasses.replace(record, x=None, y=None, width=None, height=None))
    listed = list(frames.values())
    parent = {record.group: record.group for record in listed}

    def find(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for i, j in near_pairs(fingerprints(listed, root), max_bits, min_correlation):
        first, second = sorted((find(listed[i].group), find(listed[j].group)))
        parent[second] = first
    merged = [dataclasses.replace(record, group=find(record.group)) for record in records]
    return merged, len(parent) - len({find(group) for group in parent})
