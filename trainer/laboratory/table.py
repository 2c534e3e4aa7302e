"""A comparison's table: each row's figures over its seeds, their intervals over groups, and the share of the gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax

from trainer.answers import load_answers
from trainer.metrics import (
    figures as two_class_figures,
)
from trainer.metrics import (
    group_weights,
    interval,
    many_class_figures,
    multi_label_figures,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.answers import SplitAnswers, Study

_REPEATS = 1000


def measure(answers: SplitAnswers, study: Study, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The figures of a network under many weightings of the images, each (R,)."""
    logits = answers.logits.astype(np.float64)
    if study.finding is not None:
        place = study.labels.index(study.finding)
        found = two_class_figures(answers.labels == place, softmax(logits, axis=1)[:, place], weights)
        names = ["balanced_accuracy", "accuracy", "auc"]
    elif study.exclusive:
        found = many_class_figures(answers.labels.astype(np.int64), softmax(logits, axis=1), weights)
        names = ["balanced_accuracy", "accuracy", "macro_f1", "macro_auc"]
    else:
        found = multi_label_figures(answers.labels.astype(np.bool_), expit(logits), weights)
        names = ["macro_auc", "macro_f1"]
    return {name: found[name] for name in names}


def figures(study: Study, folder: Path, split: str) -> dict[str, Any]:
    """The table of a split.

    Args:
        study: of the folder.
        folder: holds its answers.
        split: `val` or `test`.

    Returns:
        For JSON: `name`, `split`, `images`, `groups`, `measure` (the first figure, by which gaps are told),
        `figures` (their names), and `rows`: per row `title`, `kind`, `note`, `parameters`, `macs`, `seeds`; per figure
        `mean`, `deviation` over seeds (null for one), `low` and `high` (95 %, resampling groups, of the mean over
        seeds); `gap`: the share of the way from the baseline to the teacher, of the first figure, with `low` and
        `high`; and `gain`: its difference to the baseline with `low` and `high` on the same resamples. An interval that
        holds 0 is no gain.
    """
    answers = load_answers(study, folder)[split]
    one = next(iter(next(iter(answers.values())).values()))
    weights = group_weights(one.groups, one.sources, _REPEATS, 0)
    plain = np.ones((1, len(one.ids)))
    values = {row: [measure(a, study, plain) for a in seeds.values()] for row, seeds in answers.items()}
    drawn = {row: [measure(a, study, weights) for a in seeds.values()] for row, seeds in answers.items()}
    names = list(next(iter(values.values()))[0])
    first = names[0]

    def mean(row: str, source: dict[str, list[dict[str, NDArray[np.float64]]]], name: str) -> NDArray[np.float64]:
        return np.asarray(np.mean([found[name] for found in source[row]], axis=0))

    rows = []
    for row in study.rows:
        if row.name not in answers:
            continue
        told: dict[str, Any] = {
            "name": row.name, "title": row.title, "kind": row.kind, "note": row.note, "parameters": row.parameters,
            "macs": row.macs, "seeds": len(values[row.name]),
        }  # fmt: skip
        for name in names:
            each = [float(found[name][0]) for found in values[row.name]]
            figure = interval(float(np.mean(each)), mean(row.name, drawn, name))
            told[name] = {"mean": figure.value, "deviation": float(np.std(each, ddof=1)) if len(each) > 1 else None,
                          "low": figure.low, "high": figure.high, "each": each}  # fmt: skip
        if study.baseline in answers and row.name != study.baseline:
            gain = mean(row.name, values, first) - mean(study.baseline, values, first)
            gains = mean(row.name, drawn, first) - mean(study.baseline, drawn, first)
            told["gain"] = interval(float(gain[0]), gains).as_dict()
            if study.teacher in answers and row.name != study.teacher:
                way = mean(study.teacher, values, first) - mean(study.baseline, values, first)
                ways = mean(study.teacher, drawn, first) - mean(study.baseline, drawn, first)
                with np.errstate(divide="ignore", invalid="ignore"):
                    shares = np.where(ways > 0, gains / ways, np.nan)
                    told["gap"] = interval(float((gain / way)[0]) if way[0] > 0 else float("nan"), shares).as_dict()
        rows.append(told)
    return {"name": study.name, "split": split, "images": len(one.ids), "groups": len(set(one.groups.tolist())),
            "measure": first, "figures": names, "machine": study.machine, "rows": rows}  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The table for people, in percent."""
    names = found["figures"]
    about = (
        f"{found['name']}, {found['split']}: {found['images']} images of {found['groups']} groups; percent, mean and "
        f"deviation over seeds, 95 % interval over groups. {found['machine']}."
    )
    titles = " | ".join(name.replace("_", " ") for name in names)
    head = f"| row | parameters | seeds | {titles} | gain over scratch | of the gap |"
    lines = [about, "", head, "| --- | ---: | ---: |" + " ---: |" * (len(names) + 2)]
    for row in found["rows"]:
        cells = [row["title"], f"{row['parameters'] / 1e6:.2f} M", str(row["seeds"])]
        for name in names:
            figure = row[name]
            spread = "" if figure["deviation"] is None else f" ± {100 * figure['deviation']:.1f}"
            ends = "" if figure["low"] is None else f" ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
            cells.append("-" if figure["mean"] is None else f"{100 * figure['mean']:.1f}{spread}{ends}")
        cells.append(_difference(row.get("gain")))
        gap = row.get("gap")
        cells.append("" if gap is None or gap["value"] is None else f"{100 * gap['value']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(gain: dict[str, float] | None) -> str:
    if gain is None or gain["value"] is None:
        return ""
    told = f"{100 * gain['value']:+.1f}"
    if gain["low"] is None:
        return told
    none = gain["low"] <= 0 <= gain["high"]
    return f"{told} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}){': none' if none else ''}"
