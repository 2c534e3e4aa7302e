"""A real Chromium for the tests of the page, and what a page may be asked."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.broker import find_mosquitto
from edge.display.files import STATIC_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
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
AXE = STATIC_FOLDER.parent / "page" / "node_modules" / "axe-core" / "axe.min.js"
WITHIN_MS = 5000

NEEDED = [
    pytest.mark.system,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not (STATIC_FOLDER / "index.html").exists(), reason="the page is not built: run `make page`"),
]


@contextlib.contextmanager
def running(certificates: Sequence[Path] = ()) -> Iterator[Browser]:
    """A browser.

    Args:
        certificates: PEM files whose first certificate it takes for good, as a phone does once the adapter's authority
            was installed. They are named by their keys (`--ignore-certificate-errors-spki-list`): every other
            certificate is refused as ever.
    """
    # Imported here, so that the tests are collected where playwright is missing.
    sync_api = pytest.importorskip("playwright.sync_api")
    pins = ",".join(_pin(path) for path in certificates)
    flags = [*FLAGS, *([f"--ignore-certificate-errors-spki-list={pins}"] if pins else [])]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def _pin(path: Path) -> str:
    key = x509.load_pem_x509_certificates(path.read_bytes())[0].public_key()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return base64.b64encode(digest.finalize()).decode()


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
    places = "#stage, #state, dd, #side, #banner, #tools button, #notice"
    assert page.eval_on_selector_all(places, too_large + ".map(e => e.id || e.className || e.textContent)") == []


def accessible(page: Page) -> None:
    """axe finds nothing serious: WCAG 2.1 A and AA, and its best practices."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: run `npm ci` in edge/display/page")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(r => r.violations)")
    serious = [v for v in found if v["impact"] in {"serious", "critical"}]
    assert [(v["id"], [n["html"][:80] for n in v["nodes"]]) for v in serious] == []
