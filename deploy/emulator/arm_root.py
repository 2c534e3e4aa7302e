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

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prepared import SetupError, alone, folder_of, follow, key, once, tool_path

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
SUITE, PYTHON = "bookworm", "python3.11"
INCLUDE = ("python3", "libstdc++6")
TOOLS = {"qemu-aarch64": "qemu-user", "debootstrap": "debootstrap", "dpkg-deb": "dpkg", "gcc": "gcc"}
_GLIBC = (17, 26, 27, 28, 31, 34, 35)  # of manylinux tags that bookworm's glibc 2.36 runs
_LINKS = ("bin", "etc", "lib", "sbin", "usr")


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
    return folder_of("arm64")


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
        with alone(folder / "lock", tell):
            root = Root(
                folder,
                folder / f"debian-{SUITE}-{key(*INCLUDE)}",
                folder / f"packages-{key((HERE / 'requirements.txt').read_text(encoding='utf-8'), PYTHON)}",
                folder / f"count-{key((HERE / 'count.c').read_text(encoding='utf-8'))}.so",
            )
            once(root.debian, lambda part: _debian(part, folder / "debs", mirror, tell))
            once(root.packages, lambda part: _packages(part, tell))
            once(root.plugin, _plugin)
            for cpu in CPUS.values():
                describe_cpu(root.of(cpu), cpu, root.debian)
    except OSError as error:
        raise SetupError(f"{folder} cannot be used ({error.strerror}): name another one with --folder") from error
    return root


def check_tools() -> None:
    """Raise a SetupError where one is missing."""
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool, path=tool_path()) is None}
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


def _debian(part: Path, debs: Path, mirror: str | None, tell: Callable[[str], None]) -> None:
    tell(f"fetching Debian {SUITE} for arm64 (50 MB)")
    command = ["debootstrap", "--download-only", "--force-check-gpg", "--arch=arm64", "--variant=minbase"]
    command += [f"--include={','.join(INCLUDE)}", SUITE, str(debs), *([mirror] if mirror else [])]
    follow(command, "I: Retrieving ", tell, "the arm64 packages could not be fetched")
    tell("unpacking it")
    part.mkdir()
    for deb in sorted((debs / "var" / "cache" / "apt" / "archives").glob("*.deb")):
        follow(["dpkg-deb", "-x", str(deb), str(part)], "", tell, f"{deb.name} could not be unpacked")
    if not (part / "usr" / "bin" / PYTHON).exists():
        raise SetupError(f"Debian {SUITE} came without {PYTHON}: remove {debs} and run it again")
    shutil.rmtree(debs)


def _packages(part: Path, tell: Callable[[str], None]) -> None:
    tell("fetching the device's packages as aarch64 wheels (80 MB)")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in reversed(_GLIBC)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--target", str(part)]
    command += [*platforms, "--platform=manylinux2014_aarch64", f"--python-version={PYTHON.removeprefix('python')}"]
    command += ["--implementation=cp", "--only-binary=:all:", "--no-compile", "--progress-bar=off"]
    follow([*command, "-r", str(HERE / "requirements.txt")], "Collecting ", tell, "the wheels could not be fetched")


def _plugin(part: Path) -> None:
    command = ["gcc", "-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-o", str(part), str(HERE / "count.c")]
    follow(command, "", lambda line: None, "the counting plugin could not be built")  # noqa: ARG005
