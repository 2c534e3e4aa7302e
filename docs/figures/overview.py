"""The README's picture: what the rendered scope sees, and what the phone shows of it at that moment.

    python docs/figures/overview.py docs/images/overview.png

The real daemon with the committed bundle, a real mosquitto and a real Chromium. Needs the extra `test`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from edge.broker import Broker
from edge.config import Config
from edge.daemon import Daemon
from edge.display.server import DisplayServer, DisplaySettings

if TYPE_CHECKING:
    from edge.capture.synthetic import PhantomSource

WANTED = ("Folds in view", "Folds not in view", "Uncertain", "No signal")
PAGE = {"width": 360, "height": 640}
GAP, MARGIN = 28, 36


def main(target: Path) -> None:
    """Run the whole of it until every state was seen, and draw them side by side."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, Broker() as broker:
        config = Config.model_validate(
            {
                "device": "demo",
                "state_dir": folder,
                "capture": {"source": "phantom", "width": 640, "height": 480, "fps": 15, "seed": 3, "hung_s": 60},
                "mqtt": {"port": broker.port},
                "preview": {"enabled": True},
            }
        )
        daemon = Daemon(config)
        source: PhantomSource = daemon._reader._source  # type: ignore[assignment]  # noqa: SLF001
        seen: list[np.ndarray] = []
        read = source.read

        def watched():  # noqa: ANN202
            frame = read()
            while freeze.is_set():
                time.sleep(0.05)
            seen[:] = [frame.image]
            return frame

        freeze = threading.Event()
        source.read = watched  # type: ignore[method-assign]
        thread = threading.Thread(target=daemon.run)
        thread.start()
        shown = DisplaySettings(device="demo", port=0, mqtt_port=broker.websocket_port)
        with DisplayServer(shown) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport=PAGE, device_scale_factor=2)
            page.goto(server.url)
            pictures = _collect(page, seen, freeze)
            browser.close()
        freeze.clear()
        daemon.stop()
        thread.join()
    picture = _compose(pictures)
    size = (picture.shape[1] * 3 // 4, picture.shape[0] * 3 // 4)
    cv2.imwrite(str(target), cv2.resize(picture, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _collect(page, seen: list[np.ndarray], freeze: threading.Event) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # noqa: ANN001
    pictures: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    deadline = time.monotonic() + 180
    since, last = 0.0, ""
    while len(pictures) < len(WANTED) and time.monotonic() < deadline:
        time.sleep(0.2)
        text = " ".join(page.inner_text("body").split())
        state = next((w for w in WANTED if w in text), "")
        if state != last:
            since, last = time.monotonic(), state
        if state and state not in pictures and time.monotonic() - since > 1.2 and seen:  # noqa: PLR2004  settled
            frame = seen[0].copy()
            shot = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            pictures[state] = (frame, shot)
        if len(pictures) == len(WANTED) - 1 and WANTED[-1] not in pictures:
            freeze.set()  # the camera hangs: no frame comes any more
    missing = set(WANTED) - set(pictures)
    if missing:
        sys.exit(f"not seen in three minutes: {', '.join(sorted(missing))}")
    return pictures


def _compose(pictures: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    width = PAGE["width"]
    columns = []
    for state in WANTED:
        frame, shot = pictures[state]
        scope = cv2.resize(frame, (width, width * 3 // 4), interpolation=cv2.INTER_AREA)
        phone = cv2.resize(shot, (width, PAGE["height"]), interpolation=cv2.INTER_AREA)
        if state == WANTED[-1]:
            scope = scope // 4  # the camera hangs: this is the last picture that came
        columns.append(np.vstack([scope, np.full((GAP, width, 3), 24, np.uint8), phone]))
    space = np.full((columns[0].shape[0], GAP, 3), 24, np.uint8)
    row = np.hstack([part for column in columns for part in (column, space)][:-1])
    return cv2.copyMakeBorder(row, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(24, 24, 24))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
