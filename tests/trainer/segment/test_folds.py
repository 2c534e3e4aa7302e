"""Folds by group: what is tested on has no neighbour among what is learnt from, except where the split leaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.manifest import Record
from trainer.data.types import DataError
from trainer.segment.folds import folds_of


def images(sequences: Any, recordings: int) -> list[Record]:
    found = []
    for number, size in enumerate(sequences):
        group = f"vocalfolds/patient{number % 2}/seq{number}"
        found += [Record(f"v{number}-{i}", "folds", group, "vocalfolds", "train", "x", "m") for i in range(size)]
    found += [
        Record(f"b{i}", "folds", f"bagls/{i}", "bagls-glottis", "train", "x", "m#glottis") for i in range(recordings)
    ]
    return found


@given(
    st.lists(st.integers(1, 9), min_size=6, max_size=9),
    st.integers(8, 20),
    st.sampled_from(["recordings", "leave_one_sequence_out", "leave_one_patient_out"]),
    st.integers(0, 99),
)
def test_a_group_lies_on_one_side_and_every_image_is_tested_once(
    sequences: Any, count: int, protocol: str, seed: int
) -> None:
    records = images(sequences, count)
    folds = folds_of(protocol, records, 3, seed)
    assert folds == folds_of(protocol, records, 3, seed)
    tested: list[int] = []
    for fold in folds:
        groups = [{records[i].group for i in part} for part in (fold.train, fold.val, fold.test)]
        assert all(groups)
        assert len(set.union(*groups)) == sum(map(len, groups))
        if protocol == "leave_one_patient_out":
            assert not {g.rpartition("/")[0] for g in groups[0] | groups[1]} & {g.rpartition("/")[0] for g in groups[2]}
        tested += fold.test
    expected = [i for i, r in enumerate(records) if protocol == "recordings" or r.source == "vocalfolds"]
    assert sorted(tested) == expected


def test_the_split_by_frame_separates_frames_but_not_sequences() -> None:
    records = images([20, 20], 0)
    (fold,) = folds_of("random_frames", records, 3, 1)
    assert sorted(fold.train + fold.val + fold.test) == list(range(40))
    assert {records[i].group for i in fold.train} & {records[i].group for i in fold.test}


@given(st.integers(3, 40))
def test_the_split_by_frame_leaves_no_part_empty(count: int) -> None:
    (fold,) = folds_of("random_frames", images([count], 0), 3, 1)
    assert min(len(fold.train), len(fold.val), len(fold.test)) >= 1
    assert len(fold.train) + len(fold.val) + len(fold.test) == count


def test_too_few_groups_are_named() -> None:
    with pytest.raises(DataError, match=r"vocalfolds has 2 groups, too few for 3 folds"):
        folds_of("recordings", images([4, 4], 9), 3, 0)
    with pytest.raises(DataError, match=r"of vocalfolds only one group \(4 images\) is left"):
        folds_of("leave_one_sequence_out", images([4, 4], 9), 3, 0)
    with pytest.raises(DataError, match="random_frames: vocalfolds has 2 images, too few"):
        folds_of("random_frames", images([2], 9), 3, 0)
    with pytest.raises(DataError, match="leave_one_patient_out is of the images of vocalfolds"):
        folds_of("leave_one_patient_out", images([], 9), 3, 0)
