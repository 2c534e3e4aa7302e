"""The survey as pages that need nothing but themselves: an index, and a sheet per source and label."""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainer.clean.survey import Seen, Survey

TEMPLATES = Path(__file__).parent.parent / "templates"
MOST = 240
"""Pictures that one part of a page shows; it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the index: a source with one label."""

    source: str
    label: str
    images: int
    groups: int
    wrong: int
    unsure: int
    odd: int
    unfit: int
    page: str


def write_sheets(survey: Survey, folder: Path) -> Path:
    """Write the pages; returns the index.

    Args:
        survey: what was seen.
        folder: made if it is not there; pages of an earlier survey in it are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sheet-*.html"):
        old.unlink()
    pages = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    cells: dict[tuple[str, str], list[Seen]] = {}
    for seen in survey.seen:
        cells.setdefault((seen.frame.record.source, seen.frame.record.label), []).append(seen)
    rows = []
    for (source, label), unsorted in sorted(cells.items()):
        name = f"sheet-{_plain(source)}-{_plain(label) or 'unlabelled'}.html"
        found = sorted(unsorted, key=lambda seen: -seen.surprise)
        rows.append(_row(source, label, found, name))
        # Every picture of a cell is on its own page: that is what the page is for.
        part = {"title": _title(source, label), "about": "From the most surprising to the least.",
                "pictures": _pictures(found, len(found)), "more": 0}  # fmt: skip
        text = pages.get_template("clean.html").render(
            title=_title(source, label), survey=survey, rows=[], parts=[part], home="index.html"
        )
        (folder / name).write_text(text, encoding="utf-8")
    index = folder / "index.html"
    index.write_text(
        pages.get_template("clean.html").render(
            title=f"Images of {survey.root.resolve().name}", survey=survey, rows=rows, parts=_findings(survey), home=""
        ),
        encoding="utf-8",
    )
    return index


def summary(survey: Survey) -> dict[str, int]:
    """How many frames of each kind, for the command line."""
    return {
        "images": len(survey.seen),
        "unreadable": sum(bool(seen.fault) for seen in survey.seen),
        "unlabelled": sum(not seen.frame.labelled for seen in survey.seen),
        "wrong": sum(seen.wrong for seen in survey.seen),
        "uncertain": sum(seen.verdict == "uncertain" for seen in survey.seen),
        "odd": sum(seen.odd for seen in survey.seen),
        "near_duplicates": sum(len(cluster) for cluster in survey.twins),
        "clusters": len(survey.twins),
        "conflicting_clusters": sum(survey.conflicting(cluster) for cluster in survey.twins),
        "leaking_clusters": sum(survey.leaking(cluster) for cluster in survey.twins),
    }


def _findings(survey: Survey) -> list[dict[str, object]]:
    """The index' parts, each for one question."""
    seen = survey.seen
    by_surprise = sorted((s for s in seen if not s.fault), key=lambda s: -s.surprise)
    parts = []

    def add(title: str, about: str, found: Sequence[Seen]) -> None:
        if found:
            more = max(0, len(found) - MOST)
            parts.append({"title": f"{title}: {len(found)}", "about": about,
                          "pictures": _pictures(found, MOST), "more": more})  # fmt: skip

    add("Cannot be read", "Replace or remove these files.", [s for s in seen if s.fault])
    add(
        "The model contradicts the label",
        "Sure, and of the other opinion. Either it is wrong, or the label is.",
        [s for s in by_surprise if s.wrong],
    )
    add(
        "Unlike what the model knows",
        "Its score counts for little here (unfamiliar), or its map shows nothing that would bear it out (unsupported).",
        [s for s in by_surprise if s.odd],
    )
    add(
        "Not fit to be judged",
        "Blurred, dark, burnt out or not from inside the body: a device says uncertain.",
        [s for s in by_surprise if s.reasons and not s.odd],
    )
    add(
        "The model is unsure",
        "Fit to be judged, but within its uncertain band.",
        [s for s in by_surprise if s.verdict == "uncertain" and not s.reasons],
    )
    clusters = sorted(survey.twins, key=lambda c: (not survey.conflicting(c), not survey.leaking(c)))
    for title, about, chosen in (
        ("Look alike, labelled differently", "One of the labels is wrong.", survey.conflicting),
        ("Look alike, in different groups", "Give them one group, or a split separates copies.", survey.leaking),
        ("Look alike", "They count as one picture, more or less.", lambda _: True),
    ):
        found = [c for c in clusters if chosen(c)]
        clusters = [c for c in clusters if c not in found]
        add(title, about, [seen[k] for cluster in found for k in cluster])
    return parts


def _row(source: str, label: str, found: Sequence[Seen], page: str) -> Row:
    said = Counter(seen.verdict for seen in found)
    odd = sum(seen.odd for seen in found)
    return Row(
        source, label or "unlabelled", len(found), len({seen.frame.record.group for seen in found}),
        sum(seen.wrong for seen in found), said["uncertain"], odd, sum(bool(s.reasons) for s in found) - odd, page,
    )  # fmt: skip


def _pictures(found: Iterable[Seen], most: int) -> list[dict[str, str]]:
    return [
        {
            "name": seen.frame.name,
            "source": "data:image/jpeg;base64," + base64.b64encode(seen.thumb).decode() if seen.thumb else "",
            "kind": "wrong" if seen.wrong else "unsure" if seen.verdict == "uncertain" else "right",
            "said": _said(seen),
        }
        for seen in list(found)[:most]
    ]


def _said(seen: Seen) -> str:
    words = [seen.frame.record.label or "unlabelled"]
    if seen.score is not None:
        words.append(f"{seen.score:.2f}")
    return " · ".join([*words, *seen.reasons, *([seen.fault] if seen.fault else [])])


def _title(source: str, label: str) -> str:
    return f"{source}: {label or 'unlabelled'}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")
