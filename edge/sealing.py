"""Files that only one person can open: the public `age` format, version 1 (https://age-encryption.org/v1).

The adapter knows a public key and can seal, not open. What it sealed can be opened by `unseal` here, and by any
program that knows the format (`age --decrypt --identity KEY FILE`). For each file there is a fresh X25519 key, whose
secret with the recipient's (HKDF-SHA-256) wraps the file's key; the content goes in chunks of 64 KiB through
ChaCha20-Poly1305, each with its number, the last one marked, so that nothing can be left out, moved or cut off unseen.
ChaCha20 since a Raspberry Pi 4 has no AES instructions.

Keys are text, as `age-keygen` writes them: `AGE-SECRET-KEY-1…` and `age1…`, 32 bytes in Bech32 (BIP 173).
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import TYPE_CHECKING, Final

from edge import keys
from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

# cryptography is imported where it is used: 50 ms that a device that seals nothing need not pay.

SUFFIX: Final = ".age"
_VERSION: Final = b"age-encryption.org/v1\n"
_CHUNK: Final = 64 * 1024
_TAG: Final = 16
_FILE_KEY, _KEY, _NONCE = 16, 32, 16
_WRAPPED: Final = _FILE_KEY + _TAG
_ZEROS: Final = bytes(12)  # the nonce under a key that is used once
_SECRET, _PUBLIC = "age-secret-key-", "age"
_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


class SealError(FoldsightError):
    """A sealed file is damaged, or for somebody else."""


def make_keys(path: Path) -> Path:
    """Write a new private key, readable to its owner alone, and the public one beside it.

    Returns:
        The public key's file, NAME.pub.

    Raises:
        FoldsightError: one of the files exists, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415  as above

    key = X25519PrivateKey.generate()
    public = recipient_text(key.public_key())
    private = f"# public key: {public}\n{identity_text(key)}\n".encode()
    return keys.write_pair(path, private, f"{public}\n".encode())


def identity_text(key: X25519PrivateKey) -> str:
    """A private key as `age` writes it."""
    return _bech32(_SECRET, key.private_bytes_raw()).upper()


def recipient_text(key: X25519PublicKey) -> str:
    """A public key as `age` writes it."""
    return _bech32(_PUBLIC, key.public_bytes_raw())


def load_recipient(path: Path) -> X25519PublicKey:
    """The public key in a file; lines that begin with # do not count.

    Raises:
        FoldsightError: it cannot be read, or holds no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey  # noqa: PLC0415  as above

    return X25519PublicKey.from_public_bytes(_key(path, _PUBLIC, "public"))


def load_identity(path: Path) -> X25519PrivateKey:
    """The private key in a file; lines that begin with # do not count.

    Raises:
        FoldsightError: it cannot be read, or holds no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415  as above

    return X25519PrivateKey.from_private_bytes(_key(path, _SECRET, "private"))


def seal(content: bytes, recipient: X25519PublicKey) -> Iterator[bytes]:
    """A file's content so that only the recipient can open it, piece by piece: other threads may work in between."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415

    file_key, nonce = os.urandom(_FILE_KEY), os.urandom(_NONCE)
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    wrap_key = _wrap_key(ephemeral.exchange(recipient), share, recipient)
    wrapped = ChaCha20Poly1305(wrap_key).encrypt(_ZEROS, file_key, None)
    header = _VERSION + b"-> X25519 " + _base64(share) + b"\n" + _base64(wrapped) + b"\n---"
    yield header + b" " + _base64(_mac(file_key, header)) + b"\n" + nonce
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    for number, at in enumerate(range(0, max(1, len(content)), _CHUNK)):
        yield cipher.encrypt(_counted(number, last=at + _CHUNK >= len(content)), content[at : at + _CHUNK], None)


def unseal(sealed: bytes, identity: X25519PrivateKey) -> bytes:
    """The content of a sealed file.

    Raises:
        SealError: it is no sealed file, it is damaged, or it is for another key.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415

    stanzas, header, mac, payload = _parse(sealed)
    file_key = None
    for share, wrapped in stanzas:
        try:
            secret = identity.exchange(X25519PublicKey.from_public_bytes(share))
            key = _wrap_key(secret, share, identity.public_key())
            file_key = ChaCha20Poly1305(key).decrypt(_ZEROS, wrapped, None)
        except (InvalidTag, ValueError):
            continue  # another recipient's
        break
    if file_key is None:
        raise SealError("it was sealed for another key: give the private key that belongs to recording.recipient")
    if not hmac.compare_digest(mac, _mac(file_key, header)):
        raise SealError("its head is damaged: copy it again")
    nonce, body = payload[:_NONCE], payload[_NONCE:]
    if len(nonce) < _NONCE or len(body) < _TAG:
        raise SealError("it is cut off: copy it again")
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    chunks = [body[at : at + _CHUNK + _TAG] for at in range(0, len(body), _CHUNK + _TAG)]
    try:
        opened = [cipher.decrypt(_counted(n, last=n == len(chunks) - 1), c, None) for n, c in enumerate(chunks)]
    except InvalidTag as error:
        raise SealError("it is damaged or cut off: copy it again") from error
    if len(opened) > 1 and not opened[-1]:
        raise SealError("it is damaged: its last piece is empty")
    return b"".join(opened)


def _parse(sealed: bytes) -> tuple[list[tuple[bytes, bytes]], bytes, bytes, bytes]:
    """Its X25519 stanzas, the head that is authenticated, its code, and the payload."""
    head, mark, rest = sealed.partition(b"\n--- ")
    code, newline, payload = rest.partition(b"\n")
    if not (sealed.startswith(_VERSION) and mark and newline):
        raise SealError("it is no sealed file (age, version 1)")
    lines = head[len(_VERSION) :].split(b"\n")
    stanzas: list[tuple[bytes, bytes]] = []
    try:
        for number, line in enumerate(lines):
            kind, _, share = line.removeprefix(b"-> ").partition(b" ")
            if line.startswith(b"-> ") and kind == b"X25519":
                stanzas.append((_unbase64(share, _KEY), _unbase64(lines[number + 1], _WRAPPED)))
        mac = _unbase64(code, _KEY)
    except (ValueError, IndexError) as error:
        raise SealError("its head is damaged: copy it again") from error
    return stanzas, head + b"\n---", mac, payload


def _wrap_key(secret: bytes, share: bytes, recipient: X25519PublicKey) -> bytes:
    return _derive(secret, share + recipient.public_bytes_raw(), _VERSION.strip() + b"/X25519")


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derive(file_key, b"", b"header"), header, "sha256")


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), _KEY, salt, info).derive(secret)


def _counted(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes, length: int) -> bytes:
    data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    if len(data) != length or _base64(data) != text:
        raise ValueError
    return data


def _key(path: Path, prefix: str, what: str) -> bytes:
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except OSError as error:
        raise FoldsightError(f"{path} cannot be read ({error.strerror}): give the {what} key's file") from error
    except UnicodeDecodeError:
        lines = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            key = _unbech32(line.strip(), prefix)
            if key is not None:
                return key
            break
    raise FoldsightError(f"{path} holds no {what} key: make a pair with `foldsight recording keygen` or age-keygen")


def _bech32(prefix: str, data: bytes) -> str:
    number = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    values = [number >> 5 * (count - 1 - n) & 31 for n in range(count)]
    checksum = _polymod([*_expanded(prefix), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    values += [checksum >> 5 * (5 - n) & 31 for n in range(6)]
    return prefix + "1" + "".join(_ALPHABET[value] for value in values)


def _unbech32(text: str, prefix: str) -> bytes | None:
    """The 32 bytes; None where the text is no such key or has a typing error."""
    if text not in (text.lower(), text.upper()) or not text.lower().startswith(prefix + "1"):
        return None
    characters = text.lower()[len(prefix) + 1 :]
    try:
        values = [_ALPHABET.index(character) for character in characters]
    except ValueError:
        return None
    if len(values) != -(-8 * _KEY // 5) + 6 or _polymod([*_expanded(prefix), *values]) != 1:
        return None
    number = 0
    for value in values[:-6]:
        number = number << 5 | value
    spare = 5 * len(values[:-6]) - 8 * _KEY
    return None if number & (1 << spare) - 1 else (number >> spare).to_bytes(_KEY, "big")


def _expanded(prefix: str) -> list[int]:
    return [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check
