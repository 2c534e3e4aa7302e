"""The test split is read once. What is read, when and for what stands in a ledger in the run's folder.

Nothing stops a second reading: sometimes there is reason for one. But it is written down, said aloud, and counted in
the report, so that nobody takes the twentieth look for the first.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edge.errors import FoldsightError
from trainer.console import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LEDGER = "test-split-readings.jsonl"


@dataclass(frozen=True)
class Reading:
    """One reading of the test split.

    Attributes:
        at: UTC, as ISO 8601.
        command: the program's command, without its arguments: they name folders.
        models: SHA-256 of what was measured.
        images: how many it was measured on.
    """

    at: str
    command: str
    models: str
    images: int


def note_reading(folder: Path, command: str, models: str, images: int) -> Sequence[Reading]:
    """Write down that the test split is about to be read, and say how often it has been.

    Args:
        folder: of the run.
        command: as in `Reading`.
        models: as there.
        images: as there.

    Returns:
        All readings so far, this one last.

    Raises:
        FoldsightError: the ledger cannot be read or written.
    """
    reading = Reading(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), command, models, images)
    path = folder / LEDGER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # two runs may read at once
            stream.write(json.dumps(asdict(reading)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise FoldsightError(
            f"{path}: the reading of the test split cannot be written down ({error.strerror}); make the folder writable"
        ) from error
    readings = readings_of(folder)
    count = len(readings)
    say(
        f"the test split is read at {reading.at}, {images} images"
        + (": the first time" if count == 1 else f": for the {count}. time; what it says is no longer quite unseen")
    )
    return readings


def readings_of(folder: Path) -> Sequence[Reading]:
    """All readings that a run's ledger holds; none where there is no ledger.

    Raises:
        FoldsightError: it holds something else.
    """
    path = folder / LEDGER
    if not path.exists():
        return []
    try:
        return [Reading(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise FoldsightError(f"{path}: is no ledger any more ({error}); put back a copy of it") from error
