from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from edge.bundle import InputSpec
from edge.capture.phantom import Phantom
from edge.geometry import Box
from edge.optics import Quality, QualityLimits, QualityMeter, find_aperture, measure_quality
from edge.preprocess import Preprocessor

if TYPE_CHECKING:
    from pathlib import Path

SPEC = InputSpec(height=160, width=160)


def tissue(width: int, height: int, seed: int = 0, level: float = 150) -> np.ndarray:
    """Shaded and mottled, with dark clefts, in the red of mucosa."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(level, 25, (max(2, height // 24), max(2, width // 24))).clip(40, 255)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for x in range(width // 8, width, width // 4):
        cv2.line(image, (x, 0), (x + width // 12, height), 30.0, max(1, width // 80))
    grey = image + rng.normal(0, 4, image.shape)
    return (grey[..., None] * np.array([0.55, 0.6, 1.0])).clip(0, 255).astype(np.uint8)


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


def fogged(image: np.ndarray, transmission: float) -> np.ndarray:
    """Koschmieder's model of fog, with the blur that droplets on a lens add."""
    soft = cv2.GaussianBlur(image, (0, 0), 8)
    return (soft * transmission + 150 * (1 - transmission)).astype(np.uint8)


def quality_of(image: np.ndarray) -> Quality:
    preprocess = Preprocessor(SPEC)
    return measure_quality(preprocess(image), preprocess.inner, QualityLimits())


RAMP = np.repeat(np.linspace(5, 230, 640), 480).reshape(640, 480).T[..., None].repeat(3, 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((480, 640, 3), 90, np.uint8), "blank"),
        (tissue(640, 480) // 16, "dark"),
        (np.where(tissue(640, 480)[..., 2:].repeat(3, 2) > 120, 255, 30), "over_exposed"),
        (cv2.GaussianBlur(RAMP, (0, 0), 20), "blurred"),
        (fogged(tissue(640, 480), 0.3), "fogged"),
        (tissue(640, 480)[..., ::-1], "out_of_body"),  # blue
        (tissue(640, 480), None),
        (tissue(640, 480) // 5, None),  # darker, but all is there
        (tissue(640, 480)[..., 2:].repeat(3, 2), None),  # of a grey camera
    ],
)
def test_reasons_not_to_judge(image: np.ndarray, reason: str | None) -> None:
    quality = quality_of(image.astype(np.uint8))
    assert quality.reasons == (() if reason is None else (reason,)) or (reason == "dark" and reason in quality.reasons)


@pytest.mark.parametrize("fps", [10, 20, 30, 60])
def test_a_meter_measures_light_in_every_frame_and_sharpness_every_twentieth_of_a_second(fps: int) -> None:
    sharp, soft = tissue(640, 480), cv2.GaussianBlur(RAMP, (0, 0), 20)
    frames = [np.asarray(Preprocessor(SPEC)(image)) for image in (sharp, soft, sharp // 16)]
    inner, meter = Box(0, 20, 160, 120), QualityMeter(QualityLimits())
    alone = [measure_quality(frame, inner, QualityLimits()) for frame in frames]
    assert [quality.reasons for quality in alone[:2]] == [(), ("blurred",)]
    assert "dark" in alone[2].reasons
    late = 0.0
    for index in range(4 * fps):
        which = 1 if index % fps >= fps // 2 else 0
        found = meter.measure(frames[which], inner, index / fps)
        assert found.brightness == alone[which].brightness
        if found.reasons != alone[which].reasons:
            late = max(late, index % fps / fps % 0.5)
            assert late < 0.05
    assert meter.measure(frames[2], inner, 100.0) == alone[2]
    assert meter.measure(frames[0], inner, 100.001) == alone[0]  # darkness says nothing of what follows
    assert meter.measure(frames[1], inner, 99.0) == alone[1]  # nor another source's future
    assert meter.measure(frames[0], inner, None) == alone[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_gate_closes_on_the_phantoms_bad_moments_and_not_on_its_folds(seed: int) -> None:
    phantom = Phantom(width=640, height=480, seed=seed)
    folds, fog, room = [], [], []
    for t in np.arange(0, phantom.duration, 1.0):
        image, truth = phantom.render(float(t))
        assert truth is not None
        scene, state = phantom.script.at(float(t))
        found = find_aperture(image)
        preprocess = Preprocessor(SPEC)
        model_input = preprocess(image, None if found is None else found.box)
        quality = measure_quality(model_input, preprocess.inner, QualityLimits())
        if truth.visible and not truth.ambiguous:
            folds.append(quality.good)
        if scene == "fog" and state.fog > 0.6:
            fog.append(bool({"fogged", "blurred"} & set(quality.reasons)))
        if scene == "out_of_body" and state.room > 0.8:
            room.append("out_of_body" in quality.reasons)
    assert all(folds)
    assert all(fog)
    assert np.mean(room) >= 0.75


def test_real_frames_are_seldom_gated(real_images: Path) -> None:
    """Dark, small and defocused ones are among them: what a clinician can still read is not taken away."""
    for folder, most in (("bagls/img", 0.03), ("vocalfolds/img", 0.0), ("kvasir-seg/img", 0.01)):
        paths = sorted((real_images / folder).rglob("*.jpg"))
        gated = []
        for path in paths[:: len(paths) // 60]:
            image = cv2.imread(str(path))
            assert image is not None
            found = find_aperture(image)
            preprocess = Preprocessor(SPEC)
            model_input = preprocess(image, None if found is None else found.box)
            gated.append(not measure_quality(model_input, preprocess.inner, QualityLimits()).good)
        assert np.mean(gated) <= most, folder
