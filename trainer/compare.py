"""Whether one model is better than another, or only luckier: paired tests on the same images.

Images of one group (a patient, a recording) resemble each other, so that tests which take them for independent find too
much. Here the group bootstrap decides; the usual tests stand beside it, each also in a form that knows groups. A gain
whose interval holds zero, or which does not survive the correction for the number of comparisons, is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.metrics import Figure

LEVEL = 0.05
Verdict = Literal["gain", "loss", "none"]


@dataclass(frozen=True)
class McNemar:
    """Images that one of two models has right and the other wrong.

    Attributes:
        only_first: right by the first alone.
        only_second: right by the second alone.
        p: exact, two-sided, as though images were independent (McNemar 1947, Psychometrika 12).
        p_groups: of the sums within groups (Yang, Sun & Hardin 2010, Biometrical Journal 52); None with one group.
    """

    only_first: int
    only_second: int
    p: float
    p_groups: float | None


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], groups: NDArray[np.str_]) -> McNemar:
    """Test whether two models are right equally often.

    Args:
        first: (N,), where the first model is right.
        second: (N,), where the second is.
        groups: (N,).
    """
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    names, place = np.unique(groups, return_inverse=True)
    if len(names) < 2:  # noqa: PLR2004  of one group nothing is known about others
        return McNemar(won, lost, p, None)
    sums = np.bincount(place, first.astype(np.float64) - second, minlength=len(names))
    spread = float((sums**2).sum())
    return McNemar(won, lost, p, float(stats.chi2.sf((won - lost) ** 2 / spread, 1)) if spread else 1.0)


@dataclass(frozen=True)
class DeLong:
    """Two areas under the ROC curve on the same images.

    Attributes:
        first: the first model's area.
        second: the second's.
        error: standard error of their difference.
        p: two-sided, of the normal approximation; 1 where the areas do not differ at all.
    """

    first: float
    second: float
    error: float
    p: float


def delong(
    truth: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: NDArray[np.str_] | None = None,
) -> DeLong | None:
    """Test whether two areas under the curve are equal.

    DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44); with groups in the form of Obuchowski 1997 (Biometrics 53),
    which is the same where every image is a group of its own.

    Args:
        truth: (N,), whether the finding is there.
        first: (N,), scores of the first model.
        second: (N,), scores of the second.
        groups: (N,); None takes images for independent.

    Returns:
        None where a class has fewer than two groups: then there is nothing to estimate.
    """
    place = np.arange(len(truth)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(place.max()) + 1
    parts = [_components(truth, scores) for scores in (first, second)]
    areas = [float(shown.mean()) for shown, _ in parts]
    shown, hidden = parts[0][0] - parts[1][0], parts[0][1] - parts[1][1]
    difference = areas[0] - areas[1]
    of_shown, of_hidden = (
        np.bincount(place[where], values - difference, minlength=count)
        for where, values in ((truth, shown), (~truth, hidden))
    )
    with_shown, with_hidden = len(set(place[truth].tolist())), len(set(place[~truth].tolist()))
    if with_shown < 2 or with_hidden < 2:  # noqa: PLR2004
        return None
    variance = (
        with_shown / (with_shown - 1) * float((of_shown**2).sum()) / truth.sum() ** 2
        + with_hidden / (with_hidden - 1) * float((of_hidden**2).sum()) / (~truth).sum() ** 2
        + 2 * count / (count - 1) * float((of_shown * of_hidden).sum()) / (truth.sum() * (~truth).sum())
    )
    error = float(np.sqrt(max(0.0, variance)))
    if not error:
        return DeLong(areas[0], areas[1], 0.0, 1.0 if not difference else 0.0)
    return DeLong(areas[0], areas[1], error, float(2 * stats.norm.sf(abs(difference) / error)))


def _components(
    truth: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per image with the finding the share of the others below it, and per other the share of findings above it."""
    ranks = stats.rankdata(scores)
    shown, hidden = int(truth.sum()), int((~truth).sum())
    above = (ranks[truth] - stats.rankdata(scores[truth])) / hidden
    below = 1 - (ranks[~truth] - stats.rankdata(scores[~truth])) / shown
    return above, below


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of "no difference" from resampled differences (R,): twice the share of the smaller tail.

    Efron & Tibshirani 1993, chapter 15. Where no resample lies beyond zero the tail has no share to count: then it is
    that of a normal distribution of their mean and deviation, or 2 / (R + 1) if that is less. Otherwise a correction
    for many comparisons would ask for more and more resamples.
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return 1.0
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    coarse = min(1.0, 2 * (tail + 1) / (len(known) + 1))
    spread = float(known.std())
    if tail or not spread:
        return coarse
    return min(coarse, float(2 * stats.norm.sf(abs(float(known.mean())) / spread)))


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6), in the same order."""
    count = len(values)
    corrected = [0.0] * count
    least = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: values[i])):
        least = max(least, min(1.0, (count - rank) * values[index]))
        corrected[index] = least
    return corrected


def verdict(difference: Figure, p: float) -> Verdict:
    """What may be claimed of a difference: nothing while its interval holds zero, or its corrected p is too large."""
    if difference.value is None or difference.low is None or difference.high is None or p >= LEVEL:
        return "none"
    if difference.low > 0:
        return "gain"
    return "loss" if difference.high < 0 else "none"
