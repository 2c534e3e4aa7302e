"""What mosquitto reads: its configuration and the first state of its dynamic security plugin.

One source for the adapter (`foldsight broker config`), the demo and the tests. Accounts live in the plugin because it
throws a phone out at once and for good: deleting a client ends its connection, over MQTT itself, so that the page's
server needs no right over mosquitto's process or files. With a password file it would have to write that file and
signal the process.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge.messages import ROOT
from edge.pairing import files

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

# Looked for where the system's libraries are, so that one line is right on every architecture.
PLUGIN: Final = "mosquitto_dynamic_security.so"
STATE: Final = "dynamic-security.json"
EDGE: Final = "edge"
DISPLAY: Final = "display"
PHONE: Final = "phone"
"""Names of the roles; the first two are accounts too."""
CONTROL: Final = "$CONTROL/dynamic-security/v1"

_LARGEST_PACKET: Final = 256 * 1024  # a preview is at most 40 kB
_ITERATIONS: Final = 10_000  # the passwords are random: nobody tries them one by one


@dataclass(frozen=True, slots=True)
class PhoneListeners:
    """What phones reach.

    Attributes:
        folder: holds `server.pem`, `ca.crt` and the plugin's state; mosquitto's own.
        host: the address to listen on; "" is every one.
        port: MQTT over TLS.
        websocket_port: MQTT over secure WebSocket.
        connections: at most so many on each of the two.
    """

    folder: Path
    host: str
    port: int
    websocket_port: int
    connections: int


def configuration(phones: PhoneListeners, *, port: int = 1883) -> str:
    """The broker of an adapter with phones: loopback for the daemon, TLS for phones, an account for everyone.

    Args:
        phones: what phones reach.
        port: of the loopback listener.
    """
    tls = f"""\
certfile {phones.folder}/server.pem
keyfile {phones.folder}/server.pem
max_connections {phones.connections}
# The name of the account is the client's id: no phone can throw out the daemon, or another phone, by taking its id.
use_username_as_clientid true"""
    where = f" {phones.host}" if phones.host else ""
    return f"""\
# Made by `foldsight broker config`: change the settings, not this file.
per_listener_settings false
allow_anonymous false
plugin {PLUGIN}
plugin_opt_config_file {phones.folder}/{STATE}

{limits()}

# The daemon, and the page's server.
listener {port} 127.0.0.1
protocol mqtt
set_tcp_nodelay true

# Phones' apps and other subscribers: MQTT over TLS.
listener {phones.port}{where}
protocol mqtt
{tls}

# The page in a phone's browser: MQTT over secure WebSocket.
listener {phones.websocket_port}{where}
protocol websockets
{tls}
"""


def limits() -> str:
    """What one client may cost.

    Both sizes, since mosquitto 2.0 looks at the first on plain connections only and at the second on WebSockets too. No
    `memory_limit`: with it, who merely claims to send a lot starves everybody else; deploy/mosquitto/limits.conf bounds
    the process instead.
    """
    return f"""\
set_tcp_nodelay true
max_packet_size {_LARGEST_PACKET}
message_size_limit {_LARGEST_PACKET}
max_keepalive 60
max_inflight_messages 20
max_queued_messages 100
max_queued_bytes {4 * _LARGEST_PACKET}
persistent_client_expiration 1h"""


def plugin_state(folder: Path, device: str, passwords: dict[str, str], discovery: str = "") -> bool:
    """Make the plugin's state right before mosquitto starts: roles and the two services; phones stay as they are.

    Args:
        folder: mosquitto's own.
        device: the adapter's name in topics.
        passwords: of the accounts `edge` and `display`.
        discovery: Home Assistant's prefix, which the page's server announces below and every account may read.

    Returns:
        Whether it was changed.

    Raises:
        FoldsightError: the folder cannot be read or written.
    """
    path = folder / STATE
    old = _read(path)
    clients = [c for c in old.get("clients", []) if c.get("username") not in passwords]
    services = {c["username"]: c for c in old.get("clients", []) if c.get("username") in passwords}
    for name, password in passwords.items():
        known = services.get(name)
        right = known is not None and known.get("roles") == [{"rolename": name}] and _matches(known, password)
        clients.append(known if right and known is not None else _account(name, password))
    new = {
        "defaultACLAccess": {
            "publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True,
        },
        "clients": clients,
        "groups": [],
        "roles": _roles(device, discovery),
    }  # fmt: skip
    if _sorted(old) == _sorted(new):
        return False
    files.write(path, json.dumps(new, indent=1).encode())
    return True


def _read(path: Path) -> dict[str, Any]:
    content = files.read(path)
    if content is None:
        return {}
    try:
        state = json.loads(content)
        if isinstance(state, dict) and all(isinstance(c, dict) for c in state.get("clients", [])):
            return state
    except ValueError:
        pass
    # With a torn file mosquitto would not start, and no one would see anything.
    log.warning("the broker's accounts in %s are damaged: they are made anew, and phones must be paired anew", path)
    return {}


def _roles(device: str, discovery: str) -> list[dict[str, Any]]:
    own = f"{ROOT}/{device}"

    def role(name: str, *rights: tuple[str, str]) -> dict[str, Any]:
        return {"rolename": name, "acls": [{"acltype": k, "topic": t, "priority": 0, "allow": True} for k, t in rights]}

    read = [("subscribePattern", f"{own}/#"), ("publishClientReceive", f"{own}/#")]
    announce = []
    if discovery:
        read += [("subscribePattern", f"{discovery}/#"), ("publishClientReceive", f"{discovery}/#")]
        announce = [("publishClientSend", f"{discovery}/device/+/config")]
    return [
        role(PHONE, *read, ("publishClientSend", f"{own}/cmd/+")),
        role(
            EDGE,
            *read,
            ("publishClientSend", f"{own}/#"),
        ),
        role(
            DISPLAY,
            *read,
            *announce,
            ("publishClientSend", CONTROL),
            ("subscribePattern", f"{CONTROL}/response"),
            ("publishClientReceive", f"{CONTROL}/response"),
        ),
    ]


def _account(name: str, password: str) -> dict[str, Any]:
    salt = secrets.token_bytes(12)
    return {
        "username": name,
        "password": base64.b64encode(_hash(password, salt, _ITERATIONS)).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": _ITERATIONS,
        "roles": [{"rolename": name}],
    }


def _matches(account: dict[str, Any], password: str) -> bool:
    try:
        salt, iterations = base64.b64decode(account["salt"]), int(account["iterations"])
        return secrets.compare_digest(base64.b64decode(account["password"]), _hash(password, salt, iterations))
    except (KeyError, ValueError, TypeError):
        return False


def _hash(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)


def _sorted(state: dict[str, Any]) -> str:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if not (k == "priority" and v in (0, -1))}
        if isinstance(value, list):
            return sorted((clean(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
        return value

    return json.dumps(clean({k: v for k, v in state.items() if v != []}), sort_keys=True)
