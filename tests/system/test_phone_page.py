"""A phone from the code to the end: the real server, the TLS broker with accounts, the real daemon, a real browser.

Chromium takes the adapter's certificates as a phone does whose owner installed the adapter's authority: named by their
keys on its command line (`chromium.running`). Everything else about them, and every other certificate, it checks.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import yaml
from adapter_player import Device, Oracle
from chromium import NEEDED, accessible, opened, running, shoot, stays_inside, wait_for

import edge.daemon
from edge.capture.synthetic import PhantomSource
from edge.config import Config
from edge.frames import Frame, now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = NEEDED

HOUR_AHEAD = """
{
  const Real = Date;
  globalThis.Date = class extends Real {
    constructor(...parts) { parts.length ? super(...parts) : super(Real.now() + 3600e3); }
    static now() { return Real.now() + 3600e3; }
  };
}
"""


@pytest.fixture(scope="module")
def site(rehearse_adapter: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One adapter with phones for all of these tests."""
    with rehearse_adapter(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def browser(site: Any) -> Iterator[Browser]:
    adapter = site.adapter
    with running([adapter.broker / "server.pem", adapter.display / "server.pem"]) as browser:
        yield browser


@pytest.fixture(autouse=True)
def nobody_is_left(site: Any) -> Iterator[None]:
    yield
    site.adapter.registry.revoke("all", site.adapter.accounts().delete)


class Camera(PhantomSource):
    """The phantom, from a moment of its script on; it can freeze."""

    begin_s = 0.0
    frozen = False
    _last: Frame | None = None

    def time_of(self, seq: int) -> float:
        return self.begin_s + super().time_of(seq)

    def read(self) -> Frame:
        last = self._last
        if not self.frozen or last is None:
            self._last = super().read()
            return self._last
        time.sleep(1 / 15)
        self._seq += 1
        now = now_ns()
        return Frame(last.image, self._seq - 1, now, "synthetic", now, time.time())


def played(site: Any, **more: Any) -> Device:
    return Device(site.broker, client=site.daemon(), **more)


def pair(page: Page, name: str) -> None:
    page.fill("#welcome-name", name)
    page.click("#welcome-pair")
    page.wait_for_selector("#welcome", state="hidden")


def test_from_the_code_to_the_phantom_and_a_frozen_camera(site: Any, browser: Browser, tmp_path: Path) -> None:
    camera = Camera(width=480, height=360, fps=15, seed=3)
    camera.begin_s = 12.0  # not far from where the folds come into view
    config = Config.model_validate(
        {
            **site.config.model_dump(),
            "state_dir": tmp_path,
            "capture": {"source": "phantom", "fps": 15},
            "latency": {"ladder": False, "max_age_ms": 900},
            "preview": {"enabled": True},
        }
    )
    with mock.patch.object(edge.daemon, "choose_source", return_value=camera):
        daemon = edge.daemon.Daemon(config)
    thread = threading.Thread(target=daemon.run, daemon=True)
    thread.start()
    code = site.code()
    token = code.partition("#pair=")[2].partition("&")[0]
    try:
        with opened(browser, "about:blank", script=HOUR_AHEAD) as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(code)
            page.wait_for_selector("#welcome:not([hidden])")
            assert "#" not in page.url
            assert page.evaluate("location.hash + JSON.stringify(localStorage)") == "{}"
            assert code.endswith(page.inner_text("#welcome-ca-value").replace(" ", ""))
            accessible(page)
            shoot(page, "pair-390x844")
            pair(page, "Anna\u2019s phone")
            assert [phone.name for phone in site.adapter.registry.phones()] == ["Anna\u2019s phone"]
            for kind in ("not_in_view", "in_view"):
                wait_for(page, kind, 30_000)
            page.wait_for_selector('body[data-picture="preview"]', timeout=10_000)
            page.wait_for_function("() => /^\\d+ ms$/.test(document.getElementById('round-trip').textContent)")
            shoot(page, "phantom-390x844")
            camera.frozen = True
            wait_for(page, "no_signal", 4000)
            assert page.inner_text("#detail") == "The camera image is frozen"
            assert page.get_attribute("body", "data-picture") == "none"
            camera.frozen = False
            page.wait_for_selector('body[data-live="true"]')
            # The account lasts, and the code does not.
            page.reload()
            page.wait_for_selector('body[data-live="true"]')
        assert not any(token in url.partition("#")[0] for url in asked)
        with opened(browser, code) as page:
            page.fill("#welcome-name", "another")
            page.click("#welcome-pair")
            page.wait_for_selector("#welcome-problem:not([hidden])")
            assert "not good any more" in page.inner_text("#welcome-problem")
            accessible(page)
            shoot(page, "pair-refused-390x844")
    finally:
        daemon.stop()
        thread.join(10)


def test_a_killed_daemon_is_offline_within_the_keep_alive(
    site: Any, browser: Browser, tiny_bundle: Path, tmp_path: Path
) -> None:
    settings = {
        "device": "adapter-1",
        "state_dir": str(tmp_path / "state"),
        "capture": {"source": "phantom", "width": 160, "height": 120, "fps": 10},
        "model": {"bundle": str(tiny_bundle)},
        "mqtt": {
            "port": site.broker.port,
            "keepalive_s": 2,
            "username": "edge",
            "password_file": str(site.adapter.edge / "password"),
        },
    }
    (tmp_path / "edge.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "edge.cli", "run", "--config", str(tmp_path / "edge.yaml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            with opened(browser, site.code()) as page:
                pair(page, "one")
                page.wait_for_selector('body[data-live="true"]', timeout=20_000)
                daemon.kill()
                wait_for(page, "offline", 3000 + 1000)  # one and a half of the keep-alive, and the way to the screen
                assert page.inner_text("#adapter") == "Offline"
        finally:
            daemon.kill()


def test_two_phones_and_one_is_revoked(site: Any, browser: Browser) -> None:
    with (
        played(site, oracle=Oracle(frames=1)) as device,
        opened(browser, site.code()) as first,
        opened(browser, site.code()) as second,
    ):
        device.show("folds", 0.97)
        for page, name in ((first, "first"), (second, "second")):
            pair(page, name)
            wait_for(page, "in_view")
        begin = time.monotonic()
        site.adapter.registry.revoke("first", site.adapter.accounts().delete)
        wait_for(first, "refused", 3000)
        assert time.monotonic() - begin < 3
        assert first.get_attribute("body", "data-live") == "false"
        assert first.get_attribute("body", "data-picture") == "none"
        stays_inside(first)
        accessible(first)
        shoot(first, "revoked-390x844")
        assert second.get_attribute("body", "data-kind") == "in_view"
        first.reload()  # and it cannot come back
        wait_for(first, "refused")
        assert second.get_attribute("body", "data-kind") == "in_view"
        first.click("#pair-again")
        first.fill("#welcome-code", site.code())
        pair(first, "first again")
        wait_for(first, "in_view")
        assert {phone.name for phone in site.adapter.registry.phones()} == {"second", "first again"}


def test_hanging_and_restarting_broker(site: Any, browser: Browser) -> None:
    with played(site) as device, opened(browser, site.code()) as page:
        device.show("folds", 0.97)
        pair(page, "one")
        wait_for(page, "in_view")
        site.broker.pause()
        try:
            wait_for(page, "stale", 1000)
        finally:
            site.broker.resume()
        wait_for(page, "in_view", 10_000)
        site.broker.stop()
        wait_for(page, "disconnected", 1500)
        site.broker.start()
        wait_for(page, "in_view", 15_000)


def test_a_code_scanned_into_the_open_page_asks_again(site: Any, browser: Browser) -> None:
    with played(site) as device, opened(browser, site.code()) as page:
        device.show("folds", 0.97)
        pair(page, "one")
        wait_for(page, "in_view")
        page.goto(site.code())  # the same page: only what stands behind # is another
        page.wait_for_selector("#welcome:not([hidden])")
        assert "#" not in page.url
        page.click("#welcome-back")
        page.wait_for_selector("#welcome", state="hidden")
        wait_for(page, "in_view")


def test_another_adapters_certificate_is_refused(
    browser: Browser, rehearse_adapter: Callable[[Path], Any], tmp_path: Path
) -> None:
    from playwright.sync_api import Error  # noqa: PLC0415  collected where it is missing

    with rehearse_adapter(tmp_path) as other:
        page = browser.new_page()
        with pytest.raises(Error, match="ERR_CERT"):
            page.goto(other.url)
        page.close()
