from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from edge.bundle import Bundle
from trainer.data.manifest import Record, write_manifest
from trainer.timeline import OUT_OF_BODY, TICKS, Shown, Track, Truth, main, measure, play, real_frames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def picture(seed: int, *, red: bool) -> np.ndarray:
    """What the tiny model calls folds, or not."""
    noise = np.random.default_rng(seed).normal(0, 25, (12, 12, 1))
    coarse = (np.array([60, 60, 200] if red else [165, 165, 150]) + noise).clip(0, 255).astype(np.uint8)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)


def shown(*parts: tuple[float, bool | None, bool]) -> Iterator[Shown]:
    """Parts of (seconds, truth, whether the model will say folds)."""
    tick = 0
    for seconds, visible, red in parts:
        for _ in range(round(seconds * TICKS)):
            yield Shown(tick / TICKS, picture(tick, red=red), visible, "view")
            tick += 1


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_changes_are_timed_from_when_they_are_clear(bundle: Bundle) -> None:
    tracks = [Track(bundle, rate) for rate in (10, 60)]
    truth = play(shown((1, False, False), (0.3, None, False), (2, True, True), (1, False, False)), tracks)
    assert [len(track.states) for track in tracks] == [43, 258]
    for track in tracks:
        found = measure(track, truth)
        assert found.appearances == 1
        assert found.missed == 0
        assert found.detect_s == pytest.approx(0.25, abs=0.15)  # smoothing 0.2 s, dwell 0.2 s
        assert found.release_worst_s == pytest.approx(0.25, abs=0.15)
        assert found.right + found.unsure + found.wrong == pytest.approx(1)
        assert found.right > 0.7
        assert found.raw_right == 1
    fast, slow = (measure(track, truth) for track in tracks)
    assert fast.detect_s == pytest.approx(slow.detect_s, abs=0.11)


def test_what_is_never_said_is_missed_and_what_is_always_said_is_wrong(bundle: Bundle) -> None:
    track = Track(bundle, 30)
    truth = play(shown((2, False, True), (2, True, False)), [track])
    found = measure(track, truth)
    assert (found.appearances, found.missed) == (1, 1)
    assert found.detect_s is None
    assert found.release_worst_s == pytest.approx(2, abs=0.1)
    assert found.raw_wrong == 1
    assert found.wrong > 0.7


def test_out_of_the_body_it_is_told_to_say_that_no_tissue_is_in_view(bundle: Bundle) -> None:
    track = Track(bundle, 10)
    truth = play(shown((2, False, False)), [track])
    plain = measure(track, truth)
    assert plain.told == plain.right
    track.states[:10], track.scenes[:8] = ["uncertain"] * 10, [OUT_OF_BODY] * 8
    track.reasons[2:10] = [(OUT_OF_BODY,)] * 8  # six of them where the scope is outside
    found = measure(track, truth)
    assert found.told == pytest.approx(found.right + 6 / 20)
    assert found.unsure == pytest.approx(1 - found.right)


def test_truth_is_clear_only_where_it_lasts() -> None:
    truth = Truth()
    for part in shown((1, False, False), (0.2, True, True), (1, None, True), (1, True, True)):
        truth.add(part)
    assert [visible for visible, _, _ in truth.clear()] == [False, True]


def test_real_images_take_turns_and_stay_whole(tmp_path: Path) -> None:
    records = []
    for label, source, count in (("folds", "a", 5), ("no_folds", "b", 2), ("no_folds", "c", 2)):
        for group in range(count):
            for index in range(4):
                path = f"{source}{group}_{index}.png"
                cv2.imwrite(str(tmp_path / path), picture(index, red=label == "folds"))
                records.append(Record(path, label, f"{source}/{group}", source, "test", "CC0-1.0"))
    records.append(Record("x.png", "folds", "x", "a", "train", "CC0-1.0"))
    frames = list(real_frames(records, tmp_path, groups=6, hold_s=0.1))
    scenes = list(dict.fromkeys(frame.scene for frame in frames))
    assert [scene[0] for scene in scenes] == ["b", "a", "c", "a", "b", "a"]
    assert len(frames) == 6 * 3 * 2
    assert frames[0].image.shape == (96, 96, 3)
    assert np.diff([frame.at_s for frame in frames]) == pytest.approx(1 / TICKS)


def test_the_command_prints_json_and_draws(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(0, red=True))
    cv2.imwrite(str(tmp_path / "b.png"), picture(1, red=False))
    manifest = tmp_path / "manifest.csv"
    labels = (("a.png", "folds"), ("b.png", "no_folds"))
    write_manifest(manifest, [Record(name, label, name, "s", "test", "CC0-1.0") for name, label in labels])
    out = tmp_path / "figures" / "timeline.png"
    options = ["--seconds", "2", "--data", str(tmp_path), "--manifest", str(manifest), "--json", "--out", str(out)]
    assert main([str(tiny_bundle), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"Phantom, seed 0", "Real images, held out"}
    assert set(said["Real images, held out"]) == {"10", "15", "30", "60"}
    picture_drawn = cv2.imread(str(out))
    assert picture_drawn is not None
    assert picture_drawn.shape[1] > 1000


def test_a_missing_bundle_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.zip")]) == 1
    assert "none.zip is not there" in capsys.readouterr().err
