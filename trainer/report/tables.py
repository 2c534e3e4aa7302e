"""An evaluation for people: tables for the terminal and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from trainer.evaluate import TITLES, figure_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trainer.evaluate import Judging

_PER_SOURCE = ("recall_other", "recall_finding", "auc")


def percent(figure: Mapping[str, float | None], *, interval: bool = True, digits: int = 1) -> str:
    """`97.5 (96.1 to 98.8)`; a dash where there is nothing to measure, no interval where there is one group."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "-"
    text = f"{100 * value:.{digits}f}"
    if not interval or low is None or high is None:
        return text
    return f"{text} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def terminal_tables(report: Mapping[str, Any], judging: Judging) -> Iterator[Table]:
    """Per split: all images together, then source by source."""
    names = figure_names(judging)
    for split, found in report["splits"].items():
        heading = f"{split}: {found['images']} images, {found['groups']} groups; %, 95 % intervals by resampling groups"
        table = Table(title=heading, title_justify="left", title_style="bold")
        table.add_column("model", no_wrap=True)
        for title in (*names.values(), "mean of sources"):
            table.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
        for row in _ordered(found["rows"]):
            entry = found["rows"][row]
            cells = [percent(entry["overall"][name], interval=name == "accuracy") for name in names]
            table.add_row(TITLES.get(row, row), *cells, percent(entry["mean_of_sources"]))
        yield table
        table = Table(title=f"{split}, by source", title_justify="left", title_style="bold")
        table.add_column("source", no_wrap=True)
        table.add_column("images / groups", justify="right")
        table.add_column("model", no_wrap=True)
        for name in _PER_SOURCE:
            table.add_column(names[name], justify="right", no_wrap=True)
        for source in next(iter(found["rows"].values()))["sources"]:
            for place, row in enumerate(_ordered(found["rows"])):
                entry = found["rows"][row]["sources"][source]
                head = (source, f"{entry['images']} / {entry['groups']}") if place == 0 else ("", "")
                table.add_row(*head, TITLES.get(row, row), *(percent(entry[name]) for name in _PER_SOURCE))
            table.add_section()
        yield table


def remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """A line per split on what INT8 changed, on what the map costs, and on single frames at the operating point."""
    for split, found in report["splits"].items():
        if "int8_minus_fp32" in found:
            difference = found["int8_minus_fp32"]["accuracy"]
            yield (
                f"{split}: INT8 - FP32 accuracy {percent(difference, digits=2)} points, "
                f"agreement {100 * found['agreement']:.2f} %"
            )
        if "map_minus_none" in found:
            difference = found["map_minus_none"]["accuracy"]
            yield f"{split}: with the map - without, accuracy {percent(difference, digits=2)} points"
        if "operating" in found:
            parts = [
                f"{source} {100 * at['decided']:.1f} % decided"
                + (f", {100 * at['right_of_decided']:.1f} % of them right" if at["decided"] else "")
                for source, at in found["operating"].items()
            ]
            yield f"{split}: single frames at the bundle's operating point: " + "; ".join(parts)


def place_table(found: Mapping[str, Mapping[str, Any]], what: str) -> Table:
    """Where regions lie, by source (or frame rate) and label (`trainer.localise.Tally.figures`)."""
    table = Table(title=f"{what}: regions against masks", title_justify="left", title_style="bold")
    for title, side in (
        ("", "left"), ("label", "left"), ("shown / groups", "right"), ("found\n%", "right"), ("not there", "right"),
        ("said all the same\n%", "right"), ("centre error, % of longer side\nmedian", "right"), ("p90", "right"),
        ("box IoU, %\nmedian", "right"), ("mean", "right"),
    ):  # fmt: skip
        table.add_column(title, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for source, labels in found.items():
        for label, at in labels.items():
            numbers = [
                _share(at[name]) for name in ("centre_error_p50", "centre_error_p90", "box_iou_p50", "box_iou_mean")
            ]
            table.add_row(source, label, f"{at['shown']} / {at['groups']}", _share(at["found"]), str(at["absent"]),
                          _share(at["invented"]), *numbers)  # fmt: skip
    return table


_UNSEEN = {
    "recall_other": "recall other",
    "recall_finding": "recall finding",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "across": "at the others' operating point",
    "confident": "other confidently the finding",
}
"""Figures of `trainer.unseen.measure`, and their titles."""


def focus_table(found: Mapping[str, Any]) -> Table:
    """Where networks look in frames with a mask that they have right (`trainer.gradcam.focus_by_source`)."""
    table = Table(title="Grad-CAM against masks, right answers", title_justify="left", title_style="bold")
    for title in ("model", "source"):
        table.add_column(title, no_wrap=True)
    for title in ("images / groups", "on the folds\n%", "peak there\n%", "share there\n%", "chance\n%", "border\n%"):
        table.add_column(title, justify="right")
    for row, entry in found.items():
        for place, (source, at) in enumerate(entry["sources"].items()):
            cells = [_share(at[name]) for name in ("on_folds", "peak", "inside", "chance", "border")]
            table.add_row("" if place else TITLES.get(row, row), source, f"{at['images']} / {at['groups']}", *cells)
        table.add_section()
    return table


def unseen_table(report: Mapping[str, Any]) -> Table:
    """What models say of sources that they have never seen (`trainer.unseen`), mean and deviation over seeds."""
    table = Table(title="sources left out of training, %", title_justify="left", title_style="bold")
    for title in ("source", "images / groups", "model"):
        table.add_column(title, no_wrap=True)
    for title in _UNSEEN.values():
        table.add_column(title, justify="right")
    for rows in _unseen_rows(report).values():
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def unseen_markdown(report: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    lines = ["| source left out | images / groups | model | " + " | ".join(_UNSEEN.values()) + " |"]
    lines += ["| --- | ---: | --- |" + " ---: |" * len(_UNSEEN)]
    lines += ["| " + " | ".join(row) + " |" for rows in _unseen_rows(report).values() for row in rows]
    return "\n".join(lines) + "\n"


def _unseen_rows(report: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for source, part in report.items():
        one = next(iter(part["seeds"].values()))
        found[source] = []
        for place, (row, figures) in enumerate(part["over_seeds"].items()):
            cells = [_over_seeds(figures[name], one["rows"][row][name]) for name in _UNSEEN]
            head = [source, f"{one['images']} / {one['groups']}"] if place == 0 else ["", ""]
            found[source].append([*head, TITLES.get(row, row), *cells])
    return found


def _over_seeds(figure: Mapping[str, float | None], only: Any) -> str:
    """Mean and deviation of several seeds; of one seed the figure with its interval over groups."""
    if figure["deviation"] is None:
        return percent(only) if isinstance(only, dict) else _share(figure["mean"])
    return f"{_share(figure['mean'])} +- {_share(figure['deviation'])}"


def guard_table(found: Mapping[str, Mapping[str, int]]) -> Table:
    """How many single frames are confidently called the finding, guard by guard (`trainer.localise.other_anatomy`)."""
    table = Table(title="single frames confidently called the finding", title_justify="left", title_style="bold")
    table.add_column("images of", no_wrap=True)
    for title in ("images / groups", "by the score", "and fit to be judged", "and borne out by the model"):
        table.add_column(title, justify="right")
    for name, row in found.items():
        counts = [f"{row[guard]} ({100 * row[guard] / row['images']:.1f} %)" for guard in ("score", "quality", "model")]
        table.add_row(name, f"{row['images']} / {row['groups']}", *counts)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def markdown(report: Mapping[str, Any], judging: Judging) -> str:
    """The same tables in Markdown."""
    names = figure_names(judging)
    lines: list[str] = []
    for split, found in report["splits"].items():
        lines += [f"### {split}: {found['images']} images, {found['groups']} groups", ""]
        lines += ["| model | " + " | ".join((*names.values(), "mean of sources")) + " |"]
        lines += ["| --- |" + " ---: |" * (len(names) + 1)]
        for row in _ordered(found["rows"]):
            entry = found["rows"][row]
            cells = [percent(entry["overall"][name]) for name in names]
            lines.append(
                f"| {TITLES.get(row, row)} | " + " | ".join((*cells, percent(entry["mean_of_sources"]))) + " |"
            )
        lines += ["", "| source | images / groups | model | " + " | ".join(names[n] for n in _PER_SOURCE) + " |"]
        lines += ["| --- | ---: | --- |" + " ---: |" * len(_PER_SOURCE)]
        for source in next(iter(found["rows"].values()))["sources"]:
            for row in _ordered(found["rows"]):
                entry = found["rows"][row]["sources"][source]
                cells = [percent(entry[name]) for name in _PER_SOURCE]
                count = f"{entry['images']} / {entry['groups']}"
                lines.append(f"| {source} | {count} | {TITLES.get(row, row)} | " + " | ".join(cells) + " |")
        lines.append("")
    if "unseen" in report:
        lines += ["### Sources left out of training in turn", "", unseen_markdown(report["unseen"])]
    lines += [f"- {line}" for line in remarks(report)]
    return "\n".join(lines).strip() + "\n"


def _ordered(rows: Mapping[str, Any]) -> list[str]:
    return [name for name in TITLES if name in rows]
