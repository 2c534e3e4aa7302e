from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import MAPS
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.analysis import Analyser
from edge.bundle import Bundle, InputSpec, MapSpec, OutputSpec
from edge.capture.phantom import Look, Phantom, training_frames
from edge.geometry import Box
from edge.optics import find_aperture
from edge.preprocess import Preprocessor
from edge.regions import Region, RegionSmoother, View, find_regions, map_probabilities, support

LABELS = ("folds", "glottis")
SPEC = MapSpec(labels=list(LABELS), thresholds={"folds": 0.5, "glottis": 0.3}, smallest_area=0.0, smoothing_s=0.12)
WHOLE = View((160, 160), Box(0, 0, 160, 160), Box(0, 0, 160, 160))


def oracle(masks: list[np.ndarray], box: Box | None, spec: InputSpec, stride: int = 8) -> tuple[np.ndarray, View]:
    """The map of a model that knows the truth: the share of each cell that a mask covers, by the real preprocessing."""
    height, width = masks[0].shape
    preprocess = Preprocessor(spec)
    planes = np.stack([np.zeros_like(masks[0]), masks[1], masks[0]], axis=-1).astype(np.uint8) * 255
    seen = preprocess(planes, box)[0, ..., :2].astype(np.float32) / 255
    cells = seen.reshape(spec.height // stride, stride, spec.width // stride, stride, 2).mean(axis=(1, 3))
    return cells, View((width, height), box or Box(0, 0, width, height), preprocess.inner)


def truth_of(mask: np.ndarray) -> Region:
    """Box, centre and area of a mask, as fractions of its frame."""
    height, width = mask.shape
    ys, xs = np.nonzero(mask)
    box = (xs.min() / width, ys.min() / height, (np.ptp(xs) + 1) / width, (np.ptp(ys) + 1) / height)
    return Region("", box, ((xs.mean() + 0.5) / width, (ys.mean() + 0.5) / height), float(mask.mean()), 1.0)


def overlap(a: Region, b: Region) -> float:
    """Intersection over union of the boxes."""
    low = [max(a.box[i], b.box[i]) for i in (0, 1)]
    high = [min(a.box[i] + a.box[i + 2], b.box[i] + b.box[i + 2]) for i in (0, 1)]
    shared = max(0.0, high[0] - low[0]) * max(0.0, high[1] - low[1])
    return shared / (a.box[2] * a.box[3] + b.box[2] * b.box[3] - shared)


def check(found: tuple[Region, ...], masks: list[np.ndarray], cell: tuple[float, float]) -> int:
    """Hold regions against the truth; `cell` is a cell's size in fractions of the frame. Returns how many were held."""
    held = 0
    here = {region.label: region for region in found}
    for label, mask in zip(LABELS, masks, strict=True):
        if not mask.any():
            assert label not in here
            continue
        truth = truth_of(mask)
        cells = truth.area / (cell[0] * cell[1])
        length = max(truth.box[2] / cell[0], truth.box[3] / cell[1])
        if cells < 8 or cells < 1.5 * length:
            continue  # too small, or mostly narrower than a cell: no claim
        held += 1
        region = here[label]
        off = [(region.centre[i] - truth.centre[i]) / cell[i] for i in (0, 1)]
        assert np.hypot(*off) < max(0.4, 0.06 * length), (label, cells, off)
        assert region.area == pytest.approx(truth.area, rel=0.1)
        assert overlap(region, truth) > 0.4, (label, cells)
        # The anterior commissure runs out into a point that no cell shows: a box may end before the truth does, but
        # not beyond it.
        for i in (0, 1):
            assert region.box[i] > truth.box[i] - 0.8 * cell[i]
            assert region.box[i] + region.box[i + 2] < truth.box[i] + truth.box[i + 2] + 0.8 * cell[i]
    return held


@dataclass
class View3:
    """A phantom frame and its truth."""

    image: np.ndarray
    masks: list[np.ndarray]


@pytest.fixture(scope="module")
def larynges() -> list[View3]:
    """Frames in which the folds lie within what the aperture leaves, each piece of a label near the others."""
    found = []
    for image, truth in training_frames(60, 3, detail=320):
        masks, aperture = [truth.folds, truth.glottis], find_aperture(image)
        outside = np.ones(image.shape[:2], bool)
        if aperture is not None:
            box = aperture.box
            outside[box.y : box.y + box.height, box.x : box.x + box.width] = False
        if truth.visible and not any((mask & outside).any() for mask in masks):
            found.append(View3(image, masks))
    assert len(found) >= 15
    return found


def test_probabilities_are_a_sigmoid_per_label_and_nothing_overflows() -> None:
    logits = np.array([[[-3.0, 0.0]], [[1.5, 200.0]]], np.float32)
    found = map_probabilities(logits, 2.0)
    assert found.dtype == np.float32
    assert found == pytest.approx(1 / (1 + np.exp(-logits.astype(np.float64) / 2)), abs=1e-6)
    assert np.isfinite(map_probabilities(np.float32([1e9, -1e9]), 0.01)).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_regions_lie_where_the_truth_does_whatever_the_crop_the_size_and_the_aspect(
    larynges: list[View3], data: st.DataObject
) -> None:
    frame = data.draw(st.sampled_from(larynges))
    height, width = frame.masks[0].shape
    # Another sensor: other pixels, maybe not square ones, and a border on any side.
    size = (data.draw(st.integers(width // 2, 3 * width)), data.draw(st.integers(height // 2, 3 * height)))
    borders = [data.draw(st.integers(0, 400)) for _ in range(4)]
    masks = []
    for mask in frame.masks:
        resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        masks.append(cv2.copyMakeBorder(resized, *borders, cv2.BORDER_CONSTANT, value=0) > 0)
    ys, xs = np.nonzero(masks[0] | masks[1])
    # Any crop that holds it all.
    left, top = data.draw(st.integers(0, int(xs.min()))), data.draw(st.integers(0, int(ys.min())))
    right = data.draw(st.integers(int(xs.max()) + 1, masks[0].shape[1]))
    bottom = data.draw(st.integers(int(ys.max()) + 1, masks[0].shape[0]))
    box = data.draw(st.sampled_from([None, Box(left, top, right - left, bottom - top)]))
    side = st.sampled_from([96, 128, 160, 224])
    spec = InputSpec(
        height=data.draw(side), width=data.draw(side), fit=data.draw(st.sampled_from(["letterbox", "stretch"]))
    )
    cells, view = oracle(masks, box, spec)
    per_cell = [8 * view.crop[i + 2] / view.inner[i + 2] / view.frame[i] for i in (0, 1)]
    check(find_regions(cells, SPEC, view), masks, (per_cell[0], per_cell[1]))


class Oracle:
    """A runtime whose maps are the truth of the one frame it is for, cropped as the analyser will crop it."""

    description = "oracle"

    def __init__(self, image: np.ndarray, masks: list[np.ndarray], spec: InputSpec) -> None:
        aperture = find_aperture(image)
        cells, self.view = oracle(masks, None if aperture is None else aperture.box, spec, stride=4)
        clipped = np.clip(cells, 1e-6, 1 - 1e-6)
        self.maps = np.log(clipped / (1 - clipped)).astype(np.float32)

    def infer(self, image: np.ndarray) -> np.ndarray:
        assert image.shape == (1, 64, 64, 3)
        return np.float32([-5, 5])


def test_the_analyser_puts_them_into_the_cameras_frame(map_bundle: Path, larynges: list[View3]) -> None:
    analyser = Analyser(Bundle.open(map_bundle))
    # Of 64 x 64 pixels; with cells of 8 few larynges would have as many as a claim needs.
    maps = SPEC.model_copy(update={"stride": 4})
    analyser.manifest = analyser.manifest.model_copy(update={"outputs": OutputSpec(maps=maps)})
    held = drawn = 0
    for frame in larynges:
        runtime = analyser.runtime = Oracle(frame.image, frame.masks, analyser.manifest.input)
        analysis = analyser.analyse(frame.image)
        if not analysis.quality.good:
            assert not analysis.places
            continue
        height, width = frame.image.shape[:2]
        cell = [4 * runtime.view.crop[i + 2] / runtime.view.inner[i + 2] / (width, height)[i] for i in (0, 1)]
        held += check(analysis.places, frame.masks, (cell[0], cell[1]))
        drawn += len(analysis.regions)
        assert analysis.regions == analysis.places
    assert held >= 15
    assert drawn >= 15


@pytest.mark.parametrize("shift", np.linspace(0, 1, 9))
def test_the_stride_does_not_quantise_the_centre(shift: float) -> None:
    fine = np.zeros((160, 160), np.float32)
    left = 40 + 8 * shift
    columns = np.clip(np.minimum(np.arange(160) + 1, left + 44) - np.maximum(np.arange(160), left), 0, 1)
    fine[64:96] = columns
    cells = np.stack([fine.reshape(20, 8, 20, 8).mean(axis=(1, 3)), np.zeros((20, 20))], axis=-1).astype(np.float32)
    (region,) = find_regions(cells, SPEC, WHOLE)
    assert region.centre == pytest.approx(((left + 22) / 160, 0.5), abs=0.03 * 8 / 160)
    assert region.box == pytest.approx((left / 160, 0.4, 44 / 160, 0.2), abs=0.25 * 8 / 160)
    assert region.area == pytest.approx(44 * 32 / 160**2, rel=1e-3)
    assert region.score > 0.8


def cells_with(*boxes: tuple[int, int, int, int], value: float = 0.9, label: int = 0) -> np.ndarray:
    """A map of 20 x 20 cells with boxes (left, top, width, height) of one probability, and a little all around."""
    cells = np.full((20, 20, 2), 0.01, np.float32)
    for left, top, width, height in boxes:
        cells[top : top + height, left : left + width, label] = value
    return cells


def test_two_folds_are_one_region_and_what_lies_apart_is_left_out() -> None:
    left, right, speck, far = (5, 6, 2, 7), (10, 6, 2, 7), (8, 6, 1, 1), (17, 16, 3, 3)
    (both,) = find_regions(cells_with(left, right), SPEC, WHOLE)
    assert both.box == pytest.approx((5 / 20, 6 / 20, 7 / 20, 7 / 20), abs=0.01)
    assert both.centre == pytest.approx((8.5 / 20, 9.5 / 20), abs=0.01)
    for more in ((speck,), (far,), (speck, far)):
        (same,) = find_regions(cells_with(left, right, *more), SPEC, WHOLE)
        assert same.box == pytest.approx(both.box, abs=0.01)
        assert same.centre == pytest.approx(both.centre, abs=0.01)


def test_a_glottis_narrower_than_a_cell_has_its_whole_length_and_what_is_unsure_has_none() -> None:
    cells = cells_with((9, 4, 1, 12), value=0.2, label=1)
    assert not find_regions(cells, SPEC, WHOLE)
    cells[8:10, 9, 1] = 0.4  # here it is a little wider
    (region,) = find_regions(cells, SPEC, WHOLE)
    assert region.label == "glottis"
    assert region.box[3] == pytest.approx(12 / 20, abs=0.03)
    assert region.score == pytest.approx(0.4)
    assert not find_regions(cells, SPEC.model_copy(update={"smallest_area": 0.02}), WHOLE)


def test_padding_neither_holds_a_region_nor_supports_one() -> None:
    cells = np.zeros((20, 20, 2), np.float32)
    cells[:4] = cells[16:] = 0.99
    wide = View((400, 240), Box(0, 0, 400, 240), Box(0, 32, 160, 96))
    assert not find_regions(cells, SPEC, wide)
    assert support(cells, SPEC, wide) == 0
    assert support(cells, SPEC, WHOLE) == pytest.approx(0.99)
    cells[3:8] = 0.9  # a region that runs over into it ends where the picture does
    region, _ = find_regions(cells, SPEC, wide)
    assert region.box[1] == 0


def at(x: float, *, size: float = 0.3, label: str = "folds") -> Region:
    return Region(label, (x - size / 2, 0.35, size, 0.3), (x, 0.5), 0.04, 0.9)


def play(rate: float, seconds: float, x_at, *, start: float = 50.0) -> list[tuple[float, Region | None]]:
    """(time, region) of every frame of a film at a rate; `x_at` gives the folds' place or None."""
    smoother, result = RegionSmoother(SPEC, 1.0), []
    for index in range(int(seconds * rate)):
        x = x_at(index / rate)
        shown = smoother.frame(start + index / rate, [] if x is None else [at(x)])
        result.append((index / rate, shown[0] if shown else None))
    return result


@settings(max_examples=60, deadline=None)
@given(
    speed=st.floats(-0.4, 0.4),
    swing=st.floats(0, 0.1),
    rate=st.sampled_from([10, 15, 30, 60]),
)
def test_the_box_is_the_same_at_every_rate_and_trails_by_the_time_constant_at_most(
    speed: float, swing: float, rate: int
) -> None:
    def place(t: float) -> float:
        return 0.5 + speed * t + swing * np.sin(3 * t)

    fastest = abs(speed) + 3 * swing
    reference = dict(play(600, 1.5, place))
    for t, region in play(rate, 1.5, place):
        if t < 0.4:
            continue
        assert region is not None
        assert abs(region.centre[0] - place(t)) <= fastest * SPEC.smoothing_s + 1e-6
        expected = reference[min(reference, key=lambda known: abs(known - t))]
        assert expected is not None
        # What a frame stands for is known to half the time between two.
        assert abs(region.centre[0] - expected.centre[0]) <= fastest * (0.55 / rate + 1e-3) + 1e-6


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_regions_come_and_go_within_the_time_constant(rate: int) -> None:
    shown = [t for t, region in play(rate, 3, lambda t: 0.5 if 1 <= t < 2 else None) if region is not None]
    slack = 1 / rate + 1e-6
    assert 1 <= min(shown) <= 1 + 0.09 + slack  # half of the share after ln 2 time constants
    assert 2 - slack <= max(shown) <= 2 + 0.09 + slack


@pytest.mark.parametrize("rate", [30, 60])
def test_one_frame_draws_no_box_and_takes_none_away(rate: int) -> None:
    once = play(rate, 2, lambda t: 0.5 if abs(t - 1) < 0.4 / rate else None)
    assert all(region is None for _, region in once)
    missed = play(rate, 2, lambda t: None if abs(t - 1) < 0.4 / rate else 0.5)
    assert all(region is not None for t, region in missed if t > 0.3)
    elsewhere = play(rate, 2, lambda t: 0.1 if abs(t - 1) < 0.4 / rate else 0.6)
    assert {round(region.centre[0], 6) for _, region in elsewhere if region is not None} == {0.6}


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_a_jump_is_followed_and_never_averaged(rate: int) -> None:
    film = play(rate, 2, lambda t: 0.2 if t < 1 else 0.8)
    places = {round(region.centre[0], 6) for _, region in film if region is not None}
    assert places == {0.2, 0.8}
    there = min(t for t, region in film if region is not None and region.centre[0] > 0.5)
    assert there <= 1 + 0.09 + 2 / rate


def test_a_gap_forgets_and_an_unfit_frame_shows_nothing() -> None:
    smoother = RegionSmoother(SPEC, 1.0)
    for index in range(30):
        (region,) = smoother.frame(index / 30, [at(0.5)]) or (at(0.5),)
    assert smoother.frame(1.0, [at(0.5)])
    assert smoother.frame(1.03, None) == ()
    assert smoother.frame(1.06, [at(0.5)])
    before = smoother.frame(1.06, [at(0.5)])
    for _ in range(50):
        assert smoother.frame(0.2, [at(0.55)]) == before  # time that goes back is no time
    assert smoother.frame(2.2, [at(0.9)]) == ()
    (again,) = smoother.frame(2.4, [at(0.9)])
    assert again.centre[0] == pytest.approx(0.9)
    smoother.forget()
    assert smoother.frame(2.41, [at(0.9)]) == ()
    assert region.label == "folds"


def test_the_labels_are_followed_each_by_itself() -> None:
    smoother = RegionSmoother(SPEC, 1.0)
    for index in range(30):
        shown = smoother.frame(index / 30, [at(0.3, label="glottis"), at(0.6)] if index > 10 else [at(0.6)])
        if 3 < index < 11:
            assert [region.label for region in shown] == ["folds"]
    assert [(region.label, round(region.centre[0], 3)) for region in shown] == [("folds", 0.6), ("glottis", 0.3)]


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_a_film_of_the_phantom_is_followed(rate: int) -> None:
    phantom = Phantom(width=320, height=240, seed=2, look=Look(), detail=400)
    spec, smoother, errors = InputSpec(height=160, width=160), RegionSmoother(SPEC, 1.0), []
    for index in range(int(1.6 * rate)):
        t = 20.0 + index / rate
        image, truth = phantom.render(t)
        assert truth is not None
        aperture = find_aperture(image)
        cells, view = oracle([truth.folds, truth.glottis], None if aperture is None else aperture.box, spec)
        shown = {region.label: region for region in smoother.frame(t, find_regions(cells, SPEC, view))}
        if index / rate > 0.4:
            true = truth_of(truth.folds)
            errors.append(np.hypot(*np.subtract(shown["folds"].centre, true.centre)))
    assert max(errors) < 0.02


def test_the_conftest_maps_are_those_of_the_bundle(map_bundle: Path) -> None:
    assert Bundle.open(map_bundle).manifest.outputs.maps == MAPS
