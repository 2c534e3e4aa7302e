"""Model bundles over their life on a device: installed, on trial, kept, and rolled back.

`<state_dir>/bundles/` holds the bundles, each named by the SHA-256 of its file, and `installed.json`, which says which
is in use, which was before it, and whether the one in use is still on trial. Every change is one rename of that small
file, made once all that it names is on the disk: whatever is cut off when, a good bundle is found. Behind everything
stands the bundle that ships with the software, which is never written.

Nothing is written while a bundle that is past its trial runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge import config as settings
from edge.bundle import Bundle
from edge.errors import BundleError, FoldsightError
from edge.keys import trusted
from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from edge.bundle import Manifest
    from edge.config import Config

log = logging.getLogger(__name__)

POINTER = "installed.json"
BY_HAND = "by hand"
_LOCK = ".lock"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Entry(_Part):
    """A bundle in the store.

    Attributes:
        file: SHA-256 of the zip, by which it is named.
        sha256: of its manifest: the model's identity, signed or not.
        signed: whether a trusted key had signed it when it was installed.
        installed_at: wall clock, seconds since 1970.
    """

    file: str
    name: str
    version: str
    sha256: str
    signed: bool
    installed_at: float

    def __str__(self) -> str:
        """For a person."""
        return f"{self.name} {self.version} ({self.sha256[:12]})"


class GivenUp(_Part):
    """A bundle that was in use and was taken back."""

    entry: Entry
    reason: str
    at: float


class Installed(_Part):
    """What `installed.json` says.

    Attributes:
        current: the bundle in use; None: the one that ships.
        previous: the one that passed its trial before; None: the one that ships.
        starts: None once `current` has passed its trial; before, how many starts with it have not ended well.
        given_up: the last bundle that was taken back, until another has passed its trial.
    """

    schema_version: Literal[1] = 1
    current: Entry | None = None
    previous: Entry | None = None
    starts: int | None = None
    given_up: GivenUp | None = None

    def roll_back(self, reason: str) -> Installed:
        """The state after taking `current` back."""
        if self.current is None:
            raise BundleError("no bundle is installed: the one that ships with Foldsight is in use")
        given_up = GivenUp(entry=self.current, reason=reason, at=time.time())
        return Installed(current=self.previous, given_up=given_up)


class Store:
    """The bundles below a state directory.

    Args:
        state_dir: the device's; made with the first installation.
    """

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "bundles"

    def path(self, entry: Entry) -> Path:
        """Where a bundle lies."""
        return self.folder / f"{entry.file}.zip"

    def read(self) -> Installed:
        """What is installed.

        Raises:
            FoldsightError: this user may not read it.
            BundleError: it is damaged.
        """
        pointer = self.folder / POINTER
        content = files.read(pointer)
        if content is None:
            return Installed()
        try:
            return Installed.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(f"{pointer} is damaged: the bundle that ships is used until one is installed") from error

    def open(self, entry: Entry, keys: Sequence[Ed25519PublicKey], *, golden: bool = True) -> Bundle:
        """Open an installed bundle.

        Raises:
            BundleError: it is missing, damaged, another one, or not trusted.
        """
        bundle = Bundle.open(self.path(entry), golden=golden, trusted_keys=keys)
        if bundle.sha256 != entry.sha256:
            raise BundleError(f"{self.path(entry)} is another bundle than the one installed; install it again")
        return bundle

    def install(
        self,
        path: Path,
        *,
        keys: Sequence[Ed25519PublicKey] = (),
        precision: str = "auto",
        allow_downgrade: bool = False,
        trial: bool = True,
    ) -> Entry:
        """Check a bundle on this machine, keep a copy, and have the next start use it. The one before stays.

        Args:
            path: the bundle.
            keys: where there are any, one of them must have signed it.
            precision: the artefact that the settings ask for; the bundle must have it.
            allow_downgrade: whether it may be older than the one in use.
            trial: whether it must prove itself first.

        Raises:
            BundleError: it cannot be used here, or is older than the one in use.
            FoldsightError: the store cannot be written.
        """
        checked = Bundle.open(path, trusted_keys=keys)
        checked.artefact(precision)
        content = path.read_bytes()
        manifest = checked.manifest
        entry = Entry(
            file=hashlib.sha256(content).hexdigest(),
            name=manifest.name,
            version=manifest.version,
            sha256=checked.sha256,
            signed=checked.signed,
            installed_at=time.time(),
        )
        with self._locked():
            state = self._read_or_empty()
            if state.current is not None and state.current.file == entry.file:
                self._put(state.current, content, keys)  # the same again: whole, even where its copy was damaged
                return state.current
            if not allow_downgrade:
                _refuse_downgrade(manifest, state)
            self._put(entry, content, keys)
            # One that has not passed its trial is nothing to go back to.
            proven = state.previous if state.starts is not None else state.current
            if proven is not None and proven.file == entry.file:
                proven = None
            self._write(Installed(current=entry, previous=proven, starts=0 if trial else None, given_up=state.given_up))
        return entry

    def roll_back(self, reason: str) -> Installed:
        """Go back to the bundle before, or to the one that ships.

        Raises:
            BundleError: none is installed.
            FoldsightError: the store cannot be written.
        """
        with self._locked():
            state = self.read().roll_back(reason)
            self._write(state)
        return state

    def replace(self, before: Installed, after: Installed) -> Installed:
        """Write a state, unless another process wrote one since `before` was read: then that is returned.

        Raises:
            FoldsightError: the store cannot be written.
        """
        with self._locked():
            now = self._read_or_empty()
            if now != before:
                return now
            self._write(after)
        return after

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._prepare()
        with files.locked(self.folder / _LOCK):
            yield

    def _prepare(self) -> None:
        parent = self.folder.parent
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            owner, own = parent.stat(), self.folder.stat()
            if os.geteuid() == 0 and (own.st_uid, own.st_gid) != (owner.st_uid, owner.st_gid):
                os.chown(self.folder, owner.st_uid, owner.st_gid)  # installed by root, written by the daemon
            handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise FoldsightError(
                f"{self.folder} cannot be made ({error.strerror}): run it as root, or set state_dir"
            ) from error

    def _read_or_empty(self) -> Installed:
        try:
            return self.read()
        except BundleError as error:
            log.warning("%s", error)
            return Installed()

    def _put(self, entry: Entry, content: bytes, keys: Sequence[Ed25519PublicKey]) -> None:
        path = self.path(entry)
        if files.read(path) != content:
            files.write(path, content, files.PUBLIC)
        # What was checked is what was copied, though somebody may have written to the file in between.
        self.open(entry, keys, golden=False)

    def _write(self, state: Installed) -> None:
        files.write(self.folder / POINTER, state.model_dump_json(indent=2).encode() + b"\n", files.PUBLIC)
        keep = {POINTER, _LOCK, *(self.path(e).name for e in (state.current, state.previous) if e is not None)}
        for path in self.folder.iterdir():
            if path.name not in keep:  # former bundles, and what a power cut left half written
                with contextlib.suppress(OSError):
                    path.unlink()


class Trial:
    """The first time of a newly installed bundle: it has passed after some seconds of undisturbed work.

    Args:
        store: where it is installed.
        state: as written at this start, which it counts.
        needs_s: how long it must work.
    """

    def __init__(self, store: Store, state: Installed, needs_s: float) -> None:
        self._store, self._state, self._needs_s = store, state, needs_s
        self._since_s: float | None = None
        self._classified = 0
        self.over = False

    def update(self, now_s: float, classified: int, *, sound: bool) -> bool:
        """Tell it how the daemon does; True in the moment in which it has passed.

        Args:
            now_s: monotonic clock.
            classified: frames so far.
            sound: whether camera and budget are as they should be; else the time begins anew.
        """
        if self.over:
            return False
        if not sound:
            self._since_s, self._classified = None, classified
        elif self._since_s is None and classified > self._classified:
            self._since_s = now_s
        if self._since_s is None or now_s - self._since_s < self._needs_s:
            return False
        self.over = True
        return self._tell(self._state.model_copy(update={"starts": None, "given_up": None}))

    def ended_well(self) -> None:
        """The daemon was stopped, or its camera was at fault: this start says nothing against the bundle."""
        if not self.over:
            self.over = True
            self._tell(self._state.model_copy(update={"starts": (self._state.starts or 1) - 1}))

    def _tell(self, after: Installed) -> bool:
        try:
            return self._store.replace(self._state, after) == after
        except FoldsightError as error:
            log.warning("the bundle's trial cannot be noted: %s", error)
            return False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The bundle that the daemon runs with.

    Attributes:
        bundle: opened, its golden outputs checked.
        trial: where it has to prove itself.
        given_up: those that were taken back on the way.
        fault: why the store could not be used, if so.
    """

    bundle: Bundle
    trial: Trial | None = None
    given_up: tuple[GivenUp, ...] = ()
    fault: str = ""


def begin(config: Config) -> Chosen:
    """Open the bundle for a start of the daemon: counts starts on trial, and goes back by itself where it must.

    A path in the settings goes before the installed bundle, and that before the one that ships.

    Raises:
        ConfigError: the trusted keys cannot be read.
        BundleError: neither the settings' bundle nor the one that ships can be used.
    """
    keys = trusted(config.model.trusted_keys)
    if config.model.bundle is not None:
        return Chosen(_named(config, config.model.bundle, keys))
    store = Store(config.effective_state_dir)
    told: list[GivenUp] = []
    try:
        state = store.read()
    except FoldsightError as error:
        log.warning("%s", error)
        return Chosen(shipped(config), fault=str(error))
    while (entry := state.current) is not None:
        starts = state.starts
        if starts is not None:
            if starts >= config.model.trial_starts:
                times = "once" if starts == 1 else f"{starts} times"
                state = _give_up(store, state, f"the daemon ended {times} during its trial", told)
                continue
            counted = state.model_copy(update={"starts": starts + 1})
            try:
                now = store.replace(state, counted)
            except FoldsightError as error:
                # A trial that is not counted could fail for ever.
                told.append(_given_up(state, f"its trial cannot be counted: {error}"))
                state = Installed(current=state.previous)
                continue
            if now != counted:
                state = now
                continue
            state = counted
        try:
            bundle = store.open(entry, keys)
            bundle.artefact(config.model.precision)
        except Exception as error:  # noqa: BLE001  whatever is wrong with it, there is another one
            state = _give_up(store, state, str(error), told)
            continue
        trial = None if state.starts is None else Trial(store, state, config.model.trial_s)
        return Chosen(bundle, trial, tuple(told))
    return Chosen(shipped(config), None, tuple(told))


def changed(config: Config, running: Bundle) -> bool:
    """Whether a start would use another bundle than the one that runs; reads one small file.

    Raises:
        FoldsightError: the store cannot be read.
    """
    if config.model.bundle is not None:
        return False
    entry = Store(config.effective_state_dir).read().current
    return running.path != settings.COMMITTED_BUNDLE if entry is None else running.sha256 != entry.sha256


def in_use(config: Config) -> Bundle:
    """The bundle that a start of the daemon would try first, opened; nothing is counted or changed.

    Raises:
        FoldsightError: the keys, the store or the bundle cannot be used.
    """
    keys = trusted(config.model.trusted_keys)
    if config.model.bundle is not None:
        return _named(config, config.model.bundle, keys)
    store = Store(config.effective_state_dir)
    entry = store.read().current
    return shipped(config) if entry is None else store.open(entry, keys)


def shipped(config: Config) -> Bundle:
    """The bundle that ships: trusted as the software is that it came with, signed or not.

    Raises:
        BundleError: it cannot be used here.
    """
    return _named(config, settings.COMMITTED_BUNDLE, [])


def _named(config: Config, path: Path, keys: Sequence[Ed25519PublicKey]) -> Bundle:
    bundle = Bundle.open(path, trusted_keys=[] if path == settings.COMMITTED_BUNDLE else keys)
    bundle.artefact(config.model.precision)
    return bundle


def _given_up(state: Installed, reason: str) -> GivenUp:
    given_up = state.roll_back(reason).given_up
    assert given_up is not None  # noqa: S101  for the type checker
    to = "the one that ships" if state.previous is None else state.previous
    log.error("the model bundle %s is given up, back to %s: %s", given_up.entry, to, reason)
    return given_up


def _give_up(store: Store, state: Installed, reason: str, told: list[GivenUp]) -> Installed:
    given_up = _given_up(state, reason)
    after = Installed(current=state.previous, given_up=given_up)
    told.append(given_up)
    try:
        return store.replace(state, after)
    except FoldsightError as error:
        log.warning("%s", error)
        return after


def _refuse_downgrade(manifest: Manifest, state: Installed) -> None:
    used: Entry | Manifest = state.current or Bundle.open(settings.COMMITTED_BUNDLE, golden=False).manifest
    if used.name == manifest.name and precedence(manifest.version) < precedence(used.version):
        raise BundleError(
            f"{manifest.name} {manifest.version} is older than {used.version}, which is in use: "
            "say --allow-downgrade if that is meant"
        )


def precedence(version: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
    """A key that sorts versions as semver.org 2.0.0, item 11, does."""
    numbers, _, before = version.partition("-")
    major, minor, patch = (int(number) for number in numbers.split("."))
    parts = tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in before.split("."))
    return (major, minor, patch), not before, parts if before else ()
