"""Bounds on what one caller may ask: a bucket of requests, and a lock after wrong tokens."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLERS: Final = 4096  # remembered at most; the longest silent is forgotten first


def caller(address: str) -> str:
    """Who is counted: the address, of IPv6 the /64 in which a device may choose any."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """Token buckets, one a caller.

    Args:
        burst: what a caller may spend at once.
        rate: what comes back in a second.
        clock: seconds, monotonic.
    """

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._rate, self._clock = burst, rate, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def spend(self, who: str, cost: float = 1.0) -> float:
        """Take `cost` out of the caller's bucket; gives the seconds to wait where it does not hold so much, else 0."""
        now = self._clock()
        bucket = self._buckets.setdefault(who, _Bucket(self._burst, now))
        self._buckets.move_to_end(who)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < cost:
            return (cost - bucket.left) / self._rate
        bucket.left -= cost
        return 0.0


@dataclass(slots=True)
class _Record:
    failures: int = 0
    locked_until: float = 0.0
    last: float = 0.0


class Lockout:
    """Locks a caller out after some failures, for twice as long with each further one.

    Args:
        free: failures before the first lock.
        first_s: how long the first lock lasts.
        longest_s: how long one lasts at most; after so long without a failure all is forgotten.
        clock: seconds, monotonic.
    """

    def __init__(
        self, free: int = 5, first_s: float = 30, longest_s: float = 3600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._free, self._first_s, self._longest_s, self._clock = free, first_s, longest_s, clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def locked_for(self, who: str) -> float:
        """Seconds until the caller may try again; 0 for now."""
        record = self._records.get(who)
        return max(0.0, record.locked_until - self._clock()) if record else 0.0

    def failed(self, who: str) -> float:
        """Count a failure; gives for how many seconds the caller is locked out now, 0 for not yet."""
        now = self._clock()
        record = self._records.setdefault(who, _Record())
        self._records.move_to_end(who)
        if len(self._records) > _CALLERS:
            self._records.popitem(last=False)
        if now - max(record.last, record.locked_until) > self._longest_s:
            record.failures = 0
        record.failures, record.last = record.failures + 1, now
        beyond = record.failures - self._free
        if beyond < 0:
            return 0.0
        lasts = min(self._longest_s, self._first_s * 2.0 ** min(beyond, 32))
        record.locked_until = now + lasts
        return lasts

    def succeeded(self, who: str) -> None:
        """Forget the caller's failures."""
        self._records.pop(who, None)
