from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import InputSpec
from edge.geometry import Box
from edge.optics import QualityLimits, find_aperture, measure_quality
from edge.preprocess import Preprocessor

SPEC = InputSpec(height=160, width=160)


def tissue(width: int, height: int, seed: int = 0, level: float = 150) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(level, 25, (max(2, height // 24), max(2, width // 24), 3)).clip(40, 255)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def scope(width: int, height: int, x: float, y: float, radius: float, seed: int = 0) -> np.ndarray:
    image = tissue(width, height, seed)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (round(x), round(y)), round(radius), 255, -1, cv2.LINE_AA)
    image = (image * (cv2.GaussianBlur(mask, (5, 5), 0)[..., None] / 255)).astype(np.uint8)
    noise = np.abs(np.random.default_rng(seed).normal(0, 2, image.shape))
    return np.maximum(image, noise.astype(np.uint8))


@settings(max_examples=40, deadline=None)
@given(x=st.floats(0.35, 0.65), y=st.floats(0.4, 0.6), radius=st.floats(0.25, 0.48), seed=st.integers(0, 50))
def test_a_round_image_is_found_where_it_is(x: float, y: float, radius: float, seed: int) -> None:
    width, height = 640, 480
    cx, cy, r = x * width, y * height, radius * height
    found = find_aperture(scope(width, height, cx, cy, r, seed))
    assert found is not None
    true = Box(round(cx - r), round(cy - r), round(2 * r), round(2 * r)).clipped(width, height)
    left, top = max(true.x, found.box.x), max(true.y, found.box.y)
    right = min(true.x + true.width, found.box.x + found.box.width)
    bottom = min(true.y + true.height, found.box.y + found.box.height)
    shared = max(0, right - left) * max(0, bottom - top)
    union = true.width * true.height + found.box.width * found.box.height - shared
    assert shared / union > 0.95
    if found.circle is not None and r < 0.4 * height:
        assert found.circle == pytest.approx((cx, cy, r), abs=0.05 * r)


def test_full_frames_dark_frames_and_small_lights_have_no_aperture() -> None:
    assert find_aperture(tissue(640, 480)) is None
    assert find_aperture(np.zeros((480, 640, 3), np.uint8)) is None
    lamp = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(lamp, (300, 200), 20, (255, 255, 255), -1)
    assert find_aperture(lamp) is None


def test_text_beside_the_image_does_not_widen_it() -> None:
    image = scope(640, 480, 400, 240, 200)
    cv2.putText(image, "12:30", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    found = find_aperture(image)
    assert found is not None
    assert found.box.x > 180


def test_a_picture_is_fitted_without_distortion_in_rgb_and_one_buffer() -> None:
    preprocess = Preprocessor(SPEC)
    image = np.full((240, 480, 3), (10, 20, 30), np.uint8)
    first = preprocess(image)
    assert first.shape == (1, 160, 160, 3)
    assert first.dtype == np.uint8
    assert preprocess.inner == Box(0, 40, 160, 80)
    assert first[0, 80, 80].tolist() == [30, 20, 10]
    assert not first[0, :40].any()
    assert not first[0, 120:].any()
    tall = preprocess(np.full((480, 240, 3), 200, np.uint8))
    assert tall is first
    assert not tall[0, :, :40].any()  # nothing of the last picture is left
    assert (tall[0, :, 40:120] == 200).all()


def test_only_the_box_is_used() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:60, 30:70] = 255
    assert (Preprocessor(SPEC)(image, Box(30, 20, 40, 40)) == 255).all()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((480, 640, 3), 90, np.uint8), "blank"),
        (tissue(640, 480) // 16, "dark"),
        (np.where(tissue(640, 480) > 120, 255, 30).astype(np.uint8), "over_exposed"),
        (cv2.GaussianBlur(tissue(640, 480), (0, 0), 40), "blurred"),
        (tissue(640, 480), None),
    ],
)
def test_reasons_not_to_judge(image: np.ndarray, reason: str | None) -> None:
    preprocess = Preprocessor(SPEC)
    quality = measure_quality(preprocess(image), preprocess.inner, QualityLimits())
    assert (reason in quality.reasons) if reason else quality.good
