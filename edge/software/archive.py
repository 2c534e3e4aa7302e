"""A release as one file, `foldsight-VERSION.tar.gz`: everything in it is listed with its hash, and the list is signed.

`SHA256SUMS` is the first member, as sha256sum(1) writes and checks it; `SHA256SUMS.sig` the second, where there is one:
Ed25519 (RFC 8032) over the list. Nothing of an archive is kept before the signature of its list is known to be right.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
PROGRAMS = ("install.sh",)
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9a-z.]+)?")

_HEAD = "# foldsight software "  # no other thing that a key signs begins so
_NAME = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*(/[A-Za-z0-9_@+-][A-Za-z0-9._@+-]*)*")
_MOST_LIST, _MOST_ALL = 1 << 20, 2 << 30
_CHUNK = 1 << 20


class ArchiveError(FoldsightError):
    """A release's archive is damaged, not trusted, or none."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What an archive says of itself, checked.

    Attributes:
        version: of the release.
        sums: SHA-256 of each file, by name.
        signed: whether a trusted key signed this list.
    """

    version: str
    sums: Mapping[str, str]
    signed: bool


def write(path: Path, version: str, files: Mapping[str, Path], key: Ed25519PrivateKey | None = None) -> None:
    """Write an archive in one step; the same files give the same bytes.

    Args:
        path: where to.
        version: of the release, as semver.org has it.
        files: each file's place in the archive, and where it lies now.
        key: signs the list.

    Raises:
        FoldsightError: a name that an archive cannot hold, or the file cannot be written.
    """
    if not VERSION.fullmatch(version):
        raise ArchiveError(f"{version} is no version such as 1.2.3: correct it in edge/__init__.py")
    for name in files:
        if not _NAME.fullmatch(name) or name in (SUMS, SIGNATURE):
            raise ArchiveError(f"{name!r} cannot be a file of an archive: give it another name")
    lines = [f"{_hash(file)}  {name}\n" for name, file in sorted(files.items())]
    sums = "".join([f"{_HEAD}{version}\n", *lines]).encode()
    _write(path, version, sums, None if key is None else key.sign(sums), files)


def sign(path: Path, key: Ed25519PrivateKey) -> str:
    """Sign an archive; an earlier signature is replaced.

    Returns:
        Its version.

    Raises:
        FoldsightError: it is damaged, or cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".foldsight-sign-") as name:
        folder = Path(name)
        listed = unpack(path, folder)
        write(path, listed.version, {file: folder / file for file in listed.sums}, key)
    return listed.version


def unpack(path: Path, into: Path, keys: Sequence[Ed25519PublicKey] = ()) -> Listed:
    """Check an archive and unpack it.

    Args:
        path: the archive.
        into: an empty folder; what is in it after an error is to be thrown away.
        keys: where there are any, one of them must have signed it.

    Raises:
        ArchiveError: it is damaged, no archive, or not trusted.
        FoldsightError: the folder cannot be written.
    """
    try:
        with path.open("rb") as file, gzip.open(file) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            return _unpack(path, tar, into, keys)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path} is damaged or no release ({error}): fetch it again") from error
    except OSError as error:
        raise FoldsightError(f"{path} cannot be unpacked into {into} ({error.strerror or error})") from error


def _unpack(path: Path, tar: tarfile.TarFile, into: Path, keys: Sequence[Ed25519PublicKey]) -> Listed:
    members = _files(path, tar)
    first = next(members, None)
    if first is None or first[0] != SUMS:
        raise ArchiveError(f"{path} is no release of Foldsight: it does not begin with {SUMS}")
    raw = _small(path, tar, first[1])
    second = next(members, None)
    signature = None
    if second is not None and second[0] == SIGNATURE:
        signature = _small(path, tar, second[1])
        second = next(members, None)
    signed = _check(path, raw, signature, keys)
    version, sums = _parse(path, raw)
    (into / SUMS).write_bytes(raw)
    if signature is not None:
        (into / SIGNATURE).write_bytes(signature)
    total, seen = 0, set()
    while second is not None:
        name, info = second
        total += info.size
        if name not in sums or name in seen or total > _MOST_ALL:
            raise ArchiveError(f"{path}: {name} does not belong into it: fetch it again")
        seen.add(name)
        if _extract(tar, info, into / name) != sums[name]:
            raise ArchiveError(f"{path}: {name} is damaged (its SHA-256 is not the one listed): fetch it again")
        second = next(members, None)
    if missing := sorted(set(sums) - seen):
        raise ArchiveError(f"{path}: {missing[0]} is missing: fetch it again")
    return Listed(version, sums, signed)


def _files(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    top = None
    for info in tar:
        folder, _, name = info.name.partition("/")
        top = top or folder
        if not info.isreg() or folder != top or not _NAME.fullmatch(name):
            raise ArchiveError(f"{path}: {info.name!r} does not belong into a release: fetch it again")
        yield name, info


def _small(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    if info.size > _MOST_LIST:
        raise ArchiveError(f"{path}: its list is too long to be one: fetch it again")
    content: bytes = _opened(tar, info).read()
    return content


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    stream = tar.extractfile(info)
    if stream is None:
        raise tarfile.ReadError("not a file")
    return stream


def _check(path: Path, raw: bytes, signature: bytes | None, keys: Sequence[Ed25519PublicKey]) -> bool:
    if not keys:
        return False
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  50 ms that nothing else here needs

    if signature is None:
        raise ArchiveError(f"{path} is not signed, and only signed software is trusted here")
    for key in keys:
        try:
            key.verify(signature, raw)
        except InvalidSignature:
            continue
        return True
    raise ArchiveError(f"{path} is not signed by a key that is trusted here")


def _parse(path: Path, raw: bytes) -> tuple[str, dict[str, str]]:
    head, *lines = raw.decode().splitlines()
    version = head.removeprefix(_HEAD)
    if not head.startswith(_HEAD) or not VERSION.fullmatch(version):
        raise ArchiveError(f"{path} is no release of Foldsight: {SUMS} does not begin with {_HEAD!r}")
    sums = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not _NAME.fullmatch(name) or name in sums:
            raise ArchiveError(f"{path}: {SUMS} has the line {line!r}: fetch it again")
        sums[name] = digest
    return version, sums


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo, to: Path) -> str:
    to.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    stream = _opened(tar, info)
    with to.open("xb") as file:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    to.chmod(0o755 if to.name in PROGRAMS else 0o644)
    return digest.hexdigest()


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, version: str, sums: bytes, signature: bytes | None, files: Mapping[str, Path]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with (
                os.fdopen(handle, "wb") as file,
                gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as stream,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                _add(tar, version, SUMS, io.BytesIO(sums), len(sums))
                if signature is not None:
                    _add(tar, version, SIGNATURE, io.BytesIO(signature), len(signature))
                for name, each in sorted(files.items()):
                    with each.open("rb") as content:
                        _add(tar, version, name, content, each.stat().st_size)
            Path(temporary).chmod(0o644)
            shutil.move(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FoldsightError(f"{path} cannot be written ({error.strerror or error}): give another path") from error


def _add(tar: tarfile.TarFile, version: str, name: str, content: Any, size: int) -> None:
    info = tarfile.TarInfo(f"foldsight-{version}/{name}")
    info.size = size
    info.mode = 0o755 if Path(name).name in PROGRAMS else 0o644
    tar.addfile(info, content)
