"""Which images teach, choose and test: folds by group, leave-one-out protocols, and the split that leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.types import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.data.manifest import Record

_SEQUENCES = "vocalfolds"
_HELD = 0.15  # of a source's groups, that choose the epoch
_RANDOM = (0.7, 0.1)  # of the frames, that teach and that choose


@dataclass(frozen=True)
class Fold:
    """One division of the images, as places in the list of records.

    Attributes:
        name: within its protocol.
        train: Learnt from.
        val: Choose the epoch, and the best student.
        test: Measured once.
    """

    name: str
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def folds_of(protocol: str, records: Sequence[Record], count: int, seed: int) -> list[Fold]:
    """The folds of a protocol.

    `recordings` deals the groups of every source out to `count` folds, the largest first, each to the smallest fold so
    far. `leave_one_sequence_out` tests on each sequence of `vocalfolds` in turn, `leave_one_patient_out` on each of its
    patients, and `random_frames` on a fifth of its frames drawn at random: their neighbours, a second away, are learnt
    from, so it leaks. Except there, the groups that choose the epoch are the smallest of what is left, at least one of
    each source and about every seventh.

    Args:
        protocol: One of the four.
        records: All images.
        count: Of folds by recording.
        seed: Of the order among groups of the same size, and of the random split.

    Raises:
        DataError: There are too few groups.
    """
    if protocol == "recordings":
        return _by_group(records, count, seed)
    chosen = [i for i, record in enumerate(records) if record.source == _SEQUENCES]
    if not chosen:
        raise DataError(f"{protocol} is of the images of {_SEQUENCES}, and there are none: leave the protocol out")
    if protocol == "random_frames":
        order = [chosen[i] for i in np.random.default_rng([seed, 5]).permutation(len(chosen))]
        if len(order) < 3:  # noqa: PLR2004
            raise DataError(f"{protocol}: {_SEQUENCES} has {len(order)} images, too few to divide; give more")
        a = min(round(_RANDOM[0] * len(order)), len(order) - 2)
        b = max(a + 1, round(sum(_RANDOM) * len(order)))
        return [Fold("frames", tuple(sorted(order[:a])), tuple(sorted(order[a:b])), tuple(sorted(order[b:])))]
    patients = protocol == "leave_one_patient_out"
    keys = {i: records[i].group.rpartition("/")[0] if patients else records[i].group for i in chosen}
    found = []
    for key in sorted(set(keys.values())):
        rest = [i for i in chosen if keys[i] != key]
        found.append(_fold(key.partition("/")[2], rest, [i for i in chosen if keys[i] == key], records, seed))
    return found


def _by_group(records: Sequence[Record], count: int, seed: int) -> list[Fold]:
    tests: list[list[int]] = [[] for _ in range(count)]
    for source in sorted({record.source for record in records}):
        own: list[list[int]] = [[] for _ in range(count)]
        groups = _groups((i for i, record in enumerate(records) if record.source == source), records, seed)
        if len(groups) < count:
            raise DataError(f"{source} has {len(groups)} groups, too few for {count} folds; lower folds")
        for group in reversed(groups):
            min(own, key=len).extend(group)
        for test, part in zip(tests, own, strict=True):
            test.extend(part)
    everything = range(len(records))
    return [
        _fold(f"fold {k + 1}", [i for i in everything if i not in set(test)], test, records, seed)
        for k, test in enumerate(tests)
    ]


def _fold(name: str, rest: Sequence[int], test: Sequence[int], records: Sequence[Record], seed: int) -> Fold:
    held: list[int] = []
    for source, number in sorted(Counter(records[i].source for i in rest).items()):
        groups = _groups((i for i in rest if records[i].source == source), records, seed)
        if len(groups) < 2:  # noqa: PLR2004
            raise DataError(
                f"{name}: of {source} only one group ({number} images) is left to learn from and to choose the epoch; "
                "give more groups"
            )
        for group in groups[: max(1, round(_HELD * len(groups)))]:
            held += group
    taught = sorted(set(rest) - set(held))
    return Fold(name, tuple(taught), tuple(sorted(held)), tuple(sorted(test)))


def _groups(indices: Iterable[int], records: Sequence[Record], seed: int) -> list[list[int]]:
    """Images by group, the smallest group first, those of one size in a drawn order."""
    found: dict[str, list[int]] = defaultdict(list)
    for i in indices:
        found[records[i].group].append(i)
    names = sorted(found)
    drawn = [names[i] for i in np.random.default_rng([seed, 4]).permutation(len(names))]
    return [found[name] for name in sorted(drawn, key=lambda name: len(found[name]))]
