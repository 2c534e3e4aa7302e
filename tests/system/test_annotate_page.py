"""The page for labelling, in a real browser, by its keys.

`FOLDSIGHT_SCREENSHOTS=FOLDER` keeps pictures of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
from chromium import CHROMIUM, accessible, opened, running, shoot
from playwright.sync_api import Browser, Page

from edge.capture.phantom import Variety, training_frames
from trainer.clean.annotate import LabelServer, open_labels
from trainer.clean.frames import find_frames
from trainer.clean.journal import Journal
from trainer.clean.survey import Survey, look
from trainer.data.manifest import read_manifest

pytestmark = [pytest.mark.system, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

COUNT = 8
DESKTOP = (1280, 800)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as browser:
        yield browser


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    root = tmp_path_factory.mktemp("frames")
    for k, (image, _) in enumerate(training_frames(COUNT, 3, detail=400, variety=Variety())):
        cv2.imwrite(str(root / f"{k}.png"), image)
    return look(find_frames(root, "own"), root, None)


@dataclass
class Desk:
    survey: Survey
    folder: Path

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "labels.jsonl", [seen.frame for seen in self.survey.seen])
        self.order = [self.survey.seen[k].frame.name for k in self.survey.queue()]

    def server(self) -> LabelServer:
        return LabelServer(open_labels(self.survey, self.journal, self.folder / "manifest.csv", most=None, split=False))

    def labels(self) -> dict[str, str]:
        return {record.path: record.label for record in read_manifest(self.folder / "manifest.csv")}


@pytest.fixture
def desk(survey: Survey, tmp_path: Path) -> Desk:
    return Desk(survey, tmp_path)


def press(page: Page, key: str, *, done: int) -> None:
    page.wait_for_selector(f'body[data-shown="{page.get_attribute("body", "data-at")}"]')
    page.keyboard.press(key)
    page.wait_for_selector(f'body[data-done="{done}"]')


def test_all_frames_are_labelled_by_keys_and_land_in_the_manifest(browser: Browser, desk: Desk) -> None:
    with desk.server() as server, opened(browser, server.url, DESKTOP) as page:
        page.wait_for_selector('body[data-ready="yes"]')
        page.wait_for_selector('body[data-shown="0"]')
        shoot(page, "annotate")
        accessible(page)
        keys = ["f", "n", "Space", "F", "n", "f", "n", "f"]
        for k, key in enumerate(keys, start=1):
            press(page, key, done=k)
        assert page.text_content("#count") == f"{COUNT} of {COUNT}"
        said = {"f": "folds", "n": "no_folds"}
        expected = {desk.order[k]: said[key.lower()] for k, key in enumerate(keys) if key != "Space"}
        assert desk.labels() == expected


def test_undo_takes_back_and_returns_to_the_frame(browser: Browser, desk: Desk) -> None:
    with desk.server() as server, opened(browser, server.url, DESKTOP) as page:
        page.wait_for_selector('body[data-ready="yes"]')
        press(page, "f", done=1)
        press(page, "n", done=2)
        press(page, "u", done=1)
        assert page.get_attribute("body", "data-at") == "1"
        press(page, "Backspace", done=0)
        assert page.get_attribute("body", "data-at") == "0"
        page.keyboard.press("u")
        page.wait_for_selector("#saved:has-text('nothing to take back')")
        press(page, "n", done=1)
        assert desk.labels() == {desk.order[0]: "no_folds"}


def test_arrows_look_around_and_an_answer_may_be_changed(browser: Browser, desk: Desk) -> None:
    with desk.server() as server, opened(browser, server.url, DESKTOP) as page:
        page.wait_for_selector('body[data-ready="yes"]')
        press(page, "f", done=1)
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector('body[data-at="0"]')
        assert page.text_content("#mark") == "folds"
        page.wait_for_selector('body[data-shown="0"]')
        page.click("text=no folds")
        page.wait_for_selector("#saved:has-text('saved')")
        page.wait_for_selector('body[data-at="1"]')
        assert desk.labels() == {desk.order[0]: "no_folds"}
        assert page.is_hidden("#model")
        page.keyboard.press("m")
        page.wait_for_selector("#model:not([hidden])")


def test_nothing_is_lost_when_the_program_ends_and_begins_again(browser: Browser, desk: Desk, survey: Survey) -> None:
    with opened(browser, "about:blank", DESKTOP) as page:
        with desk.server() as server:
            page.goto(server.url)
            page.wait_for_selector('body[data-ready="yes"]')
            press(page, "f", done=1)
            press(page, "n", done=2)
        page.keyboard.press("u")
        page.wait_for_selector("#trouble:not([hidden])")
        assert page.get_attribute("body", "data-done") == "2"
        desk.journal.close()
        again = Desk(survey, desk.folder)
        with again.server() as server:
            page.goto(server.url)
            page.wait_for_selector('body[data-ready="yes"]')
            assert page.get_attribute("body", "data-done") == "2"
            assert page.get_attribute("body", "data-at") == "2"
            press(page, "f", done=3)
            assert len(again.labels()) == 3
