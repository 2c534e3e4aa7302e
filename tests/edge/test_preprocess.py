from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle import InputSpec
from edge.capture.phantom import training_frames
from edge.geometry import Box
from edge.optics.quality import _detail
from edge.preprocess import Preprocessor


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["letterbox", "stretch"]),
    st.sampled_from(["area", "linear-area", "halves-linear", "linear"]),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_the_input_is_the_resized_crop_in_rgb_on_black(
    width: int, height: int, fit: str, interpolation: str, seed: int, data: st.DataObject
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    prepare = Preprocessor(
        InputSpec.model_validate({"height": 24, "width": 32, "fit": fit, "interpolation": interpolation})
    )
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    for part in (None, box, None):  # the same buffer, with other borders each time
        shown = image if part is None else image[part.y : part.y + part.height, part.x : part.x + part.width]
        before = prepare.buffer
        found = prepare(image, part)
        assert found is before
        inner = prepare.inner
        grows = inner.width > shown.shape[1] or inner.height > shown.shape[0]
        if interpolation == "linear-area" and shown.shape[1] > 2 * inner.width and shown.shape[0] > 2 * inner.height:
            shown = cv2.resize(shown, (2 * inner.width, 2 * inner.height), interpolation=cv2.INTER_LINEAR)
        while (
            interpolation == "halves-linear" and min(shown.shape[1] / inner.width, shown.shape[0] / inner.height) >= 2
        ):
            fours = shown[: shown.shape[0] // 2 * 2, : shown.shape[1] // 2 * 2].astype(int)
            total = fours[::2, ::2] + fours[1::2, ::2] + fours[::2, 1::2] + fours[1::2, 1::2]
            shown = ((total + 2) // 4).astype(np.uint8)
        how = cv2.INTER_LINEAR if grows or interpolation in ("linear", "halves-linear") else cv2.INTER_AREA
        expected = np.zeros((24, 32, 3), np.uint8)
        resized = cv2.resize(shown, (inner.width, inner.height), interpolation=how)
        expected[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width] = resized[:, :, ::-1]
        np.testing.assert_array_equal(found[0], expected)


@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_detail_is_exact_in_float(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2))
    grey = rng.integers(low, high + 1, (height, width)).astype(np.uint8)
    fine = cv2.GaussianBlur(grey.astype(np.int16) * 8, (3, 3), 0)
    edges = cv2.convertScaleAbs(cv2.Laplacian(fine, cv2.CV_16S), alpha=0.5)
    steps = np.cumsum(np.bincount(edges.ravel(), minlength=256))
    assert _detail(grey) == np.searchsorted(steps, np.float32(0.98) * np.float32(steps[-1])) / 4


@pytest.mark.parametrize("interpolation", ["linear-area", "halves-linear"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720), (705, 705), (511, 330)])
def test_shrinking_in_steps_shows_the_same_picture(width: int, height: int, interpolation: str) -> None:
    (image, _) = next(iter(training_frames(1, 3)))
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    whole, stepped = (
        Preprocessor(InputSpec(height=160, width=160, interpolation=how))(image).astype(np.int16)  # type: ignore[arg-type]
        for how in ("area", interpolation)
    )
    assert np.abs(whole - stepped).mean() < 1.0
    assert np.percentile(np.abs(whole - stepped), 99) <= 12
