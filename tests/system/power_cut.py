"""Installing and rolling back a bundle with the power cut at every call that writes; run by test_power_cut.py.

`LD_PRELOAD=power_cut.so python power_cut.py FOLDER` prints one JSON object. Each cut kills a forked child that runs the
real command; another child then starts like the daemon does, and installs again.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edge.analysis  # or each child would have to
import edge.config
from edge import cli
from edge.config import Config
from edge.errors import FoldsightError
from edge.store import POINTER, Store, begin

MODES = {"kill": 0, "half a write": 1, "contents lost": 2, "contents and names lost": 3}

Command = Callable[["Site"], None]


@dataclass(frozen=True)
class Site:
    """A device's state directory, and the bundles that are there to be installed."""

    folder: Path
    bundles: Path

    @property
    def config(self) -> Config:
        return Config.model_validate({"state_dir": self.folder / "state"})

    @property
    def store(self) -> Store:
        return Store(self.folder / "state")

    def bundle(self, version: str) -> Path:
        return self.bundles / f"{version}.zip"

    def run(self, *argv: object) -> None:
        code = cli.main(["bundle", *map(str, argv), "--set", f"state_dir={self.folder / 'state'}"])
        if code:
            raise FoldsightError(f"{argv}: exit code {code}")

    def install(self, version: str) -> None:
        self.run("install", self.bundle(version), "--allow-downgrade")


@dataclass(frozen=True)
class Case:
    """What was before, what is done, and which versions may be in use after a cut; the last one without any cut."""

    before: Command
    command: Command
    allowed: tuple[str, ...]
    modes: tuple[str, ...] = ("kill",)


def _proven(*versions: str) -> Command:
    def before(site: Site) -> None:
        for version in versions:
            site.store.install(site.bundle(version), trial=False)

    return before


def _on_trial(starts: int) -> Command:
    def before(site: Site) -> None:
        _proven("1.0.0")(site)
        site.install("1.1.0")
        for _ in range(starts):
            begin(site.config)

    return before


def _littered(site: Site) -> None:
    _proven("1.0.0", "1.1.0")(site)
    (site.store.folder / f".{POINTER}.abc").write_bytes(b"{")
    (site.store.folder / ("0" * 64 + ".zip")).write_bytes(b"PK")


def _pointer_lost(site: Site) -> None:
    _proven("1.0.0")(site)
    (site.store.folder / POINTER).write_bytes(b"")


def _trial(site: Site) -> None:
    trial = begin(site.config).trial
    if trial is not None:
        trial.update(0, 1, sound=True)
        trial.update(100, 1000, sound=True)


_WORST = ("kill", "contents and names lost")

CASES = {
    "first installation": Case(lambda _: None, lambda s: s.install("1.1.0"), ("shipped", "1.1.0"), _WORST),
    "second installation": Case(_proven("1.0.0"), lambda s: s.install("1.1.0"), ("1.0.0", "1.1.0"), tuple(MODES)),
    "third, over litter": Case(_littered, lambda s: s.install("1.2.0"), ("1.1.0", "1.2.0")),
    "over one on trial": Case(_on_trial(1), lambda s: s.install("1.2.0"), ("1.1.0", "1.2.0")),
    "over a lost pointer": Case(_pointer_lost, lambda s: s.install("1.2.0"), ("shipped", "1.2.0")),
    "rollback": Case(_proven("1.0.0", "1.1.0"), lambda s: s.run("rollback"), ("1.1.0", "1.0.0"), _WORST),
    "rollback to the one that ships": Case(_proven("1.0.0"), lambda s: s.run("rollback"), ("1.0.0", "shipped")),
    "a start on trial, passed": Case(_on_trial(0), _trial, ("1.1.0",), _WORST),
    "a start that rolls back": Case(_on_trial(3), lambda s: void(begin(s.config)), ("1.0.0",)),
}


def void(_: Any) -> None:
    """A command gives nothing back."""


def child(what: Callable[[], object]) -> tuple[int, Any]:
    """Run something in a forked child: its wait status, and what it gave back as JSON."""
    read, write = os.pipe()
    number = os.fork()
    if not number:
        answer: Any = None
        code = 0
        try:
            with Path(os.devnull).open("w") as null:
                os.dup2(null.fileno(), 1)
            answer = what()
        except BaseException:  # noqa: BLE001  a child must never go on as the parent
            answer, code = traceback.format_exc(), 1
        os.write(write, json.dumps(answer).encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        content = stream.read()
    return os.waitpid(number, 0)[1], json.loads(content) if content else None


def in_use(site: Site) -> str:
    """The version with which the daemon would start now."""
    manifest = begin(site.config).bundle.manifest
    return "shipped" if manifest.name == "shipped" else manifest.version


def look(site: Site) -> list[str]:
    """What the device does after the cut, and whether an installation succeeds then."""
    first = in_use(site)
    site.install("1.3.0")
    leftovers = [p.name for p in site.store.folder.iterdir() if p.suffix != ".zip" and p.name not in (".lock", POINTER)]
    return [first, in_use(site), *leftovers]


def sweep(name: str, case: Case, folder: Path, bundles: Path, shim: ctypes.CDLL) -> tuple[int, list[str]]:
    """Cut one case everywhere: how many cuts were made, and what went wrong."""
    template = Site(folder / "template", bundles)
    shutil.rmtree(template.folder, ignore_errors=True)
    (template.folder / "state").mkdir(parents=True)
    status, said = child(lambda: case.before(template))
    if status:
        return 0, [f"{name}: {said}"]
    cuts, faults = 0, []
    for mode in case.modes:
        number = 0
        while True:
            site, backups = Site(folder / "site", bundles), folder / "backups"
            shutil.rmtree(site.folder, ignore_errors=True)
            shutil.rmtree(backups, ignore_errors=True)
            backups.mkdir()
            shutil.copytree(template.folder, site.folder)

            def cut(at: int = number, how: int = MODES[mode], site: Site = site, backups: Path = backups) -> None:
                shim.cut_begin(str(site.folder).encode(), str(backups).encode(), ctypes.c_long(at), how)
                case.command(site)
                # Done: now the power fails, and what was said to be done must be.
                Path(backups / "done").touch()
                shim.cut_now()

            status, said = child(cut)
            done = (backups / "done").exists()
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                return cuts, [*faults, f"{name}, {mode}, cut {number}: not cut: {said}"]
            cuts += 1
            allowed = case.allowed[-1:] if done else case.allowed
            status, said = child(lambda site=site: look(site))
            if status or said[0] not in allowed or said[1:] != ["1.3.0"]:
                faults.append(f"{name}, {mode}, cut {number}{' (done)' if done else ''}: {said}")
            if done:
                break
            number += 1
    return cuts, faults


def main() -> int:
    """Run every case."""
    folder = Path(sys.argv[1]).resolve()
    edge.config.COMMITTED_BUNDLE = folder / "bundles" / "shipped.zip"
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    cuts, faults = {}, []
    for name, case in CASES.items():
        cuts[name], wrong = sweep(name, case, folder, folder / "bundles", shim)
        faults += wrong
    print(json.dumps({"cuts": cuts, "faults": faults}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
