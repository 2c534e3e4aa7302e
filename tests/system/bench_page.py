"""How long it takes from a message, and from the camera, to the screen of the page: `make bench-page`.

The real daemon as a process of its own with the committed bundle, a real mosquitto and a real Chromium on this machine,
so that one clock counts for all. The daemon replays rendered frames from a folder; each detection says when it was
sent and how old its frame was then. The page says which frame it shows (`data-seq`); the moment is taken when the
browser has drawn the frame of the screen in which that changed: a message posted from within its animation frame is
handled after it was painted. Not included: what the camera itself, a network and the display's own electronics take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from chromium import PORTRAIT, opened, running

from edge.bench.host import fingerprint
from edge.broker import Broker
from edge.capture.phantom import Phantom
from edge.display.server import DisplayServer, DisplaySettings

FPS = 30
_WARM_S = 3.0

WATCH = """
window.painted = { state: [], picture: [] };
addEventListener("DOMContentLoaded", () => {
  const channel = new MessageChannel();
  let waiting = [];
  channel.port1.onmessage = () => {
    const now = performance.timeOrigin + performance.now();
    for (const [what, seq] of waiting) window.painted[what].push([seq, now]);
    waiting = [];
  };
  const watch = (element, what) => new MutationObserver(() => {
    const seq = Number(element.dataset.seq ?? NaN);
    if (Number.isNaN(seq)) return;
    waiting.push([what, seq]);
    channel.port2.postMessage(null);
  }).observe(element, { attributes: true, attributeFilter: ["data-seq"] });
  watch(document.body, "state");
  watch(document.getElementById("canvas"), "picture");
});
"""


def measure(seconds: float) -> dict[str, Any]:
    """Run all of it for so long, after a few seconds to warm up."""
    with tempfile.TemporaryDirectory() as name, Broker() as broker, running() as browser:
        folder = Path(name)
        _render(folder / "frames")
        heard: dict[int, tuple[float, float]] = {}
        client = broker.client("ears")
        client.on_message = lambda _, __, message: _note(heard, json.loads(message.payload))
        client.connect(broker.host, broker.port)
        client.subscribe("foldsight/v1/bench/detection")
        client.loop_start()
        settings = {
            "device": "bench",
            "state_dir": name,
            "capture": {"source": str(folder / "frames"), "fps": FPS},
            "mqtt": {"port": broker.port},
            "preview": {"enabled": True},
        }
        (folder / "edge.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "edge.cli", "run", "--config", str(folder / "edge.yaml")]
        shown = DisplaySettings(device="bench", port=0, mqtt_port=broker.websocket_port)
        with DisplayServer(shown) as server, subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            try:
                with opened(browser, server.url, PORTRAIT, WATCH) as page:
                    page.wait_for_selector('body[data-picture="preview"]', timeout=30_000)
                    time.sleep(_WARM_S)
                    page.evaluate("window.painted = { state: [], picture: [] }")
                    time.sleep(seconds)
                    painted = page.evaluate("window.painted")
                    trip = page.inner_text("#round-trip")
            finally:
                daemon.terminate()
        client.disconnect()
        client.loop_stop()
    wall = 1000 * (time.time() - time.monotonic())
    known = {what: [(*heard[seq], at - wall) for seq, at in _first(painted[what]) if seq in heard] for what in painted}
    first, last = painted["state"][0][0], painted["state"][-1][0]
    return {
        "machine": {**fingerprint(), "load_average": round(os.getloadavg()[0], 1)},
        "seconds": seconds,
        "messages": sum(first <= seq <= last for seq in heard),
        "publish_to_paint_ms": _summary([at - sent for sent, _, at in known["state"]]),
        "capture_to_paint_ms": _summary([at - exposed for _, exposed, at in known["state"]]),
        "capture_to_picture_ms": _summary([at - exposed for _, exposed, at in known["picture"]]),
        "round_trip_shown": trip,
    }


def _first(painted: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """When each was first painted."""
    return list(dict(reversed(painted)).items())


def _note(heard: dict[int, tuple[float, float]], detection: dict[str, Any]) -> None:
    sent = detection["sent_ms"]
    heard[detection["seq"]] = sent, sent - detection["age_ms"]


def _summary(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {
        "count": len(values),
        "p50": round(p50, 1),
        "p95": round(p95, 1),
        "p99": round(p99, 1),
        "max": round(max(values), 1),
    }


def _render(folder: Path) -> None:
    folder.mkdir()
    phantom = Phantom(width=640, height=480, seed=3)
    frames = [phantom.render(18 + index / FPS, truth=False)[0] for index in range(24)]
    for index, image in enumerate([*frames, *frames[-2:0:-1]]):
        cv2.imwrite(str(folder / f"{index:03}.jpg"), image)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.seconds)
    if arguments.json:
        print(json.dumps(result))
        return
    host = result["machine"]
    print(f"{host['cpu']}, {host['cores']} cores, load average {host['load_average']}")
    print(f"{result['seconds']:g} s at {FPS} frames/s; {result['messages']} detections were published meanwhile")
    for key, words in (
        ("publish_to_paint_ms", "publish to paint of the answer"),
        ("capture_to_paint_ms", "capture to paint of the answer"),
        ("capture_to_picture_ms", "capture to paint of the picture"),
    ):
        s = result[key]
        figures = "  ".join(f"{name} {s[name]:6.1f}" for name in ("p50", "p95", "p99", "max"))
        print(f"  {words:32} {figures} ms  n {s['count']}")
    print(f"  round trip shown at the end: {result['round_trip_shown']}")


if __name__ == "__main__":
    main()
