"""Which phones are paired, and which codes are good: one small file that the server and the command line share.

Of a token only its hash is stored. Its five minutes are counted by the clock that starts with the machine, so that
neither a wrong wall clock nor one that jumps prolongs them.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import logging
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.errors import FoldsightError
from edge.pairing import files

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

TOKEN_S: Final = 300
TOKENS: Final = 8
"""Codes that may be good at the same time; beyond it the oldest goes."""
USERNAME_PREFIX: Final = "phone-"
_TOKEN_BYTES: Final = 18  # 144 bits, 24 characters
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class TokenRefused(Exception):  # noqa: N818  not a fault: an answer
    """The token is wrong, used, or too old; which of these is nobody's business."""


class TooManyPhones(Exception):  # noqa: N818  not a fault: an answer
    """As many phones as may be are paired."""


class Phone(BaseModel):
    """A paired phone."""

    model_config = ConfigDict(frozen=True)

    name: str
    username: str
    paired_at: str
    """Wall clock, ISO 8601: a label."""


class _Token(BaseModel):
    hash: str
    expires: float
    boot: str


class _State(BaseModel):
    version: int = 1
    tokens: list[_Token] = []
    phones: list[Phone] = []


class Registry:
    """Tokens and phones in `pairing.json`.

    Args:
        folder: the page server's own.
        limit: phones that may be paired at the same time.
        clock: seconds since the machine was started.
        boot: which start that was.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int = 8,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot: str | None = None,
    ) -> None:
        self._file, self._lock = folder / "pairing.json", folder / "pairing.lock"
        self._limit, self._clock = limit, clock
        self._boot = _boot_id() if boot is None else boot

    def new_token(self) -> str:
        """A code for one phone, good for `TOKEN_S` seconds: 144 random bits, URL-safe.

        Raises:
            FoldsightError: the folder cannot be written.
        """
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with files.locked(self._lock):
            state = self._read()
            fresh = _Token(hash=_hash(token), expires=self._clock() + TOKEN_S, boot=self._boot)
            state.tokens = [*self._alive(state), fresh][-TOKENS:]
            self._write(state)
        return token

    def pair(self, token: str, name: str, create: Callable[[str, str], None]) -> tuple[str, str]:
        """Trade a token for an account of the phone's own. The token is gone only when the account is there.

        Args:
            token: from the code.
            name: what its owner calls the phone.
            create: makes the account (username, password) at the broker, or raises.

        Returns:
            Username and password.

        Raises:
            TokenRefused: the token is not good.
            TooManyPhones: one must be revoked first.
            FoldsightError: the folder cannot be written, or what `create` raises.
        """
        with files.locked(self._lock):
            state = self._read()
            given = _hash(token)
            tokens = self._alive(state)
            found = [t for t in tokens if hmac.compare_digest(t.hash, given)]
            if not found:
                raise TokenRefused
            if len(state.phones) >= self._limit:
                raise TooManyPhones
            username, password = USERNAME_PREFIX + secrets.token_hex(8), secrets.token_urlsafe(32)
            create(username, password)
            now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
            state.tokens = [t for t in tokens if t not in found]
            state.phones.append(Phone(name=_unlike(name, state.phones), username=username, paired_at=now))
            self._write(state)
        return username, password

    def phones(self) -> list[Phone]:
        """Those that are paired, in the order in which they were."""
        return self._read().phones

    def revoke(self, name: str, delete: Callable[[str], None]) -> list[Phone]:
        """Take back a phone's account, by the phone's or the account's name; `all` takes back every one.

        Args:
            name: whose.
            delete: takes the account from the broker, or raises: then the phone stays in the list.

        Raises:
            FoldsightError: no such phone, the folder cannot be written, or what `delete` raises.
        """
        with files.locked(self._lock):
            state = self._read()
            exact = [p for p in state.phones if name in {p.name, p.username}]
            found = list(state.phones) if name == "all" else exact
            if not found and name != "all":
                known = ", ".join(p.name for p in state.phones) or "none"
                raise FoldsightError(f"No phone is called {name!r}: paired are {known}")
            if name == "all":
                state.tokens = []  # whoever holds a code must not come in after it
            try:
                for phone in found:
                    delete(phone.username)
                    state.phones.remove(phone)
            finally:
                self._write(state)
        return found

    def tidy(self, accounts: set[str], delete: Callable[[str], None]) -> None:
        """Make list and broker agree after a power cut between the two: what either does not know is no phone.

        Args:
            accounts: the broker's account names.
            delete: takes an account from the broker.
        """
        with files.locked(self._lock):
            state = self._read()
            known = {p.username for p in state.phones}
            for username in sorted(a for a in accounts - known if a.startswith(USERNAME_PREFIX)):
                log.warning("the account %s belongs to no paired phone and is removed", username)
                delete(username)
            lost = known - accounts
            if lost:
                log.warning("the broker does not know %s any more: to be paired anew", ", ".join(sorted(lost)))
                state.phones = [p for p in state.phones if p.username not in lost]
                self._write(state)

    def _alive(self, state: _State) -> list[_Token]:
        now = self._clock()
        return [t for t in state.tokens if t.boot == self._boot and now < t.expires <= now + TOKEN_S]

    def _read(self) -> _State:
        content = files.read(self._file)
        if content is None:
            return _State()
        try:
            return _State.model_validate_json(content)
        except ValidationError:
            log.warning("%s is damaged: phones must be paired anew", self._file)
            return _State()

    def _write(self, state: _State) -> None:
        files.write(self._file, state.model_dump_json(indent=1).encode())


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _unlike(name: str, phones: list[Phone]) -> str:
    """The name, with a number where another phone has it, or where it would mean all of them."""
    taken = {"all", *(p.name for p in phones)}
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    return candidate


def _boot_id() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
