"""Keys that sign model bundles (Ed25519, RFC 8032), as PEM files: the private one stays with who releases models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge.errors import ConfigError, FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# cryptography is imported where it is used: 50 ms that a device without trusted keys need not pay.


def make(path: Path) -> Path:
    """Write a new private key, readable to its owner alone, and the public one beside it.

    Returns:
        The public key's file, NAME.pub.

    Raises:
        FoldsightError: one of the files exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return write_pair(path, private, public_pem(key.public_key()))


def write_pair(path: Path, private: bytes, public: bytes) -> Path:
    """Write a private key's file, readable to its owner alone, and the public one's, NAME.pub, which is returned.

    Raises:
        FoldsightError: one of the files exists, or cannot be written.
    """
    public_path = path.with_name(f"{path.name}.pub")
    if public_path.exists():
        raise FoldsightError(f"{public_path} exists: no key is overwritten; give another name")
    _create(path, private, 0o600)
    _create(public_path, public, 0o644)
    return public_path


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as the text of its file."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  as above

    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_private(path: Path) -> Ed25519PrivateKey:
    """The key that `make` wrote.

    Raises:
        FoldsightError: it cannot be read, or is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise FoldsightError(f"{path} cannot be read ({error.strerror}): give the private key's file") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FoldsightError(f"{path} is no private key: make one with `foldsight bundle keygen`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FoldsightError(f"{path} is no Ed25519 key: make one with `foldsight bundle keygen`")
    return key


def trusted(paths: Iterable[Path], named: str = "model.trusted_keys") -> list[Ed25519PublicKey]:
    """The public keys in files, and in folders' *.pub.

    Args:
        paths: the files and folders.
        named: where they are named, for errors.

    Raises:
        ConfigError: a path is missing, a folder holds no key, or a file is none. An adapter that was told to trust some
            keys must not trust everybody because one was mislaid.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{named}: {path} holds no public key (*.pub): put one there")
        files += found
    return [_load_public(file, named) for file in files]


def _load_public(path: Path, named: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{named}: {path} cannot be read ({error.strerror})") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{named}: {path} is no public key (PEM)") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{named}: {path} is no Ed25519 key")
    return key


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise FoldsightError(f"{path} exists: no key is overwritten; give another name") from error
    except OSError as error:
        raise FoldsightError(f"{path} cannot be written ({error.strerror}): give another path") from error
