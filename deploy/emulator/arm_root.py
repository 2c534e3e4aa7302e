# ruff: noqa: INP001
"""An arm64 Debian with Python and the device's packages, in a folder, to be run by QEMU's user-mode emulation.

Packages are fetched and verified by debootstrap and unpacked, not installed: no package's script runs, so neither root
nor binfmt_misc nor a chroot is needed. Each part is built beside its place and moved there when it is whole: what a
cut-off set-up left is recognised and done again.

    FOLDER/debian-*     the unpacked distribution
    FOLDER/packages-*   the wheels of requirements.txt
    FOLDER/count-*.so   the counting plugin (count.c)
    FOLDER/cortex-*     what a processor sees as its root: links to the distribution, and its own /proc/cpuinfo
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent
SUITE, PYTHON = "bookworm", "python3.11"
INCLUDE = ("python3", "libstdc++6")
TOOLS = {"qemu-aarch64": "qemu-user", "debootstrap": "debootstrap", "dpkg-deb": "dpkg", "gcc": "gcc"}
_GLIBC = (17, 26, 27, 28, 31, 34, 35)  # of manylinux tags that bookworm's glibc 2.36 runs
_LINKS = ("bin", "etc", "lib", "sbin", "usr")


class SetupError(FoldsightError):
    """The emulated root cannot be made, or does not run."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor as the runtime sees it in /proc/cpuinfo, by which it chooses its kernels.

    Attributes:
        name: as QEMU calls it.
        board: where it is found.
        features, variant, part, revision: as Linux prints them on that board.
    """

    name: str
    board: str
    features: str
    variant: str
    part: str
    revision: str

    def cpuinfo(self) -> str:
        """/proc/cpuinfo of one core."""
        lines = {
            "processor\t": "0",
            "BogoMIPS\t": "108.00",
            "Features\t": self.features,
            "CPU implementer\t": "0x41",
            "CPU architecture": "8",
            "CPU variant\t": self.variant,
            "CPU part\t": self.part,
            "CPU revision\t": self.revision,
        }
        return "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"


CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu(
            "cortex-a76",
            "Raspberry Pi 5",
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
            "0x4",
            "0xd0b",
            "1",
        ),
        Cpu("cortex-a72", "Raspberry Pi 4", "fp asimd evtstrm crc32 cpuid", "0x0", "0xd08", "3"),
    )
}


@dataclass(frozen=True, slots=True)
class Root:
    """A root that is ready."""

    folder: Path
    debian: Path
    packages: Path
    plugin: Path

    def of(self, cpu: Cpu) -> Path:
        """The folder that is `/` to a processor."""
        return self.folder / cpu.name


def default_folder() -> Path:
    """Below the user's cache, outside the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "foldsight" / "arm64"


def prepare(folder: Path, tell: Callable[[str], None], mirror: str | None = None) -> Root:
    """Set up what is not there yet; at once when everything is.

    Args:
        folder: where; about 500 MB.
        tell: called with a line of progress.
        mirror: URL of a Debian mirror, None for debootstrap's own choice.

    Raises:
        SetupError: a tool is missing, nothing could be fetched, or the folder cannot be written.
    """
    check_tools()
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock", tell):
            root = Root(
                folder,
                folder / f"debian-{SUITE}-{_key(*INCLUDE)}",
                folder / f"packages-{_key((HERE / 'requirements.txt').read_text(encoding='utf-8'), PYTHON)}",
                folder / f"count-{_key((HERE / 'count.c').read_text(encoding='utf-8'))}.so",
            )
            _once(root.debian, lambda part: _debian(part, folder / "debs", mirror, tell))
            _once(root.packages, lambda part: _packages(part, tell))
            _once(root.plugin, _plugin)
            for cpu in CPUS.values():
                describe_cpu(root.of(cpu), cpu, root.debian)
    except OSError as error:
        raise SetupError(f"{folder} cannot be used ({error.strerror}): name another one with --folder") from error
    return root


def check_tools() -> None:
    """Raise a SetupError where one is missing."""
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool, path=_path()) is None}
    if missing:
        raise SetupError(
            f"{', '.join(missing)} not found: run 'apt-get install {' '.join(missing.values())}' as root, "
            "or 'make arm-cost', which does"
        )


def describe_cpu(place: Path, cpu: Cpu, debian: Path) -> None:
    """Make a processor's root: links to the distribution, and the few files that tell what it is.

    ONNX Runtime's look at the host's /proc/cpuinfo would end in a crash, or in kernels of another processor.
    """
    system = place / "sys" / "devices" / "system" / "cpu"
    for made in (place / "proc", system):
        made.mkdir(parents=True, exist_ok=True)
    (place / "proc" / "cpuinfo").write_text(cpu.cpuinfo(), encoding="ascii")
    for name in ("online", "possible", "present"):
        (system / name).write_text("0\n", encoding="ascii")
    for name in _LINKS:
        target, link = Path(os.path.relpath(debian / name, place)), place / name
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _path() -> str:
    """The PATH with the folders in which debootstrap lies, which only root has on it."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@contextlib.contextmanager
def _alone(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another set-up is going on in this folder; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _once(place: Path, make: Callable[[Path], None]) -> None:
    """Make something beside its place, and move it there once it is whole."""
    if place.exists():
        return
    part = place.with_name(place.name + ".part")
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
    make(part)
    part.rename(place)


def _debian(part: Path, debs: Path, mirror: str | None, tell: Callable[[str], None]) -> None:
    tell(f"fetching Debian {SUITE} for arm64 (50 MB)")
    command = ["debootstrap", "--download-only", "--force-check-gpg", "--arch=arm64", "--variant=minbase"]
    command += [f"--include={','.join(INCLUDE)}", SUITE, str(debs), *([mirror] if mirror else [])]
    _follow(command, "I: Retrieving ", tell, "the arm64 packages could not be fetched")
    tell("unpacking it")
    part.mkdir()
    for deb in sorted((debs / "var" / "cache" / "apt" / "archives").glob("*.deb")):
        _follow(["dpkg-deb", "-x", str(deb), str(part)], "", tell, f"{deb.name} could not be unpacked")
    if not (part / "usr" / "bin" / PYTHON).exists():
        raise SetupError(f"Debian {SUITE} came without {PYTHON}: remove {debs} and run it again")
    shutil.rmtree(debs)


def _packages(part: Path, tell: Callable[[str], None]) -> None:
    tell("fetching the device's packages as aarch64 wheels (80 MB)")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in reversed(_GLIBC)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--target", str(part)]
    command += [*platforms, "--platform=manylinux2014_aarch64", f"--python-version={PYTHON.removeprefix('python')}"]
    command += ["--implementation=cp", "--only-binary=:all:", "--no-compile", "--progress-bar=off"]
    _follow([*command, "-r", str(HERE / "requirements.txt")], "Collecting ", tell, "the wheels could not be fetched")


def _plugin(part: Path) -> None:
    command = ["gcc", "-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-o", str(part), str(HERE / "count.c")]
    _follow(command, "", lambda line: None, "the counting plugin could not be built")  # noqa: ARG005


def _follow(command: Sequence[str], step: str, tell: Callable[[str], None], failure: str) -> None:
    """Run a command, tell of every 20th line that begins with `step`; a failure is one sentence with its last line."""
    environment = {**os.environ, "PATH": _path(), "LC_ALL": "C"}
    steps, last = 0, ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101  for the type checker
        for line in map(str.strip, process.stdout):
            last = line or last
            if step and line.startswith(step):
                steps += 1
                if steps % 20 == 1:
                    tell(f"  {steps}: {line.removeprefix(step)}")
    if process.returncode:
        raise SetupError(
            f"{failure} ({last or f'exit status {process.returncode}'}): see that network and disk are there, "
            "and run it again; what is here already is kept"
        )
