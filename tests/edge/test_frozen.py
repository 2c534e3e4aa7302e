from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from edge.capture.phantom import Look, Phantom, Script, Segment
from edge.optics import FrozenDetector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

RNG = np.random.default_rng(0)


def first_frozen(frames: Iterable[np.ndarray], *, fps: float = 30, seconds: float = 1.0) -> float | None:
    """When a sequence is called frozen for the first time, seconds."""
    detector = FrozenDetector(seconds)
    return next((k / fps for k, frame in enumerate(frames) if detector.update(frame, k / fps)), None)


def with_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(image + RNG.normal(0, sigma, image.shape), 0, 255).round().astype(np.uint8)


def live(phantom: Phantom, start_s: float, frames: int, fps: float = 30) -> list[np.ndarray]:
    return [phantom.render(start_s + k / fps, truth=False)[0] for k in range(frames)]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom(width=640, height=480, seed=1)


@pytest.mark.parametrize("fps", [10, 15, 30, 60])
def test_exact_repeats_are_frozen_after_the_time_asked_for(phantom: Phantom, fps: float) -> None:
    still = phantom.render(20.0, truth=False)[0]
    assert first_frozen([still] * int(3 * fps), fps=fps) == pytest.approx(1.0, abs=0.11)
    assert first_frozen([still] * int(5 * fps), fps=fps, seconds=2.5) == pytest.approx(2.5, abs=0.11)


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.5])
def test_a_paused_scope_that_is_digitised_anew_is_frozen(phantom: Phantom, sigma: float) -> None:
    still = phantom.render(20.0, truth=False)[0]
    assert first_frozen(with_noise(still, sigma) for _ in range(60)) == pytest.approx(1.0, abs=0.11)


def test_a_clock_drawn_over_a_paused_picture_does_not_make_it_live(phantom: Phantom) -> None:
    still = phantom.render(20.0, truth=False)[0]
    frames = []
    for k in range(60):
        frame = still.copy()
        cv2.putText(frame, f"12:30:{k}", (10, 470), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
        frames.append(frame)
    assert first_frozen(frames) is not None


@pytest.mark.parametrize("start_s", [1.0, 10.0, 20.0, 30.0, 40.0])
def test_a_living_image_is_not_frozen(phantom: Phantom, start_s: float) -> None:
    assert first_frozen(live(phantom, start_s, 75)) is None


@pytest.mark.parametrize("scene", ["breathing", "wall", "out_of_body"])
def test_a_motionless_scene_with_living_noise_is_not_frozen(scene: str) -> None:
    script = Script([Segment(scene, 10, {"tremor": 0.0, "breathing": 0.0})])
    assert first_frozen(live(Phantom(width=640, height=480, seed=1, script=script), 0, 75)) is None


def test_a_noisy_grey_camera_and_one_whose_frames_come_twice_are_not_frozen(phantom: Phantom) -> None:
    grey = Phantom(width=640, height=480, seed=2, look=Look(grey=True, noise=6))
    assert first_frozen(live(grey, 20, 60)) is None
    frames = live(phantom, 20, 40)
    assert first_frozen([frames[k // 2] for k in range(80)], fps=60) is None


def test_life_is_seen_at_once_and_another_source_starts_anew(phantom: Phantom) -> None:
    detector, frames = FrozenDetector(1.0), live(phantom, 20, 3)
    said = [detector.update(frames[0], k / 30) for k in range(45)]
    assert said[-1]
    assert not detector.update(frames[2], 45 / 30)
    for k in range(45, 90):
        detector.update(frames[0], k / 30)
    assert detector.update(frames[0], 3.0)
    assert not detector.update(frames[0], 0.5)
    assert not detector.update(frames[0][:300, :400], 0.6)


def test_tiny_and_black_frames_do_no_harm() -> None:
    assert first_frozen(np.zeros((6, 9, 3), np.uint8) for _ in range(45)) is not None
    assert first_frozen(np.zeros((480, 640, 3), np.uint8) for _ in range(45)) is not None


def test_real_recordings_that_hardly_move_are_not_frozen(real_images: Path) -> None:
    """Five frames within milliseconds: as near to a motionless living scene as recordings come."""
    folder = real_images / "bagls" / "img"
    for recording in ("035", "038", "099", "267", "361", "415", "528", "537"):
        frames = [cv2.imread(str(path)) for path in sorted(folder.glob(f"bagls_{recording}_f*.jpg"))]
        assert first_frozen([f for f in frames if f is not None], fps=5, seconds=0.6) is None, recording
