"""What each measure is worth on a source that was left out: one teacher per row of changes to a recipe, and a table.

Only teachers are trained, at a budget that a small machine has; all rows of a source and a seed share the imported and
decoded images. What is done is not done again, and the table is written anew after every row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge.errors import ConfigError, FoldsightError
from trainer.answers import SplitAnswers
from trainer.console import say
from trainer.recipe import Recipe, check_recipe, digest, load_recipe
from trainer.unseen import Held, without

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from trainer.data.manifest import Record
    from trainer.evaluate import Judging
    from trainer.recipe import DecideSettings
    from trainer.stages import Machine, Run

SHIPPED = Path(__file__).parent / "ablations"
TABLE = "ablation"
FIGURES = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "recall_other": "recall other",
    "recall_finding": "recall finding",
    "confident": "others surely the finding",
    "other_anatomy": "other anatomy surely the finding",
}
"""What is told of a row, and its title. The first five are of the source left out, the last of known ones."""
_COMPARED = ("auc", "balanced_accuracy")
_SIDES = (64, 256)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Part):
    """A row: what it changes in the recipe.

    Attributes:
        name: unique.
        title: how the table calls it; its name where there is none.
        after: the name of a row above, whose changes come first.
        change: parts of a recipe, laid over it.
    """

    name: str = Field(min_length=1)
    title: str = ""
    after: str | None = None
    change: dict[str, Any] = {}


class Rows(_Part):
    """The file of rows."""

    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Rows:
        known: list[str] = []
        for row in self.rows:
            if row.name in known:
                msg = f"row {row.name} stands there twice"
                raise ValueError(msg)
            if row.after is not None and row.after not in known:
                msg = f"row {row.name} comes after {row.after}, which is none of the rows above it: {known}"
                raise ValueError(msg)
            known.append(row.name)
        return self

    def changes(self) -> dict[str, dict[str, Any]]:
        """By row all that it changes, with what the row it comes after does."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            found[row.name] = merged(found[row.after] if row.after else {}, row.change)
        return found


class Budget(NamedTuple):
    """What a teacher may cost; None leaves it to the recipe.

    Attributes:
        epochs: of its training.
        images: of an epoch.
        side: pixels of the input.
    """

    epochs: int | None = None
    images: int | None = None
    side: int | None = None


def merged(content: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others laid over them, part by part."""
    found = dict(content)
    for name, value in change.items():
        old = found.get(name)
        found[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def load_rows(name: str) -> Rows:
    """Read a file of rows, given by its path or as one that ships.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    path = Path(name)
    if not path.exists() and (SHIPPED / f"{name}.yaml").exists():
        path = SHIPPED / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise ConfigError(f"{name}: no rows there ({error.strerror}); give a YAML file, or one of: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    return check_recipe(Rows, content, str(path))


def row_recipe(recipe: Recipe, change: Mapping[str, Any], held: Held, budget: Budget, where: str) -> Recipe:
    """The recipe of a row without a source: its teacher alone counts.

    Raises:
        ConfigError: the change fits no recipe.
    """
    content = merged(recipe.model_dump(mode="json"), change)
    train = {"epochs": budget.epochs, "epoch_images": budget.images}
    content["teacher"]["train"] |= {name: value for name, value in train.items() if value is not None}
    if budget.epochs is not None:
        content["unseen"] = None  # it would shorten them further
    if budget.side is not None:
        content["input"] |= {"height": budget.side, "width": budget.side}
    return without(check_recipe(Recipe, content, where), held)


class Asked(NamedTuple):
    """What a row's teacher said.

    Attributes:
        seen: of the validation split of the sources that it knows.
        unseen: of the source that was left out.
        never: sources that never show the finding: other anatomy.
    """

    seen: SplitAnswers
    unseen: SplitAnswers
    never: Sequence[str]


def ask(run: Run, held: Held, spared: Collection[str]) -> Asked:
    """Train a row's teacher and ask it, through the device's own code; what is there already is not done again.

    Args:
        run: the row's.
        held: what is left out.
        spared: groups and paths of images that are not looked at.

    Raises:
        FoldsightError: no image of the source is left to ask about.
    """
    from trainer.evaluate import kept_answers, run_model  # noqa: PLC0415
    from trainer.train import LAST  # noqa: PLC0415

    folder, finding = run.teacher(), run.recipe.finding
    (folder / LAST).unlink(missing_ok=True)  # of a training that is over; the best epochs of many rows are enough
    unseen = [r for r in run.records if r.source in held.sources and r.group not in spared and r.path not in spared]
    if not unseen:
        raise FoldsightError(f"{held.source}: all its images are of the test split; choose another, or add --with-test")
    found = {}
    for name, records in (("seen", run.split("val")), ("unseen", unseen)):
        path = folder / f"answers-{name}-{digest([r.name() for r in records])[:10]}.npz"
        if not path.exists():
            inputs = run.prepared(records, "val" if name == "seen" else name)
            model = run.models(("teacher",))["teacher"]
            answer = run_model(model, inputs, title=f"the teacher on {name}", labels=len(run.recipe.labels))
            kept_answers(answer.logits, inputs).save(path)
        found[name] = SplitAnswers.load(path)
    showing = {record.source for record in run.records if record.label == finding}
    never = sorted({record.source for record in run.split("val")} - showing)
    return Asked(found["seen"], found["unseen"], never)


class _Measured(NamedTuple):
    """Figures of one teacher: each its value, and its resamples (R,) over groups, or None."""

    values: dict[str, float]
    resampled: dict[str, NDArray[np.float64] | None]
    threshold: float


def _measure(
    asked: Asked, judging: Judging, settings: DecideSettings, groups: Sequence[str], draws: NDArray[np.float64]
) -> _Measured:
    """Figures at the operating point that the validation split of the known sources gives.

    Args:
        asked: the answers.
        judging: how logits are read.
        settings: of the operating point.
        groups: of all images that any teacher was asked about.
        draws: (R, groups), how often each is drawn.
    """
    from trainer.evaluate import finding_scores  # noqa: PLC0415
    from trainer.export import choose_decision  # noqa: PLC0415
    from trainer.metrics import figures  # noqa: PLC0415

    decision = choose_decision(asked.seen.logits, asked.seen, judging, settings)
    unseen = asked.unseen
    scores = finding_scores(unseen.logits, judging, decision.temperature)
    truth = unseen.labels == judging.index
    place = {group: i for i, group in enumerate(groups)}
    weights = draws[:, [place[group] for group in unseen.groups.tolist()]]
    resampled: dict[str, NDArray[np.float64] | None] = {}
    values: dict[str, float] = {}
    for each, chosen in ((values, np.ones((1, len(truth)))), (resampled, weights)):
        found = figures(truth, scores - decision.threshold + 0.5, chosen)  # `figures` decides at one half
        with np.errstate(invalid="ignore"):
            found["confident"] = chosen @ ((scores >= decision.high) & ~truth) / (chosen @ ~truth)
        for name in list(FIGURES)[:-1]:
            each[name] = found[name] if each is resampled else float(found[name][0])  # type: ignore[assignment]
    inside = np.isin(asked.seen.sources, asked.never)
    known = finding_scores(asked.seen.logits[inside], judging, decision.temperature)
    values["other_anatomy"] = float((known >= decision.high).mean()) if inside.any() else float("nan")
    resampled["other_anatomy"] = None
    return _Measured(values, resampled, decision.threshold)


def tabulate(
    asked: Mapping[str, Mapping[int, Asked]], judging: Judging, settings: DecideSettings, *, repeats: int, seed: int = 0
) -> dict[str, Any]:
    """The figures of all rows on one source that was left out.

    A row's figure is the mean over its seeds. Its interval draws whole groups, the same for all seeds and rows; so does
    that of its difference from the first row, over the seeds that both have.

    Args:
        asked: by row and seed.
        judging: how logits are read.
        settings: of the operating point.
        repeats: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For JSON, by row: `seeds`, each with `images`, `groups`, the `threshold` and the figures; `figures` and
        `minus_first`, each with `value`, `low`, `high` and `deviation` over seeds.
    """
    from trainer.metrics import group_weights  # noqa: PLC0415

    every: dict[str, str] = {}
    for of_row in asked.values():
        for one in of_row.values():
            every |= dict(zip(one.unseen.groups.tolist(), one.unseen.sources.tolist(), strict=True))
    groups = sorted(every)
    draws = group_weights(np.array(groups), np.array([every[group] for group in groups]), repeats, seed)
    found = {row: {s: _measure(one, judging, settings, groups, draws) for s, one in seeds.items()}
             for row, seeds in asked.items()}  # fmt: skip
    first = next(iter(found.values()))
    report: dict[str, Any] = {}
    for row, seeds in found.items():
        told = {}
        for s, measured in seeds.items():
            unseen = asked[row][s].unseen
            told[str(s)] = {"images": len(unseen.ids), "groups": len(set(unseen.groups.tolist())),
                            "threshold": measured.threshold,
                            **{name: _number(value) for name, value in measured.values.items()}}  # fmt: skip
        report[row] = {
            "seeds": told,
            "figures": {name: _over(name, list(seeds.values()), several=len(groups) > 1) for name in FIGURES},
        }
        shared = [(measured, first[s]) for s, measured in seeds.items() if s in first]
        if seeds is not first and shared:
            report[row]["minus_first"] = {name: _over(name, [_less(a, b, name) for a, b in shared],
                                                      several=len(groups) > 1) for name in _COMPARED}  # fmt: skip
    return report


def _less(first: _Measured, second: _Measured, name: str) -> _Measured:
    a, b = first.resampled[name], second.resampled[name]
    apart = None if a is None or b is None else a - b
    return _Measured({name: first.values[name] - second.values[name]}, {name: apart}, 0.0)


def _over(name: str, parts: Sequence[_Measured], *, several: bool) -> dict[str, float | None]:
    """Mean over seeds with its interval over groups, and the seeds' deviation (n - 1)."""
    from trainer.metrics import interval  # noqa: PLC0415

    values = [part.values[name] for part in parts]
    resampled = [part.resampled[name] for part in parts]
    mean = None if not several or any(r is None for r in resampled) else np.mean(np.stack(resampled), axis=0)  # type: ignore[arg-type]
    told = interval(float(np.mean(values)), mean).as_dict()
    return told | {"deviation": _number(float(np.std(values, ddof=1))) if len(values) > 1 else None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def markdown(report: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The tables of a report, in percent: mean over seeds (interval over groups) +- deviation over seeds."""
    lines = []
    for source, rows in report["without"].items():
        one = next(iter(next(iter(rows.values()))["seeds"].values()))
        lines += [f"`{source}` left out: {one['images']} images of {one['groups']} groups", ""]
        lines += ["| row | seeds | " + " | ".join(FIGURES.values()) + " | AUC - first | balanced accuracy - first |"]
        lines += ["| --- | --- |" + " ---: |" * (len(FIGURES) + len(_COMPARED))]
        for name, row in rows.items():
            cells = [_cell(row["figures"][figure]) for figure in FIGURES]
            cells += [_cell(row.get("minus_first", {}).get(figure)) for figure in _COMPARED]
            lines.append(f"| {titles[name]} | {', '.join(row['seeds'])} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    told = f"{100 * figure['value']:.1f}"
    if figure["low"] is not None and figure["high"] is not None:
        told += f" ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
    return told + (f" +- {100 * figure['deviation']:.1f}" if figure["deviation"] is not None else "")


def ablate(
    recipe: Recipe,
    rows: Rows,
    root: Path,
    out: Path,
    machine: Machine,
    *,
    sources: Sequence[str],
    seeds: Sequence[int],
    budget: Budget,
    with_test: bool = False,
) -> dict[str, Any]:
    """Train and measure all rows, a whole seed before the next; the table lies in `out` as JSON and Markdown.

    The groups of the whole recipe's test split are spared, so that a measure may be chosen by this table.

    Args:
        recipe: what the rows change.
        rows: the rows; the others are compared with the first.
        root: the data root.
        out: folder of all teachers.
        machine: what it may use.
        sources: what is left out in turn; `A+B` are left out together.
        seeds: of the teachers, and of what is drawn from the data.
        budget: what a teacher may cost.
        with_test: look at the test split's groups too, and write that down.
    """
    from trainer.evaluate import Judging  # noqa: PLC0415
    from trainer.ledger import note_reading  # noqa: PLC0415
    from trainer.stages import Run  # noqa: PLC0415

    changes = rows.changes()
    made = {
        (source, seed, name): row_recipe(recipe, change, Held(source, seed), budget, f"row {name}")
        for source in sources
        for seed in seeds
        for name, change in changes.items()
    }  # fmt: skip  every row is checked before the first is trained
    test: list[Record] = [r for r in Run(recipe, root, out / "whole", machine).records if r.split == "test"]
    spared = set() if with_test else {r.group for r in test} | {r.path for r in test}
    if with_test:
        note_reading(out, "ablate", digest(rows), sum(r.source in "+".join(sources).split("+") for r in test))
    judging = Judging(recipe.labels, recipe.finding)
    asked: dict[str, dict[str, dict[int, Asked]]] = {source: {} for source in sources}
    report: dict[str, Any] = {"recipe": recipe.name, "budget": budget._asdict(), "with_test": with_test, "without": {}}
    titles = {row.name: row.title or row.name for row in rows.rows}
    for seed in seeds:
        for source in sources:
            held = Held(source, seed)
            for name in changes:
                say(f"row {name}, seed {seed}, without {source}")
                run = Run(made[source, seed, name], root, out / held.folder, machine)
                asked[source].setdefault(name, {})[seed] = ask(run, held, spared)
                report["without"][source] = tabulate(
                    asked[source], judging, recipe.decide, repeats=recipe.evaluate.repeats
                )
                for kind, text in (("json", json.dumps(report, indent=1)), ("md", markdown(report, titles))):
                    part = out / f"{TABLE}.{kind}.part"
                    part.write_text(text + "\n", encoding="utf-8")
                    part.replace(out / f"{TABLE}.{kind}")
    return report


def command(arguments: argparse.Namespace) -> int:
    """`foldsight-trainer ablate`."""
    from trainer.stages import Machine  # noqa: PLC0415

    recipe, rows = load_recipe(arguments.recipe), load_rows(arguments.rows)
    sources, seeds = (
        [part.strip() for part in text.split(",") if part.strip()] for text in (arguments.without, arguments.seeds)
    )
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds {arguments.seeds}: give whole numbers from 0 on, by commas")
    if not sources:
        raise ConfigError(f"--without {arguments.without}: name a source")
    for name, least, most in (("epochs", 1, None), ("images", 1, None), ("side", *_SIDES)):
        value = getattr(arguments, name)
        if value is not None and (value < least or (most is not None and value > most)):
            told = f"{least} or more" if most is None else f"{least} to {most}"
            raise ConfigError(f"--{name} {value}: give {told}")
    if arguments.only:
        rows = _only(rows, [name.strip() for name in arguments.only.split(",") if name.strip()])
    out = arguments.out or Path("runs") / f"{recipe.name}-ablation"
    machine = Machine(arguments.threads, arguments.workers, arguments.accelerator)
    budget = Budget(arguments.epochs, arguments.images, arguments.side)
    report = ablate(recipe, rows, arguments.data, out, machine, sources=sources, seeds=[int(seed) for seed in seeds],
                    budget=budget, with_test=arguments.with_test)  # fmt: skip
    titles = {row.name: row.title or row.name for row in rows.rows}
    print(json.dumps(report) if arguments.json else markdown(report, titles))
    return 0


def _only(rows: Rows, names: Sequence[str]) -> Rows:
    """Some of the rows, each with all that it changes."""
    changes = rows.changes()
    unknown = [name for name in names if name not in changes]
    if unknown or not names:
        raise ConfigError(f"--only {','.join(names)}: the rows are {', '.join(changes)}")
    return Rows(rows=[Row(name=row.name, title=row.title, change=changes[row.name])
                      for row in rows.rows if row.name in names])  # fmt: skip
