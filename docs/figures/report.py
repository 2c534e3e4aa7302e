"""The picture of the report's head: `python docs/figures/report.py PAGE.html docs/images/report.png`.

Only for a page whose frames may be passed on: the head shows none. Needs the extra `test` and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1160, 1900


def main(page: Path, out: Path) -> None:
    """Open the page and keep its first screens."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.absolute().as_uri())
        view.screenshot(path=out)
        browser.close()
    with Image.open(out) as image:
        image.convert("RGB").save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
