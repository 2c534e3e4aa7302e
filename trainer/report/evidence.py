"""All figures of a report, from kept answers: what JSON holds and the page shows.

Intervals draw groups with replacement, within each source, and, of a row with several seeds, seeds too; all rows share
the draws, so that differences are paired. With one seed the chance of training is in no interval, and the page says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import FoldsightError
from trainer.calibration import (
    brier,
    calibration_errors,
    claims,
    cross_temperatures,
    fit_temperature,
    probabilities,
    reliability,
    risk_coverage,
)
from trainer.compare import bootstrap_p, delong, holm, mcnemar, verdict
from trainer.metrics import Figure, figures, group_weights, interval, many_class_figures, multi_label_figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trainer.answers import SplitAnswers, Study

    Floats = NDArray[np.float64]
    ByRow = Mapping[str, Mapping[str, SplitAnswers]]

_CURVE = np.linspace(0, 1, 101)
_CURVE_DRAWS = 300
_TWO = 2


@dataclass(frozen=True)
class Task:
    """What logits mean.

    Attributes:
        labels: in their order.
        finding: place of the label that is looked for; None unless there are two labels and one is.
        exclusive: whether labels exclude each other.
    """

    labels: Sequence[str]
    finding: int | None
    exclusive: bool

    @staticmethod
    def of(study: Study) -> Task:
        """A study's task."""
        two = study.exclusive and len(study.labels) == _TWO
        named = study.labels.index(study.finding) if study.finding is not None else 1
        return Task(study.labels, named if two else None, study.exclusive)

    @property
    def headline(self) -> str:
        """The figure that rows are ordered and compared by."""
        return "accuracy" if self.exclusive else "macro_auc"

    @property
    def area(self) -> str:
        """The figure without a threshold."""
        return "macro_auc" if self.finding is None else "auc"

    @property
    def overall(self) -> list[str]:
        """Figures of the whole, in the order in which they are shown."""
        if self.finding is not None:
            return ["accuracy", "balanced_accuracy", "auc"]
        if self.exclusive:
            return ["accuracy", "balanced_accuracy", "macro_f1", "macro_auc"]
        return ["macro_auc", "macro_f1", "micro_f1", "balanced_accuracy", "exact"]

    @property
    def by_label(self) -> list[str]:
        """Figures of each label."""
        if self.finding is not None:
            return ["recall", "precision"]
        return ["recall", "precision", "f1", "auc"]

    def measure(self, logits: NDArray[np.float32], truth: NDArray[Any], weights: Floats) -> dict[str, Floats]:
        """All figures (R,) under weights (R, N); those of a label are called `recall:LABEL`."""
        scores = probabilities(logits, exclusive=self.exclusive)
        if self.finding is not None:
            found = figures(truth == self.finding, scores[:, self.finding], weights)
            sides = {"finding": self.labels[self.finding], "other": self.labels[1 - self.finding]}
            return {
                **{name: found[name] for name in self.overall},
                **{f"{n}:{label}": found[f"{n}_{side}"] for side, label in sides.items() for n in self.by_label},
            }
        many = (many_class_figures if self.exclusive else multi_label_figures)(truth, scores, weights)
        return {
            **{name: many[name] for name in self.overall},
            **{f"{n}:{label}": many[n][:, k] for k, label in enumerate(self.labels) for n in self.by_label},
        }

    def right(self, logits: NDArray[np.float32], truth: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,), where the answer is wholly right."""
        if self.exclusive:
            return np.asarray(logits.argmax(1) == truth)
        return np.asarray(((logits >= 0) == truth).all(1))


class Draws:
    """Resamples of one split that all rows share."""

    def __init__(self, groups: NDArray[np.str_], sources: NDArray[np.str_], repeats: int, seed: int) -> None:
        self.weights = group_weights(groups, sources, repeats, seed)
        self.one = np.ones((1, len(groups)))
        self.alone = len(set(groups.tolist())) < _TWO
        self._seed = seed

    def seeds(self, count: int) -> NDArray[np.int64]:
        """Which seeds each resample takes, (R, count); the same for all rows with as many, so that they are paired."""
        return np.random.default_rng([self._seed, count]).integers(0, count, (len(self.weights), count))


@dataclass(frozen=True)
class Measured:
    """A row's figures: of each seed (S,), and resampled (R,)."""

    values: dict[str, Floats]
    resampled: dict[str, Floats]
    alone: bool

    def figure(self, name: str) -> dict[str, float | None]:
        """For JSON: mean over seeds with its interval, and the deviation over seeds."""
        own = self.values[name]
        known = own[~np.isnan(own)]
        value = float(known.mean()) if len(known) else float("nan")
        found = interval(value, None if self.alone else self.resampled[name])
        return {**found.as_dict(), "deviation": float(known.std(ddof=1)) if len(known) > 1 else None}


def measured(
    task: Task, answers: Mapping[str, SplitAnswers], draws: Draws, inside: NDArray[np.bool_] | None = None
) -> Measured:
    """Measure a row on all images or some of them."""
    keep = slice(None) if inside is None else inside
    parts = list(answers.values())
    weights = draws.weights[:, keep]
    points = [task.measure(a.logits[keep], a.labels[keep], draws.one[:, keep]) for a in parts]
    spread = [task.measure(a.logits[keep], a.labels[keep], weights) for a in parts]
    chosen = draws.seeds(len(parts))
    rows = np.arange(len(weights))[:, None]
    resampled = {name: np.stack([part[name] for part in spread], 1)[rows, chosen].mean(1) for name in points[0]}
    alone = len(set(parts[0].groups[keep].tolist())) < _TWO
    return Measured({name: np.array([p[name][0] for p in points]) for name in points[0]}, resampled, alone)


def split_evidence(
    study: Study, split: str, rows: ByRow, *, val: ByRow | None, repeats: int, seed: int
) -> dict[str, Any]:
    """Everything measured on a split.

    Args:
        study: whose rows these are.
        split: its name.
        rows: answers by row and seed.
        val: those of the validation split, for the temperature; None or the same: it is fitted across groups.
        repeats: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For JSON: `images`, `groups`, `sources`, `rows`, `comparisons`.
    """
    task = Task.of(study)
    some = next(iter(next(iter(rows.values())).values()))
    draws = Draws(some.groups, some.sources, repeats, seed)
    found = {name: measured(task, seeds, draws) for name, seeds in rows.items()}
    names = [row.name for row in study.rows if row.name in rows]
    gap = _gap(study, found, task.headline)
    report: dict[str, Any] = {
        "images": len(some.ids),
        "groups": len(set(some.groups.tolist())),
        "sources": _sources(some),
        "rows": {},
        "comparisons": comparisons(
            study, task, rows, found, some, draws, best_student(study, rows if val is None else val)
        ),
    }
    for name in names:
        other = None if val is None or split == "val" else val.get(name)
        report["rows"][name] = {
            "seeds": list(rows[name]),
            "figures": {figure: found[name].figure(figure) for figure in found[name].values},
            "recovered": None if gap is None else _recovered(found[name], gap, task.headline),
            "confusion": _confusion(task, rows[name]),
            "calibration": _calibration(task, rows[name], other, draws),
            "risk": _risk(task, rows[name]),
            "curves": _curves(task, rows[name], draws),
            "by_source": _by_source(task, rows[name], draws),
            "by_group": _by_group(task, rows[name]),
        }
    return report


def _sources(answers: SplitAnswers) -> dict[str, dict[str, int]]:
    return {
        source: {
            "images": int((answers.sources == source).sum()),
            "groups": len(set(answers.groups[answers.sources == source].tolist())),
        }
        for source in sorted(set(answers.sources.tolist()))
    }


# --- the gap between scratch and teacher ---


def _gap(study: Study, found: Mapping[str, Measured], name: str) -> tuple[Measured, Measured] | None:
    """Teacher and baseline, where the teacher is better beyond doubt: a share of an uncertain gap means nothing."""
    if study.teacher is None or study.baseline is None or not {study.teacher, study.baseline} <= set(found):
        return None
    teacher, baseline = found[study.teacher], found[study.baseline]
    difference = teacher.resampled[name] - baseline.resampled[name]
    value = float(np.nanmean(teacher.values[name]) - np.nanmean(baseline.values[name]))
    sure = verdict(interval(value, None if teacher.alone else difference), bootstrap_p(difference)) == "gain"
    return (teacher, baseline) if sure else None


def _recovered(row: Measured, gap: tuple[Measured, Measured], name: str) -> dict[str, float | None] | None:
    teacher, baseline = gap
    if row is teacher or row is baseline:
        return None
    whole = np.nanmean(teacher.values[name]) - np.nanmean(baseline.values[name])
    value = float((np.nanmean(row.values[name]) - np.nanmean(baseline.values[name])) / whole)
    across = teacher.resampled[name] - baseline.resampled[name]
    shares = (row.resampled[name] - baseline.resampled[name])[across > 0] / across[across > 0]
    return interval(value, shares).as_dict()


# --- paired comparisons ---


def best_student(study: Study, rows: ByRow) -> str | None:
    """The student with the best headline figure on these rows' images, mean over seeds; None without students."""
    task = Task.of(study)

    def figure(name: str) -> float:
        parts = rows[name].values()
        found = [task.measure(a.logits, a.labels, np.ones((1, len(a.ids))))[task.headline][0] for a in parts]
        return float(np.nan_to_num(np.mean(found)))

    return max((row.name for row in study.rows if row.kind == "student" and row.name in rows), key=figure, default=None)


def comparisons(
    study: Study,
    task: Task,
    rows: ByRow,
    found: Mapping[str, Measured],
    some: SplitAnswers,
    draws: Draws,
    best: str | None = None,
) -> list[dict[str, Any]]:
    """All pairs that a study asks about, each row against the baseline, and the best student against every control.

    The p values of each figure are corrected for the number of pairs.

    Returns:
        For JSON, per pair: the difference in the headline and in the area under the curve with intervals, p of the
        bootstrap and by Holm, McNemar's and DeLong's (of the seeds' pair that is least sure), and the verdicts.
    """
    named = {(c.first, c.second): c.about for c in study.comparisons}
    pairs = [] if study.baseline is None else [(row.name, study.baseline) for row in study.rows]
    pairs += named
    if best is not None:
        controls = [(best, row.name) for row in study.rows if row.kind == "control"]
        named |= {
            pair: "the best by validation, against a control" for pair in controls if pair not in [*named, *pairs]
        }
        pairs += controls
    asked = [(*pair, named.get(pair, "")) for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
    asked = [pair for pair in asked if pair[0] in rows and pair[1] in rows]
    listed: list[dict[str, Any]] = []
    firm = _firm(task, rows, some, draws)
    for first, second, about in asked:
        entry: dict[str, Any] = {"first": first, "second": second, "about": about, "figures": {}}
        for name in (task.headline, *([task.area] if task.area != task.headline else [])):
            difference = found[first].resampled[name] - found[second].resampled[name]
            value = float(np.nanmean(found[first].values[name]) - np.nanmean(found[second].values[name]))
            shown = interval(value, None if found[first].alone else difference)
            p = 1.0 if found[first].alone else bootstrap_p(difference)
            entry["figures"][name] = {**shown.as_dict(), "p": p, "firm": None}
            if firm:
                less = firm[first].resampled[name] - firm[second].resampled[name]
                value = float(np.nanmean(firm[first].values[name]) - np.nanmean(firm[second].values[name]))
                entry["figures"][name] |= {"p": max(p, bootstrap_p(less)), "firm": interval(value, less).as_dict()}
        entry |= _classic(task, rows[first], rows[second], some)
        listed.append(entry)
    for name in (task.headline, *([task.area] if task.area != task.headline else [])):
        corrected = holm([entry["figures"][name]["p"] for entry in listed])
        for entry, p in zip(listed, corrected, strict=True):
            at = entry["figures"][name]
            at["holm"] = p
            at["verdict"] = verdict(Figure(at["value"], at["low"], at["high"]), p)
            if at["firm"] is not None and verdict(Figure(**at["firm"]), p) != at["verdict"]:
                at["verdict"] = "none"
    return listed


def _firm(task: Task, rows: ByRow, some: SplitAnswers, draws: Draws) -> dict[str, Measured]:
    """All rows without the sources of a single group, which resampling takes for certain; empty where all have more.

    What holds only with such a source rests on one patient, however many the frames.
    """
    single = [
        source for source in set(some.sources.tolist()) if len(set(some.groups[some.sources == source].tolist())) < _TWO
    ]
    inside = ~np.isin(some.sources, single)
    if not single or not inside.any():
        return {}
    return {name: measured(task, seeds, draws, inside) for name, seeds in rows.items()}


def _classic(
    task: Task, first: Mapping[str, SplitAnswers], second: Mapping[str, SplitAnswers], some: SplitAnswers
) -> dict[str, Any]:
    """McNemar and DeLong for the pairs of seeds; the least sure one is told."""
    pairs = list(zip(first.values(), second.values(), strict=False))
    tests = [mcnemar(task.right(a.logits, a.labels), task.right(b.logits, b.labels), some.groups) for a, b in pairs]
    worst = max(tests, key=lambda test: test.p)
    grouped = [test.p_groups for test in tests if test.p_groups is not None]
    found: dict[str, Any] = {
        "mcnemar": {
            "only_first": worst.only_first,
            "only_second": worst.only_second,
            "p": worst.p,
            "p_groups": max(grouped) if grouped else None,
        },
        "delong": None,
    }
    if task.finding is not None:
        truth = some.labels == task.finding
        scores = [[probabilities(x.logits, exclusive=True)[:, task.finding] for x in pair] for pair in pairs]
        plain = [delong(truth, a, b) for a, b in scores]
        by_group = [delong(truth, a, b, some.groups) for a, b in scores]
        if plain and all(test is not None for test in plain):
            known = [test.p for test in by_group if test is not None]
            found["delong"] = {
                "p": max(test.p for test in plain if test is not None),
                "p_groups": max(known) if known else None,
            }
    return found


# --- parts of a row ---


def _confusion(task: Task, answers: Mapping[str, SplitAnswers]) -> list[list[float]] | None:
    """Mean counts over seeds, rows true, columns said; None where labels do not exclude each other."""
    if not task.exclusive:
        return None
    size = len(task.labels)
    total = np.zeros((size, size))
    for part in answers.values():
        np.add.at(total, (part.labels, part.logits.argmax(1)), 1)
    return [[float(value) for value in row] for row in total / len(answers)]


def _calibration(
    task: Task, answers: Mapping[str, SplitAnswers], val: Mapping[str, SplitAnswers] | None, draws: Draws
) -> dict[str, Any]:
    """Reliability and expected error before and after temperature scaling, all seeds' claims together."""
    found: dict[str, Any] = {"temperatures": []}
    parts: dict[str, list[Any]] = {"before": [], "after": []}
    for seed, part in answers.items():
        if val is not None and seed in val:
            at = fit_temperature(val[seed].logits, val[seed].labels, exclusive=task.exclusive)
            spread = np.full(len(part.ids), at)
        else:
            spread = cross_temperatures(part.logits, part.labels, part.groups, exclusive=task.exclusive)
            at = float(np.median(spread))
        found["temperatures"].append(at)
        scaled = (part.logits / spread[:, None]).astype(np.float32)
        for name, logits in (("before", part.logits), ("after", scaled)):
            parts[name].append(claims(probabilities(logits, exclusive=task.exclusive), part.labels, task.finding))
    for name, claimed in parts.items():
        said = np.concatenate([part[0] for part in claimed])
        came = np.concatenate([part[1] for part in claimed])
        shown = reliability(said, came)
        repeat = len(said) // (draws.weights.shape[1] * len(claimed))
        weights = np.tile(np.repeat(draws.weights, repeat, axis=1), (1, len(claimed)))
        errors = None if draws.alone else calibration_errors(said, came, weights)
        found[name] = {
            "error": interval(shown.error, errors).as_dict(),
            "brier": brier(said, came),
            "claimed": _numbers(shown.claimed),
            "true": _numbers(shown.true),
            "images": shown.images.tolist(),
        }
    found["across_groups"] = val is None
    return found


def _risk(task: Task, answers: Mapping[str, SplitAnswers]) -> dict[str, Any]:
    """Risk against coverage on a common grid, mean over seeds, and the area under it."""
    grid, areas, curves = np.linspace(0.02, 1, 50), [], []
    for part in answers.values():
        scores = probabilities(part.logits, exclusive=task.exclusive)
        sure = scores.max(1) if task.exclusive else np.abs(scores - 0.5).min(1)
        curve = risk_coverage(sure, task.right(part.logits, part.labels))
        areas.append(curve.area)
        curves.append(curve.risk[np.minimum(np.searchsorted(curve.coverage, grid - 1e-9), len(curve.risk) - 1)])
    return {"coverage": _numbers(grid), "risk": _numbers(np.mean(curves, 0)), "area": float(np.mean(areas))}


def _curves(task: Task, answers: Mapping[str, SplitAnswers], draws: Draws) -> dict[str, Any]:
    """ROC and precision against recall with pointwise intervals, of the finding or of each label against the rest."""
    some = next(iter(answers.values()))
    wanted = [task.finding] if task.finding is not None else range(len(task.labels))
    found = {}
    for label in wanted:
        truth = (some.labels[:, label] if some.labels.ndim > 1 else some.labels == label).astype(bool)
        if truth.all() or not truth.any():
            continue
        middle, bands = [], []
        for part in answers.values():
            scores = probabilities(part.logits, exclusive=task.exclusive)[:, label]
            middle.append(_roc_pr(truth, scores, draws.one)[:, 0])
            if not draws.alone and task.finding is not None:
                bands.append(_roc_pr(truth, scores, draws.weights[:_CURVE_DRAWS]))
        roc, pr = np.nanmean(middle, 0)
        entry: dict[str, Any] = {"roc": _numbers(roc), "pr": _numbers(pr), "prevalence": float(truth.mean())}
        if bands:
            low, high = np.nanpercentile(np.concatenate(bands, 1), (2.5, 97.5), axis=1)
            entry |= {
                "roc_band": [_numbers(low[0]), _numbers(high[0])],
                "pr_band": [_numbers(low[1]), _numbers(high[1])],
            }
        found[task.labels[label]] = entry
    return found


def _roc_pr(truth: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """True positive rate at each false positive rate, and precision at each recall, of `_CURVE`: (2, R, 101)."""
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.diff(scores[order]) != 0, True]
    true = np.cumsum(weights[:, order] * truth[order], 1)[:, last]
    false = np.cumsum(weights[:, order] * ~truth[order], 1)[:, last]
    found = np.full((2, len(weights), len(_CURVE)), np.nan)
    for r in range(len(weights)):
        if not true[r, -1] or not false[r, -1]:
            continue
        rate, alarm = true[r] / true[r, -1], false[r] / false[r, -1]
        place = np.searchsorted(alarm, _CURVE, side="right") - 1
        found[0, r] = np.where(place >= 0, rate[place], 0)  # a step: no operating point is made up between two
        said = true[r] + false[r]
        precision = np.divide(true[r], said, out=np.ones_like(said), where=said > 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        found[1, r] = best[np.minimum(np.searchsorted(rate, _CURVE - 1e-9), len(rate) - 1)]
    return found


def _by_source(task: Task, answers: Mapping[str, SplitAnswers], draws: Draws) -> dict[str, Any]:
    some = next(iter(answers.values()))
    found = {}
    for source in sorted(set(some.sources.tolist())):
        part = measured(task, answers, draws, some.sources == source)
        found[source] = {name: part.figure(name) for name in part.values}
    return found


def _by_group(task: Task, answers: Mapping[str, SplitAnswers]) -> list[dict[str, Any]]:
    """Share of wholly right answers in each group; groups are numbered, as their names may be people's."""
    some = next(iter(answers.values()))
    right = np.mean([task.right(part.logits, part.labels) for part in answers.values()], 0)
    found = []
    for number, group in enumerate(sorted(set(some.groups.tolist())), start=1):
        inside = some.groups == group
        found.append({
            "number": number,
            "source": str(some.sources[inside][0]),
            "images": int(inside.sum()),
            "right": float(right[inside].mean()),
        })  # fmt: skip
    return found


def require_apart(answers: Mapping[str, ByRow]) -> None:
    """Refuse splits that share a group or an image.

    Raises:
        FoldsightError: naming the splits and how many groups they share.
    """
    groups = {
        split: set(next(iter(next(iter(rows.values())).values())).groups.tolist()) for split, rows in answers.items()
    }
    names = sorted(groups)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = groups[first] & groups[second]
            if shared:
                raise FoldsightError(
                    f"the {first} and the {second} split share {len(shared)} groups ({min(shared)!r}, ...): what "
                    "is measured there proves nothing; split by group, train again"
                )


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]
