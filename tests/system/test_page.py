"""The phone page in a real browser, with a real broker and a device that is played here, message by message.

`FOLDSIGHT_SCREENSHOTS=FOLDER` keeps a picture of each state, portrait and landscape.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from adapter_player import DEVICE, Device, Oracle
from chromium import LANDSCAPE, NEEDED, PORTRAIT, SMALL, accessible, opened, running, shoot, stays_inside, wait_for

from edge.display.server import DisplayServer, DisplaySettings
from edge.preview import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from edge.broker import Broker

pytestmark = NEEDED


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as browser:
        yield browser


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def address(broker: Broker) -> Iterator[str]:
    settings = DisplaySettings(device=DEVICE, port=0, mqtt_port=broker.websocket_port)
    with DisplayServer(settings) as server:
        yield server.url


STATES = [
    ("folds", 0.96, (), "in_view", "Folds in view", "0.96"),
    ("no_folds", 0.04, (), "not_in_view", "Folds not in view", "0.04"),
    ("uncertain", 0.55, ("blurred",), "uncertain", "Uncertain", "0.55"),
    ("no_signal", 0.5, ("frozen",), "no_signal", "No signal", "\u2013"),
]


@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE, SMALL], ids=["portrait", "landscape", "small"])
def test_every_state_is_shown(browser: Browser, broker: Broker, address: str, size: tuple[int, int]) -> None:
    name = f"{size[0]}x{size[1]}"
    with Device(broker) as device, opened(browser, address, size) as page:
        for state, score, reasons, kind, headline, shown in STATES:
            device.show(state, score, *reasons, since_ms=7000)
            wait_for(page, kind)
            page.wait_for_function(
                "([id, text]) => document.getElementById(id).textContent === text", arg=["score", shown]
            )
            assert page.text_content("#headline") == headline
            assert page.get_attribute("body", "data-live") == ("false" if state == "no_signal" else "true")
            assert page.text_content("#device") == DEVICE
            assert page.text_content("#adapter") == "Online"
            assert page.text_content("#model-name") == "larynx 0.1.0"
            assert "not a medical device" in page.inner_text("#notice")
            if size == PORTRAIT:  # once is enough: it is the same document, and waits for the state to be steady
                page.wait_for_function("h => document.getElementById('spoken').textContent.startsWith(h)", arg=headline)
            stays_inside(page)
            shoot(page, f"{kind}-{name}")
        device.show("folds", 0.91)
        device.status("degraded", "source lost")
        page.wait_for_selector("#banner:not([hidden])")
        assert page.inner_text("#banner") == "Adapter degraded: The camera does not answer"
        wait_for(page, "in_view")
        stays_inside(page)
        shoot(page, f"degraded-{name}")
        device.hush()
        wait_for(page, "stale")
        stays_inside(page)
        shoot(page, f"stale-{name}")
        device.status("stopped")
        wait_for(page, "stopped")
        shoot(page, f"stopped-{name}")


# Notes, by the browser's own clock, when a state appeared in the document.
WATCH = """
window.seen = [];
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  window.seen.push([document.body.dataset.kind, window.realNow()]);
}).observe(document.body, { attributes: true, attributeFilter: ["data-kind"] }));
window.realNow = Date.now.bind(Date);
"""
# The phone's clock: five hours ahead at first, then a day behind, then standing still.
WRONG_CLOCK = """
{
  const Real = Date, real = Date.now.bind(Date);
  let now = () => real() + 5 * 3600e3;
  globalThis.Date = class extends Real {
    constructor(...parts) { parts.length ? super(...parts) : super(now()); }
    static now() { return now(); }
  };
  window.wrong = {
    behind: () => { now = () => real() - 24 * 3600e3; },
    still: () => { const at = real(); now = () => at; },
  };
}
"""


@pytest.mark.parametrize("clock", ["ahead", "behind", "still"])
def test_stale_within_a_second_whatever_the_phones_clock_says(
    browser: Browser, broker: Broker, address: str, clock: str
) -> None:
    with Device(broker) as device, opened(browser, address, script=WATCH + WRONG_CLOCK) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        if clock in {"behind", "still"}:
            page.evaluate(f"window.wrong.{clock}()")
            time.sleep(0.5)
            wait_for(page, "in_view")
        device.hush()
        wait_for(page, "stale")
        kind, at = page.evaluate("window.seen[window.seen.length - 1]")
        assert kind == "stale"
        assert 600 < at - device.last_sent * 1000 <= 1000
        assert page.text_content("#headline") == "Not live"
        assert page.text_content("#score") == "\u2013"
        assert page.text_content("#age") == "\u2013"


def test_a_network_that_hangs_is_stale_within_a_second_and_its_backlog_is_not_live(
    browser: Browser, broker: Broker, address: str
) -> None:
    with Device(broker) as device, opened(browser, address, script=WATCH) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        at = time.time()
        broker.pause()
        wait_for(page, "stale", 1500)
        assert page.evaluate("window.seen[window.seen.length - 1][1]") - at * 1000 <= 1000
        device.show("no_folds", 0.02)
        time.sleep(1)
        broker.resume()
        wait_for(page, "not_in_view", 10_000)
        # What was held back said "folds": it must not have been shown as live once more.
        assert "in_view" not in [kind for kind, seen_at in page.evaluate("window.seen") if seen_at > at * 1000 + 1100]


def test_retained_messages_do_not_look_live(browser: Browser, broker: Broker, address: str) -> None:
    with Device(broker) as device:
        device.show("folds", 0.97)
        time.sleep(0.2)
        device.hush()
        with opened(browser, address, script=WATCH) as page:
            wait_for(page, "stale")
            assert page.text_content("#adapter") == "Online"
            assert {kind for kind, _ in page.evaluate("window.seen")} <= {"connecting", "waiting", "stale"}
            shoot(page, "nothing_live")


def test_offline_is_shown_and_a_late_will_of_an_older_session_is_not(
    browser: Browser, broker: Broker, address: str
) -> None:
    with Device(broker, session=7) as device, opened(browser, address) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        device.status("offline", session=6)
        time.sleep(0.4)
        wait_for(page, "in_view")
        assert page.text_content("#adapter") == "Online"
        device.status("offline")
        wait_for(page, "offline", 500)
        assert page.text_content("#adapter") == "Offline"
        stays_inside(page)
        shoot(page, "offline-390x844")
        # A late will that was stored meets a page that is opened afterwards.
        device.status("offline", session=6)
        page.reload()
        wait_for(page, "in_view")


def test_a_new_session_takes_over(browser: Browser, broker: Broker, address: str) -> None:
    with opened(browser, address) as page:
        with Device(broker, session=1) as device:
            device.show("folds", 0.97)
            wait_for(page, "in_view")
        with Device(broker, session=2) as device:
            device.show("no_folds", 0.03)
            wait_for(page, "not_in_view")


def test_comes_back_after_the_broker_restarts(browser: Browser, broker: Broker, address: str) -> None:
    with Device(broker) as device, opened(browser, address) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        broker.stop()
        wait_for(page, "disconnected", 1000)
        assert page.text_content("#round-trip") == "\u2013"
        stays_inside(page)
        shoot(page, "disconnected-390x844")
        broker.start()
        wait_for(page, "in_view", 10_000)
        assert page.text_content("#device") == DEVICE


def test_a_hidden_page_lets_go_and_begins_anew(browser: Browser, broker: Broker, address: str) -> None:
    hide = """hidden => {
      const get = () => (hidden ? "hidden" : "visible");
      Object.defineProperty(document, "visibilityState", { get, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with Device(broker) as device, opened(browser, address) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        page.evaluate(hide, arg=True)
        wait_for(page, "paused", 200)
        page.evaluate(hide, arg=False)
        wait_for(page, "in_view")


def test_without_the_server_it_says_so_and_tries_again(browser: Browser, broker: Broker, address: str) -> None:
    with Device(broker) as device, opened(browser, "about:blank") as page:
        device.show("folds", 0.97)
        page.route("**/api/info", lambda route: route.abort())
        page.goto(address)
        page.wait_for_function("() => document.getElementById('detail').textContent.includes('does not answer')")
        page.unroute("**/api/info")
        wait_for(page, "in_view")


def picture_is(page: Page, kind: str, within_ms: int = 6000) -> None:
    page.wait_for_selector(f'body[data-picture="{kind}"]', timeout=within_ms)


@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE, SMALL], ids=["portrait", "landscape", "small"])
def test_the_picture_stands_with_every_answer(
    browser: Browser, broker: Broker, address: str, oracle: Oracle, size: tuple[int, int]
) -> None:
    name = f"{size[0]}x{size[1]}"
    with Device(broker, oracle=oracle) as device, opened(browser, address, size) as page:
        for state, score, reasons, kind in (
            ("folds", 0.96, (), "in_view"),
            ("no_folds", 0.04, (), "not_in_view"),
            ("uncertain", 0.55, ("unsupported",), "uncertain"),
        ):
            device.show(state, score, *reasons, since_ms=7000)
            wait_for(page, kind)
            picture_is(page, "preview")
            marked = "Folds" if kind == "in_view" else "nothing is marked"
            page.wait_for_function("w => document.getElementById('canvas').ariaLabel.includes(w)", arg=marked)
            stays_inside(page)
            shoot(page, f"preview-{kind}-{name}")
        device.health(frames=100)
        device.health(frames=200, dropped={"replaced": 30}, temperature_c=84.0, throttled=["under_voltage"])
        page.wait_for_selector("#banner:not([hidden])")
        assert page.inner_text("#banner").count("\u00b7") == 2  # hot, under-voltage, dropped
        stays_inside(page)
        shoot(page, f"preview-unhealthy-{name}")


def test_a_picture_that_stops_is_gone_and_a_sketch_takes_its_place(
    browser: Browser, broker: Broker, address: str, oracle: Oracle
) -> None:
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        device.show("folds", 0.96)
        picture_is(page, "preview")
        page.wait_for_function("() => /^\\d+ ms$/.test(document.getElementById('round-trip').textContent)")
        device.pictures = False
        time.sleep(1.2)
        picture_is(page, "late")
        assert set(canvas_colors(page)) == {(0, 0, 0)}  # nothing of the old picture is left
        shoot(page, "picture-late-390x844")
        picture_is(page, "sketch", 8000)
        stays_inside(page)
        shoot(page, "sketch-390x844")
        device.show("no_signal", 0.5, "frozen")
        wait_for(page, "no_signal")
        picture_is(page, "none")


def canvas_colors(page: Page) -> list[tuple[int, int, int]]:
    """A grid of the canvas's pixels."""
    colors = page.evaluate(
        """() => { const c = document.getElementById("canvas"), p = c.getContext("2d"), found = [];
        for (let y = 0; y < c.height; y += 7) for (let x = 0; x < c.width; x += 7)
          found.push([...p.getImageData(x, y, 1, 1).data.slice(0, 3)]);
        return found; }"""
    )
    return [tuple(color) for color in colors]


def extent(mask: np.ndarray, least: float) -> tuple[int, int]:
    """First and last column in which at least so many pixels are set."""
    columns = np.flatnonzero(mask.sum(axis=0) >= least)
    return int(columns[0]), int(columns[-1])


def screenshot(page: Page) -> np.ndarray:
    """The canvas as the screen shows it, int (height, width, 3) BGR."""
    box = page.eval_on_selector(
        "#picture", "e => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom]; }"
    )
    x, y, right, bottom = (round(2 * side) for side in box)
    shot = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return shot[y:bottom, x:right].astype(int)


@pytest.mark.parametrize("size", [PORTRAIT, LANDSCAPE], ids=["portrait", "landscape"])
def test_the_overlay_lies_within_two_per_cent_of_the_truth(
    browser: Browser, broker: Broker, address: str, oracle: Oracle, size: tuple[int, int]
) -> None:
    """In screenshots: the box that the page draws, against where the phantom's folds are in the picture itself."""
    seen = oracle.at(0)
    folds = seen.regions[0]
    height, width = seen.image.shape[:2]
    x, y, wide, high = folds["box"]
    left, top = round(x * width), round(y * height)
    # The camera's frame: white, and magenta where the truth says that the folds are.
    card = np.full_like(seen.image, 255)
    card[top : top + round(high * height), left : left + round(wide * width)] = (255, 0, 255)
    held = Oracle(frames=0)
    held.hold(replace(seen, jpeg=Encoder(width=480, max_bytes=40_000)(card), regions=[folds]))
    with Device(broker, oracle=held) as device, opened(browser, address, size) as page:
        device.show("no_folds", 0.03)  # nothing is drawn over it
        wait_for(page, "not_in_view")
        picture_is(page, "preview")
        page.wait_for_function("() => document.getElementById('canvas').ariaLabel.includes('nothing')")
        bare = screenshot(page)
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        page.wait_for_function("() => document.getElementById('canvas').ariaLabel.includes('Folds')")
        marked = screenshot(page)
    drawn = (abs(marked - (155, 214, 0)) < 20).all(axis=2)
    for axis, share in ((0, high), (1, wide)):
        turn = (lambda mask: mask) if axis == 0 else (lambda mask: mask.T)
        frames, boxes = [], []
        for shot, mask, least in ((bare, (abs(bare - (255, 0, 255)) < 60).all(axis=2), 0.5), (marked, drawn, 0.9)):
            frame = turn((shot > 230).any(axis=2))
            begin, end = extent(frame, 0.5 * frame.shape[0] if axis == 0 else 60)
            across = np.ptp(np.flatnonzero(frame.any(axis=1)))
            first, last = extent(turn(mask), least * share * across)
            frames.append(end - begin)
            boxes.append(((first - begin) / (end - begin), (last - begin) / (end - begin)))
        off = [abs(a - b) for a, b in zip(*boxes, strict=True)]
        assert max(off) < 0.02, (axis, frames, boxes)


def test_a_picture_without_its_detection_is_shown_without_an_overlay(
    browser: Browser, broker: Broker, address: str, oracle: Oracle
) -> None:
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        device.pictures = False
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        picture_is(page, "sketch")
        # A frame that comes later than any detection of it: its age is known from the one before, its places are not.
        deadline = time.monotonic() + 5
        while page.get_attribute("body", "data-picture") != "preview" and time.monotonic() < deadline:
            device.preview(device._seq + 1_000, oracle.at(0).jpeg)
            time.sleep(0.1)
        assert "nothing is marked" in (page.get_attribute("#canvas", "aria-label") or "")
        assert device.seen


def test_a_picture_that_is_late_or_foreign_is_never_shown(
    browser: Browser, broker: Broker, address: str, oracle: Oracle
) -> None:
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        device.pictures = False
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        picture_is(page, "sketch")
        time.sleep(1)
        old = device._seq
        time.sleep(1.2)
        device.preview(old, oracle.at(0).jpeg)
        device.preview(old + 40, b"no picture")
        device.session -= 1
        device.preview(device._seq, oracle.at(0).jpeg)
        device.session += 1
        time.sleep(0.5)
        assert page.get_attribute("body", "data-picture") in {"sketch", "late"}
        assert page.get_attribute("#canvas", "data-seq") is None


def test_axe_finds_nothing_serious(browser: Browser, broker: Broker, address: str, oracle: Oracle) -> None:
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        for state, kind in (("folds", "in_view"), ("uncertain", "uncertain")):
            device.show(state, 0.5)
            wait_for(page, kind)
            picture_is(page, "preview")
            accessible(page)
        page.click("[data-opens=notes]")
        accessible(page)
        page.keyboard.press("Escape")
        page.click("[data-opens=settings]")
        accessible(page)
        page.keyboard.press("Escape")
        device.status("degraded", "source lost")
        device.show("no_signal", 0.5, "source_lost")
        wait_for(page, "no_signal")
        accessible(page)
        device.hush()
        wait_for(page, "stale")
        accessible(page)


def test_all_of_it_is_reached_by_keyboard(browser: Browser, broker: Broker, address: str, oracle: Oracle) -> None:
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        device.show("folds", 0.97)
        picture_is(page, "preview")
        names = []
        for _ in range(3):
            page.keyboard.press("Tab")
            names.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert names == ["Snapshot", "Notes", "Settings"]
        page.keyboard.press("Enter")
        assert page.evaluate("document.getElementById('settings').open")
        page.keyboard.press("Escape")
        assert not page.evaluate("document.getElementById('settings').open")


def test_notes_and_snapshots_go_nowhere_but_to_the_phone(
    browser: Browser, broker: Broker, address: str, oracle: Oracle, tmp_path: Path
) -> None:
    said: list[bytes] = []
    client = broker.client("ears")
    client.on_message = lambda _, __, message: said.append(message.payload)
    client.connect(broker.host, broker.port)
    client.subscribe("foldsight/v1/+/cmd/+")
    client.loop_start()
    with Device(broker, oracle=oracle) as device, opened(browser, address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.method + request.url + str(request.post_data)))
        device.show("folds", 0.97)
        picture_is(page, "preview")
        page.click("[data-opens=notes]")
        page.click("#notes-time")
        page.keyboard.type("very secret")
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.click("#snapshot")
        download.value.save_as(tmp_path / "snapshot.png")
        page.reload()
        # A reload is over before the page's script has filled the notes in.
        page.wait_for_function(
            "() => document.getElementById('notes-text').value.includes('Folds in view: very secret')"
        )
        wait_for(page, "in_view")
    client.disconnect()
    client.loop_stop()
    assert not any("secret" in request or request.startswith("POST") for request in asked)
    assert said
    assert not any(b"secret" in message for message in said)
    picture = cv2.imread(str(tmp_path / "snapshot.png"))
    assert picture.shape[1] == 1280
    assert picture[480, 640].max() > 0
    assert download.value.suggested_filename.startswith("foldsight-20")


def test_it_tells_of_a_change_by_vibration_where_that_is_wanted(browser: Browser, broker: Broker, address: str) -> None:
    buzzes = "window.buzzes = []; navigator.vibrate = pattern => { window.buzzes.push(pattern); return true; };"
    with Device(broker) as device, opened(browser, address, script=buzzes) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        device.show("no_folds", 0.03)
        wait_for(page, "not_in_view")
        assert page.evaluate("window.buzzes") == []
        page.click("[data-opens=settings]")
        page.check("#alert-vibrate")
        page.keyboard.press("Escape")
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        device.hush()
        wait_for(page, "stale")
        assert page.evaluate("window.buzzes") == [[70, 60, 70], [300]]
        page.reload()
        page.wait_for_function("() => document.getElementById('alert-vibrate').checked")


def test_it_can_be_installed_and_keeps_nothing_but_itself(browser: Browser, broker: Broker, address: str) -> None:
    """What Lighthouse and Chromium ask of an installable app, and that its cache holds the shell alone."""
    with Device(broker) as device, opened(browser, address) as page:
        device.show("folds", 0.97)
        wait_for(page, "in_view")
        session = page.context.new_cdp_session(page)
        manifest = session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        faults = [e["errorId"] for e in session.send("Page.getInstallabilityErrors")["installabilityErrors"]]
        assert set(faults) <= {"in-incognito"}  # which every profile of a test is
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        page.reload()
        wait_for(page, "in_view")
        assert page.evaluate("navigator.serviceWorker.controller !== null")
        cached = page.evaluate(
            """async () => { const found = [];
            for (const name of await caches.keys())
              for (const request of await (await caches.open(name)).keys()) found.push(new URL(request.url).pathname);
            return found; }"""
        )
        assert {"/", "/page.js", "/style.css", "/manifest.webmanifest"} <= set(cached)
        assert not any(path.startswith("/api") or "health" in path or "metrics" in path for path in cached)


def test_out_of_reach_the_shell_opens_and_shows_nothing_old(browser: Browser, broker: Broker) -> None:
    settings = DisplaySettings(device=DEVICE, port=0, mqtt_port=broker.websocket_port)
    with DisplayServer(settings) as server, Device(broker) as device:
        device.show("folds", 0.97)
        with opened(browser, server.url) as page:
            wait_for(page, "in_view")
            page.evaluate("navigator.serviceWorker.ready.then(() => true)")
            server.stop()
            page.reload()
            page.wait_for_function("() => document.getElementById('detail').textContent.includes('does not answer')")
            assert page.get_attribute("body", "data-live") == "false"
            assert "not a medical device" in page.inner_text("#notice")
