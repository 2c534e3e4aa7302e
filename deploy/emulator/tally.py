# ruff: noqa: INP001
"""From marks and counts to instructions per stage and per function."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Sequence

NULL, OFF = "null", "off"


class TallyError(FoldsightError):
    """The marks and the counts do not fit together."""


@dataclass
class Step:
    """A stage, or a function within it, in all counted frames together.

    Attributes:
        calls: how often it ran.
        whole: instructions, with what it called.
        own: instructions without.
    """

    calls: int = 0
    whole: int = 0
    own: int = 0


@dataclass
class Tally:
    """What was counted, instructions.

    Attributes:
        frames: per frame, by stage.
        steps: by the path of names that leads to a function, the stage first; a stage by itself, too.
        mark: what one mark costs; it is taken off every interval.
    """

    frames: list[dict[str, int]]
    steps: dict[tuple[str, ...], Step] = field(default_factory=dict)
    mark: int = 0

    def mean(self) -> dict[str, float]:
        """Instructions a frame by stage."""
        total: Counter[str] = Counter()
        for frame in self.frames:
            total.update(frame)
        return {stage: count / len(self.frames) for stage, count in total.items()}


def read_counts(text: str) -> list[int]:
    """The plugin's file: a count per mark.

    Raises:
        TallyError: it ends early, or more than one thread ran while it was counted.
    """
    *counts, last = text.splitlines() or [""]
    threads = re.fullmatch(r"threads (\d+)", last)
    if threads is None:
        raise TallyError("the emulated program ended early: its counts are not complete")
    if threads[1] != "1":
        raise TallyError(f"{threads[1]} threads ran; only one can be counted")
    return [int(count) for count in counts]


def tally(names: Sequence[str], counts: Sequence[int], begin: int) -> Tally:
    """Add up what lies between marks.

    Args:
        names: of the marks (inside.Marks).
        counts: instructions that had run at each.
        begin: the mark with which the first frame to be counted begins.

    Raises:
        TallyError: there are more or fewer counts than marks, or a function ends that did not begin.
    """
    if len(names) != len(counts):
        raise TallyError(f"{len(names)} marks were set and {len(counts)} counted")
    spans = list(zip(names, (after - before for before, after in pairwise(counts)), strict=False))
    nulls = [count for (name, count), after in zip(spans, names[1:], strict=True) if name == after == NULL]
    if not nulls:
        raise TallyError("no mark was followed by another at once: what a mark costs is not known")
    result = Tally([], mark=round(median(nulls)))
    path: list[str] = []
    idle = True
    for name, count in spans[begin:]:
        if name == OFF:
            path, idle = [], True
            continue
        if name[0] == "-":
            if path[-1:] != [name[1:]]:
                within = path[-1] if path else "no stage"
                raise TallyError(f"{name[1:]} ends within {within}: a function raised an error")
            path.pop()
        elif name[0] == "+":
            path.append(name[1:])
            result.steps.setdefault(tuple(path), Step()).calls += 1
        else:
            if idle:
                result.frames.append({})
            path, idle = [name], False
            result.frames[-1].setdefault(name, 0)
            result.steps.setdefault((name,), Step()).calls += 1
        net = count - result.mark
        result.frames[-1][path[0]] += net
        result.steps[tuple(path)].own += net
        for depth in range(1, len(path) + 1):
            result.steps[tuple(path[:depth])].whole += net
    return result
