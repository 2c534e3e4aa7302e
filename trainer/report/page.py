"""The evidence as one self-contained HTML page, and as JSON: nothing is fetched when it is opened."""

from __future__ import annotations

import base64
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edge.errors import ConfigError, FoldsightError
from trainer.answers import load_answers, load_study
from trainer.calibration import BINS
from trainer.evaluate import TITLES
from trainer.report.claim import checklist
from trainer.report.cost import NOTHING, cost_table
from trainer.report.evidence import Task, best_student, require_apart, split_evidence
from trainer.report.gather import GRADCAM, ROBUSTNESS
from trainer.report.tables import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.answers import Study, StudyRow
    from trainer.ledger import Reading

TEMPLATES = Path(__file__).parents[1] / "templates"
_DRAWN = 4  # models in one plot of curves: more cannot be told apart
_LISTED = 8  # models source by source
_CONTENTS = (
    ("claims", "Claims"), ("accuracy", "Accuracy"), ("comparisons", "Comparisons"), ("curves", "Thresholds"),
    ("calibration", "Calibration"), ("sources", "Sources"), ("robustness", "Corruptions"), ("looks", "Grad-CAM"),
    ("cost", "Cost"), ("data", "Data"), ("card", "Card"), ("how", "Method"),
)  # fmt: skip
_CONTROLS = (
    (("scratch",), "student from scratch", "that the student would have learnt it alone"),
    (("same_budget", "budget"), "from scratch, same budget", "that it only needed as long a training"),
    (("smoothing", "smooth"), "label smoothing", "that any soft label does"),
    (("plain", "no_map", "kd", "distilled"), "plain distillation", "that the refinement beyond it adds nothing"),
)
_FIGURES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "area under the curve",
    "macro_f1": "macro F1", "micro_f1": "micro F1", "macro_auc": "mean area under the curves",
    "exact": "all labels right",
}  # fmt: skip


def collect(target: Path, *, repeats: int = 2000, seed: int = 0, split: str | None = None) -> dict[str, Any]:
    """Compute all of the evidence of a study.

    Args:
        target: the study's folder, or its file.
        repeats: of the bootstrap.
        seed: of the bootstrap.
        split: the one that claims are made on; None takes the test split where answers to it are kept, else validation.

    Returns:
        For JSON: `study`, `split`, `splits`, `repeats`, `best`; `robustness` and `gradcam` where the folder holds them.

    Raises:
        ConfigError: there is no study, or no answers to the split.
        FoldsightError: its files do not fit, or its splits share a group.
    """
    study, folder = load_study(target)
    answers = load_answers(study, folder)
    require_apart(answers)
    chosen = split or ("test" if "test" in answers else "val")
    if chosen not in answers:
        raise ConfigError(
            f"{folder}: no answers to the {chosen} split are kept; there are {', '.join(sorted(answers))}"
        )
    found: dict[str, Any] = {
        "schema": 1, "study": study.model_dump(), "split": chosen, "repeats": repeats,
        "best": best_student(study, answers.get("val", answers[chosen])),  # tests choose nothing
        "splits": {
            name: split_evidence(study, name, rows, val=answers.get("val"), repeats=repeats, seed=seed)
            for name, rows in answers.items()
        },
    }  # fmt: skip
    for name, file in (("robustness", ROBUSTNESS), ("gradcam", GRADCAM)):
        if (folder / file).exists():
            found[name] = json.loads((folder / file).read_text(encoding="utf-8"))
    return found


def render(
    evidence: Mapping[str, Any],
    folder: Path,
    *,
    readings: Sequence[Reading] = (),
    stored: Mapping[str, Any] | None = None,
    costs: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Draw the page.

    Args:
        evidence: of `collect`.
        folder: of the study, where the pictures lie.
        readings: of the test split.
        stored: figures of an earlier evaluation (`trainer.evaluate`), shown where a split's answers are not kept.
        costs: what `make arm-cost` and `foldsight bench` printed as JSON.
    """
    from trainer.answers import Study  # noqa: PLC0415
    from trainer.gradcam import GLOTTIS_MARGIN, MARGIN  # noqa: PLC0415

    study = Study.model_validate(evidence["study"])
    task = Task.of(study)
    main = evidence["splits"][evidence["split"]]
    rows = [row for row in study.rows if row.name in main["rows"]]
    best = evidence["best"]
    titles = {row.name: row.title for row in study.rows}
    context = {
        "study": study, "main": main, "split": evidence["split"], "rows": rows, "best": best,
        "seeds": max(len(main["rows"][row.name]["seeds"]) for row in rows),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC", "contents": _CONTENTS,
        "css": Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
        "overall": task.overall,
        "per_label": [f"{n}:{label}" for n in task.by_label for label in study.labels],
        "titles_of": _figure_titles(study, task), "headline_title": _FIGURES[task.headline],
        "short_titles": {**_FIGURES, "auc": "AUC", "macro_auc": "mean AUC"},
        "compared": [task.headline, *([task.area] if task.area != task.headline else [])],
        "row_titles": titles, "cards": _cards(study, task, evidence, best), "claims": claims_of(study, task, evidence),
        "remarks": _remarks(study, evidence), "matrices": _matrices(study, main, rows, best),
        "others": _others(study, task, evidence, stored), "controls": _controls(study),
        "robustness": evidence.get("robustness"),
        "robustness_strengths": [str(s) for s in range(1, 6)],
        "gradcam": evidence.get("gradcam"), "margin": round(100 * MARGIN),
        "glottis_margin": round(100 * GLOTTIS_MARGIN),
        **_panels(evidence.get("gradcam"), folder, titles),
        "cost": cost_table(costs, titles), "readings": readings,
        "stored_test": bool(stored and "test" in stored["splits"]),
        **_card(study, evidence),
        "asked": "Every answer was given by the device's own preprocessing and runtime, one image at a time."
        if all(row.bytes for row in rows)
        else "Images were prepared by the device's own preprocessing; networks answered in torch.",
        "listed": _shown(study, rows, best, _LISTED),
        "source_figures": [task.headline, *[f"recall:{label}" for label in study.labels]][:6],
        "calibration_note": _calibration_note(study, task, main), "source_note": _source_note(main),
        "group_note": "Numbers in the JSON, no names: they may be people's.",
        "seed_note": "With one seed the chance of training is in no interval." if all(
            len(main["rows"][row.name]["seeds"]) < 2 for row in rows) else "",  # noqa: PLR2004
        "repeats": f"{evidence['repeats']:,}", "bins": BINS, "version": version("foldsight"),
        "runtime": onnxruntime.__version__,
        **_plots(study, task, evidence, rows, best),
    }  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(context)


# --- words ---


def _figure_titles(study: Study, task: Task) -> dict[str, str]:
    return {**_FIGURES, **{f"{n}:{label}": f"{'AUC' if n == 'auc' else n.replace('f1', 'F1')} {label}"
                           for n in task.by_label for label in study.labels}}  # fmt: skip


def claims_of(study: Study, task: Task, evidence: Mapping[str, Any]) -> list[dict[str, str]]:
    """One sentence per comparison, with its verdict; what is inside the interval is called none."""
    main = evidence["splits"][evidence["split"]]
    titles = {row.name: row.title for row in study.rows}
    found = []
    for pair in main["comparisons"]:
        at = pair["figures"][task.headline]
        low, high = at["low"], at["high"]
        span = "no interval: one group" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        about = f" ({pair['about']})" if pair["about"] else ""
        told = "p < 0.001" if at["holm"] < 0.001 else f"p = {at['holm']:.3f}"  # noqa: PLR2004  what is worth telling
        found.append({
            "verdict": at["verdict"],
            "text": f"{titles[pair['first']]} against {titles[pair['second']]}{about}: {100 * at['value']:+.1f} points "
                    f"of {_FIGURES[task.headline]} ({span}), {told} after Holm.",
        })  # fmt: skip
    return found


def _cards(study: Study, task: Task, evidence: Mapping[str, Any], best: str | None) -> list[dict[str, str]]:
    main, cards = evidence["splits"][evidence["split"]], []
    wanted = [(study.teacher, "teacher"), (study.baseline, "from scratch"), (best, "best student, by validation")]
    for name, what in wanted:
        if name is None or name not in main["rows"]:
            continue
        at, row = main["rows"][name]["figures"][task.headline], study.row(name)
        span = f"{100 * at['low']:.1f} to {100 * at['high']:.1f}" if at["low"] is not None else "no interval"
        size = "" if row.parameters is None else f", {row.parameters / 1e6:.2f} M parameters"
        cards.append({"title": what, "value": f"{100 * at['value']:.1f} %", "note": f"{span}; {row.title}{size}"})
    if best is not None:
        share = main["rows"][best]["recovered"]
        value = NOTHING if share is None or share["value"] is None else f"{100 * share['value']:.0f} %"
        note = (
            f"of the gap between scratch and teacher {percent(share, digits=0).partition(' ')[2]}"
            if share
            else "the gap between scratch and teacher is not beyond doubt here"
        )
        cards.append({"title": "recovered", "value": value, "note": note})
    return cards


def _remarks(study: Study, evidence: Mapping[str, Any]) -> list[str]:
    found = list(study.remarks)
    main = evidence["splits"][evidence["split"]]
    if evidence["split"] == "val":
        found.append(
            "Validation chose epochs and operating points: these figures are optimistic, and no claim should rest on "
            "them alone."
        )
    if all(len(row["seeds"]) < 2 for row in main["rows"].values()):  # noqa: PLR2004
        found.append(
            "One seed: another training of the same recipe would give other figures; no interval here says how far."
        )
    single = [source for source, size in main["sources"].items() if size["groups"] < 2]  # noqa: PLR2004
    if single:
        found.append(
            f"{', '.join(single)} {'has' if len(single) == 1 else 'have'} a single group here: it counts as certain in "
            "the overall intervals, which are too narrow for that reason."
        )
    return found


def _calibration_note(study: Study, task: Task, main: Mapping[str, Any]) -> str:
    what = (
        f"The probability of {study.labels[task.finding]} against how often it is there."
        if task.finding is not None
        else "The answer's own probability against how often it is right." if task.exclusive
        else "Every label's probability against how often it is there."
    )  # fmt: skip
    across = next(iter(main["rows"].values()))["calibration"]["across_groups"]
    how = (
        "The temperature of each image is fitted on the groups of other folds."
        if across
        else "The temperature is fitted on the validation split."
    )
    return f"{what} {how}"


def _source_note(main: Mapping[str, Any]) -> str:
    return (
        "An average over sources hides the one that fails. Each by itself:"
        if len(main["sources"]) > 1
        else "There is one source only: what another scope or clinic would show is not known."
    )


def _controls(study: Study) -> list[dict[str, str | None]]:
    found: list[dict[str, str | None]] = []
    for names, title, why in _CONTROLS:
        told = {row.name: f"{row.name} {row.title}".lower() for row in study.rows}
        row = next((row for name in names for row in study.rows if name in told[row.name]), None)
        found.append({"title": title, "why": why, "row": None if row is None else row.title})
    return found


# --- tables ---


def _matrices(
    study: Study, main: Mapping[str, Any], rows: Sequence[StudyRow], best: str | None
) -> list[dict[str, Any]]:
    found = []
    for name in _shown(study, rows, best):
        cells = main["rows"][name]["confusion"]
        if cells is None:
            return []
        found.append({
            "name": name, "title": study.row(name).title,
            "rows": [[{"count": f"{value:.0f}", "share": value / sum(line) if sum(line) else 0.0} for value in line]
                     for line in cells],
        })  # fmt: skip
    return found


def _shown(study: Study, rows: Sequence[StudyRow], best: str | None, count: int = _DRAWN) -> list[str]:
    """The few rows that plots show: teacher, baseline, best student, INT8 ones; then in order."""
    there = [row.name for row in rows]
    wanted = [study.teacher, study.baseline, best, *(row.name for row in rows if row.precision == "int8"), *there]
    return [name for name in dict.fromkeys(wanted) if name in there][:count]


def _others(
    study: Study, task: Task, evidence: Mapping[str, Any], stored: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Splits that no claim is made on: with answers, or only the figures of an earlier evaluation."""
    found = []
    for split, part in evidence["splits"].items():
        if split == evidence["split"]:
            continue
        found.append({
            "split": split, "note": f"{part['images']} images, {part['groups']} groups.",
            "titles": [_FIGURES[name] for name in task.overall],
            "lines": [{"name": row.name, "title": row.title,
                       "figures": [part["rows"][row.name]["figures"][name] for name in task.overall]}
                      for row in study.rows if row.name in part["rows"]],
        })  # fmt: skip
    for split, part in (stored or {"splits": {}})["splits"].items():
        if split in evidence["splits"]:
            continue
        names = ("accuracy", "recall_other", "recall_finding", "balanced_accuracy", "auc")
        finding = study.finding or study.labels[-1]
        other = next(label for label in study.labels if label != finding)
        found.append({
            "split": split,
            "note": f"{part['images']} images, {part['groups']} groups. As the run's evaluation stored it; its single "
                    "answers were not kept, so that nothing more can be computed.",
            "titles": ["accuracy", f"recall {other}", f"recall {finding}", "balanced accuracy", "area under the curve"],
            "lines": [{"name": name, "title": TITLES.get(name, name), "figures": [row["overall"][n] for n in names]}
                      for name, row in part["rows"].items() if name in {r.name for r in study.rows}],
        })  # fmt: skip
    return found


def _panels(gradcam: Mapping[str, Any] | None, folder: Path, titles: Mapping[str, str]) -> dict[str, Any]:
    if gradcam is None:
        return {"panels": [], "panel_columns": 1, "panel_licences": ""}
    parts: dict[str, list[dict[str, Any]]] = {}
    licences = set()
    columns = 1
    for panel in gradcam["panels"]:
        tiles = []
        for name, file in panel["files"].items():
            if name == "frame":
                caption = f"{panel['source']}, {panel['label']}" + (", mask outlined" if panel["mask"] else "")
            else:
                said = panel["said"][name]
                wrong = "" if said["label"] == panel["label"] else " (wrong)"
                caption = f"{titles.get(name, name)}: {said['label']} {100 * said['score']:.0f} %{wrong}"
            data = base64.b64encode((folder / file).read_bytes()).decode()
            tiles.append({"data": f"data:image/jpeg;base64,{data}", "alt": caption, "caption": caption})
        columns = max(columns, len(tiles))
        licences.add(f"{panel['source']}, {panel['licence']}")
        head = f"{panel['label']}, student {'right' if panel['right'] else 'wrong'}"
        parts.setdefault(head, []).append({"tiles": tiles})
    return {
        "panels": [{"title": title, "panels": listed} for title, listed in parts.items()],
        "panel_columns": columns,
        "panel_licences": "; ".join(sorted(licences)),
    }


def _card(study: Study, evidence: Mapping[str, Any]) -> dict[str, Any]:
    items = checklist(study, evidence)
    sources = sorted({row.source for row in study.data})
    card = [
        ("answers", f"{', '.join(study.labels)}" + (f"; looked for: {study.finding}" if study.finding else "")
         + ("" if study.exclusive else "; an image may have several")),
        ("intended", "Research: live hints beside the scope's own picture, looked at by a person."),
        ("not intended", "Finding disease, judging health or movement of the folds, use without the scope's picture."),
        ("learnt and measured on", ", ".join(sources) or "not listed"),
        ("not known", "Other scopes, hospitals and patients than those; severe disease; children."),
        ("machine", study.machine or "not named"),
    ]  # fmt: skip
    return {
        "card": card,
        "claim": items,
        "checked": {name: sum(item.status == status for item in items)
                    for name, status in (("filled", "filled"), ("partly", "partly"), ("missing", "not filled"))},
    }  # fmt: skip


# --- plots ---


def _plots(
    study: Study, task: Task, evidence: Mapping[str, Any], rows: Sequence[StudyRow], best: str | None
) -> dict[str, Any]:
    from trainer.report import plots  # noqa: PLC0415  matplotlib takes a second to load

    main = evidence["splits"][evidence["split"]]
    names = [row.name for row in study.rows]
    looks = plots.Looks(
        dict.fromkeys([*_shown(study, rows, best, _LISTED), *names])
    )  # what is drawn first is told apart
    titles = {row.name: row.title for row in study.rows}
    few = {name: main["rows"][name] for name in _shown(study, rows, best)}
    points = [
        {"name": row.name, "title": row.title, "macs": row.macs, "parameters": row.parameters,
         "figure": main["rows"][row.name]["figures"][task.headline]}
        for row in rows if row.macs and row.parameters
    ]  # fmt: skip
    curved = list(dict.fromkeys(label for row in few.values() for label in row["curves"]))
    shown = best if best is not None else rows[0].name
    claim = (
        f"claimed probability of {study.labels[task.finding]}" if task.finding is not None else "claimed probability"
    )
    drawn: dict[str, Any] = {
        "cost": plots.size_against_accuracy(points, looks, f"{_FIGURES[task.headline]}, %") if points else "",
        "curves": [
            plots.curves({n: r for n, r in few.items() if label in r["curves"]}, titles, looks, label)
            for label in curved
        ],
        "reliability": plots.reliability(few, titles, looks, claim),
        "risk": plots.risk(few, titles, looks),
        "forest": plots.forest(
            {name: main["rows"][name] for name in _shown(study, rows, best, _LISTED)}, titles, looks,
            task.headline, main["sources"],
            f"{_FIGURES[task.headline]}, %",
        ),
        "groups": plots.groups(main["rows"][shown]["by_group"], titles[shown], looks.colour(shown)),
        "robustness": plots.robustness(evidence["robustness"], titles, looks) if "robustness" in evidence else "",
    }  # fmt: skip
    safe = {
        name: [Markup(part) for part in found] if isinstance(found, list) else Markup(found)  # noqa: S704  drawn here
        for name, found in drawn.items()
    }
    return {"plots": safe, "colours": {name: looks.colour(name) for name in names}}


def write_page(page: str, evidence: Mapping[str, Any], out: Path, beside: Path | None = None) -> None:
    """Write page and JSON, each whole or not at all.

    Raises:
        FoldsightError: they cannot be written.
    """
    texts = {out: page, beside or out.with_suffix(".json"): json.dumps(evidence, indent=1) + "\n"}
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise FoldsightError(f"{path}: cannot be written ({error.strerror}); name another place") from error
