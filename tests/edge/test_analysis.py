from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MAPS, map_manifest, tiny_files, tiny_manifest
from hypothesis import given
from hypothesis import strategies as st

from edge.analysis import Analyser
from edge.bundle import Bundle, DecisionSpec, write_bundle
from edge.capture.phantom import Phantom
from edge.decision import energy

if TYPE_CHECKING:
    from pathlib import Path

WIDE = DecisionSpec(**{**tiny_manifest().decision.model_dump(), "low": 0.42, "high": 0.9})
logit = st.floats(-30, 30, width=32)


@given(a=logit, b=logit, temperature=st.floats(0.1, 10))
def test_energy_is_the_smooth_maximum_of_the_logits(a: float, b: float, temperature: float) -> None:
    value = energy(np.array([a, b], np.float32), temperature, exclusive=True)
    assert max(a, b) - 1e-4 <= value <= max(a, b) + temperature * np.log(2) + 1e-4
    each = energy(np.array([a, b], np.float32), temperature, exclusive=False)
    assert each >= max(a, 0) + max(b, 0) - 1e-4


def picture(red: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, (24, 24, 3)).repeat(10, 0).repeat(10, 1)
    return np.clip(noise + np.array([100 - red / 2, 100 - red / 2, 100 + red]), 0, 255).astype(np.uint8)


def tissue(red: float) -> np.ndarray:
    """Of one colour under uneven light."""
    noise = np.random.default_rng(0).normal(0, 25, (24, 24, 1)).repeat(10, 0).repeat(10, 1)
    return np.clip(noise + np.array([100 - red / 2, 100 - red / 2, 100 + red]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("floor", "reasons"), [(None, ()), (-1.0, ()), (2.5, ("unfamiliar",))])
def test_what_the_model_does_not_know_is_uncertain(tmp_path: Path, floor: float | None, reasons: tuple[str]) -> None:
    spec = tiny_manifest().decision.model_dump() | {"energy_floor": floor}
    path = tmp_path / "tiny.zip"
    write_bundle(path, tiny_manifest(decision=DecisionSpec(**spec)), tiny_files())
    analyser = Analyser(Bundle.open(path))
    weak, strong = analyser.analyse(picture(25)), analyser.analyse(picture(90))
    assert weak.label == strong.label == "folds"
    assert weak.energy < 2.5 < strong.energy
    assert weak.quality.reasons == reasons
    assert weak.verdict == ("uncertain" if reasons else "folds")
    assert strong.verdict == "folds"
    assert strong.quality.good


@pytest.mark.parametrize(("floor", "reasons"), [(None, ()), (0.3, ()), (0.97, ("unsupported",))])
def test_a_finding_that_no_map_bears_out_is_uncertain(
    tmp_path: Path, floor: float | None, reasons: tuple[str, ...]
) -> None:
    path = tmp_path / "tiny.zip"
    spec = MAPS.model_copy(update={"support_floor": floor})
    write_bundle(path, map_manifest(spec, decision=WIDE), tiny_files(maps=True))
    analyser = Analyser(Bundle.open(path))
    weak, strong = analyser.analyse(picture(25)), analyser.analyse(picture(90))
    other = analyser.analyse(tissue(-6))
    assert weak.score > WIDE.high
    assert weak.support is not None
    assert strong.support is not None
    assert 0.3 < weak.support < 0.97 < strong.support
    assert weak.quality.reasons == reasons
    assert weak.verdict == ("uncertain" if reasons else "folds")
    assert bool(weak.places) == bool(weak.regions) == (not reasons)
    assert (strong.verdict, strong.quality.reasons) == ("folds", ())
    assert other.verdict == "no_folds"
    assert other.support is not None
    assert other.support < 0.3
    assert not other.quality.reasons  # only a finding needs support
    assert not other.regions


def test_regions_are_drawn_of_a_finding_only_and_without_maps_there_are_none(tmp_path: Path, tiny_bundle: Path) -> None:
    write_bundle(tmp_path / "tiny.zip", map_manifest(decision=WIDE), tiny_files(maps=True))
    pale = tissue(4)
    pale[:, 180:] = tissue(40)[:, 180:]
    analysis = Analyser(Bundle.open(tmp_path / "tiny.zip")).analyse(pale)
    assert (analysis.verdict, analysis.quality.reasons) == ("uncertain", ())
    assert not analysis.regions
    assert [region.label for region in analysis.places] == ["folds"]
    assert analysis.places[0].box == pytest.approx((0.75, 0, 0.25, 1), abs=0.06)
    plain = Analyser(Bundle.open(tiny_bundle)).analyse(picture(90))
    assert (plain.verdict, plain.places, plain.regions, plain.support) == ("folds", (), (), None)


def test_an_older_manifest_judges_every_frame() -> None:
    values = tiny_manifest().decision.model_dump()
    del values["energy_floor"]
    assert DecisionSpec(**values).energy_floor is None


def test_a_moving_sources_aperture_is_followed_and_single_images_stand_alone(tiny_bundle: Path) -> None:
    analyser = Analyser(Bundle.open(tiny_bundle))
    large = Phantom(width=320, height=240, seed=1).render(20.0)[0]
    small = np.zeros_like(large)
    small[60:180, 80:240] = large[::2, ::2]
    alone = analyser.analyse(small).aperture
    assert analyser.analyse(large, 1.0).aperture == analyser.analyse(small, 1.3).aperture
    assert analyser.analyse(small).aperture == alone
    assert alone is not None
    assert alone.box.width < 130
