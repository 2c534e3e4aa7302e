"""Evaluation through the device's own code: edge's preprocessing and edge's runtime, whatever trained the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge.decision import calibrate, judge
from edge.runtime import OnnxRuntime
from trainer.answers import SplitAnswers
from trainer.console import Meter
from trainer.inputs import Inputs
from trainer.metrics import NAMES, figures, group_weights, paired_difference, with_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edge.bundle import DecisionSpec
    from edge.runtime import Runtime

TITLES = {
    "teacher": "teacher",
    "scratch": "student, from scratch",
    "no_map": "student, distilled, no map",
    "distilled": "student, distilled",
    "int8": "student, distilled, INT8",
    "ncnn": "student, distilled, INT8 weights in ncnn",
    "smaller": "smaller student, distilled, INT8",
    "fp32": "student, FP32",
}
"""What the rows are called, in their order."""


@dataclass(frozen=True)
class Judging:
    """How logits are read.

    Attributes:
        labels: in the order of the logits.
        finding: the label that is looked for.
        decision: the operating point of the INT8 model, once there is one.
    """

    labels: Sequence[str]
    finding: str
    decision: DecisionSpec | None = None

    @property
    def index(self) -> int:
        """The finding's place among the labels."""
        return list(self.labels).index(self.finding)

    @property
    def other(self) -> str:
        """The label that is not the finding."""
        return next(label for label in self.labels if label != self.finding)


class Answers(NamedTuple):
    """What a model says of N images: logits float32 (N, labels), and map logits float32 (N, h, w, labels) or None."""

    logits: NDArray[np.float32]
    maps: NDArray[np.float32] | None


def run_model(
    model: bytes | Runtime, inputs: Inputs, *, title: str, labels: int, maps: str | None = None, threads: int = 1
) -> Answers:
    """Answers to all inputs, each inferred alone by edge's runtime as on the device.

    Args:
        model: the ONNX file, or what runs another form of it.
        inputs: what it is asked.
        title: what the progress calls it.
        labels: how many logits it gives.
        maps: the name of its output of maps, where it has one.
        threads: of the runtime.
    """
    shape = (1, *inputs.images.shape[1:])
    runtime: Runtime
    if isinstance(model, bytes):
        runtime = OnnxRuntime(model, where=title, shape=shape, labels=labels, maps=maps, threads=threads)
    else:
        runtime = model
    logits = np.empty((len(inputs.labels), labels), np.float32)
    found = None if runtime.maps is None else np.empty((len(logits), *runtime.maps.shape), np.float32)
    with Meter(f"evaluating {title}", len(logits)) as meter:
        for index, image in enumerate(inputs.images):
            logits[index] = runtime.infer(image[None])
            if found is not None:
                found[index] = runtime.maps
            meter.advance(1)
    return Answers(logits, found)


def kept_answers(logits: NDArray[np.float32], inputs: Inputs) -> SplitAnswers:
    """Answers as they are kept, with what the images are."""
    ids = np.array([record.name() for record in inputs.records])
    return SplitAnswers(logits, inputs.labels, ids, inputs.groups, inputs.sources)


def answers_file(row: str, split: str) -> str:
    """Name of the file with a row's answers in an evaluation's folder."""
    return f"answers-{row}-{split}.npz"


def finding_scores(logits: NDArray[np.float32], judging: Judging, temperature: float = 1.0) -> NDArray[np.float64]:
    """Calibrated score of the finding (N,) by edge's own calibration."""
    rows = [calibrate(row, temperature, exclusive=True)[judging.index] for row in logits]
    return np.array(rows, np.float64)


def evaluate_split(
    answers: Mapping[str, NDArray[np.float32]],
    inputs: Inputs | SplitAnswers,
    judging: Judging,
    *,
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of several models on one split, side by side.

    Args:
        answers: logits (N, C) by row name, a key of `TITLES`.
        inputs: the split, or answers to it; with an operating point it must be the split.
        judging: how they are read.
        repeats: of the bootstrap.
        seed: of the bootstrap; all rows share its resamples.

    Returns:
        For JSON: `images`, `groups`, `rows` (per row: `overall`, `mean_of_sources`, `sources`), and where both are
        there `int8_minus_fp32` with `agreement`, `map_minus_none` (what the map costs), and `operating` of the INT8
        row.
    """
    truth = inputs.labels == judging.index
    sources, groups = inputs.sources, inputs.groups
    weights = group_weights(groups, sources, repeats, seed)
    scores = {name: finding_scores(logits, judging) for name, logits in answers.items()}
    rows = {name: _row(truth, scores[name], groups, sources, weights) for name in answers}
    report: dict[str, Any] = {"images": len(truth), "groups": len(set(groups.tolist())), "rows": rows}

    def less(first: str, second: str) -> dict[str, Any]:
        difference = paired_difference(truth, scores[first], scores[second], groups, weights)
        return {name: figure.as_dict() for name, figure in difference.items()}

    if "no_map" in scores and "distilled" in scores:
        report["map_minus_none"] = less("distilled", "no_map")
    wide = next((name for name in ("distilled", "fp32") if name in scores), None)
    if wide and "int8" in scores:
        report["int8_minus_fp32"] = less("int8", wide)
        same = (scores["int8"] >= 0.5) == (scores[wide] >= 0.5)  # noqa: PLR2004  the more likely label
        report["agreement"] = float(same.mean())
    if judging.decision and "int8" in answers and isinstance(inputs, Inputs):
        report["operating"] = _operating(answers["int8"], inputs, judging, judging.decision)
    return report


def _row(
    truth: NDArray[np.bool_],
    scores: NDArray[np.float64],
    groups: NDArray[np.str_],
    sources: NDArray[np.str_],
    weights: NDArray[np.float64],
) -> dict[str, Any]:
    per_source: dict[str, dict[str, Any]] = {}
    resampled = []
    for source in sorted(set(sources.tolist())):
        inside = sources == source
        found = with_intervals(truth[inside], scores[inside], groups[inside], weights[:, inside])
        per_source[source] = {
            "images": int(inside.sum()),
            "groups": len(set(groups[inside].tolist())),
            **{name: figure.as_dict() for name, figure in found.items()},
        }
        resampled.append(figures(truth[inside], scores[inside], weights[:, inside])["balanced_accuracy"])
    value = float(np.mean([entry["balanced_accuracy"]["value"] for entry in per_source.values()]))
    low, high = np.nanpercentile(np.nanmean(np.stack(resampled), axis=0), (2.5, 97.5))
    overall = with_intervals(truth, scores, groups, weights)
    return {
        "overall": {name: figure.as_dict() for name, figure in overall.items()},
        "mean_of_sources": {"value": value, "low": float(low), "high": float(high)},
        "sources": per_source,
    }


def _operating(
    logits: NDArray[np.float32], inputs: Inputs, judging: Judging, decision: DecisionSpec
) -> dict[str, dict[str, float]]:
    """Per source, what single frames say at the operating point: how many are decided, and how many of these are right.

    A frame that the device finds unfit (dark, blurred) is undecided, as it is there.
    """
    scores = finding_scores(logits, judging, decision.temperature)
    said = np.array(
        [
            judge(score, decision, judging.finding, judging.other) if fit else "uncertain"
            for score, fit in zip(scores.tolist(), inputs.fit.tolist(), strict=True)
        ]
    )
    right = said == np.array(judging.labels)[inputs.labels]
    decided = said != "uncertain"
    found = {}
    for source in ("all", *sorted(set(inputs.sources.tolist()))):
        inside = np.ones(len(said), bool) if source == "all" else inputs.sources == source
        found[source] = {
            "decided": float(decided[inside].mean()),
            "right_of_decided": float(right[inside & decided].mean()) if (inside & decided).any() else 0.0,
            "images": float(inside.sum()),
        }
    return found


def figure_names(judging: Judging) -> dict[str, str]:
    """Column titles of the figures, in their order."""
    titles = ("accuracy", f"recall {judging.other}", f"recall {judging.finding}", f"precision {judging.other}",
              f"precision {judging.finding}", "balanced accuracy", "AUC")  # fmt: skip
    return dict(zip(NAMES, titles, strict=True))
