"""One image through optics, preprocessing, model and calibration: what the device does and the trainer measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge.decision import UNCERTAIN, calibrate, energy, judge
from edge.frames import now_ns
from edge.geometry import Box
from edge.optics import Aperture, ApertureTracker, Quality, QualityLimits, QualityMeter, find_aperture
from edge.preprocess import Preprocessor
from edge.regions import Region, View, find_regions, map_probabilities, support
from edge.runtime import open_runtime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle
    from edge.runtime import Runtime

STAGES = ("optics", "preprocess", "inference")


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one image says by itself.

    Attributes:
        scores: calibrated score per label, float32 (labels,).
        score: that of the finding.
        label: the label with the highest score.
        verdict: the finding, the other label, or `uncertain`: in the band, or not fit to be judged.
        quality: what was measured; its reasons also name what the model itself says: `unfamiliar`, or `unsupported`
            where its score says the finding and its maps show no part of it.
        aperture: where the scope's image lies, None for the whole frame.
        energy: of the logits; low for what is unlike the training's images.
        stages_ns: nanoseconds of each of `STAGES`.
        places: regions that the maps show in this image by itself, whatever the verdict; none where it is not fit to be
            judged, or without maps.
        regions: those of them that may be drawn: `places` where the verdict is the finding, else none.
        support: the largest probability in the maps; None without maps.
    """

    scores: NDArray[np.float32]
    score: float
    label: str
    verdict: str
    quality: Quality
    aperture: Aperture | None
    energy: float
    stages_ns: tuple[int, int, int]
    places: tuple[Region, ...] = ()
    regions: tuple[Region, ...] = ()
    support: float | None = None


class Analyser:
    """The path that every image takes, live, in a benchmark, on the command line and in the trainer's evaluation."""

    def __init__(
        self, bundle: Bundle, *, precision: str = "auto", threads: int = 1, artefact: Artefact | None = None
    ) -> None:
        """Load a bundle's model.

        Args:
            bundle: opened.
            precision: which of its artefacts; `auto` takes INT8 where there is one.
            threads: for one inference.
            artefact: of the bundle; goes before `precision`.

        Raises:
            BundleError: there is no such artefact, or it cannot be loaded.
        """
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.artefact = bundle.artefact(precision) if artefact is None else artefact
        self.runtime: Runtime = open_runtime(bundle, self.artefact, threads=threads)
        self._quality = QualityMeter(QualityLimits())
        self._tracker = ApertureTracker()
        self._preprocess = Preprocessor(self.manifest.input)
        self._finding = self.manifest.labels.index(self.manifest.finding)
        maps = self.manifest.outputs.maps
        self._support_floor = 0.0 if maps is None else maps.support_floor or 0.0
        self.finding = self.manifest.finding
        self.other = self.manifest.labels[1 - self._finding] if len(self.manifest.labels) == 2 else "other"  # noqa: PLR2004

    def analyse(self, image: NDArray[np.uint8], at_s: float | None = None) -> Analysis:
        """Judge one image.

        Args:
            image: uint8 (height, width, 3) BGR.
            at_s: when a moving source took it, seconds: its aperture is followed from frame to frame. None: the image
                stands alone.
        """
        begin = now_ns()
        aperture = find_aperture(image) if at_s is None else self._tracker.update(image, at_s)
        found = now_ns()
        model_input = self._preprocess(image, None if aperture is None else aperture.box)
        quality = self._quality.measure(model_input, self._preprocess.inner, at_s)
        prepared = now_ns()
        logits = self.runtime.infer(model_input)
        inferred = now_ns()
        spec, exclusive = self.manifest.decision, self.manifest.exclusive
        scores = calibrate(logits, spec.temperature, exclusive=exclusive)
        score = float(scores[self._finding])
        found_energy = energy(logits, spec.temperature, exclusive=exclusive)
        if quality.good and spec.energy_floor is not None and found_energy < spec.energy_floor:
            quality = replace(quality, reasons=("unfamiliar",))
        places, best = self._look(image, aperture, places=quality.good)
        if quality.good and best is not None and score >= spec.threshold and best < self._support_floor:
            quality = replace(quality, reasons=("unsupported",))
        if not quality.good:
            places = ()
        verdict = judge(score, spec, self.finding, self.other) if quality.good else UNCERTAIN
        return Analysis(
            scores,
            score,
            self.manifest.labels[int(scores.argmax())],
            verdict,
            quality,
            aperture,
            found_energy,
            (found - begin, prepared - found, inferred - prepared),
            places,
            places if verdict == self.finding else (),
            best,
        )

    def _look(
        self, image: NDArray[np.uint8], aperture: Aperture | None, *, places: bool
    ) -> tuple[tuple[Region, ...], float | None]:
        """What the maps of the last inference show, if that is wanted, and how probable the most probable of it is."""
        spec, logits = self.manifest.outputs.maps, self.runtime.maps
        if spec is None or logits is None:
            return (), None
        height, width = image.shape[:2]
        crop = Box(0, 0, width, height) if aperture is None else aperture.box
        view = View((width, height), crop, self._preprocess.inner)
        probabilities = map_probabilities(logits, spec.temperature)
        found = find_regions(probabilities, spec, view) if places else ()
        return found, support(probabilities, spec, view)

    @property
    def model_input(self) -> NDArray[np.uint8]:
        """The input of the last analysis, uint8 (1, height, width, 3) RGB; valid until the next."""
        return self._preprocess.buffer
