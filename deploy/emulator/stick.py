# ruff: noqa: INP001
"""What is carried to the emulated adapter, as on a USB stick: releases to install and to update to, and a model bundle.

Everything is built from this working tree by the project's own commands and signed with a key made for the rehearsal.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prepared import SetupError, follow

from edge import keys
from edge.bundle import Bundle, sign_bundle, write_bundle
from edge.config import COMMITTED_BUNDLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]
KEY = "rehearsal"
_SOURCES = ("deploy", "edge", "systemd", "trainer", "LICENSE", "README.md", "pyproject.toml")
_FAULT = """
def _never_ready(*_: object) -> None:
    raise RuntimeError("this release cannot run: it was made so for a rehearsal")


Daemon.run = _never_ready  # type: ignore[assignment]
"""


@dataclass(frozen=True, slots=True)
class Stick:
    """A file system with what is carried, as an image file.

    Attributes:
        image: read-only to the adapter.
        version: the release that is installed, with all its packages; foldsight-VERSION.tar.gz.
        better: one to update to.
        broken: one whose daemon fails at once.
        bundle: a signed bundle, one version above the one that ships.
        bundle_version: its.
    """

    image: Path
    version: str
    better: str
    broken: str
    bundle: str
    bundle_version: str


def make(folder: Path, python: str, tell: Callable[[str], None]) -> Stick:
    """Build everything and put it into one image.

    Args:
        folder: empty, for this.
        python: of the adapter: 3.11.
        tell: called with a line of progress.

    Raises:
        SetupError: something cannot be built.
    """
    carried = folder / "stick"
    carried.mkdir(parents=True)
    key = folder / KEY
    shutil.copyfile(keys.make(key), carried / f"{KEY}.pub")
    tell("building the release, with its packages for arm64")
    version = _version((ROOT / "edge" / "__init__.py").read_text(encoding="utf-8"))
    _release(ROOT, carried, key, f"--wheels=aarch64-{python}")
    better, broken = following(version, 1), following(version, 2)
    for other, change in ((better, {}), (broken, {"edge/daemon.py": _FAULT})):
        tell(f"building {other}, {'whose daemon fails' if change else 'to update to'}")
        source = folder / other
        _copy(source, version, other, change)
        _release(source, carried, key)
        shutil.rmtree(source)
    bundle = _bundle(carried, key)
    image = folder / "stick.ext4"
    size = sum(path.stat().st_size for path in carried.iterdir()) // 1_000_000 + 64
    line = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "stick", "-d", str(carried), str(image), f"{size}M"]
    follow(line, "", tell, "the stick's file system could not be made")
    shutil.rmtree(carried)
    return Stick(image, version, better, broken, *bundle)


def following(version: str, steps: int) -> str:
    """The version so many patches later."""
    major, minor, patch = version.split(".")[:3]
    return f"{major}.{minor}.{int(patch) + steps}"


def _version(source: str) -> str:
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)', source, re.MULTILINE)
    if found is None:
        raise SetupError("edge/__init__.py names no version")
    return found[1]


def _release(source: Path, out: Path, key: Path, *options: str) -> None:
    line = [sys.executable, str(source / "deploy" / "release.py"), "--out", str(out), "--key", str(key), *options]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SetupError(f"the release could not be built ({' '.join(said).removeprefix('foldsight: ')})")


def _copy(to: Path, version: str, other: str, added: Mapping[str, str]) -> None:
    """The sources under another version, with something added to some files."""
    ignored = shutil.ignore_patterns("node_modules", "__pycache__", ".*", "*.egg-info")
    to.mkdir()
    for name in _SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, to / name, ignore=ignored)
        else:
            shutil.copyfile(path, to / name)
    for name in ("pyproject.toml", "edge/__init__.py"):
        path = to / name
        path.write_text(path.read_text(encoding="utf-8").replace(f'"{version}"', f'"{other}"', 1), encoding="utf-8")
    for name, text in added.items():
        with (to / name).open("a", encoding="utf-8") as file:
            file.write(text)


def _bundle(out: Path, key: Path) -> tuple[str, str]:
    """The bundle that ships, under the next version, signed: its file's name and version."""
    shipped = Bundle.open(COMMITTED_BUNDLE, golden=False)
    version = following(shipped.manifest.version, 1)
    path = out / f"{shipped.manifest.name}-{version}.zip"
    files = {name: shipped.files[name] for name in shipped.manifest.files}
    write_bundle(path, shipped.manifest.model_copy(update={"version": version}), files)
    sign_bundle(path, keys.load_private(key))
    return path.name, version
