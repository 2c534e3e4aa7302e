"""Progress for people: a live bar with the time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_LINE_EVERY_S = 20.0

console = Console(stderr=True, highlight=False)
"""Progress and remarks go to standard error; results, and JSON above all, to standard output."""


def say(text: str) -> None:
    """One line for the person who watches; with a time stamp where it lands in a log."""
    if console.is_terminal:
        console.print(text)
    else:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Meter:
    """Shows how far a piece of work has come.

    Args:
        title: what is done.
        total: its size in units.
        done: units that were done before, by an interrupted run: they do not count for the speed.
        unit: what is counted.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "images") -> None:
        self._title, self._total, self._unit = title, max(1, total), unit
        self._done = self._before = done
        self._begun = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done > self._before:
            self._line("")

    @property
    def rate(self) -> float:
        """Units per second since this run began."""
        return (self._done - self._before) / max(1e-9, time.monotonic() - self._begun)

    def advance(self, count: int, note: str = "") -> None:
        """Count units as done; `note` is shown beside them."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, advance=count, note=f"{self.rate:.0f}/s {note}")
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._line(note)

    def _line(self, note: str) -> None:
        self._last_line = time.monotonic()
        left = (self._total - self._done) / self.rate if self.rate > 0 else float("inf")
        share = 100 * self._done / self._total
        told = f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left"  # noqa: PLR2004  reads well
        speed = f"{self._done}/{self._total} {self._unit} ({share:.0f} %), {self.rate:.0f}/s"
        say(f"{self._title}: {speed}, {told} {note}".rstrip())
