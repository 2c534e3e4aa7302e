from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from edge.capture.phantom import SCENES, Look, Phantom, Script, Segment, Truth, default_script, training_frames
from edge.capture.phantom.camera import Camera
from edge.capture.phantom.posture import closed_to_opened, opened_to_closed
from edge.capture.phantom.texture import smoothstep


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(width=320, height=240, detail=256, seed=3)


def look_at(phantom: Phantom, t: float) -> tuple[np.ndarray, Truth]:
    image, truth = phantom.render(t)
    assert truth is not None
    return image, truth


def test_a_frame_is_bgr_with_masks_of_its_size(phantom: Phantom) -> None:
    image, truth = look_at(phantom, 1.0)
    assert image.shape == (240, 320, 3)
    assert image.dtype == np.uint8
    assert truth.folds.shape == truth.glottis.shape == (240, 320)
    assert truth.folds.dtype == truth.glottis.dtype == np.bool_
    assert phantom.render(1.0, truth=False)[1] is None


def test_the_same_arguments_and_time_give_the_same_bytes_in_any_order(phantom: Phantom) -> None:
    times = np.linspace(0, phantom.duration, 14)
    forwards = [look_at(phantom, t) for t in times]
    twin = Phantom(width=320, height=240, detail=256, seed=3)
    for t, (image, truth) in reversed(list(zip(times, forwards, strict=True))):
        again, truth_again = look_at(twin, t)
        assert np.array_equal(image, again)
        assert np.array_equal(truth.folds, truth_again.folds)
        assert (truth.visible, truth.ambiguous, truth.scene) == (
            truth_again.visible,
            truth_again.ambiguous,
            truth_again.scene,
        )
        assert np.array_equal(image, twin.render(t, truth=False)[0])


def test_seeds_and_moments_differ(phantom: Phantom) -> None:
    t = 25.0
    assert not np.array_equal(phantom.render(t)[0], Phantom(width=320, height=240, detail=256, seed=4).render(t)[0])
    # Even a still scene is never the same frame twice: the sensor's noise is new.
    assert not np.array_equal(phantom.render(t)[0], phantom.render(t + 1e-3)[0])


@pytest.mark.parametrize("seed", range(6))
def test_folds_are_in_view_for_about_half_of_the_script(seed: int) -> None:
    phantom = Phantom(width=128, height=96, detail=256, seed=seed)
    truths = [look_at(phantom, t)[1] for t in np.arange(0, phantom.duration, 0.5)]
    assert 0.3 < np.mean([truth.visible for truth in truths]) < 0.7
    assert np.mean([truth.ambiguous for truth in truths]) < 0.3
    assert {truth.scene for truth in truths} >= {
        "out_of_body",
        "epiglottis",
        "breathing",
        "phonation",
        "fog",
        "trachea",
    }
    assert 45 < phantom.duration < 90


@pytest.mark.parametrize("seed", range(4))
def test_masks_lie_in_the_aperture_and_agree_with_the_verdict(seed: int) -> None:
    phantom = Phantom(width=320, height=240, detail=256, seed=seed)
    for t in np.arange(0.3, phantom.duration, 2.1):
        _, truth = look_at(phantom, t)
        assert truth.aperture is not None
        x, y, radius = truth.aperture
        rows, cols = np.nonzero(truth.folds | truth.glottis)
        assert np.all(np.hypot(cols - x, rows - y) <= radius + 1)
        assert not np.any(truth.folds & truth.glottis)
        if truth.visible:
            assert truth.folds.sum() > 0.004 * np.pi * radius * radius
        elif not truth.ambiguous:
            assert truth.folds.sum() < 0.008 * np.pi * radius * radius


@pytest.mark.parametrize("scene", ["out_of_body", "mouth", "pharynx", "pyriform", "trachea", "epiglottis", "wall"])
@pytest.mark.parametrize("seed", [0, 5])
def test_scenes_without_folds(scene: str, seed: int) -> None:
    phantom = Phantom(width=160, height=120, detail=256, seed=seed, script=Script([Segment(scene, 5.0)]))
    for t in (0.5, 2.0, 4.0):
        truth = look_at(phantom, t)[1]
        assert not truth.visible
        assert truth.scene == scene


@pytest.mark.parametrize("scene", ["breathing", "phonation", "closed", "glare"])
@pytest.mark.parametrize("seed", [0, 5])
def test_scenes_with_folds(scene: str, seed: int) -> None:
    phantom = Phantom(width=160, height=120, detail=256, seed=seed, script=Script([Segment(scene, 5.0)]))
    assert all(look_at(phantom, t)[1].visible for t in (0.5, 2.0, 4.0))


@pytest.mark.parametrize("seed", range(5))
def test_masks_move_with_the_picture(seed: int) -> None:
    """The gap is darker than the folds, and the folds are brighter than the same mask put elsewhere, in every pose."""
    script = Script([Segment("breathing", 6.0, {"opening": 0.24, "roll": 0.4, "x": 0.1}), Segment("phonation", 6.0)])
    phantom = Phantom(width=320, height=240, detail=256, seed=seed, script=script, look=Look(falloff=0.2, shine=0.0))
    for t in (2.5, 3.5, 5.0):
        image, truth = look_at(phantom, t)
        grey = image.mean(axis=2)
        assert truth.glottis.sum() > 60
        assert grey[truth.glottis].mean() < 0.6 * grey[truth.folds].mean()
        # Moved sideways by a tenth of the frame the mask fits worse.
        moved = np.roll(truth.folds, 32, axis=1)
        assert grey[moved].mean() < grey[truth.folds].mean()


def test_fog_makes_a_view_of_folds_ambiguous() -> None:
    clear = Phantom(width=160, height=120, detail=256, script=Script([Segment("fog", 5.0, {"fog": 0.0, "smear": 0.0})]))
    fogged = Phantom(width=160, height=120, detail=256, script=Script([Segment("fog", 5.0, {"fog": 0.9})]))
    assert not look_at(clear, 2.0)[1].ambiguous
    assert look_at(fogged, 2.0)[1].ambiguous
    centre = np.s_[30:90, 50:110]
    assert fogged.render(2.0)[0][centre].std() < 0.6 * clear.render(2.0)[0][centre].std()


def test_the_folds_vibrate_when_they_speak(phantom: Phantom) -> None:
    speaking = Phantom(
        width=320, height=240, detail=256, seed=3, script=Script([Segment("phonation", 10.0, {"tremor": 0.0})])
    )
    areas = [look_at(speaking, k / 30)[1].glottis.sum() for k in range(30)]
    assert max(areas) > 2 * min(areas)
    assert phantom.script.duration != speaking.duration


def test_a_frame_without_aperture_has_none() -> None:
    phantom = Phantom(width=160, height=120, detail=256, look=Look(aperture="none"))
    assert look_at(phantom, 20.0)[1].aperture is None


def test_grey_looks_are_grey() -> None:
    image, _ = Phantom(width=160, height=120, detail=256, look=Look(grey=True)).render(20.0)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_large_frames_keep_picture_and_masks_together() -> None:
    script = Script([Segment("breathing", 6.0, {"opening": 0.26, "breathing": 0.0})])
    small = look_at(Phantom(width=640, height=360, detail=256, script=script), 2.0)[1]
    image, large = look_at(Phantom(width=1280, height=720, detail=256, script=script), 2.0)
    assert np.mean(large.folds[::2, ::2] ^ small.folds) < 0.01
    grey = image.mean(axis=2)
    assert grey[large.glottis].mean() < 0.6 * grey[large.folds].mean()


def test_training_frames_vary() -> None:
    frames = list(training_frames(60, 1, detail=256))
    again = [image for image, _ in training_frames(3, 1, detail=256)]
    assert all(np.array_equal(a, b[0]) for a, b in zip(again, frames, strict=False))
    grey = [np.array_equal(image[..., 0], image[..., 2]) for image, _ in frames]
    assert 0.1 < np.mean(grey) < 0.9
    assert 0.3 < np.mean([truth.visible for _, truth in frames]) < 0.7
    assert len({image.shape for image, _ in frames}) > 2
    assert any(truth.aperture is None for _, truth in training_frames(200, 2, detail=128))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Phantom(width=10), "width is 10"),
        (lambda: Phantom(height=100_000), "height is 100000"),
        (lambda: Phantom(seed=-1), "seed is -1"),
        (lambda: Phantom(detail=9), "detail is 9"),
        (lambda: Phantom(width=64, height=64).render(float("nan")), "time nan"),
        (lambda: Segment("lunch", 1.0), "no scene 'lunch'"),
        (lambda: Segment("fog", 0.0), "more than 0 seconds"),
        (lambda: Segment("fog", 1.0, {"zoom": 2.0}), "no parameter 'zoom'"),
        (lambda: Segment("fog", 1.0, {"span": 0.0}), "span"),
        (lambda: Script([]), "empty"),
        (lambda: Look(aperture="star"), "no aperture 'star'"),
        (lambda: training_frames(-1, 0), "-1 phantom frames"),
    ],
)
def test_bad_parameters_are_refused_in_a_clear_sentence(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]


def test_the_camera_maps_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y, roll, a, b = rng.uniform(-0.3, 0.3, 5)
        camera = Camera((160.0, 120.0), 115.0, (x, y), 1.1, roll=10 * roll, tilt=(a, b), barrel=0.1)
        px, py = rng.uniform(0, 320, 50).astype(np.float32), rng.uniform(0, 240, 50).astype(np.float32)
        back = camera.to_image(*camera.to_scene(px, py))
        assert np.allclose(back[0], px, atol=0.05)
        assert np.allclose(back[1], py, atol=0.05)


def test_opening_and_closing_undo_each_other() -> None:
    side = np.linspace(0.2, 1.5, 40, dtype=np.float32)
    opening, cleft = np.float32(0.2) * np.ones(40, np.float32), np.zeros(40, np.float32)
    assert np.allclose(closed_to_opened(opened_to_closed(side, opening, cleft), opening, cleft), side, atol=1e-5)


def test_the_script_has_no_jumps() -> None:
    script = default_script(2)
    for t in np.arange(0, script.duration, 0.01):
        before, after = script.at(t)[1], script.at(t + 0.01)[1]
        assert abs(after.x - before.x) < 0.05
        assert abs(after.epiglottis - before.epiglottis) < 0.05
    assert script.at(script.duration + 1.0) == script.at(1.0)
    assert replace(SCENES["fog"], fog=0.0) != SCENES["fog"]


def test_it_is_fast_enough_for_a_camera() -> None:
    phantom = Phantom()
    spent = []
    for t in np.linspace(0, phantom.duration, 40):
        start = time.process_time()
        phantom.render(t, truth=False)
        spent.append(time.process_time() - start)
    assert np.median(spent) < 0.030  # a bound for slow machines: 8 ms on a desktop core


def test_a_tube_keeps_the_folds_apart_and_covers_part_of_the_gap() -> None:
    script = Script([Segment("phonation", 5.0)])
    free = Phantom(width=320, height=240, detail=256, script=script, look=Look())
    tubed = Phantom(width=320, height=240, detail=256, script=script, look=Look(tube=True))
    open_state = Script([Segment("breathing", 5.0, {"opening": 0.17, "breathing": 0.0, "span": 0.95, "y": 0.0})])
    gap = look_at(Phantom(width=320, height=240, detail=256, script=open_state, look=Look()), 2.0)[1].glottis.sum()
    assert look_at(free, 2.0)[1].glottis.sum() < gap
    assert 0 < look_at(tubed, 2.0)[1].glottis.sum() < 0.9 * gap
    assert look_at(tubed, 2.0)[1].visible


def test_a_smooth_step_whose_edges_meet_is_a_step() -> None:
    x = np.array([0.1, 0.5, 0.9], np.float32)
    with np.errstate(all="raise"):
        assert smoothstep(0.0, np.array([1.0, 0.0, 0.0], np.float32), x).tolist() == pytest.approx([0.028, 1.0, 1.0])
        assert smoothstep(np.array([0.5], np.float32), np.array([0.5], np.float32), x[:2]).tolist() == [0.0, 0.0]
