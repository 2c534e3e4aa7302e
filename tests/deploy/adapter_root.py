"""Releases and root folders for the tests: the repository's own code in a wheel, an adapter's system in a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy"))
import release  # noqa: E402  from there

PACKAGES = ("python3-venv", "openssl", "mosquitto", "avahi-daemon")
PYTHON = getattr(sys, "_base_executable", sys.executable)


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files on a busy disk take minutes."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    with tempfile.TemporaryDirectory(prefix="foldsight-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def wheel(folder: Path, version: str, changes: Mapping[str, str] | None = None) -> Path:
    """The repository's `edge` as a wheel.

    Args:
        folder: where to.
        version: that it says it has.
        changes: text put at the end of files, by name.
    """
    path = folder / f"foldsight-{version}-py3-none-any.whl"
    own = [p for p in sorted((ROOT / "edge").rglob("*")) if p.is_file() and not {"__pycache__", "page"} & set(p.parts)]
    content = {str(p.relative_to(ROOT)): p.read_bytes() for p in own}
    content["edge/__init__.py"] = f'"""Edge."""\n\n__version__ = "{version}"\n'.encode()
    for name, text in (changes or {}).items():
        content[name] += text.encode()
    info = f"foldsight-{version}.dist-info"
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: foldsight\nVersion: {version}\n".encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/entry_points.txt"] = b"[console_scripts]\nfoldsight = edge.cli:main\n"
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in content).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def archive(folder: Path, version: str, key: Path | None = None, changes: Mapping[str, str] | None = None) -> Path:
    """A release as `make release` builds it, of a wheel as above."""
    return release.build(folder, wheel(folder, version, changes), key_file=key)


def unpacked(path: Path, folder: Path) -> Path:
    """A release as a person unpacks it: the folder that install.sh lies in."""
    subprocess.run(["tar", "xf", str(path), "-C", str(folder)], check=True)
    return folder / path.name.removesuffix(".tar.gz")


def system(folder: Path) -> Path:
    """A root folder with what the installer looks at."""
    (folder / "etc/mosquitto/conf.d").mkdir(parents=True)
    (folder / "etc/systemd/system").mkdir(parents=True)
    (folder / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    (folder / "etc/hostname").write_text("Theatre_3\n")
    (folder / "var/lib/dpkg").mkdir(parents=True)
    known = [f"Package: {name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n" for name in PACKAGES]
    (folder / "var/lib/dpkg/status").write_text("\n".join(known))
    return folder


def install(folder: Path, root: Path, *arguments: str, packages: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a release's install.sh on a root folder, with this environment's packages."""
    argv = [str(folder / "install.sh"), "--root", str(root), "--python", PYTHON, *arguments]
    if packages:
        argv += ["--packages-from", sysconfig.get_paths()["purelib"]]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def foldsight(root: Path, *arguments: str, of: str = "current") -> subprocess.CompletedProcess[str]:
    """The installed command, as it would run on the adapter."""
    python = root / "opt/foldsight" / of / "bin/python"
    argv = [str(python), "-m", "edge.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL)


def another(root: Path, of: str, version: str, changes: Mapping[str, str] | None = None) -> None:
    """A further release beside one that is installed, as its installer would have left it."""
    releases = root / "opt/foldsight/releases"
    to = releases / version
    shutil.copytree(releases / of, to, symlinks=True)
    (to / "VERSION").write_text(f"{version}\n")
    code = next(to.glob("lib/python3*/site-packages"))
    (code / "edge/__init__.py").write_text(f'__version__ = "{version}"\n')
    script = to / "bin/foldsight"
    script.write_text(script.read_text().replace(f"/{of}/", f"/{version}/"))
    for name, text in (changes or {}).items():
        with (to / name if name.startswith("system/") else code / name).open("a") as file:
            file.write(text)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: contents of files, targets of links."""
    found: dict[str, bytes | str | None] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found
