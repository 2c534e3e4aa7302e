"""The phones' accounts at the broker, through mosquitto's dynamic security plugin ($CONTROL, MQTT 5)."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.errors import FoldsightError
from edge.pairing.mosquitto import CONTROL, PHONE

_TIMEOUT_S: Final = 5.0


class BrokerAway(FoldsightError):  # noqa: N818  what it is, not that it is an error
    """The broker does not answer, so that nothing was changed as far as is known."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """Makes and removes phones' accounts, each time over a short connection of its own.

    Attributes:
        host: the broker's loopback listener.
        port: its port.
        username: an account with the role `display`.
        password: its password.
    """

    host: str
    port: int
    username: str
    password: str

    def create(self, username: str, password: str) -> None:
        """Make a phone's account.

        Raises:
            BrokerAway: the broker does not answer.
            FoldsightError: it refuses.
        """
        self._ask("createClient", username=username, password=password, roles=[{"rolename": PHONE}])

    def delete(self, username: str) -> None:
        """Remove an account; who is connected with it is thrown out in the same moment. Missing is as good as removed.

        Raises:
            BrokerAway: the broker does not answer.
            FoldsightError: it refuses.
        """
        self._ask("deleteClient", fine="Client not found", username=username)

    def names(self) -> set[str]:
        """Of every account.

        Raises:
            BrokerAway: the broker does not answer.
            FoldsightError: it refuses.
        """
        return set(self._ask("listClients")["data"]["clients"])

    def _ask(self, command: str, *, fine: str = "", **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; the arguments may hold secrets and reach no message."""
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.username_pw_set(self.username, self.password)
        client.connect_timeout = _TIMEOUT_S
        answered = threading.Event()
        answers: list[dict[str, Any]] = []
        refused: list[str] = []

        def on_connect(_: paho.Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if reason.is_failure:
                refused.append(str(reason))
                answered.set()
            else:
                client.subscribe(f"{CONTROL}/response", 1)

        def on_subscribe(*_: Any) -> None:
            client.publish(CONTROL, json.dumps({"commands": [{"command": command, **arguments}]}), 1)

        def on_message(_: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
            answers.extend(json.loads(message.payload)["responses"])
            answered.set()

        client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
        where = f"The broker at {self.host}:{self.port}"
        try:
            client.connect(self.host, self.port, 10)
        except OSError as error:
            raise BrokerAway(f"{where} does not answer ({error.strerror or error}): is it running?") from error
        client.loop_start()
        try:
            if not answered.wait(_TIMEOUT_S):
                raise BrokerAway(f"{where} did not answer {command}: is its dynamic security plugin loaded?")
        finally:
            client.disconnect()
            client.loop_stop()
        if refused:
            raise FoldsightError(f"{where} refuses {self.username} ({refused[0]}): run `foldsight broker prepare`")
        answer = answers[0]
        if "error" in answer and answer["error"] != fine:
            raise FoldsightError(f"{where} refuses {command}: {answer['error']}")
        return answer
