"""`classify` with regions and overlays, and what `watch` makes of regions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import MAPS, map_manifest, tiny_files

from edge import cli
from edge.analysis import Analyser, Analysis
from edge.bundle import Bundle, DecisionSpec, write_bundle
from edge.geometry import Box
from edge.optics import Aperture
from edge.overlay import PALETTE, draw
from edge.watch import Watcher

BLUE, YELLOW = PALETTE[:2]


def run(*argv: object) -> int:
    return cli.main([str(a) for a in argv])


def picture(side: int = 384, *, red: float = 100, left: float = 0.5, right: float = 1.0) -> np.ndarray:
    """Grey tissue with a red part between two shares of its width."""
    noise = np.random.default_rng(0).normal(0, 25, (24, 24, 1)).repeat(side // 24, 0).repeat(side // 24, 1)
    image = np.clip(noise + np.array([98, 98, 104]), 0, 255)
    columns = slice(round(left * side), round(right * side))
    image[:, columns] = np.clip(noise[:, columns] + np.array([90 - red / 2, 90 - red / 2, 90 + red]), 0, 255)
    return image.astype(np.uint8)


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == color).all(axis=2).sum())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    cv2.imwrite(str(folder / "seen.png"), picture())
    cv2.imwrite(str(folder / "seen.jpg"), picture())
    cv2.imwrite(str(folder / "inner" / "seen.png"), picture(left=0, right=0))
    return folder


def test_classify_tells_and_draws_where_the_folds_are(
    map_bundle: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "overlays"
    assert run("classify", pictures, "--bundle", map_bundle, "--json", "--overlay", out) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["verdict"] for line in lines] == ["folds", "folds", "uncertain"]
    assert [Path(line["overlay"]).relative_to(out) for line in lines] == [
        Path("seen.png"), Path("seen-2.png"), Path("inner/seen.png")
    ]  # fmt: skip
    (region,) = lines[1]["regions"]
    assert set(region) == {"label", "box", "centre", "area", "score"}
    assert region["centre"] == pytest.approx([0.75, 0.5], abs=0.02)
    assert lines[2]["regions"] == []
    drawn, plain = cv2.imread(lines[1]["overlay"]), cv2.imread(lines[2]["overlay"])
    assert drawn.shape == (384, 384, 3)
    ys, xs = np.nonzero((drawn == BLUE).all(axis=2))
    assert xs.min() >= 0.45 * 384  # in the half in which they are
    assert len(ys) > 300
    assert count(plain, BLUE) == count(plain, YELLOW) == 0
    assert sorted(p.name for p in out.rglob("*.png")) == ["seen-2.png", "seen.png", "seen.png"]
    assert not [p for p in out.rglob("*") if p.is_file() and p.suffix != ".png"]
    assert run("classify", pictures / "seen.png", "--bundle", map_bundle) == 0
    assert re.search(r"seen.png: folds .* folds at 0.7\d 0.5\d, \d+\.\d%", capsys.readouterr().out)


def test_no_image_is_ever_drawn_over(map_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in pictures.rglob("*.*")}
    assert run("classify", pictures, "--bundle", map_bundle, "--overlay", pictures) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(pictures.rglob("*.png"))) == 5
    capsys.readouterr()


@pytest.mark.parametrize("where", ["file.txt", "file.txt/below"])
def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(
    map_bundle: Path, pictures: Path, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.txt").write_text("")
    assert run("classify", pictures, "--bundle", map_bundle, "--overlay", tmp_path / where) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(
        rf"foldsight: \S+{where} cannot be written \([^)]+\): give --overlay another folder\n", said.err
    )


def test_a_full_disk_ends_it_and_leaves_nothing_half_written(
    map_bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert run("classify", pictures, "--bundle", map_bundle, "--overlay", tmp_path / "out") == 1
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def analysed(tmp_path: Path, image: np.ndarray, **decision: float) -> Analysis:
    spec = DecisionSpec(**{**map_manifest().decision.model_dump(), **decision})
    write_bundle(tmp_path / "b.zip", map_manifest(decision=spec), tiny_files(maps=True))
    return Analyser(Bundle.open(tmp_path / "b.zip")).analyse(image)


def test_an_uncertain_image_has_no_box_though_its_map_shows_one(tmp_path: Path) -> None:
    image = picture()
    analysis = analysed(tmp_path, image, high=0.999999)
    assert analysis.verdict == "uncertain"
    assert analysis.places
    assert count(draw(image, analysis, MAPS.labels), BLUE) == 0


def test_every_label_has_a_colour_and_the_aperture_its_outline(tmp_path: Path) -> None:
    image = picture()
    image[140:260, 40:120] = np.random.default_rng(1).integers(2, 12, (120, 80, 1))
    analysis = analysed(tmp_path, image)
    assert {region.label for region in analysis.regions} == {"folds", "glottis"}
    drawn = draw(image, analysis, MAPS.labels)
    assert count(drawn, BLUE) > 200
    assert count(drawn, YELLOW) > 100
    assert (image != drawn).any()
    assert (image == picture()).any()  # the original is left alone
    small = cv2.resize(image, (96, 64))
    assert draw(small, analysed(tmp_path, small), MAPS.labels).shape == (384, 576, 3)
    for circle in (None, (192.0, 192.0, 150.0)):
        aperture = Aperture(Box(42, 42, 300, 300), circle)
        changed = (draw(image, replace(analysis, regions=(), aperture=aperture), MAPS.labels) != image).any(axis=2)
        assert changed[192, 41:44].any()
        assert not changed[192, 46:330].any()
        assert changed[50:300, 42].all() == (circle is None)


class Message:
    """What paho hands on."""

    def __init__(self, kind: str, **payload: Any) -> None:
        self.topic, self.retain = f"foldsight/v1/a/{kind}", False
        self.payload = json.dumps({"score": 0.9, "age_ms": 5, **payload}).encode()


def test_watch_shows_centre_and_area_while_there_is_a_region(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = Watcher("a", as_json=False)

    def says(kind: str, state: str, **payload: Any) -> str:
        watcher._message(None, None, Message(kind, state=state, **payload))  # type: ignore[arg-type]
        watcher._draw()
        return capsys.readouterr().out

    region = {"label": "folds", "box": [0.4, 0.4, 0.2, 0.2], "centre": [0.51, 0.482], "area": 0.0312, "score": 0.9}
    assert "folds 0" not in says("detection", "folds")  # a model without maps
    assert "folds 0.51 0.48   3.1%" in says("detection", "folds", regions=[region])
    assert "folds 0.51 0.48   3.1%" in says("state", "folds")  # the heartbeat between two frames
    gone = says("state", "no_signal")
    assert "0.51" not in gone
    assert "folds -" in gone  # its column stays where it is
    assert "folds -" in says("detection", "uncertain", regions=[])


def test_watch_hands_regions_on_as_they_came(capsys: pytest.CaptureFixture[str]) -> None:
    region = {"label": "folds", "box": [0.4, 0.4, 0.2, 0.2], "centre": [0.5, 0.5], "area": 0.03, "score": 0.9}
    message = Message("detection", state="folds", regions=[region])
    Watcher("a", as_json=True)._message(None, None, message)  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)["regions"] == [region]


def test_bundle_inspect_tells_of_maps(map_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "inspect", map_bundle) == 0
    assert "folds from 0.5, glottis from 0.5; stride 8, smoothing_s 0.1" in capsys.readouterr().out
