"""The rehearsal's phone, beside a real page, a real broker and a real daemon."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.broker import find_mosquitto
from edge.display.files import STATIC_FOLDER

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "emulator"))
import phone
import prepared

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`"),
]


@contextlib.contextmanager
def daemon(phones: Any, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    told = phones.config.model_dump(mode="json", include={"device", "mqtt", "phones"})
    told |= {"state_dir": str(folder / "state"), "latency": {"max_age_ms": 2000, "budget_ms": 2000}}
    told["capture"] = {"source": "phantom", "width": 320, "height": 240, "fps": 5, "timeout_s": 5, "hung_s": 30}
    config = folder / "edge.yaml"
    config.write_text(json.dumps(told))
    line = [sys.executable, "-m", "edge.cli", "run", "--config", str(config)]
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_a_killed_daemon_as_the_phone_sees_it(phones: Any, tmp_path: Path) -> None:
    with contextlib.closing(phone.Phone("adapter-1", *ports(phones))) as client:
        with pytest.raises(prepared.SetupError, match="not the one whose fingerprint"):
            client.pair(f"{phones.code()[:-4]}0000")
        client.pair(phones.code())
        with daemon(phones, tmp_path) as first:
            before = client.live(0, 120)
            assert before is not None
            first.send_signal(signal.SIGKILL)
            begin = time.monotonic()
        told = client.first(lambda h: h.topic == "status" and h.body["state"] == "offline", begin, 60)
        assert told is not None
        with daemon(phones, tmp_path):
            after = client.live(begin, 120, before.session + 1)
        assert after is not None
        sign = phone.noticed(client.heard, begin, after.at)
        assert sign is not None
        assert sign.seconds <= told.at - begin + 0.01
        assert not phone.stale(client.heard, begin, after.at, before.session, 2.0)


def ports(phones: Any) -> tuple[int, int]:
    return int(phones.url.rstrip("/").rpartition(":")[2]), phones.config.phones.mqtt_port
