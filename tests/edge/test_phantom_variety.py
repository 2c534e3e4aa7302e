from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from edge.capture.phantom import SCENES, Look, Part, Script, Segment, State, Variety, training_frames
from edge.capture.phantom import Phantom as Demo
from edge.capture.phantom.camera import Camera
from edge.capture.phantom.objects import FLUIDS, TOOLS, Blade, Pool, Thing, Tool
from edge.capture.phantom.posture import Posture
from edge.capture.phantom.render import Renderer
from edge.capture.phantom.sheet import main as draw_sheet

if TYPE_CHECKING:
    from pathlib import Path

    from edge.capture.phantom import Truth

WIDTH, HEIGHT = 256, 192
CLEAR = replace(SCENES["breathing"], tremor=0.0, breathing=0.0)


@pytest.fixture(scope="module")
def frames() -> list[tuple[np.ndarray, Truth]]:
    return list(training_frames(80, 1, detail=200, variety=Variety()))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(Variety().anatomy(5), Look(walls=True), WIDTH, HEIGHT, detail=256)


def seen(renderer: Renderer, state: State, *things: Thing) -> Truth:
    truth = renderer.render("far", state, 1.0, parts=True, things=things)[1]
    assert truth is not None
    return truth


def test_frames_are_the_same_for_the_same_seed_and_differ_widely(frames: list[tuple[np.ndarray, Truth]]) -> None:
    again = list(training_frames(6, 1, detail=200, variety=Variety()))
    for (image, truth), (other, same) in zip(again, frames, strict=False):
        assert np.array_equal(image, other)
        assert np.array_equal(truth.parts, same.parts)  # type: ignore[arg-type]
        assert truth.visible == same.visible
    clear = [truth.visible for _, truth in frames if not truth.ambiguous]
    assert 0.35 < np.mean(clear) < 0.65
    assert len(clear) > 0.75 * len(frames)
    assert len({truth.scene for _, truth in frames}) > 14
    hues = [image.reshape(-1, 3).mean(axis=0) for image, _ in frames]
    assert np.std([h[2] / max(1.0, h[0]) for h in hues]) > 0.3


def test_parts_agree_with_the_masks_of_folds_and_gap(frames: list[tuple[np.ndarray, Truth]]) -> None:
    for image, truth in frames:
        parts = truth.parts
        assert parts is not None
        assert parts.shape == image.shape[:2]
        assert np.array_equal(parts == Part.GLOTTIS, truth.glottis)
        # A lesion sits on the folds; nothing else of them is called otherwise.
        assert np.all(truth.folds[parts == Part.FOLDS])
        assert np.all(np.isin(parts[truth.folds], (Part.FOLDS, Part.LESION)))
        if truth.visible:
            lit = np.count_nonzero(parts != Part.OUTSIDE)
            assert np.count_nonzero(truth.folds) >= 0.008 * lit


def test_every_part_comes_into_view(frames: list[tuple[np.ndarray, Truth]]) -> None:
    there = {Part(int(p)) for _, truth in frames if truth.parts is not None for p in np.unique(truth.parts)}
    rare = {Part.TUBE, Part.TEETH, Part.ROOM, Part.NOSE, Part.BLOOD, Part.MUCUS, Part.PALATE, Part.TONGUE, Part.BLADE}
    assert there >= set(Part) - rare


@pytest.mark.parametrize("kind", TOOLS)
def test_an_instrument_before_the_folds_hides_them_by_what_it_covers(renderer: Renderer, kind: str) -> None:
    free = seen(renderer, CLEAR)
    thin = Tool(kind, (0.0, 0.0), 0.3, 0.10, 0.3, 0.0, (0.7, 0.7, 0.7), 3)
    touched = seen(renderer, CLEAR, thin)
    assert free.visible
    assert touched.visible
    covered = touched.parts == Part.INSTRUMENT
    assert np.any(covered)
    assert np.array_equal(touched.folds, free.folds & ~covered)
    assert np.array_equal(touched.glottis, free.glottis & ~covered)


def test_what_hides_all_folds_makes_a_view_without_them(renderer: Renderer) -> None:
    near = Tool("swab", (0.0, -0.6), 1.57, 0.9, 0.3, 0.0, (0.8, 0.8, 0.8), 3)
    drowned = Pool("blood", (0.0, 0.0), 2.0, (0.05, 0.05, 0.4), 3)
    outside = Blade((3.0, 3.0), (0.5, 0.5), 0.0, (0.5, 0.5, 0.5), 3)
    for thing in (near, drowned, outside):
        truth = seen(renderer, CLEAR, thing)
        assert not truth.visible
        assert not truth.ambiguous


@pytest.mark.parametrize("kind", FLUIDS)
def test_a_pool_is_opaque_where_it_says_so(renderer: Renderer, kind: str) -> None:
    free = renderer.render("far", CLEAR, 1.0)[0]
    pool = Pool(kind, (0.3, 0.2), 0.5, (0.2, 0.4, 0.6), 4)
    image, truth = renderer.render("far", CLEAR, 1.0, parts=True, things=[pool])
    assert truth is not None
    under = truth.parts == (Part.BLOOD if kind == "blood" else Part.MUCUS)
    assert 0.01 < np.mean(under) < 0.5
    changed = np.abs(image.astype(int) - free).mean(axis=2)
    assert changed[under].mean() > 4 * changed[~under].mean()


def test_false_folds_come_over_the_true_ones_until_none_is_left(renderer: Renderer) -> None:
    areas = [
        int(seen(renderer, replace(SCENES["closed"], tremor=0.0, squeeze=squeeze)).folds.sum())
        for squeeze in (0.0, 0.05, 0.1, 0.15, 0.3)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 400
    assert areas[-1] == 0
    assert not seen(renderer, replace(SCENES["closed"], tremor=0.0, squeeze=0.3)).glottis.any()
    posture = Posture(renderer.anatomy, 0.1, 0.0, 0.0, 0.0, 0.12)
    side = np.linspace(0, 1.5, 50, dtype=np.float32)
    assert np.allclose(posture.squeezed(posture.unsqueezed(side, np.zeros(50, np.float32))), side, atol=1e-5)


def test_a_fold_that_stays_behind_leaves_the_gap_to_the_other(renderer: Renderer) -> None:
    upright = replace(CLEAR, x=0.0, roll=0.0, opening=0.2)
    for lag, right_is_wider in ((0.9, False), (-0.9, True)):
        gap = seen(renderer, replace(upright, lag=lag)).glottis
        middle = WIDTH // 2
        left, right = gap[:, :middle].sum(), gap[:, middle:].sum()
        assert (right > 2 * left) == right_is_wider
        assert (left > 2 * right) == (not right_is_wider)


def test_smoke_between_thin_and_thick_is_ambiguous(renderer: Renderer) -> None:
    said = {}
    for smoke in (0.0, 0.2, 1.0):
        truths = [renderer.render("far", replace(CLEAR, smoke=smoke), t)[1] for t in range(0, 40, 5)]
        said[smoke] = [truth.visible and not truth.ambiguous for truth in truths if truth is not None]
    assert all(said[0.0])
    assert all(said[0.2])
    assert not all(said[1.0])


def test_the_gap_is_darker_than_the_folds_in_any_colour(frames: list[tuple[np.ndarray, Truth]]) -> None:
    right = []
    for image, truth in frames:
        if truth.visible and not truth.ambiguous and truth.glottis.sum() > 150:
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            right.append(np.median(grey[truth.glottis]) < np.median(grey[truth.folds]))
    assert len(right) > 20
    assert np.mean(right) > 0.9  # a tube, blood or glare may lie in the gap


def test_each_part_of_the_variety_can_be_left_out() -> None:
    gone = {"instruments": {Part.INSTRUMENT, Part.TUBE}, "blade": {Part.BLADE}, "fluids": {Part.BLOOD, Part.MUCUS}}
    camera = Camera((128.0, 96.0), 96.0, (0.0, 0.0), 1.0)
    rng = np.random.default_rng(3)
    for name in (f.name for f in fields(Variety)):
        variety = Variety.without(name)
        views = [variety.view(rng) for _ in range(200)]
        scenes, states = {scene for scene, _ in views}, [state for _, state in views]
        kinds = {type(thing) for _ in range(200) for thing in variety.things(rng, camera)}
        assert (Tool in kinds) == (name != "instruments")
        assert (Blade in kinds) == (name != "blade")
        assert (Pool in kinds) == (name != "fluids")
        assert (max(state.smoke for state in states) > 0) == (name != "smoke")
        assert (max(state.drops for state in states) > 0) == (name != "drops")
        assert (max(state.squeeze for state in states) > 0) == (name != "squeeze")
        assert (not scenes & {"nose", "teeth", "gullet", "bronchi"}) == (name == "places")
        looks = [variety.look(rng, variety.anatomy(seed)) for seed in range(8)]
        assert any(look.mixer for look in looks) == (name != "light")
        assert any(look.walls for look in looks) == (name != "walls")
        larynges = [variety.anatomy(seed) for seed in range(20)]
        assert any(larynx.bow or larynx.plaques for larynx in larynges) == (name != "folds")
        assert any(larynx.epiglottis_lean for larynx in larynges) == (name != "epiglottis")
        assert any(larynx.creases != 1 for larynx in larynges) == (name != "mucosa")
    without = Variety.without(*gone)
    for _, truth in training_frames(10, 9, detail=128, variety=without):
        assert truth.parts is not None
        assert not {Part(int(p)) for p in np.unique(truth.parts)} & {part for parts in gone.values() for part in parts}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'tonsils'"):
        Variety.without("tonsils")


@pytest.mark.parametrize("scene", ["nose", "gullet", "bronchi", "teeth", "vallecula", "squeeze"])
def test_new_scenes_can_be_played_and_show_no_folds(scene: str) -> None:
    demo = Demo(width=160, height=120, detail=256, seed=2, script=Script([Segment(scene, 5.0)]))
    for t in (0.5, 3.0):
        truth = demo.render(t)[1]
        assert truth is not None
        assert not truth.visible
        assert truth.parts is None


def test_the_sheet_shows_both_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.jpg"
    arguments = ["--out", str(out), "--count", "2", "--side", "64", "--parts", "--without", "smoke,drops"]
    assert draw_sheet(arguments) == 0
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape == (79, 8 * 68, 3)
    with pytest.raises(SystemExit):
        draw_sheet(["--out", str(out), "--without", "tonsils"])
    assert "tonsils" in capsys.readouterr().err
