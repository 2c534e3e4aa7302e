from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle import InputSpec
from edge.geometry import Box
from edge.optics.quality import _detail
from edge.preprocess import Preprocessor


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["letterbox", "stretch"]),
    st.sampled_from(["area", "linear"]),
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
        how = cv2.INTER_LINEAR if grows or interpolation == "linear" else cv2.INTER_AREA
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
