"""What INT8 may lose: both models through the device's runtime on the validation split, paired image by image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.calibration import claims, probabilities, reliability
from trainer.evaluate import Judging, finding_scores
from trainer.export import choose_decision
from trainer.maps import choose_maps, map_figures
from trainer.metrics import group_weights, paired_difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trainer.evaluate import Answers
    from trainer.inputs import Inputs
    from trainer.maps import MapTruth
    from trainer.recipe import DecideSettings, GateSettings, MapSettings

_ROUNDING = 1e-9  # a share of images may lie on its bound


@dataclass(frozen=True)
class Ground:
    """What every rung is measured on, and against what.

    Attributes:
        inputs: the validation split.
        judging: labels and finding.
        wide: what the FP32 model says of it.
        decide: how the operating point is chosen.
        gate: what must be kept.
        repeats: of the bootstrap over groups.
        seed: of the bootstrap.
        maps: what the maps show; None where there are none.
        truth: what masks say of them.
    """

    inputs: Inputs
    judging: Judging
    wide: Answers
    decide: DecideSettings
    gate: GateSettings
    repeats: int
    seed: int
    maps: MapSettings | None = None
    truth: MapTruth | None = None


@dataclass(frozen=True)
class Measured:
    """INT8 against FP32, shares unless said otherwise.

    Attributes:
        accuracy: difference INT8 - FP32.
        low: end of its 95 % interval over groups; None where one group is all there is.
        high: likewise.
        balanced_accuracy: difference.
        agreement: images with the same label.
        ece: growth of the expected calibration error, each model at the temperature fitted to it.
        flips: images on another side of the operating threshold.
        threshold: that threshold.
        temperature: of the INT8 model.
        signal_db: worst layer's signal-to-noise ratio, decibels; None where it was not looked at.
        worst: that layer.
        dice: loss of the worst map label; None without maps.
        images: how many.
    """

    accuracy: float
    low: float | None
    high: float | None
    balanced_accuracy: float
    agreement: float
    ece: float
    flips: float
    threshold: float
    temperature: float
    signal_db: float | None
    worst: str
    dice: float | None
    images: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def failures(self, gate: GateSettings) -> list[str]:
        """What the gate refuses, as sentences; none where it lets the model pass."""
        found = []
        sure = self.low is None or self.high is None or self.low <= 0 <= self.high
        inside = self.low is not None and self.high is not None and max(-self.low, self.high) <= gate.accuracy
        if abs(self.accuracy) > gate.accuracy + _ROUNDING:
            found.append(f"accuracy {100 * self.accuracy:+.2f} points, at most {100 * gate.accuracy:g} allowed")
        elif not (sure or inside):
            found.append(f"accuracy {100 * self.accuracy:+.2f} points for sure: its interval leaves 0 out")
        if self.agreement < gate.agreement - _ROUNDING:
            found.append(f"agreement {100 * self.agreement:.3f} %, at least {100 * gate.agreement:g} wanted")
        if self.ece > gate.ece + _ROUNDING:
            found.append(f"calibration error {100 * self.ece:+.2f} points, at most {100 * gate.ece:g} allowed")
        if self.flips > gate.flips + _ROUNDING:
            found.append(
                f"{100 * self.flips:.2f} % change sides at the threshold, at most {100 * gate.flips:g} allowed"
            )
        if self.signal_db is not None and self.signal_db < gate.signal_db:
            found.append(f"{self.worst} keeps {self.signal_db:.1f} dB, at least {gate.signal_db:g} wanted")
        if self.dice is not None and self.dice > gate.dice + _ROUNDING:
            found.append(f"a map's Dice loses {100 * self.dice:.2f} points, at most {100 * gate.dice:g} allowed")
        return found

    def excess(self, gate: GateSettings) -> float:
        """How far it is from passing, in bounds: the sum of what is over each of them."""
        over = [
            abs(self.accuracy) / max(gate.accuracy, _ROUNDING) - 1,
            (1 - self.agreement) / max(1 - gate.agreement, _ROUNDING) - 1,
            self.ece / max(gate.ece, _ROUNDING) - 1,
            self.flips / max(gate.flips, _ROUNDING) - 1,
            0.0 if self.signal_db is None else (gate.signal_db - self.signal_db) / 6,  # six decibels are a bit
            (self.dice or 0.0) / max(gate.dice, _ROUNDING) - 1,
        ]
        return sum(max(0.0, part) for part in over)


def measure(ground: Ground, narrow: Answers, signal: Mapping[str, float]) -> Measured:
    """Compare an INT8 model's answers with the FP32 model's.

    Args:
        ground: the split and the FP32 model's answers.
        narrow: what the INT8 model says of the same images.
        signal: signal-to-noise ratio per layer, decibels.
    """
    inputs, judging = ground.inputs, ground.judging
    truth = inputs.labels == judging.index
    first, second = (finding_scores(answers.logits, judging) for answers in (narrow, ground.wide))
    weights = group_weights(inputs.groups, inputs.sources, ground.repeats, ground.seed)
    difference = paired_difference(truth, first, second, inputs.groups, weights)
    decision = choose_decision(narrow.logits, inputs, judging, ground.decide)
    own = choose_decision(ground.wide.logits, inputs, judging, ground.decide)
    sides = [
        finding_scores(answers.logits, judging, decision.temperature) >= decision.threshold
        for answers in (narrow, ground.wide)
    ]
    accuracy = difference["accuracy"]
    worst = min(signal, key=lambda name: signal[name], default="")
    return Measured(
        accuracy=accuracy.value or 0.0,
        low=accuracy.low,
        high=accuracy.high,
        balanced_accuracy=difference["balanced_accuracy"].value or 0.0,
        agreement=float(((first >= 0.5) == (second >= 0.5)).mean()),  # noqa: PLR2004  the more likely label
        ece=_error(narrow, inputs, judging, decision.temperature)
        - _error(ground.wide, inputs, judging, own.temperature),
        flips=float((sides[0] != sides[1]).mean()),
        threshold=decision.threshold,
        temperature=decision.temperature,
        signal_db=signal.get(worst),
        worst=worst,
        dice=_dice_loss(ground, narrow, sides[0]),
        images=len(truth),
    )


def _error(answers: Answers, inputs: Inputs, judging: Judging, temperature: float) -> float:
    scores = probabilities(answers.logits, temperature, exclusive=True)
    return reliability(*claims(scores, inputs.labels, judging.index)).error


def _dice_loss(ground: Ground, narrow: Answers, found: NDArray[np.bool_]) -> float | None:
    """Of the label that loses most, over all images, each model's maps read as they are read best."""
    if ground.maps is None or ground.truth is None or narrow.maps is None or ground.wide.maps is None:
        return None
    shown = (ground.inputs.labels == ground.judging.index) & ground.inputs.fit
    everything = np.full(len(found), "all")
    figures = []
    for maps in (narrow.maps, ground.wide.maps):
        spec = choose_maps(maps, ground.truth, np.where(found, 1.0, -1.0), shown, ground.maps)
        figures.append(map_figures(maps, ground.truth, spec, everything)["all"])
    losses = [
        figures[1][label]["dice"] - figures[0][label]["dice"]
        for label in ground.maps.labels
        if figures[0][label]["dice"] is not None
    ]
    return float(max(losses)) if losses else None
