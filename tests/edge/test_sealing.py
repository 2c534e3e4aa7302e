"""Sealed files: what was written is read again, by its owner alone, and by the program whose format it is."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import sealing
from edge.errors import FoldsightError
from edge.sealing import SealError

# Made by age 1.1.1: a key of age-keygen, and `printf 'what age sealed' | age -r ...`.
AGE_KEY = "AGE-SECRET-KEY-12NTR4ATX8YCVLMDK4USMYRP4R0MUK9A0SK8KDTYD6DY308VTZNCQDYG5LU"
AGE_PUBLIC = "age12ms5jtluxla5pc4pkyy0kmyhsyaf6zu80d48up5gjtlj97d64qlql8recp"
AGE_FILE = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSAvWEtwODNqY0hseDN3cGdMeWhvRzkzV3pKNjFTRDFjcVJSTkxxWmY5YlhB"
    "CnZHT25CSXRNVlovY28vLy8zMWZqUlhjeFFzcmdkUG5IMktNZ1NXOGVERncKLS0tIHEya0VYeTd3YjlPZkd1N0NKUWV6SHhZR3Yw"
    "N2UvakR3cUdFaWxJTmVzeEUKugGzTFxtRcQ6c4s3zAdfTHTZ7Jeas5yEsXyQgqX4RydFsER1j8C9LAAx7zY3v+8="
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "owner"
    assert sealing.make_keys(path) == path.with_name("owner.pub")
    return path


def sealed(pair: Path, content: bytes) -> bytes:
    return b"".join(sealing.seal(content, sealing.load_recipient(Path(f"{pair}.pub"))))


def test_it_opens_what_age_sealed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"# created: once\n{AGE_KEY}\n")
    identity = sealing.load_identity(tmp_path / "key")
    assert sealing.recipient_text(identity.public_key()) == AGE_PUBLIC
    assert sealing.identity_text(identity) == AGE_KEY
    assert sealing.unseal(AGE_FILE, identity) == b"what age sealed"


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
@pytest.mark.parametrize("size", [0, 15, 65536, 65537, 200_000])
def test_age_opens_what_it_sealed(pair: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    opened = subprocess.run(
        ["age", "--decrypt", "--identity", str(pair)], input=sealed(pair, content), capture_output=True, check=True
    )
    assert opened.stdout == content


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, 65535 - 200, 65536, 131072 - 100, 131072]))
def test_what_is_sealed_is_opened(pair: Path, end: bytes, before: int) -> None:
    content = bytes(before) + end
    assert sealing.unseal(sealed(pair, content), sealing.load_identity(pair)) == content


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed_or_left_out_unseen(pair: Path, data: st.DataObject) -> None:
    content = b"a picture" * 8000
    good = sealed(pair, content)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :],
                good[:at],
                good[:at] + good[at + 1 :],
                good + good[at:],
            ]
        )
    )
    with pytest.raises(SealError):
        sealing.unseal(bad, sealing.load_identity(pair))


def test_another_key_does_not_open_it_and_nothing_shows_through(pair: Path, tmp_path: Path) -> None:
    secret = b"JFIF" * 1000
    shut = sealed(pair, secret)
    assert b"JFIF" not in shut
    assert sealed(pair, secret) != shut  # a key of its own for each file
    sealing.make_keys(tmp_path / "other")
    with pytest.raises(SealError, match="sealed for another key"):
        sealing.unseal(shut, sealing.load_identity(tmp_path / "other"))


def test_a_whole_piece_cannot_be_cut_off(pair: Path) -> None:
    two = sealed(pair, bytes(2 * 65536))
    with pytest.raises(SealError, match="cut off"):
        sealing.unseal(two[: -(65536 + 16)], sealing.load_identity(pair))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only words\n",
        "age1qqqq",
        "AGE-SECRET-KEY-1",
        AGE_PUBLIC[:-1] + "q",
        AGE_PUBLIC.upper()[:9] + AGE_PUBLIC[9:],
    ],
)
def test_what_is_no_key_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(FoldsightError, match="holds no public key"):
        sealing.load_recipient(tmp_path / "key")
    (tmp_path / "key").write_bytes(b"\xff\x00")
    with pytest.raises(FoldsightError, match="holds no private key"):
        sealing.load_identity(tmp_path / "key")
    with pytest.raises(FoldsightError, match="cannot be read"):
        sealing.load_identity(tmp_path / "none")


def test_keys_are_not_overwritten_and_the_private_one_is_private(pair: Path) -> None:
    assert pair.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FoldsightError, match="no key is overwritten"):
        sealing.make_keys(pair)
