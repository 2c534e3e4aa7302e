"""Answers of the person who labels: on disk before the page hears that they are, one line each, none ever rewritten."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING

from trainer.data.manifest import write_manifest
from trainer.data.splits import split_by_group
from trainer.data.types import LABELS, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.clean.frames import Frame
    from trainer.data.manifest import Record

UNSURE = "unsure"
"""Neither label can be given; the frame is left out of the manifest."""
ANSWERS = (*LABELS, UNSURE)
_ENOUGH_GROUPS = 7  # from here on every split gets at least one


class Journal:
    """All answers of a folder, in the order in which they were given.

    A line that a power cut left incomplete is cut off when the journal is opened again; every line before it counts.

    Args:
        path: the file, one JSON object a line; made when the first answer is given.
        frames: all that may be answered about.

    Raises:
        DataError: a line other than the last is not one of a journal.
    """

    def __init__(self, path: Path, frames: Sequence[Frame]) -> None:
        self.path = path
        self.frames = frames
        self.answers: dict[str, str] = {}
        """The answer of each frame that has one, by its name."""
        self._past: list[tuple[str, str | None]] = []  # frame and what was said of it before
        if path.exists():
            self._replay()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def answer(self, name: str, answer: str) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            DataError: there is no such answer.
        """
        if answer not in ANSWERS:
            raise DataError(f"{answer!r} is no answer; use {', '.join(ANSWERS)}.")
        self._write({"frame": name, "answer": answer})
        self._past.append((name, self.answers.get(name)))
        self.answers[name] = answer

    def undo(self) -> str | None:
        """Take the last answer back; returns the frame's name, None where nothing is left to take back."""
        if not self._past:
            return None
        self._write({"undo": True})
        return self._take_back()

    def records(self, *, split: bool) -> list[Record]:
        """Rows of the manifest: answered frames with their answer, others as labelled before, unsure ones left out.

        Args:
            split: draw splits by group, where there are groups enough; else rows keep theirs.
        """
        found = []
        for frame in self.frames:
            label = self.answers.get(frame.name, frame.record.label)
            if label in LABELS:
                found.append(dataclasses.replace(frame.record, label=label))
        if split and len({record.group for record in found}) >= _ENOUGH_GROUPS:
            return split_by_group(found, 0, {})
        return found

    def export(self, path: Path, *, split: bool) -> int:
        """Write the manifest, whole or not at all; returns its number of rows."""
        rows = self.records(split=split)
        write_manifest(path, rows)
        return len(rows)

    def _write(self, line: dict[str, object]) -> None:
        line["at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _take_back(self) -> str:
        name, before = self._past.pop()
        if before is None:
            self.answers.pop(name, None)
        else:
            self.answers[name] = before
        return name

    def _replay(self) -> None:
        content = self.path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len(content) - len(torn))
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                line = json.loads(text)
                if line.get("undo"):
                    self._take_back()
                    continue
                name, answer = str(line["frame"]), str(line["answer"])
            except (ValueError, KeyError, AttributeError, IndexError) as error:
                raise DataError(
                    f"{self.path}: line {number} is not one of a journal; correct it, or move the file away."
                ) from error
            self._past.append((name, self.answers.get(name)))
            self.answers[name] = answer
