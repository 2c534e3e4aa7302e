"""Changing the software with the power cut at every call that writes; run by test_software_power_cut.py.

`LD_PRELOAD=power_cut.so python software_cut.py FOLDER` prints one JSON object. Each cut kills a forked child that runs
the real code on a root folder with small releases; another child then does what the machine's start does, and updates.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
from power_cut import MODES, child  # from there

from edge.errors import FoldsightError
from edge.software import archive
from edge.software.cli import change
from edge.software.releases import COMPLETE, Releases, discard
from edge.software.system import Systemd
from edge.software.trial import begin, go_back

NONE = Systemd(None)
UNIT = "usr/local/lib/systemd/system/foldsight-edge.service"
Command = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What was before, what is done, and which versions may be in use after a cut; the last one without any cut."""

    before: Command
    command: Command
    allowed: tuple[str, ...]
    modes: tuple[str, ...] = ("contents and names lost",)


def stage(root: Path, version: str) -> None:
    """A small release, as its installer leaves it."""
    folder = Releases(root).path(version)
    units = folder / "system/common/systemd/system"
    units.mkdir(parents=True)
    (units / "foldsight-edge.service").write_text(f"[Service]\nExecStart=/bin/true {version}\n")
    (units / f"only-{version}.service").write_text("[Service]\n")
    guard = folder / "system/guard/systemd/system"
    guard.mkdir(parents=True)
    (guard / "foldsight-trial.service").write_text(f"[Service]\nExecStart=/bin/false {version}\n")
    (folder / "bin").mkdir()
    (folder / COMPLETE).touch()


def used(*versions: str, passed: bool = True) -> Command:
    """These were used one after the other, and the next is there to be used."""

    def before(root: Path) -> None:
        releases = Releases(root)
        for version in versions:
            stage(root, version)
            change(releases, NONE, version)
            if passed or version != versions[-1]:
                releases.passed()
        stage(root, "9.0.0")

    return before


def unpack(root: Path) -> None:
    """An archive is unpacked beside the releases."""
    releases = Releases(root)
    discard(releases.incoming)
    releases.incoming.mkdir(parents=True)
    archive.unpack(root.parent / "foldsight-9.0.0.tar.gz", releases.incoming)


_ALL = ("kill", "half a write", "contents and names lost")

CASES = {
    "first installation": Case(used(), lambda r: change(Releases(r), NONE, "9.0.0"), ("", "9.0.0")),
    "second": Case(used("1.0.0"), lambda r: change(Releases(r), NONE, "9.0.0"), ("1.0.0", "9.0.0"), _ALL),
    "third": Case(used("1.0.0", "2.0.0"), lambda r: change(Releases(r), NONE, "9.0.0"), ("2.0.0", "9.0.0")),
    "unpacking": Case(used("1.0.0"), unpack, ("1.0.0",), ("kill",)),
    "a start on trial": Case(used("1.0.0", "2.0.0", passed=False), lambda r: begin(Releases(r), NONE), ("2.0.0",)),
    "a trial that is passed": Case(used("1.0.0", "2.0.0", passed=False), lambda r: Releases(r).passed(), ("2.0.0",)),
    "a trial that is not": Case(
        used("1.0.0", "2.0.0", passed=False), lambda r: go_back(Releases(r), NONE, "why"), ("2.0.0", "1.0.0")
    ),
    "a trial that is not, after an update": Case(
        used("1.0.0", "2.0.0", "3.0.0", passed=False),
        lambda r: go_back(Releases(r), NONE, "why"),
        ("3.0.0", "2.0.0"),
    ),
    "back by hand": Case(used("1.0.0", "2.0.0"), lambda r: go_back(Releases(r), NONE, "why"), ("2.0.0", "1.0.0")),
}


def look(root: Path) -> list[str]:
    """The machine's start: what is in use then, whether the system knows the same, and whether an update succeeds."""
    releases = Releases(root)
    begin(releases, NONE)
    current = releases.current or ""
    if len(releases.versions()) == 1:
        change(releases, NONE, "9.0.0")  # a first installation that was cut off: the installer is run again
    faults = agree(releases)
    if not releases.settled:
        if releases.trial is None:
            faults.append("unsettled without a trial")
        releases.passed()
    stage(root, "9.1.0")
    change(releases, NONE, "9.1.0")
    releases.passed()
    if releases.current != "9.1.0":
        faults.append("the next update does not succeed")
    return [current, *faults, *agree(releases)]


def agree(releases: Releases) -> list[str]:
    """What of the system is not of the release in use."""
    current = releases.current or ""
    if not releases.complete(current):
        return [f"{current} is not whole"]
    unit = (releases.root / UNIT).read_text()
    others = {p.name for p in (releases.root / UNIT).parent.glob("only-*")} - {f"only-{current}.service"}
    gone = {name for name in others if releases.complete(name.removeprefix("only-").removesuffix(".service"))}
    return ([] if unit.split()[-1] == current else [f"units are of {unit}"]) + sorted(gone)


def sweep(name: str, case: Case, folder: Path, shim: ctypes.CDLL) -> tuple[int, list[str]]:
    """Cut one case everywhere: how many cuts were made, and what went wrong."""
    template, root, backups = folder / "template", folder / "root", folder / "backups"
    shutil.rmtree(template, ignore_errors=True)
    (template / "opt/foldsight").mkdir(parents=True)
    status, said = child(lambda: void(case.before(template)))
    if status:
        return 0, [f"{name}: {said}"]
    cuts, faults = 0, []
    for mode in case.modes:
        number = 0
        while True:
            for old in (root, backups):
                shutil.rmtree(old, ignore_errors=True)
            backups.mkdir()
            shutil.copytree(template, root, symlinks=True)

            def cut(at: int = number, how: int = MODES[mode]) -> None:
                shim.cut_begin(str(root).encode(), str(backups).encode(), ctypes.c_long(at), how)
                case.command(root)
                # Done: now the power fails, and what was said to be done must be.
                (backups / "done").touch()
                shim.cut_now()

            status, said = child(cut)
            done = (backups / "done").exists()
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                return cuts, [*faults, f"{name}, {mode}, cut {number}: not cut: {said}"]
            cuts += 1
            try:
                said = look(root)
            except (FoldsightError, OSError) as error:
                said = ["", str(error)]
            if said[0] not in (case.allowed[-1:] if done else case.allowed) or said[1:]:
                faults.append(f"{name}, {mode}, cut {number}{' (done)' if done else ''}: {said}")
            if done:
                break
            number += 1
    return cuts, faults


def void(_: object) -> None:
    """A command gives nothing back."""


def main() -> int:
    """Run every case."""
    logging.disable()
    folder = Path(sys.argv[1]).resolve()
    small = folder / "file"
    small.write_text("content\n")
    archive.write(folder / "foldsight-9.0.0.tar.gz", "9.0.0", {f"part/{n}": small for n in range(5)})
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    cuts, faults = {}, []
    for name, case in CASES.items():
        cuts[name], wrong = sweep(name, case, folder, shim)
        faults += wrong
    print(json.dumps({"cuts": cuts, "faults": faults}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
