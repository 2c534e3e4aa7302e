"""The clinician's pictures: the phone page in each of its states.

    python docs/figures/phone.py docs/images

A played adapter (tests/system/adapter_player.py) that shows the rendered larynx and says what is really in it, a real
mosquitto and a real Chromium. Needs the extra `test`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "system"))
from adapter_player import DEVICE, Device, Oracle
from chromium import opened, running, wait_for

from edge.broker import Broker
from edge.display.server import DisplayServer, DisplaySettings

if TYPE_CHECKING:
    from playwright.sync_api import Page

UPRIGHT, ACROSS = (360, 640), (760, 360)
GAP, COLORS = 20, 224


def main(folder: Path) -> None:
    """Bring the page into every state and save what it shows."""
    oracle = Oracle(width=640, height=480, detail=900)
    with Broker() as broker, running() as browser:
        settings = DisplaySettings(DEVICE, port=0, mqtt_port=broker.websocket_port)
        with DisplayServer(settings) as server, Device(broker, oracle=oracle) as device:
            with opened(browser, server.url, UPRIGHT) as page:
                _save(folder / "phone-answers.png", _answers(page, device))
                _save(folder / "phone-places.png", _places(page, device))
                _save(folder / "phone-not-live.png", _not_live(page, device, broker))
            with opened(browser, server.url, ACROSS) as page:
                _save(folder / "phone-across.png", _across(page, device))


def _answers(page: Page, device: Device) -> list[np.ndarray]:
    shots = []
    for state, score, reasons, kind in (
        ("folds", 0.96, (), "in_view"),
        ("no_folds", 0.04, (), "not_in_view"),
        ("uncertain", 0.55, ("blurred",), "uncertain"),
        ("no_signal", 0.5, ("frozen",), "no_signal"),
    ):
        device.show(state, score, *reasons, since_ms=7000)
        wait_for(page, kind)
        if kind != "no_signal":
            page.wait_for_selector('body[data-picture="preview"]')
        time.sleep(4)  # something for the strip
        shots.append(_shot(page))
    return shots


def _places(page: Page, device: Device) -> list[np.ndarray]:
    device.show("folds", 0.93)
    device.health(frames=1000)
    device.health(frames=1150, temperature_c=84.0)
    page.wait_for_selector("#banner:not([hidden])")
    page.wait_for_selector('body[data-picture="preview"]')
    shots = [_shot(page)]
    device.health(frames=1300)
    page.click("[data-opens=notes]")
    page.click("#notes-time")
    page.keyboard.type("good view after suction")
    time.sleep(0.5)
    shots.append(_shot(page))
    page.click("#notes button[type=submit]")
    device.pictures = False
    time.sleep(1.5)
    shots.append(_shot(page))
    page.wait_for_selector('body[data-picture="sketch"]')
    time.sleep(0.5)
    shots.append(_shot(page))
    device.pictures = True
    return shots


def _not_live(page: Page, device: Device, broker: Broker) -> list[np.ndarray]:
    device.hush()
    wait_for(page, "stale")
    shots = [_shot(page)]
    device.status("offline")
    wait_for(page, "offline")
    shots.append(_shot(page))
    broker.stop()
    wait_for(page, "disconnected")
    shots.append(_shot(page))
    broker.start()
    device.status("online")
    device.show("folds", 0.94)
    wait_for(page, "in_view", 15_000)
    device.status("degraded", "latency budget not kept")
    page.wait_for_selector("#banner:not([hidden])")
    page.wait_for_selector('body[data-picture="preview"]')
    shots.append(_shot(page))
    device.status("online")
    return shots


def _across(page: Page, device: Device) -> list[np.ndarray]:
    device.show("folds", 0.94, since_ms=4000)
    page.wait_for_selector('body[data-picture="preview"]')
    time.sleep(3)
    return [_shot(page)]


def _shot(page: Page) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)


def _save(path: Path, shots: list[np.ndarray]) -> None:
    """Side by side, one pixel for a point of the page, in few colours: small."""
    small = [cv2.resize(shot, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for shot in shots]
    space = np.full((small[0].shape[0], GAP, 3), 48, np.uint8)
    row = np.hstack([part for shot in small for part in (shot, space)][:-1])
    picture = Image.fromarray(cv2.cvtColor(row, cv2.COLOR_BGR2RGB))
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
