from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.analysis import Analyser
from edge.bundle import Bundle
from edge.capture.phantom import training_frames
from edge.config import COMMITTED_BUNDLE
from trainer.clean.annotate import LabelServer, open_labels
from trainer.clean.frames import UNLABELLED, Frame, find_frames
from trainer.clean.journal import ANSWERS, Journal
from trainer.clean.sheets import summary, write_sheets
from trainer.clean.survey import Seen, Survey, look
from trainer.cli import main
from trainer.data.manifest import Record, read_manifest
from trainer.data.types import DataError


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clinics: one labelled, with a wrong label, a copy and a broken file; one that nobody has labelled."""
    root = tmp_path_factory.mktemp("images")
    frames = [(image, truth.visible) for image, truth in training_frames(40, 7, detail=256) if not truth.ambiguous]
    shown = [image for image, visible in frames if visible]
    others = [image for image, visible in frames if not visible]
    for k in range(4):
        write(root / f"clinic/folds/p{k}/a.png", shown[k])
        write(root / f"clinic/no_folds/p{k}/b.png", others[k])
    write(root / "clinic/no_folds/p9/copy.png", shown[0])
    (root / "clinic/folds/p9").mkdir()
    (root / "clinic/folds/p9/broken.jpg").write_bytes(b"no image")
    for k in range(3):
        write(root / f"elsewhere/{k}.png", shown[5 + k])
    return root


@pytest.fixture(scope="module")
def survey(folder: Path) -> Survey:
    return look(find_frames(folder, "own"), folder, Analyser(Bundle.open(COMMITTED_BUNDLE)))


def test_folders_name_label_source_and_group(folder: Path) -> None:
    records = {frame.name: frame.record for frame in find_frames(folder, "own")}
    assert len(records) == 13
    one = records["clinic/folds/p1/a.png"]
    assert (one.label, one.source, one.group, one.licence) == ("folds", "clinic", "clinic/p1", "own")
    assert records["clinic/no_folds/p1/b.png"].group == one.group
    assert records["elsewhere/0.png"].label == UNLABELLED
    assert records["elsewhere/0.png"].group == "elsewhere"


@pytest.mark.parametrize(("make", "says"), [(lambda p: p / "nowhere", "no such folder"), (lambda p: p, "no images")])
def test_a_folder_without_images_is_refused(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(DataError, match=says):
        find_frames(make(tmp_path), "own")


def test_copies_and_broken_files_are_found(survey: Survey) -> None:
    counts = summary(survey)
    assert counts["images"] == 13
    assert counts["unreadable"] == 1
    assert counts["unlabelled"] == 3
    names = [{survey.seen[k].frame.name for k in cluster} for cluster in survey.twins if survey.conflicting(cluster)]
    assert {"clinic/folds/p0/a.png", "clinic/no_folds/p9/copy.png"} in names
    assert counts["leaking_clusters"] >= 1


def test_what_is_said_is_what_a_device_says(survey: Survey, folder: Path) -> None:
    analyser = Analyser(Bundle.open(COMMITTED_BUNDLE))
    for seen in survey.seen:
        if not seen.fault:
            said = analyser.analyse(np.ascontiguousarray(seen.frame.read(folder)))
            assert (said.score, said.verdict, said.quality.reasons) == (seen.score, seen.verdict, seen.reasons)


def test_the_queue_begins_with_what_is_wrong_and_ends_with_copies(survey: Survey) -> None:
    def seen(label: str, score: float, verdict: str, name: str) -> Seen:
        return Seen(Frame(Record(name, label, name, "s", "train", "own")), score, verdict, (), "", b"")

    rows = [
        seen("folds", 0.99, "folds", "fine"),
        seen("folds", 0.02, "no_folds", "wrong"),
        seen("", 0.5, "uncertain", "unlabelled"),
        seen("no_folds", 0.9, "folds", "also wrong"),
        seen("folds", 0.02, "no_folds", "copy of wrong"),
    ]
    made = Survey(survey.root, rows, [[1, 4]])
    assert [rows[k].frame.name for k in made.queue()] == ["wrong", "also wrong", "unlabelled", "fine", "copy of wrong"]
    assert len(made.queue(2)) == 2
    assert all(not survey.seen[k].fault for k in survey.queue())


def test_pages_stand_alone_and_show_every_image(survey: Survey, tmp_path: Path) -> None:
    index = write_sheets(survey, tmp_path / "pages")
    pages = {page.name: page.read_text(encoding="utf-8") for page in index.parent.glob("*.html")}
    assert set(pages) == {
        "index.html", "sheet-clinic-folds.html", "sheet-clinic-no_folds.html", "sheet-elsewhere-unlabelled.html"
    }  # fmt: skip
    for text in pages.values():
        assert "http" not in text.replace("http://www.w3.org", "")
        assert "not a medical device" in text
    assert pages["sheet-clinic-folds.html"].count("<figure") == 5
    assert "Look alike, labelled differently" in pages["index.html"]
    assert "Cannot be read" in pages["index.html"]


# --- answers ---


def frames(count: int, labels: str = "") -> list[Frame]:
    return [Frame(Record(f"{k}.png", labels, f"g{k}", "s", "train", "own")) for k in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 4), st.sampled_from(ANSWERS))), max_size=25),
    st.integers(0, 60),
)
def test_a_journal_cut_off_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, presses: list[tuple[int, str] | None], cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "labels.jsonl"
    journal = Journal(path, frames(5))
    states = [dict(journal.answers)]
    sizes = [0]
    for press in presses:
        if press is None:
            journal.undo()
        else:
            journal.answer(f"{press[0]}.png", press[1])
        states.append(dict(journal.answers))
        sizes.append(path.stat().st_size)
    journal.close()
    assert Journal(path, frames(5)).answers == states[-1]
    left = max(0, sizes[-1] - cut)
    with path.open("r+b") as file:
        file.truncate(left)
    again = Journal(path, frames(5))
    whole = max(k for k, size in enumerate(sizes) if size <= left)
    assert again.answers == states[whole]
    # And it goes on from there, the incomplete line gone.
    again.answer("0.png", "folds")
    again.close()
    assert Journal(path, frames(5)).answers == {**states[whole], "0.png": "folds"}


def test_undo_goes_back_past_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    first = Journal(path, frames(3))
    first.answer("0.png", "folds")
    first.answer("0.png", "no_folds")
    first.close()
    second = Journal(path, frames(3))
    assert second.undo() == "0.png"
    assert second.answers == {"0.png": "folds"}
    assert second.undo() == "0.png"
    assert second.undo() is None
    assert second.answers == {}


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("hello\n")
    with pytest.raises(DataError, match="line 1 is not one of a journal"):
        Journal(path, frames(1))


def test_the_manifest_holds_answers_and_earlier_labels_and_is_readable(tmp_path: Path) -> None:
    listed = [*frames(20), Frame(Record("old.png", "folds", "old", "s", "train", "own"))]
    journal = Journal(tmp_path / "labels.jsonl", listed)
    for k in range(16):
        journal.answer(f"{k}.png", "folds" if k % 2 else "no_folds")
    journal.answer("16.png", "unsure")
    journal.answer("3.png", "no_folds")
    assert journal.export(tmp_path / "manifest.csv", split=True) == 17
    rows = {record.path: record for record in read_manifest(tmp_path / "manifest.csv")}
    assert rows["3.png"].label == "no_folds"
    assert rows["old.png"].label == "folds"
    assert "16.png" not in rows
    assert {record.split for record in rows.values()} == {"train", "val", "test"}
    journal.export(tmp_path / "manifest.csv", split=False)
    assert {record.split for record in read_manifest(tmp_path / "manifest.csv")} == {"train"}


# --- the page's server ---


def test_answers_are_on_disk_when_the_page_hears_of_them(survey: Survey, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "labels.jsonl", [seen.frame for seen in survey.seen])
    app = open_labels(survey, journal, tmp_path / "manifest.csv", most=4, split=False)
    client = TestClient(app, base_url="http://127.0.0.1:8765")
    listed = client.get("/frames").json()["frames"]
    assert len(listed) == 4
    assert client.get("/image/0").headers["content-type"] == "image/jpeg"
    assert client.post("/answer", json={"number": 0, "said": "folds"}).status_code == 200
    line = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[-1])
    assert (line["frame"], line["answer"]) == (listed[0]["name"], "folds")
    rows = {record.path: record.label for record in read_manifest(tmp_path / "manifest.csv")}
    assert rows[listed[0]["name"]] == "folds"
    assert client.post("/undo").json() == {"number": 0, "answer": None}
    assert client.post("/undo").json()["number"] is None


@pytest.mark.parametrize(
    ("headers", "path", "body", "status"),
    [
        ({"Host": "evil.example"}, "/frames", None, 400),
        ({"Origin": "http://evil.example"}, "/answer", {"number": 0, "said": "folds"}, 403),
        ({}, "/answer", {"number": 0, "said": "perhaps"}, 422),
        ({}, "/answer", {"number": 99, "said": "folds"}, 404),
        ({}, "/image/99", None, 404),
        ({}, "/image/..%2f..%2fetc%2fpasswd", None, 404),
    ],
)
def test_others_and_nonsense_get_nothing(
    survey: Survey, tmp_path: Path, headers: dict[str, str], path: str, body: dict[str, object] | None, status: int
) -> None:
    journal = Journal(tmp_path / "labels.jsonl", [seen.frame for seen in survey.seen])
    app = open_labels(survey, journal, tmp_path / "manifest.csv", most=None, split=False)
    client = TestClient(app, base_url="http://127.0.0.1:8765")
    reply = client.post(path, json=body, headers=headers) if body else client.get(path, headers=headers)
    assert reply.status_code == status
    assert not journal.answers


def test_the_server_listens_on_this_machine_only(survey: Survey, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "labels.jsonl", [])
    server = LabelServer(open_labels(survey, journal, tmp_path / "m.csv", most=1, split=False))
    assert server.url.startswith("http://127.0.0.1:")
    assert server._socket.getsockname()[0] == "127.0.0.1"
    server._socket.close()


# --- the command ---


def test_the_command_writes_pages_and_says_what_it_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clean", str(folder), "--out", str(tmp_path), "--model", "none", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 13
    assert told["wrong"] == 0
    assert Path(told["pages"]).is_file()
    assert main(["clean", str(folder), "--out", str(tmp_path), "--most", "0"]) == 2
    assert main(["clean", str(tmp_path / "nowhere"), "--out", str(tmp_path), "--model", "none"]) == 1
    assert "no such folder" in capsys.readouterr().err
