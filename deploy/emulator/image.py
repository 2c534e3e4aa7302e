# ruff: noqa: INP001
"""The emulated adapter's system: an arm64 Debian of the distribution's own packages, made once and kept.

debootstrap fetches, verifies and unpacks here; the packages' own scripts run where they belong, in the emulated machine
at its first boot. So neither binfmt_misc nor a chroot is needed, and without root fakeroot does.

    FOLDER/SUITE-*/disk.ext4   the root file system, as a new device has it
                   vmlinuz     the distribution's kernel
                   initrd      busybox, the few modules that the disk needs, and adapter/init
                   about.json  versions
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import Drive, Machine, command
from prepared import SetupError, alone, follow, key, once, tool_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

HERE = Path(__file__).parent
OVERLAY = HERE / "adapter"  # its files lie in the image as they lie there; `init` is the initial RAM disk's
SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # and their Python: those of Raspberry Pi OS
KERNEL = "linux-image-arm64"
INCLUDE = (
    "avahi-daemon", "busybox-static", "ca-certificates", "dbus", "iproute2", "kmod", "libnss-systemd", KERNEL,
    "mosquitto", "mosquitto-clients", "nftables", "procps", "python3", "python3-venv", "qemu-guest-agent", "systemd",
    "systemd-sysv", "udev",
)  # fmt: skip
NOT_CONFIGURED = re.compile(r"linux-(image|base)|initramfs-tools|klibc-utils|libklibc")
"""Of the packages: the kernel is unpacked only, since its initial RAM disk is ours; making one takes minutes here."""
MODULES = ("virtio_pci", "virtio_blk", "ext4")
HELPFUL = ("crc32c_generic",)  # ext4 asks for it by a way that modules.dep does not know; newer kernels have it in them
WANTS = {"multi-user.target": ("systemd-networkd.service",)}
SIZE_MB = 4096  # sparse: about 1.4 GB are written
TOOLS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
}
_SECOND_STAGE_S = 3600


@dataclass(frozen=True, slots=True)
class Image:
    """A system that is ready to boot."""

    folder: Path
    suite: str

    @property
    def disk(self) -> Path:
        """Never booted itself: writes go to a copy over it."""
        return self.folder / "disk.ext4"

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk."""
        return self.folder / "initrd"

    @property
    def about(self) -> dict[str, Any]:
        """Versions of what lies in it."""
        about: dict[str, Any] = json.loads((self.folder / "about.json").read_text(encoding="utf-8"))
        return about

    @property
    def python(self) -> str:
        """The Python's version: 3.11."""
        return SUITES[self.suite]


def prepare(folder: Path, suite: str, tell: Callable[[str], None], mirror: str | None = None) -> Image:
    """Make the system where it is not there yet; at once where it is.

    Args:
        folder: where; about 2 GB for each suite.
        suite: of Debian, a key of SUITES.
        tell: called with a line of progress.
        mirror: URL of a Debian mirror, None for debootstrap's own choice.

    Raises:
        SetupError: a tool is missing, nothing could be fetched, or the folder cannot be written.
    """
    check_tools()
    folder = folder.absolute()
    image = Image(folder / f"{suite}-{key(*manifest(suite))}", suite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / "lock", tell):
            for old in folder.glob(f"{suite}-*.part"):
                shutil.rmtree(old)
            once(image.folder, lambda part: _make(part, suite, mirror, tell))
            for old in folder.glob(f"{suite}-*"):
                if old != image.folder:
                    shutil.rmtree(old)  # made from another manifest
    except OSError as error:
        raise SetupError(f"{folder} cannot be used ({error.strerror}): name another one with --folder") from error
    return image


def manifest(suite: str) -> list[str]:
    """All that an image is made from, by which it is known whether one is the right one."""
    lines = [suite, *INCLUDE, *HELPFUL, *MODULES, str(SIZE_MB), json.dumps(WANTS)]
    for path in sorted(OVERLAY.rglob("*")):
        if path.is_file():
            lines += [str(path.relative_to(OVERLAY)), path.read_text(encoding="utf-8")]
    return lines


def check_tools() -> None:
    """Raise a SetupError where one is missing."""
    wanted = TOOLS if os.geteuid() == 0 else {**TOOLS, "fakeroot": "fakeroot"}
    missing = {tool: package for tool, package in wanted.items() if shutil.which(tool, path=tool_path()) is None}
    if missing:
        raise SetupError(
            f"{', '.join(missing)} not found: run 'apt-get install {' '.join(missing.values())}' as root, "
            "or 'make rehearse', which does"
        )


def _make(part: Path, suite: str, mirror: str | None, tell: Callable[[str], None]) -> None:
    part.mkdir()
    root, owners = part / "root", part / "owners"
    tell(f"fetching Debian {suite} for arm64 (150 MB, once)")
    line = ["debootstrap", "--foreign", "--force-check-gpg", "--arch=arm64", "--variant=minbase"]
    line += [f"--include={','.join(INCLUDE)}", suite, str(root), *([mirror] if mirror else [])]
    follow([*_as_root(owners), *line], "I: Retrieving ", tell, "the arm64 packages could not be fetched")
    tell("making kernel, initial RAM disk and file system")
    version = _kernel(part, root, tell)
    _initrd(part, root, version)
    _overlay(root)
    line = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "adapter", "-d", str(root), str(part / "disk.ext4")]
    follow([*_as_root(owners), *line, f"{SIZE_MB}M"], "", tell, "the file system could not be made")
    packages = sorted((root / "var" / "cache" / "apt" / "archives").glob("*.deb"))
    about = {"suite": suite, "kernel": version, "packages": _versions(packages)}
    shutil.rmtree(root)
    owners.unlink(missing_ok=True)
    tell("installing the packages in the emulated machine, at its first boot (some minutes, once)")
    _second_stage(part, tell)
    (part / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _as_root(owners: Path) -> list[str]:
    """What lets files belong to root and others where this user cannot."""
    if os.geteuid() == 0:
        return []
    owners.touch()
    return ["fakeroot", "-i", str(owners), "-s", str(owners), "--"]


def _kernel(part: Path, root: Path, tell: Callable[[str], None]) -> str:
    """Unpack the kernel beside the root, put its modules into it; returns its version."""
    archives = root / "var" / "cache" / "apt" / "archives"
    unpacked = part / "kernel"
    for deb in archives.glob("linux-image-*.deb"):
        follow(["dpkg-deb", "-x", str(deb), str(unpacked)], "", tell, f"{deb.name} could not be unpacked")
    modules = next((place for place in unpacked.glob("**/lib/modules/*") if place.is_dir()), None)
    kernel = next(unpacked.glob("boot/vmlinuz-*"), None)
    if modules is None or kernel is None:
        raise SetupError(f"{KERNEL} came without a kernel: has the mirror been changed while it was read? Run it again")
    shutil.copyfile(kernel, part / "vmlinuz")
    place = root / "usr" / "lib" / "modules" / modules.name
    place.parent.mkdir(parents=True, exist_ok=True)
    modules.rename(place)
    shutil.rmtree(unpacked)
    follow(["depmod", "-b", str(root), place.name], "", tell, "the kernel's modules could not be listed")
    listed = root / "debootstrap"
    for name in ("base", "required"):
        packages = (listed / name).read_text(encoding="utf-8").split()
        kept = [package for package in packages if not NOT_CONFIGURED.match(package)]
        (listed / name).write_text(" ".join(kept) + "\n", encoding="utf-8")
    return place.name


def load_order(dependencies: str, builtin: str, wanted: Iterable[str]) -> list[str]:
    """The modules' files in the order in which they can be loaded.

    Args:
        dependencies: modules.dep: each file, a colon, and the files that it needs, the first to load last.
        builtin: modules.builtin: files that the kernel has in it.
        wanted: names.

    Raises:
        SetupError: the kernel has no such module.
    """
    needs = {file: rest.split() for file, _, rest in (line.partition(":") for line in dependencies.splitlines())}
    by_name = {_module(file): file for file in needs}
    known = {_module(file) for file in builtin.split()}
    order: list[str] = []
    for name in wanted:
        if name in by_name:
            file = by_name[name]
            order += [needed for needed in (*reversed(needs[file]), file) if needed not in order]
        elif name not in known:
            raise SetupError(f"the distribution's kernel has no module {name}")
    return order


def _module(file: str) -> str:
    return Path(file).name.partition(".")[0].replace("-", "_")


def _initrd(part: Path, root: Path, version: str) -> None:
    modules = root / "usr" / "lib" / "modules" / version
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(
        ("bin", "dev", "disk", "modules", "proc", "sys"), (0o40755, b"")
    )
    listed = (modules / "modules.dep").read_text(encoding="utf-8")
    helpful = [name for name in HELPFUL if f"/{name}.ko" in listed]
    order = load_order(
        listed, (modules / "modules.builtin").read_text(encoding="utf-8"), [*MODULES[:-1], *helpful, *MODULES[-1:]]
    )
    for file in order:
        content = (modules / file).read_bytes()
        if file.endswith(".xz"):
            content = lzma.decompress(content)
        files[f"modules/{_module(file)}.ko"] = 0o100644, content
    files["modules/order"] = 0o100644, "".join(f"{_module(file)}.ko\n" for file in order).encode()
    unpacked = part / "busybox"
    for deb in (root / "var" / "cache" / "apt" / "archives").glob("busybox-static_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(deb), str(unpacked)], check=True, capture_output=True)
    busybox = next(path for path in unpacked.glob("**/bin/busybox") if path.is_file())
    files["bin/busybox"] = 0o100755, busybox.read_bytes()
    files["init"] = 0o100755, (OVERLAY / "init").read_bytes()
    (part / "initrd").write_bytes(gzip.compress(archive(files), 1))
    shutil.rmtree(unpacked)


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive as the kernel reads it (newc, Documentation/driver-api/early-userspace/buffer-format.rst).

    Args:
        files: mode and content by name, folders before what lies in them.
    """
    parts: list[bytes] = []
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + "".join(f"{value:08x}" for value in fields).encode() + name.encode() + b"\0"
        parts += [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def _overlay(root: Path) -> None:
    """Put our few files into it; what they are for stands in them."""
    for path in sorted(OVERLAY.rglob("*")):
        if path.is_file() and path.name != "init":
            place = root / path.relative_to(OVERLAY)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    (root / "etc" / "resolv.conf").unlink(missing_ok=True)  # this machine's, which debootstrap copies
    for target, units in WANTS.items():
        folder = root / "etc" / "systemd" / "system" / f"{target}.wants"
        folder.mkdir(parents=True, exist_ok=True)
        for unit in units:
            (folder / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")


def _versions(packages: Sequence[Path]) -> dict[str, str]:
    """Of the packages that a reader asks for, from their files' names."""
    said = (package.name.split("_")[:2] for package in packages)
    wanted = {"systemd", "mosquitto", "python3", "libc6"}
    return {name: version.replace("%3a", ":") for name, version in said if name in wanted}


def _second_stage(part: Path, tell: Callable[[str], None]) -> None:
    counted = [0]

    def heard(line: str) -> None:
        if line.startswith("I: "):
            counted[0] += 1
            if counted[0] % 20 == 1 or not line.startswith(("I: Unpacking ", "I: Configuring ")):
                tell(f"  {line.removeprefix('I: ')}")

    log = part / "second-stage.log"
    drives = [Drive(part / "disk.ext4", cache="unsafe")]
    machine = Machine(command(part / "vmlinuz", part / "initrd", drives), part / "agent", log, heard)
    machine.switch_on()
    try:
        machine.wait_off(_SECOND_STAGE_S)
    finally:
        machine.cut_power()
    if "adapter: the second stage is done" not in log.read_text(encoding="utf-8", errors="replace"):
        kept = part.parent / "second-stage.log"
        shutil.copyfile(log, kept)
        raise SetupError(
            f"the packages could not be installed in the emulated machine ({machine.last_words()}): see {kept}"
        )
