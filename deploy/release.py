# ruff: noqa: INP001
"""`make release`: one archive that installs Foldsight on a device, or updates it.

`foldsight-VERSION.tar.gz` holds the wheel with the built page and the bundle that ships, the pinned requirements, the
units and what else the system must know, install.sh, and on request the Python packages themselves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from edge import __version__, keys
from edge.errors import FoldsightError
from edge.software import archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
SYSTEM = {
    "common/systemd/system/foldsight-degraded.service": "systemd/foldsight-degraded.service",
    "common/systemd/system/foldsight-edge.service": "systemd/foldsight-edge.service",
    "common/systemd/system/foldsight.target": "systemd/foldsight.target",
    "common/udev/rules.d/60-foldsight-video.rules": "systemd/60-foldsight-video.rules",
    "guard/systemd/system/foldsight-trial.service": "systemd/foldsight-trial.service",
    "jetson/systemd/system/foldsight-edge.service.d/jetson.conf": "systemd/jetson/foldsight-edge.conf",
    "phones/systemd/system/foldsight-degraded.service.d/phones.conf": "deploy/config/edge-phones.conf",
    "phones/systemd/system/foldsight-display.service": "systemd/foldsight-display.service",
    "phones/systemd/system/foldsight-edge.service.d/phones.conf": "deploy/config/edge-phones.conf",
    "phones/systemd/system/foldsight-phones.service": "systemd/foldsight-phones.service",
    "phones/systemd/system/foldsight-phones.timer": "systemd/foldsight-phones.timer",
    "phones/systemd/system/mosquitto.service.d/foldsight.conf": "deploy/mosquitto/limits.conf",
    "phones/sysusers.d/foldsight.conf": "deploy/sysusers.conf",
    "phones/tmpfiles.d/foldsight.conf": "deploy/tmpfiles.conf",
}
"""What lies where in `system/PART/`, as below /usr/local/lib (edge/software/system.py), and its file here."""
_CONFIG = {
    "deploy/config/edge.d/phones.yaml": "config/phones.yaml",
    "deploy/avahi/foldsight.service": "config/avahi.service",
    "deploy/nftables/foldsight.nft": "config/foldsight.nft",
}
_REQUIREMENTS = ("requirements.txt", "requirements-numpy1.txt")
_GLIBC = 35  # JetPack 6 has 2.35, the oldest of the supported systems
_TARGETS = ("aarch64-3.10", "aarch64-3.11", "aarch64-3.12", "aarch64-3.13", "x86_64-3.10", "x86_64-3.11", "x86_64-3.13")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the archive.

    Returns:
        0 done, 1 it failed and said why.
    """
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder (default: dist/)")
    parser.add_argument("--key", type=Path, help="the private key that signs it (foldsight bundle keygen)")
    parser.add_argument("--wheel", type=Path, help="a wheel that is built already")
    parser.add_argument(
        "--wheels", default="", help=f"the packages too, for these devices, such as {','.join(_TARGETS[1:4:2])}"
    )
    parser.add_argument("--lock", action="store_true", help="make the lists of pinned packages anew, and no archive")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        if arguments.lock:
            lock()
            return 0
        path = build(arguments.out, arguments.wheel, [t for t in arguments.wheels.split(",") if t], arguments.key)
    except FoldsightError as error:
        print(f"foldsight: {error}", file=sys.stderr)
        return error.exit_code
    size = path.stat().st_size / 1e6
    if arguments.json:
        print(json.dumps({"path": str(path), "megabytes": round(size, 2), "signed": arguments.key is not None}))
    else:
        print(f"{path}: {size:.1f} MB, {'signed' if arguments.key else 'not signed (KEY=...)'}")
    return 0


def build(out: Path, wheel: Path | None = None, targets: Sequence[str] = (), key_file: Path | None = None) -> Path:
    """Build the archive.

    Args:
        out: its folder.
        wheel: Foldsight's own; built here by default.
        targets: `MACHINE-PYTHON` of devices whose packages go with it.
        key_file: the private key that signs it; its public half goes with the archive.

    Returns:
        Its path.

    Raises:
        FoldsightError: the page is not built, a package cannot be fetched, the key cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="foldsight-release-") as name:
        folder = Path(name)
        wheel = wheel or _build_wheel(folder)
        version = wheel.name.split("-")[1]
        (folder / "VERSION").write_text(f"{version}\n")
        content: dict[str, Path] = {
            "VERSION": folder / "VERSION",
            "install.sh": ROOT / "deploy/install.sh",
            wheel.name: wheel,
        }
        content |= {name: ROOT / "deploy" / name for name in _REQUIREMENTS}
        content |= {f"system/{to}": ROOT / file for to, file in SYSTEM.items()}
        content |= {to: ROOT / file for file, to in _CONFIG.items()}
        content["LICENSE"] = ROOT / "LICENSE"
        for target in targets:
            _fetch(target, folder / "wheels")
        if targets:
            content |= {f"wheels/{file.name}": file for file in (folder / "wheels").iterdir()}
        key = None
        if key_file is not None:
            key = keys.load_private(key_file)
            (folder / "release.pub").write_bytes(keys.public_pem(key.public_key()))
            content["release.pub"] = folder / "release.pub"
        path = out / f"foldsight-{version}.tar.gz"
        archive.write(path, version, content, key)
    return path


_ZOO = ("certifi", "charset-normalizer", "colorama", "portalocker", "requests", "tqdm", "urllib3")
"""What ncnn's collection of models alone asks for: a device fetches no model from anywhere."""


def lock() -> None:
    """Resolve the device's packages and write both lists; needs uv.

    Raises:
        FoldsightError: uv says no.
    """
    common = ["uv", "pip", "compile", "pyproject.toml", "--extra", "ncnn", "--generate-hashes", "--no-annotate"]
    common += ["--no-header", "-q", *(f"--no-emit-package={name}" for name in _ZOO)]
    kinds = (
        ("requirements.txt", "for Python 3.10 to 3.13", ["--universal", "--python-version", "3.10"], ""),
        (
            "requirements-numpy1.txt",
            "for a Raspberry Pi with Bookworm, whose picamera2 wants NumPy 1",
            ["--python-version", "3.11", "--python-platform", f"aarch64-manylinux_2_{_GLIBC}", "--constraint", "-"],
            "numpy<2",
        ),
    )
    for name, what, more, constraint in kinds:
        argv = [sys.executable, "-m", *common, *more]
        done = subprocess.run(argv, input=constraint, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise FoldsightError(f"{name} cannot be made: {done.stderr.strip()}")
        head = f"# What a device gets, pinned with hashes, {what}. Made anew by: make requirements\n"
        (ROOT / "deploy" / name).write_text(head + done.stdout)


def _build_wheel(folder: Path) -> Path:
    if not (ROOT / "edge/display/static/index.html").is_file():
        raise FoldsightError("the phone page is not built: make page")
    # A copy, so that no build folder of an earlier time lends it files that are gone.
    source = folder / "source"
    for package in ("edge", "trainer"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("page", "__pycache__", "build"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, source / file)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder / "own"),
    ]
    done = subprocess.run([*argv, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FoldsightError(f"the wheel cannot be built: {done.stderr.strip()}")
    wheel = next((folder / "own").glob("foldsight-*.whl"))
    if wheel.name.split("-")[1] != __version__:
        raise FoldsightError(
            f"pyproject.toml says {wheel.name.split('-')[1]}, edge/__init__.py {__version__}: make them the same"
        )
    return wheel


def _fetch(target: str, into: Path) -> None:
    """The packages for one kind of device; pip chooses the files, our own list the versions."""
    machine, _, python = target.partition("-")
    if target not in _TARGETS:
        raise FoldsightError(f"there are no packages for {target}; choose of {', '.join(_TARGETS)}")
    lists = _REQUIREMENTS if python == "3.11" else _REQUIREMENTS[:1]
    platforms = [f"manylinux_2_{glibc}_{machine}" for glibc in range(_GLIBC, 16, -1)] + [f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory(prefix="foldsight-list-") as name:
        for file in lists:
            pins = Path(name) / file
            pins.write_text("\n".join(pinned(ROOT / "deploy" / file, machine, python)) + "\n")
            argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
            argv += ["--only-binary=:all:", "--require-hashes", "--implementation", "cp", "--python-version", python]
            argv += [f"--platform={platform}" for platform in (*platforms, "any")]
            done = subprocess.run(
                [*argv, "-d", str(into), "-r", str(pins)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise FoldsightError(f"the packages for {target} could not be fetched: {done.stderr.strip()}")


def pinned(file: Path, machine: str, python: str) -> Iterable[str]:
    """The lines of a list that hold for a device; pip would judge their conditions by this machine."""
    system: Mapping[str, str] = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for line in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(" --hash=")
        wanted = Requirement(words[0].strip())
        if wanted.marker is None or wanted.marker.evaluate(dict(system)):
            yield " --hash=".join([f"{wanted.name}{wanted.specifier}", *(word.strip() for word in words[1:])])


if __name__ == "__main__":
    sys.exit(main())
