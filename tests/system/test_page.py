"""The phone page in a real browser, with a real broker and a device that is played here, message by message.

`FOLDSIGHT_SCREENSHOTS=FOLDER` keeps a picture of each state, portrait and landscape.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from adapter_player import DEVICE, Device

from edge.broker import find_mosquitto
from edge.display.files import STATIC_FOLDER
from edge.display.server import DisplayServer, DisplaySettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from edge.broker import Broker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PORTRAIT, LANDSCAPE, SMALL = (390, 844), (844, 390), (360, 640)
SHOTS = os.environ.get("FOLDSIGHT_SCREENSHOTS")
WITHIN_MS = 5000

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Imported here, so that the module is collected where playwright is missing.
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def address(broker: Broker) -> Iterator[str]:
    settings = DisplaySettings(device=DEVICE, port=0, mqtt_port=broker.websocket_port)
    with DisplayServer(settings) as server:
        yield server.url


@contextlib.contextmanager
def opened(browser: Browser, address: str, size: tuple[int, int] = PORTRAIT, script: str = "") -> Iterator[Page]:
    """The page in a fresh browser profile; what it complains about fails the test."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, device_scale_factor=2)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    if script:
        page.add_init_script(script)
    page.goto(address)
    yield page
    context.close()
    assert not complaints


def wait_for(page: Page, kind: str, within_ms: int = WITHIN_MS) -> None:
    page.wait_for_selector(f'body[data-kind="{kind}"]', timeout=within_ms)


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        folder = Path(SHOTS)
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(folder / f"{name}.png"))


def stays_inside(page: Page) -> None:
    """Nothing is cut off: no scrolling, and the headline fits its stage."""
    width, height, inner_width, inner_height = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight, innerWidth, innerHeight]"
    )
    assert (width, height) <= (inner_width, inner_height)
    too_large = "all => all.filter(e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)"
    assert page.eval_on_selector_all("#stage, dd, #side, #banner", too_large + ".map(e => e.id || e.className)") == []


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
        page.wait_for_function("document.getElementById('detail').textContent.includes('does not answer')")
        page.unroute("**/api/info")
        wait_for(page, "in_view")
