"""Whether a score means what it says: temperature, reliability, expected error, and the risk of answering.

Everything takes probabilities, however many labels there are: with two labels the finding's, with many the answer's
own, with several at once all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15
_LOG_RANGE = (np.log(0.05), np.log(50.0))


def probabilities(logits: NDArray[np.float32], temperature: float = 1.0, *, exclusive: bool) -> NDArray[np.float64]:
    """Softmax or sigmoids (N, C) of logits divided by a temperature; as `edge.decision.calibrate`, in float64."""
    scaled = logits.astype(np.float64) / temperature
    return np.asarray(special.softmax(scaled, axis=1) if exclusive else special.expit(scaled))


def fit_temperature(
    logits: NDArray[np.float32], labels: NDArray[np.int64] | NDArray[np.bool_], *, exclusive: bool
) -> float:
    """The temperature of least cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (N, C).
        labels: int64 (N,) where they exclude each other, bool (N, C) where not.
        exclusive: which of the two.
    """
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = wide * np.exp(-log_temperature)
        if exclusive:
            return float((special.logsumexp(scaled, axis=1) - scaled[np.arange(len(scaled)), labels]).mean())
        return float((np.logaddexp(0, scaled) - labels * scaled).mean())

    found = optimize.minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def cross_temperatures(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64] | NDArray[np.bool_],
    groups: NDArray[np.str_],
    *,
    exclusive: bool,
    folds: int = 5,
) -> NDArray[np.float64]:
    """A temperature (N,) for each image, fitted on the groups of the other folds: no image judges itself.

    Groups are dealt out by size, the largest first, to the fold that holds the fewest images.
    """
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    fold_of, held = np.zeros(len(names), np.int64), np.zeros(folds)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(held.argmin())
        held[fold_of[group]] += sizes[group]
    fold = fold_of[place]
    found = np.ones(len(logits))
    for number in set(fold.tolist()):
        rest = fold != number
        if rest.any():
            found[~rest] = fit_temperature(logits[rest], labels[rest], exclusive=exclusive)
    return found


def claims(
    scores: NDArray[np.float64], labels: NDArray[np.int64] | NDArray[np.bool_], finding: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What probabilities claim, and whether it came true.

    Args:
        scores: (N, C).
        labels: as in `fit_temperature`.
        finding: its place, where there are two labels and one is looked for.

    Returns:
        (N,) the finding's probability and whether it is there; without a finding the answer's own probability and
        whether it is right; with labels that do not exclude each other (N * C,) all of them.
    """
    if labels.ndim > 1:
        return scores.ravel(), np.asarray(labels.ravel(), np.bool_)
    if finding is not None:
        return scores[:, finding], np.asarray(labels == finding, np.bool_)
    said = scores.argmax(1)
    return scores[np.arange(len(scores)), said], np.asarray(said == labels, np.bool_)


@dataclass(frozen=True)
class Reliability:
    """Claims by how strong they are, in `BINS` bins of equal width.

    Attributes:
        claimed: mean probability of each bin (B,); NaN where it is empty.
        true: share that came true (B,); NaN where it is empty.
        images: how many there are (B,).
        error: expected calibration error: the bins' mean distance between the two, by their number.
    """

    claimed: NDArray[np.float64]
    true: NDArray[np.float64]
    images: NDArray[np.int64]
    error: float


def reliability(claimed: NDArray[np.float64], true: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Reliability diagram and expected calibration error (Naeini et al. 2015; Guo et al. 2017)."""
    inside = _bins(claimed, bins)
    images = inside.sum(0)
    with np.errstate(invalid="ignore"):
        said, came = claimed @ inside / images, true.astype(np.float64) @ inside / images
    error = float(np.nansum(np.abs(said - came) * images) / max(1, len(claimed)))
    return Reliability(said, came, images.astype(np.int64), error)


def calibration_errors(
    claimed: NDArray[np.float64], true: NDArray[np.bool_], weights: NDArray[np.float64], bins: int = BINS
) -> NDArray[np.float64]:
    """Expected calibration error (R,) for many weightings (R, N) at once."""
    inside = _bins(claimed, bins)
    gaps = np.abs(weights @ (inside * (claimed - true)[:, None]))
    return np.asarray(gaps.sum(1) / weights.sum(1), np.float64)


def _bins(claimed: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    place = np.minimum((claimed * bins).astype(np.int64), bins - 1)
    return np.asarray(place[:, None] == np.arange(bins), np.float64)


def brier(claimed: NDArray[np.float64], true: NDArray[np.bool_]) -> float:
    """Mean squared distance between claim and truth (Brier 1950)."""
    return float(np.mean((claimed - true.astype(np.float64)) ** 2))


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers among those given, as ever fewer are given.

    Attributes:
        coverage: share of images that are answered (K,), rising.
        risk: share of those that are wrong (K,).
        area: under the curve (Geifman & El-Yaniv 2017, arXiv 1705.08500): the mean risk over all coverages.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    area: float


def risk_coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> RiskCoverage:
    """Answer the surest images first; those that are equally sure come together.

    Args:
        confidence: (N,).
        right: (N,), whether the answer is.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong, count = np.cumsum(~right[order]), np.arange(1, len(right) + 1)
    last = np.r_[np.diff(confidence[order]) != 0, True]
    risk = wrong[last] / count[last]
    return RiskCoverage(
        count[last] / len(right), risk, float((risk * np.diff(np.r_[0, count[last]])).sum() / len(right))
    )
