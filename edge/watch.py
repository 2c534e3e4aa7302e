"""`foldsight watch`: what an adapter publishes, in a terminal."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.errors import FoldsightError
from edge.messages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_STALE_S = 1.0
_WORDS = {
    "folds": "VOCAL FOLDS IN VIEW",
    "no_folds": "no vocal folds",
    "uncertain": "uncertain",
    "no_signal": "NO SIGNAL",
}


class Watcher:
    """Subscribes to adapters and prints what they say.

    Args:
        device: one adapter's name, or `+` for all.
        as_json: one JSON object a line, as received, with its topic; else a line that is rewritten in place.
    """

    def __init__(self, device: str, *, as_json: bool) -> None:
        self._topic, self._as_json = f"{ROOT}/{device}/#", as_json
        self._fresh_s = 0.0
        self._state: dict[str, Any] = {}
        self._regions: dict[str, dict[str, Any] | None] = {}  # by label; one that was seen once keeps its column
        self._status = "waiting for the adapter"

    def run(self, host: str, port: int, *, seconds: float | None, username: str | None, password_file: Path | None,
            ca_file: Path | None) -> None:  # fmt: skip
        """Print until interrupted, or for some seconds.

        Raises:
            FoldsightError: the broker is not there or refuses.
        """
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_connect, client.on_message = self._connected, self._message
        refused: list[str] = []
        client.on_connect_fail = lambda *_: refused.append("no answer")
        if ca_file is not None:
            client.tls_set(str(ca_file))
        if username is not None:
            try:
                password = password_file.read_text(encoding="utf-8").splitlines()[0] if password_file else None
            except (OSError, IndexError) as error:
                raise FoldsightError(f"the password cannot be read from {password_file} ({error})") from error
            client.username_pw_set(username, password)
        self._refused = refused
        try:
            client.connect(host, port, 5)
        except OSError as error:
            raise FoldsightError(
                f"no broker answers at {host}:{port} ({error.strerror or error}): is it running?"
            ) from error
        client.loop_start()
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            while deadline is None or time.monotonic() < deadline:
                time.sleep(0.2)
                if refused:
                    raise FoldsightError(f"the broker at {host}:{port} refuses: {refused[0]}")
                if not self._as_json:
                    self._draw()
        finally:
            client.disconnect()
            client.loop_stop()
            if not self._as_json:
                sys.stdout.write("\n")

    def _connected(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            self._refused.append(str(reason))
        else:
            client.subscribe(self._topic, 0)

    def _message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        try:
            payload = json.loads(message.payload)
        except ValueError:
            return  # not ours
        kind = message.topic.rpartition("/")[2]
        if self._as_json:
            print(json.dumps({"topic": message.topic, "retained": message.retain, **payload}), flush=True)
        elif kind == "status":
            self._status = (
                f"{payload.get('device')} {payload.get('state')} {', '.join(payload.get('reasons', []))}".strip()
            )
        elif kind in ("detection", "state") and not message.retain:
            # A retained message is the past: it shows nothing as live.
            if kind == "detection" or payload.get("state") != self._state.get("state"):
                here = {region["label"]: region for region in payload.get("regions", [])}
                self._regions = {**dict.fromkeys(self._regions), **here}
            self._state = payload
            self._fresh_s = time.monotonic()

    def _draw(self) -> None:
        silent_s = time.monotonic() - self._fresh_s
        if not self._state:
            line = "nothing received yet"
        elif silent_s > _STALE_S:
            line = f"STALE: nothing fresh for {silent_s:.0f} s"
        else:
            s = self._state
            line = f"{_WORDS.get(s['state'], s['state']):<20} score {s['score']:.2f}  age {s.get('age_ms') or 0:.0f} ms"
            line += "".join(f"  {label} {_place(region)}" for label, region in self._regions.items())
        sys.stdout.write(f"\r\x1b[K{line}   [{self._status}]")
        sys.stdout.flush()


def _place(region: dict[str, Any] | None) -> str:
    """Centre and area as shares of the frame, in a column's width."""
    if region is None:
        return f"{'-':<16}"
    x, y = region["centre"]
    return f"{x:4.2f} {y:4.2f} {region['area']:6.1%}"
