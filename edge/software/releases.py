"""Releases side by side in `/opt/foldsight`, and which of them is in use.

```
/opt/foldsight/releases/VERSION/   an environment, its units and its installer; the file `.complete` was written last
               current             -> releases/VERSION: what runs. All units and commands go through this link
               previous            -> releases/VERSION: what ran before, and judges the new one
               trial.json          there while `current` must prove itself, and while a change is not over
               last-trial.json     how the last trial ended
```

Changing from one release to another is one rename of the link `current`, made once all that it leads to is on the disk:
whatever is cut off when, a whole release is in use. What follows from the change, and a trial that was begun, are found
again at the next start of the machine by `trial.json`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.errors import FoldsightError
from edge.pairing import files
from edge.software.archive import VERSION
from edge.store import precedence

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETE = ".complete"
_TRIAL, _LAST = "trial.json", "last-trial.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Trial(_Part):
    """What the release in use must prove.

    Attributes:
        version: of the release on trial; the file counts for no other.
        starts: how often the trial was begun: by the update, and by each start of the machine since.
        units: which services must go on running; true where one must get READY, as it was before.
        older: the way back before it was used, and again if it is given up.
    """

    schema_version: Literal[1] = 1
    version: str
    starts: int = 0
    units: dict[str, bool] = {}
    older: str | None = None


class Outcome(_Part):
    """How a trial ended.

    Attributes:
        version: what was on trial.
        passed: whether it stays.
        reason: why not.
        at: wall clock, seconds since 1970.
    """

    version: str
    passed: bool
    reason: str = ""
    at: float


class Releases:
    """What is installed below a root folder.

    Args:
        root: `/` but in images and tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.folder = root / "opt/foldsight"

    def path(self, version: str) -> Path:
        """Where a release lies, or would."""
        return self.folder / "releases" / version

    def complete(self, version: str) -> bool:
        """Whether it was installed to its end."""
        return (self.path(version) / COMPLETE).is_file()

    def versions(self) -> list[str]:
        """Those that are whole, oldest first."""
        folder = self.folder / "releases"
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return sorted((n for n in names if VERSION.fullmatch(n) and self.complete(n)), key=precedence)

    @property
    def current(self) -> str | None:
        """The version in use."""
        return self._pointed("current")

    @property
    def previous(self) -> str | None:
        """The version to go back to."""
        version = self._pointed("previous")
        return None if version is None or version == self.current or not self.complete(version) else version

    @property
    def trial(self) -> Trial | None:
        """What `current` must prove; None where it has proved it, or there is nothing to go back to."""
        content = files.read(self.folder / _TRIAL)
        if content is None:
            return None
        try:
            trial = Trial.model_validate_json(content)
        except ValidationError:
            return None  # torn by a bad disk: no trial is better than one that goes back for no reason
        return trial if trial.version == self.current and self.previous is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """How the last trial ended."""
        content = files.read(self.folder / _LAST)
        try:
            return None if content is None else Outcome.model_validate_json(content)
        except ValidationError:
            return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else installs or changes meanwhile.

        Raises:
            FoldsightError: nothing is installed, or this user may not.
        """
        if not self.folder.is_dir():
            raise FoldsightError(f"{self.folder} is not there: install Foldsight first (install.sh of a release)")
        with files.locked(self.folder / ".lock"):
            yield

    def use(self, version: str, units: dict[str, bool]) -> None:
        """Have a whole release used from now on, on trial where there is one to go back to.

        Args:
            version: the release.
            units: the services that must go on running.

        Raises:
            FoldsightError: it is not whole, or the folder cannot be written.
        """
        self._refuse_torn(version)
        before = self.current
        if before == version:
            return
        if self.trial is not None:
            raise FoldsightError(
                f"{before} is on trial: wait for its end, or go back with `foldsight software rollback`"
            )
        if before is not None and self.complete(before):
            older = self.previous
            self._point("previous", before)
            self.note(Trial(version=version, units=units, older=older))
        self._point("current", version)

    @property
    def settled(self) -> bool:
        """Whether nothing is on trial, and no change was cut off before the system knew of it."""
        return not (self.folder / _TRIAL).exists()

    def settle(self) -> None:
        """The system knows the release in use, and nothing is on trial."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / _TRIAL).unlink()
        sync(self.folder)

    def note(self, trial: Trial) -> None:
        """Write how the trial stands."""
        files.write(self.folder / _TRIAL, trial.model_dump_json(indent=1).encode(), files.PUBLIC)

    def passed(self) -> None:
        """End the trial: `current` stays. What is neither in use nor the way back is removed."""
        if (trial := self.trial) is not None:
            self._end(trial.version, passed=True)
            self.settle()
        self.tidy()

    def roll_back(self, reason: str) -> str:
        """Go back to the release before; `settle` once the system knows.

        Returns:
            Its version.

        Raises:
            FoldsightError: there is none, or the folder cannot be written.
        """
        current, previous = self.current, self.previous
        if current is None or previous is None:
            raise FoldsightError("there is no release to go back to: install another with `foldsight software update`")
        older = None if self.trial is None else self.trial.older
        if self.settled:
            self.note(Trial(version=current))
        self._point("current", previous)
        if older is not None and self.complete(older):
            self._point("previous", older)
        self._end(current, passed=False, reason=reason)
        return previous

    def tidy(self) -> None:
        """Remove releases that are neither in use nor the way back, and what was left half done."""
        keep = {self.current, self.previous}
        with contextlib.suppress(FileNotFoundError):
            for path in (self.folder / "releases").iterdir():
                if path.name not in keep:
                    discard(path)
        discard(self.incoming)

    @property
    def incoming(self) -> Path:
        """Where an archive is unpacked."""
        return self.folder / "incoming"

    def _end(self, version: str, *, passed: bool, reason: str = "") -> None:
        outcome = Outcome(version=version, passed=passed, reason=reason, at=time.time())
        files.write(self.folder / _LAST, outcome.model_dump_json(indent=1).encode(), files.PUBLIC)

    def _refuse_torn(self, version: str) -> None:
        if not self.complete(version):
            raise FoldsightError(f"{self.path(version)} is not a whole release: install {version} again")

    def _pointed(self, name: str) -> str | None:
        try:
            return (self.folder / name).readlink().name
        except OSError:
            return None

    def _point(self, name: str, version: str) -> None:
        """Have a link lead to a release, in one step that is on the disk when this returns."""
        link, fresh = self.folder / name, self.folder / f".{name}.new"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(Path("releases") / version)
            fresh.replace(link)
            sync(self.folder)
        except OSError as error:
            raise FoldsightError(f"{link} cannot be changed ({error.strerror}): run it as root") from error


def discard(path: Path) -> None:
    """Remove a release so that no half of it is ever taken for a whole one."""
    with contextlib.suppress(FileNotFoundError):
        (path / COMPLETE).unlink()
    shutil.rmtree(path, ignore_errors=True)


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
