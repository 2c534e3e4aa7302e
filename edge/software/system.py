"""What of a release the system must know: its units, users, folders, rules, command and the broker's configuration.

A release holds them in `system/PART/`, laid out as below `/usr/local/lib`, where systemd, udev, sysusers and tmpfiles
look. They are copied there, since `systemctl enable` would follow links into one release and keep to it. The part
`guard`, the unit that judges a new release, is taken from the release before.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edge import config as settings
from edge.errors import FoldsightError
from edge.pairing import files
from edge.software.releases import sync

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge.software.releases import Releases

log = logging.getLogger(__name__)

TARGET, GUARD_UNIT = "foldsight.target", "foldsight-trial.service"
JUDGED = ("foldsight-edge.service", "foldsight-display.service")
PARTS = ("common", "phones", "jetson")
_GUARD = "guard"
_LIB, _COMMAND, _BROKER = "usr/local/lib", "usr/local/bin/foldsight", "etc/mosquitto/conf.d/foldsight.conf"
_TIMEOUT_S = 60
_STATES = (
    "ActiveState",
    "SubState",
    "ActiveEnterTimestampMonotonic",
    "ExecMainStartTimestampMonotonic",
)


class Systemd:
    """systemctl; does nothing where no systemd runs, as in a root folder.

    Args:
        program: None where there is none.
    """

    def __init__(self, program: str | None) -> None:
        self.program = program

    @classmethod
    def of(cls, root: Path) -> Systemd:
        """The running one, where the root folder is the machine's own."""
        there = root == Path("/") and Path("/run/systemd/system").is_dir()
        return cls(shutil.which("systemctl") if there else None)

    def __call__(self, *arguments: str) -> bool:
        """Run a command; whether it went well."""
        if self.program is None:
            return True
        try:
            done = subprocess.run(
                [self.program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("systemctl %s: %s", " ".join(arguments), error)
            return False
        if done.returncode:
            log.warning("systemctl %s: %s", " ".join(arguments), done.stderr.strip())
        return not done.returncode

    def state(self, unit: str) -> dict[str, str]:
        """What systemd says of a unit; empty where it says nothing."""
        if self.program is None:
            return {}
        argv = [self.program, "show", unit, "--property", ",".join(_STATES)]
        try:
            said = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False).stdout
        except (OSError, subprocess.SubprocessError):
            return {}
        return dict(line.partition("=")[::2] for line in said.splitlines())

    def running(self) -> dict[str, bool]:
        """Which services a new release must keep running: true where one is READY now."""
        if self.program is None:
            return {JUDGED[0]: False}
        states = {unit: self.state(unit).get("ActiveState") for unit in JUDGED}
        return {unit: state == "active" for unit, state in states.items() if state in ("active", "activating")}


def tell(releases: Releases, systemd: Systemd, parts: Iterable[str] = ()) -> None:
    """Have the system know the release in use: units, rules, the broker's configuration. Again is harmless.

    Args:
        releases: what is installed.
        systemd: told to read its units again.
        parts: those that are wanted besides `common`; what was wanted before stays.

    Raises:
        FoldsightError: something cannot be written.
    """
    try:
        new_units = _copy(releases, set(parts))
    except OSError as error:
        raise FoldsightError(f"{error.filename} cannot be written ({error.strerror}): run it as root") from error
    if systemd.program is not None and releases.root == Path("/"):
        _run(["udevadm", "control", "--reload"])
    if _configure_broker(releases):
        systemd("try-restart", "mosquitto.service")
    systemd("daemon-reload")
    if new_units and systemd.program is not None:
        systemd("--quiet", "enable", *new_units)
    elif new_units and releases.root != Path("/") and (program := shutil.which("systemctl")) is not None:
        _run([program, "--quiet", f"--root={releases.root}", "enable", *new_units])


def make_users_and_folders(releases: Releases, systemd: Systemd) -> None:
    """What the release in use wants there to be; an image's are made at its first start."""
    if systemd.program is not None and releases.root == Path("/"):
        _run(["systemd-sysusers"])
        _run(["systemd-tmpfiles", "--create", "foldsight.conf"])


def restart(systemd: Systemd) -> None:
    """Start all services anew with the release in use; their start is not waited for."""
    _let_start(systemd, "restart")


def start(systemd: Systemd) -> None:
    """Start the services that do not run, and leave those alone that do; their start is not waited for."""
    _let_start(systemd, "start")


def _let_start(systemd: Systemd, how: str) -> None:
    systemd("reset-failed", "foldsight-*")  # one that had used up its restarts would else not be started
    systemd("--no-block", how, TARGET)


def settings_file(root: Path) -> Path | None:
    """The settings below a root folder, where there are any."""
    path = root / settings.DEFAULT_PATH.relative_to("/")
    return path if path.is_file() else None


def _copy(releases: Releases, wanted: set[str]) -> list[str]:
    """Put the files in place, take away those that only other releases have; the units that were not there before."""
    lib = releases.root / _LIB
    known = {v: _files(releases.path(v)) for v in releases.versions()}
    current = releases.current
    files_now = known.get(current or "", {})
    there = {part for have in known.values() for file, part in have.items() if (lib / file).exists()}
    parts = {"common", _GUARD, *wanted, *there}
    before = known.get(releases.previous or "", {})
    new_units = []
    for file, part in sorted(files_now.items()):
        if part not in parts:
            continue
        release = releases.previous if part == _GUARD and file in before else current
        content = (releases.path(str(release)) / "system" / part / file).read_bytes()
        to = lib / file
        if files.read(to) is None and to.parent.name == "system" and b"[Install]" in content:
            new_units.append(to.name)
        if files.read(to) != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            files.write(to, content, files.PUBLIC)
    for file in {file for have in known.values() for file in have} - set(files_now):
        if (lib / file).exists():
            (lib / file).unlink()
            sync((lib / file).parent)
    _put(releases.root / _COMMAND, releases.folder / "current/bin/foldsight")
    return new_units


def _files(release: Path) -> dict[Path, str]:
    """A release's files for the system, as below /usr/local/lib, and the part that each is of."""
    folder = release / "system"
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {Path(*path.parts[1:]): path.parts[0] for path in found}


def _put(link: Path, to: Path) -> None:
    """A relative link, so that it is right within a root folder and outside of it."""
    target = os.path.relpath(to, link.parent)
    if link.is_symlink() and str(link.readlink()) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    sync(link.parent)


def _configure_broker(releases: Releases) -> bool:
    """Write what the release in use wants the broker to read; whether that is new."""
    path, config = releases.root / _BROKER, settings_file(releases.root)
    if config is None or not path.parent.is_dir() or not settings.load(config).phones.enabled:
        return False
    python = releases.folder / "current/bin/python"
    argv = [str(python), "-m", "edge.cli", "broker", "config", "--config", str(config)]
    try:
        content = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=True, cwd="/").stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise FoldsightError(f"the broker's configuration could not be made: {_words(error)}") from error
    if files.read(path) == content:
        return False
    files.write(path, content, files.PUBLIC)
    return True


def _run(argv: list[str]) -> None:
    """One of the system's own tools; what it says against it is logged, and does not keep a device from its work."""
    try:
        subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s: %s", argv[0], _words(error))


def _words(error: OSError | subprocess.SubprocessError) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return (said.decode(errors="replace") if isinstance(said, bytes) else said).strip()
