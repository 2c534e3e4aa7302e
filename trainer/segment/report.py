"""A study's tables: the grid of paper 4, the protocols, and what others published beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from trainer.segment.study import GRID, Cell
from trainer.segment.targets import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trainer.segment.folds import Fold
    from trainer.segment.recipe import Row
    from trainer.segment.study import Study

    Images = Sequence[dict[str, Any]]

_ALONE = "alone"
_SMALLEST_P = 0.001  # that is told in digits
_TEACHERS = ("teacher-usual", "teacher-weak")
NOTE = (
    "Dice: mean of its columns, each the mean over images; ± is the deviation over folds. p: Wilcoxon's signed ranks, "
    "paired over groups (sequences and recordings), against the student alone; not corrected for the number of rows."
)


def report(study: Study, best: Row) -> dict[str, Any]:
    """Everything that a study measured, ready to be printed.

    Args:
        study: What is not done is left out: folds of the grid, and of protocols.
        best: The student chosen by validation.

    Returns:
        `parameters`, `best`, `grid` (rows with Dice per source and class, mean, deviation, p, share of the gap) and
        `protocols` (rows with IoU and Dice, mean and deviation over folds).
    """
    teacher, student = study.parameters()
    folds = study.grid_folds()
    lines = [line for line in _rows(study, best) if line.row is None or line.row == best or not line.int8]
    told = {}
    for name in study.recipe.protocols:
        whole = [fold for fold in study.folds(name) if all(study.done(line.cell(name, fold)) for line in lines)]
        if whole:
            told[name] = _recovered([_protocol_row(study, name, whole, line) for line in lines])
    return {
        "recipe": study.recipe.name,
        "seed": study.recipe.seed,
        "images": len(study.records),
        "parameters": {"teacher": teacher, "student": student},
        "best": best.name,
        "folds": {"done": len(folds), "of": study.recipe.folds},
        "grid": _grid(study, folds) if folds else [],
        "recordings": [
            _recordings_row(study, folds, line)
            for line in _rows(study, best)
            if folds and all(study.done(line.cell(GRID, fold)) for fold in folds)
        ],
        "protocols": told,
        "published": study.recipe.published.model_dump(),
    }  # fmt: skip


def dice_by_cell(images: Images) -> dict[str, float]:
    """Mean Dice over images, by source and class."""
    return _by_cell(images, "dice")


def _by_cell(images: Images, measured: str) -> dict[str, float]:
    cells: dict[str, list[float]] = {}
    for image in images:
        for name, values in image["classes"].items():
            if measured in values:
                cells.setdefault(f"{image['source']} {name}", []).append(values[measured])
    return {name: float(np.mean(values)) for name, values in sorted(cells.items())}


def dice_by_group(images: Images) -> dict[str, float]:
    """Mean Dice of each sequence or recording, over its images and classes."""
    groups: dict[str, list[float]] = {}
    for image in images:
        found = [values["dice"] for values in image["classes"].values() if "dice" in values]
        if found:
            groups.setdefault(image["group"], []).append(float(np.mean(found)))
    return {name: float(np.mean(values)) for name, values in groups.items()}


def paired_p(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Wilcoxon's two-sided signed-rank test over the groups that both have; 1 where nothing differs."""
    differences = [ours[name] - theirs[name] for name in sorted(ours) if name in theirs]
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def pooled_iou(images: Images) -> dict[str, float]:
    """Intersection over union of each class, all images' pixels together, as the published figures have it."""
    found = {}
    for name in CLASSES:
        told = [image["classes"][name] for image in images if name in image["classes"]]
        union = sum(values["union"] for values in told)
        if union:
            found[name] = sum(values["intersection"] for values in told) / union
    return found


def _grid(study: Study, folds: Sequence[Fold]) -> list[dict[str, Any]]:
    weak = any(row.teacher == "weak" for row in study.recipe.grid)
    make: list[Callable[[Any], Cell]] = [lambda fold: Cell(GRID, fold)]
    make += [lambda fold: Cell(GRID, fold, weak=True)] * weak
    make += [lambda fold, row=row: Cell(GRID, fold, row) for row in study.recipe.grid]  # type: ignore[misc]
    rows: list[dict[str, Any]] = []
    for cell_of in make:
        cells = [cell_of(fold) for fold in folds]
        results = [study.result(cell) for cell in cells]
        by_fold = [list(dice_by_cell(result["test"]).values()) for result in results]
        means = [float(np.mean(values)) for values in by_fold]
        images = [image for result in results for image in result["test"]]
        rows.append({
            "name": cells[0].name,
            "val_dice": float(np.mean([result["val_dice"] for result in results])),
            "dice": _average(dice_by_cell(result["test"]) for result in results),
            "mean": float(np.mean(means)),
            "deviation": _deviation(means),
            "iou": float(np.mean(list(_by_cell(images, "iou").values()))),
            "distance": float(np.mean(list(_by_cell(images, "distance").values()))),
            "groups": dice_by_group(images),
        })  # fmt: skip
    alone = next(row for row in rows if row["name"] == _ALONE)
    teacher = next(row for row in rows if row["name"] == _TEACHERS[0])
    gap, of_alone = teacher["mean"] - alone["mean"], alone["groups"]
    published = study.recipe.published
    for row in rows:
        row["p"] = None if row is alone else paired_p(row["groups"], of_alone)
        taught = row["name"] not in (_ALONE, *_TEACHERS)
        row["recovered"] = (row["mean"] - alone["mean"]) / gap if taught and gap > 0 else None
        row["published"] = published.teacher if row is teacher else published.rows.get(row["name"])
        row["groups"] = len(row["groups"])
    return rows


class _Line(NamedTuple):
    """A row of a table: the cells of all folds but for the fold."""

    row: Row | None
    weak: bool = False
    int8: bool = False

    def cell(self, protocol: str, fold: Fold) -> Cell:
        return Cell(protocol, fold, self.row, weak=self.weak, int8=self.int8)


def _rows(study: Study, best: Row) -> list[_Line]:
    """The best student's teacher, the student alone and the best, FP32 and INT8."""
    alone = next(row for row in study.recipe.grid if row.pathway == _ALONE)
    students = [alone] if best.name == alone.name else [alone, best]
    return [_Line(None, weak=best.teacher == "weak"),
            *[_Line(row, int8=int8) for row in students for int8 in (False, True)]]  # fmt: skip


def _recordings_row(study: Study, folds: Sequence[Fold], line: _Line) -> dict[str, Any]:
    """The grid's folds once more, by recording and sequence, with INT8 beside FP32."""
    results = [study.result(line.cell(GRID, fold)) for fold in folds]
    images = [image for result in results for image in result["test"]]
    by_source: dict[str, list[float]] = {}
    for group, value in dice_by_group(images).items():
        source = next(image["source"] for image in images if image["group"] == group)
        by_source.setdefault(source, []).append(value)
    return {
        "name": results[0]["name"],
        "dice": float(np.mean([np.mean(list(dice_by_cell(result["test"]).values())) for result in results])),
        "groups": {source: {"mean": float(np.mean(values)), "deviation": _deviation(values),
                            "count": len(values)} for source, values in sorted(by_source.items())},
    }  # fmt: skip


def _protocol_row(study: Study, protocol: str, folds: Sequence[Fold], line: _Line) -> dict[str, Any]:
    results = [study.result(line.cell(protocol, fold)) for fold in folds]
    ious = [pooled_iou(result["test"]) for result in results]
    means = [float(np.mean(list(iou.values()))) for iou in ious]
    dices = [float(np.mean(list(dice_by_cell(result["test"]).values()))) for result in results]
    return {
        "name": results[0]["name"],
        "folds": {"done": len(folds), "of": len(study.folds(protocol))},
        "iou": _average(ious),
        "mean_iou": float(np.mean(means)),
        "deviation": _deviation(means),
        "dice": float(np.mean(dices)),
        "by_fold": {
            result["fold"]: {**iou, "dice": dice} for result, iou, dice in zip(results, ious, dices, strict=True)
        },
    }


def _recovered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add what share of the gap between teacher and student alone the taught ones close, in Dice."""
    teacher, alone = rows[0]["dice"], next(row["dice"] for row in rows if row["name"] == _ALONE)
    for row in rows:
        taught = row["name"] not in (_ALONE, *_TEACHERS)
        row["recovered"] = (row["dice"] - alone) / (teacher - alone) if taught and teacher > alone else None
    return rows


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _average(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for part in parts:
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def markdown(found: dict[str, Any]) -> str:
    """The tables of a `report`."""
    teacher, student = found["parameters"]["teacher"], found["parameters"]["student"]
    lines = [
        (
            f"Teacher {teacher:,} parameters, students {student:,} (1/{teacher / student:.0f}); "
            f"{found['images']} images, seed {found['seed']}, {found['folds']['done']} of {found['folds']['of']} folds "
            f"done. Best student: {found['best']}."
        ),
        "",
    ]
    if found["grid"]:
        lines += _grid_table(found)
    for protocol, rows in found["protocols"].items():
        title = protocol.replace("_", " ") + (" (leaks)" if protocol == "random_frames" else "")
        folds = rows[0]["folds"]
        if folds["done"] < folds["of"]:
            title += f", {folds['done']} of {folds['of']} folds"
        lines += ["", *_head([f"{title}: IoU, %", *CLASSES, "mean ± deviation", "Dice", "gap recovered"])]
        for row in rows:
            lines.append(_line([row["name"], *[_percent(row["iou"].get(name)) for name in CLASSES],
                                _spread(row["mean_iou"], row["deviation"]), _percent(row["dice"]),
                                _share(row["recovered"])]))  # fmt: skip
        if found["published"]["random_frames"]:
            lines.append(_line([f"published, by frame, seven classes: {found['published']['random_frames']}",
                                *[""] * (len(CLASSES) + 3)]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _grid_table(found: dict[str, Any]) -> list[str]:
    columns = sorted({name for row in found["grid"] for name in row["dice"]})
    lines = _head(["Dice, %", *columns, "mean ± deviation", "p", "gap recovered", "IoU", "boundary, % of diagonal",
                    "published"])  # fmt: skip
    for row in found["grid"]:
        lines.append(_line([
            row["name"], *[_percent(row["dice"].get(name)) for name in columns],
            _spread(row["mean"], row["deviation"]),
            _p(row["p"]),
            _share(row["recovered"]),
            _percent(row["iou"]), _percent(row["distance"]),
            "" if row["published"] is None else f"{row['published']:.2f}",
        ]))  # fmt: skip
    lines += ["", f"{NOTE} Groups: {found['grid'][0]['groups']}. Published: {found['published']['source']}.", ""]
    sources = sorted({source for row in found["recordings"] for source in row["groups"]})
    lines += _head(["Dice by group, %", *sources, "mean of all columns above"])
    for row in found["recordings"]:
        shown = [_spread(row["groups"][s]["mean"], row["groups"][s]["deviation"]) for s in sources]
        lines.append(_line([row["name"], *shown, _percent(row["dice"])]))
    return lines


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + " --- |" * len(names)]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _spread(mean: float, deviation: float | None) -> str:
    return _percent(mean) + ("" if deviation is None else f" ± {_percent(deviation)}")


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value >= _SMALLEST_P else f"< {_SMALLEST_P}"


def _share(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.0f} %"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
