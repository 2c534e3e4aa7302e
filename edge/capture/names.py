"""How a source may be called where others read it: an address carries passwords, a pipeline too."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "udp://", "tcp://")
PIPELINE = "gst:"

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_SECRET = re.compile(
    r"([\w-]*(?:user|pass|pw|auth|token|secret|key|cookie|location|uri)[\w-]*\s*=\s*)(\"[^\"]*\"|[^\s!]+)",
    re.IGNORECASE,
)


def public_name(source: str) -> str:
    """A source as logs, messages and tables may name it.

    Of an address only scheme, host and port are left, since cameras take passwords before the host, in the query and in
    the path; of a pipeline its first element.
    """
    if source.lower().startswith(PIPELINE):
        words = source[len(PIPELINE) :].split()
        return f"{PIPELINE}{words[0] if words and re.fullmatch(r'[a-z0-9]+', words[0]) else 'pipeline'}"
    # As a whole: an unescaped password may hold what ends an address within a sentence.
    return _host_of(source) if source.lower().startswith(STREAMS) else scrub(source)


def scrub(text: str, *secrets: str) -> str:
    """A library's message without addresses, passwords and whatever else must not be told.

    Args:
        text: the message.
        secrets: addresses and words that are taken out wherever they stand.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return _SECRET.sub(r"\1…", _ADDRESS.sub(lambda match: _host_of(match.group(0)), text))


def secrets_of(source: str) -> tuple[str, ...]:
    """What of a source must not be told: user and password of its addresses, and the values that stand for such."""
    found = [match.group(2).strip('"') for match in _SECRET.finditer(source)]
    whole = source.lower().startswith(STREAMS)
    for address in [source] if whole else _ADDRESS.findall(source):
        user = address.partition("://")[2].rpartition("@")[0]
        found += [part for part in (user, *user.split(":", 1)) if len(part) > 3]  # noqa: PLR2004  "a" is in every word
    return tuple(found)


def _host_of(text: str) -> str:
    scheme = text.partition("://")[0]
    try:
        address = urlsplit(text)
        host, port = address.hostname or "", address.port
    except ValueError:
        return f"{scheme}://…"
    # A password may hold an unescaped / ? or #, and what is taken for the host is then a part of it.
    if "@" in address.path + address.query + address.fragment or not host:
        return f"{scheme}://…"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
