"""Which way of adapting helps, by cross-validation over the given groups; the shipped model stays unless one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import ConfigError
from trainer.answers import SplitAnswers
from trainer.console import say
from trainer.evaluate import Judging, finding_scores
from trainer.export import choose_decision
from trainer.metrics import group_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from edge.bundle import DecisionSpec
    from trainer.inputs import Inputs
    from trainer.recipe import DecideSettings

SHIPPED, POINT, LAYER, BLOCK = "shipped", "operating point", "last layer", "last block"
WAYS = (SHIPPED, POINT, LAYER, BLOCK)
"""From the least change to the most."""
LEAST_FRAMES, LEAST_EACH, LEAST_GROUPS = 16, 5, 3
FOR_LAYER, FOR_BLOCK = 20, 60  # frames from which on these ways are tried
_FOLDS = 5
_SURE = 2 / 3  # chance, over resampled groups, that a way is better than the one before: of four groups no more is had
_MAY_FORGET = 0.02  # of balanced accuracy on rendered frames


@dataclass(frozen=True)
class Way:
    """One way of adapting, validated.

    Attributes:
        name: of `WAYS`.
        said: bool (N,), the answer to each frame by a model that has not seen its group.
        logits: float32 (N, labels), of the same models.
        balanced_accuracy: of those answers.
        better: chance that it is better than the way that was kept before it; None for the first.
        forgets: how much balanced accuracy it loses on rendered frames; None where nothing was changed that could.
        kept: whether it became the best so far.
    """

    name: str
    said: NDArray[np.bool_]
    logits: NDArray[np.float32]
    balanced_accuracy: float
    better: float | None
    forgets: float | None
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON and the card."""
        return {"way": self.name, "balanced_accuracy": round(self.balanced_accuracy, 4), "better": self.better,
                "forgets": self.forgets, "kept": self.kept}  # fmt: skip


def check_enough(labels: NDArray[np.int64], groups: NDArray[np.str_]) -> None:
    """Refuse what cannot be validated.

    Raises:
        ConfigError: too few frames, of a label, or too few groups.
    """
    each = np.bincount(labels, minlength=2)
    if len(labels) < LEAST_FRAMES or each.min() < LEAST_EACH:
        raise ConfigError(
            f"there are {each[1]} frames with folds and {each[0]} without that are fit to be judged: label at least "
            f"{LEAST_FRAMES}, {LEAST_EACH} of each"
        )
    for label, name in ((1, "with folds"), (0, "without folds")):
        if len(set(groups[labels == label])) < 2:  # noqa: PLR2004
            raise ConfigError(f"all frames {name} are of one group: give frames of several patients or recordings")
    if len(set(groups)) < LEAST_GROUPS:
        raise ConfigError(
            f"the frames are of {len(set(groups))} groups: give each patient or recording its own group (a folder of "
            f"its own), at least {LEAST_GROUPS}, or nothing can be validated"
        )


def folds_of(labels: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """A fold (N,) for every frame: groups stay whole, folds alike in both labels as far as that goes.

    Raises:
        ConfigError: one group holds nearly all frames of a label.
    """
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    count = min(_FOLDS, len(names))
    filled = np.zeros((count, 2))
    fold = np.empty(len(labels), np.int64)
    sizes = {name: np.bincount(labels[groups == name], minlength=2) for name in names}
    total = np.maximum(1, np.bincount(labels, minlength=2))
    # The largest first, each into the fold that it fills least.
    for name in sorted((names[k] for k in order), key=lambda name: -(sizes[name] / total).sum()):
        place = int(np.argmin(((filled + sizes[name]) / total).max(axis=1) + filled.sum(axis=1) * 1e-6))
        filled[place] += sizes[name]
        fold[groups == name] = place
    for part in range(count):
        if len(set(labels[fold != part])) < 2:  # noqa: PLR2004
            raise ConfigError("one group holds all frames of a label but those of itself: give more groups")
    return fold


def balanced_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights (N,) that sum to 1 and give both labels a half."""
    each = np.bincount(labels, minlength=2)
    return np.asarray(0.5 / np.maximum(1, each)[labels], np.float64)


def balanced(truth: NDArray[np.bool_], said: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Balanced accuracy (R,) under weightings (R, N); NaN where a label is missing."""
    right = (truth == said).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = [(weights[:, truth == side] @ right[truth == side]) / weights[:, truth == side].sum(1)
                 for side in (True, False)]  # fmt: skip
    return np.asarray((sides[0] + sides[1]) / 2)


def chance_of_gain(
    truth: NDArray[np.bool_], before: NDArray[np.bool_], after: NDArray[np.bool_], groups: NDArray[np.str_], seed: int
) -> float:
    """Share of resampled groups in which answers are better than others to the same frames; ties count against them."""
    weights = group_weights(groups, np.full(len(groups), "own"), 2000, seed)
    gain = balanced(truth, after, weights) - balanced(truth, before, weights)
    return float((gain[~np.isnan(gain)] > 1e-12).mean())  # noqa: PLR2004


@dataclass(frozen=True)
class Bench:
    """The frames that everything is validated on.

    Attributes:
        inputs: the given frames that are fit to be judged.
        logits: float32 (N, labels), of the shipped INT8 model.
        shipped: its operating point.
        judging: how logits are read.
        decide: how an operating point is found.
        seed: of folds and resampling.
    """

    inputs: Inputs
    logits: NDArray[np.float32]
    shipped: DecisionSpec
    judging: Judging
    decide: DecideSettings
    seed: int

    @property
    def truth(self) -> NDArray[np.bool_]:
        """Whether the finding is there, (N,)."""
        return np.asarray(self.inputs.labels == self.judging.index)

    def point(self, logits: NDArray[np.float32], kept: NDArray[np.bool_] | None = None) -> DecisionSpec:
        """The operating point for some frames' logits; the times stay as shipped."""
        kept = np.ones(len(logits), np.bool_) if kept is None else kept
        inputs = self.inputs
        ids = np.array([record.name() for record in inputs.records])
        some = SplitAnswers(
            logits[kept], inputs.labels[kept], ids[kept], inputs.groups[kept], np.full(int(kept.sum()), "own")
        )
        found = choose_decision(some.logits, some, self.judging, self.decide)
        chosen = {name: getattr(found, name) for name in ("temperature", "low", "threshold", "high")}
        return self.shipped.model_copy(update=chosen)

    def said(self, logits: NDArray[np.float32], point: DecisionSpec) -> NDArray[np.bool_]:
        """The answers at an operating point, (N,)."""
        return np.asarray(finding_scores(logits, self.judging, point.temperature) >= point.threshold)


def validate(
    bench: Bench, ways: Sequence[tuple[str, Callable[[NDArray[np.bool_]], NDArray[np.float32]], Callable[[], float]]]
) -> list[Way]:
    """Try the ways in turn; each is kept only where it is surely better than what was kept before.

    Args:
        bench: the frames.
        ways: name; a function that fits on frames (bool (N,)) and gives logits of all; and one that says how much the
            way, fitted on all frames, forgets.

    Returns:
        The shipped model, the refitted operating point, and each way.
    """
    truth, groups = bench.truth, bench.inputs.groups
    fold = folds_of(bench.inputs.labels, groups, bench.seed)
    even = np.ones((1, len(truth)))
    shipped = bench.said(bench.logits, bench.shipped)
    found = [Way(SHIPPED, shipped, bench.logits, float(balanced(truth, shipped, even)[0]), None, None, True)]

    def judge(
        name: str, said: NDArray[np.bool_], logits: NDArray[np.float32], forget: Callable[[], float] | None
    ) -> None:
        last = next(way for way in reversed(found) if way.kept)
        better = chance_of_gain(truth, last.said, said, groups, bench.seed)
        forgets = forget() if forget is not None and better >= _SURE else None
        kept = better >= _SURE and (forgets is None or forgets <= _MAY_FORGET)
        found.append(Way(name, said, logits, float(balanced(truth, said, even)[0]), better, forgets, kept))
        say(f"adapt: {name}: balanced accuracy {100 * found[-1].balanced_accuracy:.1f} % on groups it has not seen")

    said = np.zeros(len(truth), np.bool_)
    for part in np.unique(fold):
        said[fold == part] = bench.said(bench.logits, bench.point(bench.logits, fold != part))[fold == part]
    judge(POINT, said, bench.logits, None)
    for name, fit, forget in ways:
        logits = np.empty_like(bench.logits)
        for part in np.unique(fold):
            logits[fold == part] = fit(fold != part)[fold == part]
        # One half: what the refit aimed at.
        plain = bench.shipped.model_copy(update={"threshold": 0.5})
        judge(name, bench.said(logits, plain), logits, forget)
    return found
