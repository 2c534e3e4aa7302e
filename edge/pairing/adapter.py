"""Where everything of an adapter with phones lies, and the one step that makes it all right.

```
<phones.state_dir>/ca/       ca.pem                                        root's: nobody else can sign
                   broker/   server.pem, ca.crt, dynamic-security.json     mosquitto's
                   display/  server.pem, ca.crt, password, pairing.json    the page server's
                   edge/     password                                      the daemon's
```
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edge.errors import FoldsightError
from edge.pairing import certificates, files, mosquitto
from edge.pairing.accounts import Accounts
from edge.pairing.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from edge.config import Config


def host_name() -> str:
    """This machine's name, as mDNS announces it below `.local`."""
    return socket.gethostname().partition(".")[0].lower() or "foldsight"


class Changes(NamedTuple):
    """What `Adapter.prepare` made anew, for which the broker must be restarted.

    A reload is not enough: mosquitto 2.0 then goes on showing the old certificate on its WebSocket listener.
    """

    certificates: bool
    accounts: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter with phones, as its settings have it."""

    config: Config

    @property
    def ca(self) -> Path:
        """The certificate authority's folder."""
        return self.config.phones.state_dir / "ca"

    @property
    def broker(self) -> Path:
        """The broker's folder."""
        return self.config.phones.state_dir / "broker"

    @property
    def display(self) -> Path:
        """The page server's folder."""
        return self.config.phones.state_dir / "display"

    @property
    def edge(self) -> Path:
        """The daemon's folder."""
        return self.config.phones.state_dir / "edge"

    @property
    def address(self) -> str:
        """What phones call the adapter: a host name or an IPv4 address."""
        return self.config.phones.address or f"{host_name()}.local"

    @property
    def names(self) -> certificates.Names:
        """What the certificates are for."""
        dns = [f"{host_name()}.local", host_name(), socket.gethostname(), "localhost", self.address]
        addresses = certificates.local_addresses()
        with contextlib.suppress(ValueError):
            addresses.append(ipaddress.IPv4Address(self.address))
        return certificates.Names.of([*dns, *self.config.phones.names], addresses)

    def prepare(self) -> Changes:
        """Make certificates, accounts and passwords where they are missing, damaged or due.

        Raises:
            FoldsightError: a folder cannot be read or written.
        """
        names = self.names
        authority = certificates.ensure_authority(self.ca, host_name(), names)
        renewed = [certificates.ensure_server(folder, authority, names) for folder in (self.broker, self.display)]
        passwords = {mosquitto.EDGE: _password(self.edge), mosquitto.DISPLAY: _password(self.display)}
        discovery = self.config.home_assistant.prefix if self.config.home_assistant.enabled else ""
        return Changes(any(renewed), mosquitto.plugin_state(self.broker, self.config.device, passwords, discovery))

    def broker_configuration(self) -> str:
        """What mosquitto reads."""
        return mosquitto.configuration(self.listeners, port=self.config.mqtt.port)

    @property
    def listeners(self) -> mosquitto.PhoneListeners:
        """What phones reach of the broker."""
        phones = self.config.phones
        return mosquitto.PhoneListeners(
            self.broker, phones.host, phones.mqtt_port, phones.websocket_port, connections=4 * phones.limit
        )

    @property
    def registry(self) -> Registry:
        """Tokens and phones."""
        return Registry(self.display, limit=self.config.phones.limit)

    def accounts(self) -> Accounts:
        """The way to the phones' accounts at the broker.

        Raises:
            FoldsightError: `foldsight broker prepare` has not run, or this user may not.
        """
        password = self._made(self.display / "password").decode().strip()
        return Accounts(self.config.mqtt.host, self.config.mqtt.port, mosquitto.DISPLAY, password)

    def pair(self, token: str, name: str) -> tuple[str, str]:
        """Trade a token for a phone's account: username and password.

        Raises:
            TokenRefused: the token is not good.
            TooManyPhones: one must be revoked first.
            FoldsightError: the broker is away, or the state cannot be written; the token stays good.
        """
        return self.registry.pair(token, name, self.accounts().create)

    def authority_certificate(self) -> bytes:
        """The certificate that phones are to trust, PEM.

        Raises:
            FoldsightError: `foldsight broker prepare` has not run, or this user may not.
        """
        return self._made(self.display / "ca.crt")

    def pairing_address(self, token: str) -> str:
        """What the code holds. What stands behind # is never sent to a server, and so reaches no log."""
        ca = certificates.fingerprint(self.authority_certificate())
        return f"https://{self.address}:{self.config.phones.https_port}/#pair={token}&ca={ca}"

    def _made(self, path: Path) -> bytes:
        content = files.read(path)
        if content is None:
            raise FoldsightError(f"{path} is missing: run `foldsight broker prepare` as root first")
        return content


def _password(folder: Path) -> str:
    """The service's password, made where there is none."""
    path = folder / "password"
    content = files.read(path)
    if content is not None and content.strip():
        return content.decode().strip()
    password = secrets.token_urlsafe(32)
    files.write(path, password.encode() + b"\n")
    return password
