"""Figures of answers to two classes, many, or several at once, with intervals by groups.

Frames of one recording are no independent proof: intervals draw whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NAMES = (
    "accuracy",
    "recall_other",
    "recall_finding",
    "precision_other",
    "precision_finding",
    "balanced_accuracy",
    "auc",
)
_LEVEL = (2.5, 97.5)


@dataclass(frozen=True)
class Figure:
    """A figure and the ends of its 95 % interval; None where there is nothing to measure or to resample."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def figures(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """All figures of `NAMES`, for many weightings of the same images at once.

    Args:
        truth: (N,), whether the finding is there.
        scores: (N,), score of the finding; from one half on it is the answer.
        weights: (R, N), how often each image counts.

    Returns:
        Per name (R,); NaN where a class is missing. Balanced accuracy is the mean recall of the classes that are there.
    """
    said = scores >= 0.5  # noqa: PLR2004  half of a softmax over two
    hit = {
        (t, s): weights @ ((truth == t) & (said == s)).astype(np.float64) for t in (False, True) for s in (False, True)
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        recall_other = hit[False, False] / (hit[False, False] + hit[False, True])
        recall_finding = hit[True, True] / (hit[True, True] + hit[True, False])
        return {
            "accuracy": (hit[True, True] + hit[False, False]) / weights.sum(1),
            "recall_other": recall_other,
            "recall_finding": recall_finding,
            "precision_other": hit[False, False] / (hit[False, False] + hit[True, False]),
            "precision_finding": hit[True, True] / (hit[True, True] + hit[False, True]),
            "balanced_accuracy": _mean_known(recall_other, recall_finding),
            "auc": weighted_auc(truth, scores, weights),
        }


def _mean_known(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    both = np.stack((first, second))
    known = ~np.isnan(both)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, both, 0).sum(0) / np.maximum(count, 1), np.nan)


def weighted_auc(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area under the ROC curve: the chance that a drawn finding scores above a drawn other, ties counting half.

    Args:
        truth: (N,).
        scores: (N,).
        weights: (R, N).

    Returns:
        (R,); NaN where a class is missing.
    """
    _, level = np.unique(scores, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(level[order]) > 0])
    finding = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    other = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(other, axis=1) - other
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((finding * (below + other / 2)).sum(1) / (finding.sum(1) * other.sum(1)))


def many_class_figures(
    truth: NDArray[np.int64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Figures of labels that exclude each other, for many weightings of the same images at once.

    Args:
        truth: (N,), the true label's place.
        scores: (N, C), of which the highest is the answer.
        weights: (R, N), how often each image counts.

    Returns:
        `accuracy`, `balanced_accuracy` (mean recall of the classes that are there), `macro_f1` (mean over the classes
        that are there or said) and `macro_auc` (mean of each class against the rest), each (R,); by class `recall`,
        `precision`, `f1` and `auc`, each (R, C). NaN where there is nothing to measure.
    """
    classes = np.arange(scores.shape[1])
    said = scores.argmax(1)[:, None] == classes
    true = truth[:, None] == classes
    found = _by_label(true, said, scores, weights)
    recall = found["recall"]
    return {
        "accuracy": weights @ (said & true).any(1).astype(np.float64) / weights.sum(1),
        "balanced_accuracy": _mean_over_labels(recall),
        "macro_f1": _mean_over_labels(found["f1"]),
        "macro_auc": _mean_over_labels(found["auc"]),
        **{name: found[name] for name in ("recall", "precision", "f1", "auc")},
    }


def multi_label_figures(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64], threshold: float = 0.5
) -> dict[str, NDArray[np.float64]]:
    """Figures of labels of which an image may have several or none, for many weightings at once.

    Args:
        truth: (N, L), which labels an image has.
        scores: (N, L), each label's own probability.
        weights: (R, N), how often each image counts.
        threshold: score from which on a label is said.

    Returns:
        `exact` (share of images with all labels right), `micro_f1`, `macro_f1`, `macro_auc`, `balanced_accuracy` (the
        mean of the labels'), each (R,); by label `recall`, `specificity`, `precision`, `f1`, `auc`, each (R, L). NaN
        where there is nothing to measure.
    """
    said = scores >= threshold
    found = _by_label(truth, said, scores, weights)
    hit, wrong, missed = found["hit"].sum(1), found["wrong"].sum(1), found["missed"].sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        micro = 2 * hit / (2 * hit + wrong + missed)
    both = (found["recall"] + found["specificity"]) / 2
    return {
        "exact": weights @ (said == truth).all(1).astype(np.float64) / weights.sum(1),
        "micro_f1": micro,
        "macro_f1": _mean_over_labels(found["f1"]),
        "macro_auc": _mean_over_labels(found["auc"]),
        "balanced_accuracy": _mean_over_labels(both),
        **{name: found[name] for name in ("recall", "specificity", "precision", "f1", "auc")},
    }


def _by_label(
    truth: NDArray[np.bool_], said: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Each label by itself, against all that is not it: (R, L) each."""
    hit, wrong, missed, spared = (
        weights @ (first & second).astype(np.float64)
        for first, second in ((truth, said), (~truth, said), (truth, ~said), (~truth, ~said))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "hit": hit, "wrong": wrong, "missed": missed,
            "recall": hit / (hit + missed),
            "specificity": spared / (spared + wrong),
            "precision": hit / (hit + wrong),
            "f1": 2 * hit / (2 * hit + wrong + missed),
            "auc": np.stack([weighted_auc(truth[:, k], scores[:, k], weights) for k in range(truth.shape[1])], axis=1),
        }  # fmt: skip


def _mean_over_labels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def group_weights(groups: NDArray[np.str_], sources: NDArray[np.str_], repeats: int, seed: int) -> NDArray[np.float64]:
    """Bootstrap weights (repeats, N) that draw whole groups with replacement, within each source (Efron 1979).

    A group that stands in several sources (a recording of which two sets took frames) is drawn once for all of them.
    """
    rng = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    stratum = np.empty(len(names), object)
    for i in range(len(names)):
        stratum[i] = min(sources[place == i])
    drawn = np.zeros((repeats, len(names)))
    for source in sorted(set(stratum)):
        members = np.flatnonzero(stratum == source)
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=repeats)
    return drawn[:, place]


def with_intervals(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.str_], weights: NDArray[np.float64]
) -> dict[str, Figure]:
    """All figures of the images with percentile intervals from bootstrap weights (R, N).

    A single group says nothing about others: then there is no interval.
    """
    values = figures(truth, scores, np.ones((1, len(truth))))
    resampled = figures(truth, scores, weights) if len(set(groups.tolist())) > 1 else None
    return {name: interval(float(values[name][0]), None if resampled is None else resampled[name]) for name in NAMES}


def paired_difference(
    truth: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: NDArray[np.str_],
    weights: NDArray[np.float64],
) -> dict[str, Figure]:
    """Figures of the first scores less those of the second on the same images and the same resamples."""
    ones = np.ones((1, len(truth)))
    value = _less(figures(truth, first, ones), figures(truth, second, ones))
    resampled = None
    if len(set(groups.tolist())) > 1:
        resampled = _less(figures(truth, first, weights), figures(truth, second, weights))
    return {name: interval(float(value[name][0]), None if resampled is None else resampled[name]) for name in NAMES}


def _less(
    first: Mapping[str, NDArray[np.float64]], second: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    return {name: first[name] - second[name] for name in first}


def interval(value: float, resampled: NDArray[np.float64] | None) -> Figure:
    """A figure with its 95 % percentile interval from its resamples (R,); none where there are no resamples."""
    if np.isnan(value):
        return Figure(None)
    known = resampled[~np.isnan(resampled)] if resampled is not None else np.empty(0)
    if not len(known):
        return Figure(value)
    low, high = np.percentile(known, _LEVEL)
    return Figure(value, float(low), float(high))


def mean_over_sources(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], sources: NDArray[np.str_]
) -> dict[str, float]:
    """Balanced accuracy of each source, and as `score` their mean: no source drowns another, however large.

    Where a source has one class only, its balanced accuracy is that class's recall.
    """
    found = {}
    for source in sorted(set(sources.tolist())):
        inside = sources == source
        value = figures(truth[inside], scores[inside], np.ones((1, int(inside.sum()))))
        found[source] = float(value["balanced_accuracy"][0])
    return {"score": float(np.mean(list(found.values()))), **found}
