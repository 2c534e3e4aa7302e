"""A word for a daemon that does not run any more: it has used up its restarts, and phones should know why.

The daemon's last `status` is then `offline` (its will) or `stopped`. This one is `degraded`, with a reason, under the
same session, so that the next daemon's word goes before it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.errors import FoldsightError
from edge.messages import CONTENT_TYPE, ROOT, Status
from edge.service import last_session

if TYPE_CHECKING:
    from edge.config import Config

_WITHIN_S = 10.0


def announce(config: Config, reason: str) -> None:
    """Publish the status `degraded`, retained, with the daemon's own account and name.

    Args:
        config: the adapter's settings.
        reason: what people read.

    Raises:
        FoldsightError: the broker is away or lets nobody in.
    """
    mqtt, where = config.mqtt, f"{config.mqtt.host}:{config.mqtt.port}"
    status = Status(
        device=config.device,
        session=last_session(config.effective_state_dir),
        state="degraded",
        reasons=[reason],
        at=time.time(),
    )
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ContentType = CONTENT_TYPE
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
    try:
        if mqtt.ca_file is not None:
            client.tls_set(str(mqtt.ca_file))
        if mqtt.username is not None:
            file = _own_credential(mqtt.password_file)
            lines = file.read_text(encoding="utf-8").splitlines() if file else []
            client.username_pw_set(mqtt.username, lines[0] if lines else None)
        client.connect(mqtt.host, mqtt.port, 10)
        client.loop_start()
        sent = client.publish(
            f"{ROOT}/{config.device}/status", status.encode(), qos=1, retain=True, properties=properties
        )
        sent.wait_for_publish(_WITHIN_S)
        if not sent.is_published():
            raise FoldsightError(f"{where} did not take the status within {_WITHIN_S:g} s: is the account right?")
    except (OSError, ValueError, RuntimeError) as error:
        raise FoldsightError(f"{where} was not told ({error}): is the broker running?") from error
    finally:
        client.disconnect()
        client.loop_stop()


def _own_credential(file: Path | None) -> Path | None:
    """The settings name the daemon's credential; another unit's copy of it lies elsewhere (systemd.exec(5))."""
    own = os.environ.get("CREDENTIALS_DIRECTORY")
    if file is None or own is None or file.parent.parent != Path("/run/credentials"):
        return file
    return Path(own) / file.name
