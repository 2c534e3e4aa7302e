"""Leave one source out: train without it, then ask about it. What a model does in a clinic it has never seen.

Accuracy on groups of a known source says little about another scope in another room; here no image of the source, and
none that shares a group with one, takes part in training, validation or calibration.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.answers import SplitAnswers, join
from trainer.evaluate import answers_file, evaluate_split, finding_scores, kept_answers, run_model
from trainer.export import choose_decision
from trainer.stages import Run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from edge.bundle import DecisionSpec
    from trainer.evaluate import Judging
    from trainer.inputs import Inputs
    from trainer.recipe import DecideSettings, Recipe
    from trainer.stages import Machine

FIGURES = ("recall_other", "recall_finding", "balanced_accuracy", "auc")


@dataclass(frozen=True)
class Held:
    """What is left out, and the seed of the run without it.

    Attributes:
        source: a source, or several of one origin joined by `+`.
        seed: of the run.
    """

    source: str
    seed: int

    @property
    def sources(self) -> list[str]:
        """Each by itself."""
        return self.source.split("+")

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"without-{self.source}-seed{self.seed}"


def without(recipe: Recipe, held: Held) -> Recipe:
    """The recipe of the run that never sees the source, its masks' teacher included; without a smaller student."""
    update: dict[str, Any] = {
        "name": f"{recipe.name}-{held.folder}",
        "seed": held.seed,
        "data": recipe.data.model_copy(update={"hold_out": held.sources}),
        "smaller": None,
        "unseen": None,
    }
    if recipe.unseen is not None:
        shorter = {"teacher": recipe.unseen.teacher_epochs, "student": recipe.unseen.student_epochs}
        for network, epochs in shorter.items():
            chosen = getattr(recipe, network)
            train = chosen.train.model_copy(update={"epochs": min(epochs, chosen.train.epochs)})
            update[network] = chosen.model_copy(update={"train": train})
    return recipe.model_copy(update=update)


def leave_out(
    recipe: Recipe, root: Path, out: Path, machine: Machine, held: Held, rows: Sequence[str]
) -> dict[str, SplitAnswers]:
    """Train without a source and ask every row about all of its images; what is there already is not done again.

    Args:
        recipe: the whole recipe.
        root: the data root.
        out: folder of all such runs.
        machine: what it may use.
        held: what is left out.
        rows: of `trainer.evaluate.TITLES`.

    Returns:
        The answers by row; they lie in the run's folder too.
    """
    run = Run(without(recipe, held), root, out / held.folder, machine)
    run.remember()
    found = {}
    for row in rows:
        models = run.models((row,))
        path = run.out / f"{answers_file(row, 'unseen')}"
        key = hashlib.sha256(models[row]).hexdigest()
        note = path.with_suffix(".sha256")
        if not path.exists() or not note.exists() or note.read_text(encoding="ascii").strip() != key:
            unseen = only(run.inputs("test"), held.sources)
            answer = run_model(models[row], unseen, title=f"{row} on {held.source}", labels=len(recipe.labels))
            kept_answers(answer.logits, unseen).save(path)
            note.write_text(key + "\n", encoding="ascii")
        found[row] = SplitAnswers.load(path)
    return found


def operating_point(
    answers: Iterable[SplitAnswers], judging: Judging, settings: DecideSettings, spared: Collection[str] = ()
) -> DecisionSpec:
    """Temperature, threshold and uncertain band over sources that the models which were asked had never seen.

    Args:
        answers: of one row to each source that was left out, and each seed.
        judging: how logits are read.
        settings: what is wanted.
        spared: ids of images that may not be looked at, such as the test split's.
    """
    barred = set(spared)
    pooled = join([a.kept(np.array([i not in barred for i in a.ids.tolist()], bool)) for a in answers])
    return choose_decision(pooled.logits, pooled, judging, settings)


def measure(
    answers: Mapping[str, Mapping[str, Mapping[str, SplitAnswers]]],
    judging: Judging,
    settings: DecideSettings,
    *,
    repeats: int,
    spared: Collection[str] = (),
) -> dict[str, Any]:
    """What models say of sources that they have never seen.

    Each source is judged twice: where both labels are equally likely (`balanced_accuracy`), and at the operating point
    that the other sources' models have on what those had never seen (`across`, `confident`).

    Args:
        answers: by source that was left out, seed and row.
        judging: how logits are read.
        settings: of the operating point.
        repeats: of the bootstrap over groups.
        spared: ids of images that no operating point may look at.

    Returns:
        For JSON, by source: `seeds`, each with the number of `images` and `groups` and the figures by row, with
        intervals over groups; and `over_seeds`.
    """
    report: dict[str, Any] = {}
    for source, seeds in answers.items():
        found = {}
        for seed, rows in seeds.items():
            asked = next(iter(rows.values()))
            whole = evaluate_split({row: a.logits for row, a in rows.items()}, asked, judging,
                                   repeats=repeats, seed=int(seed))["rows"]  # fmt: skip
            figures = {}
            for row, answer in rows.items():
                others = [a[row] for name, runs in answers.items() if name != source for a in runs.values() if row in a]
                figures[row] = {name: whole[row]["overall"][name] for name in FIGURES}
                figures[row] |= _at(operating_point(others, judging, settings, spared) if others else None,
                                    answer, judging)  # fmt: skip
            found[seed] = {"images": len(asked.ids), "groups": len(set(asked.groups.tolist())), "rows": figures}
        report[source] = {"seeds": found, "over_seeds": over_seeds(list(found.values()))}
    return report


def _at(decision: DecisionSpec | None, answer: SplitAnswers, judging: Judging) -> dict[str, float | None]:
    """Mean recall of the labels there are, and the share of the others confidently called the finding."""
    if decision is None:
        return {"across": None, "confident": None}
    scores = finding_scores(answer.logits, judging, decision.temperature)
    truth = answer.labels == judging.index
    right = (scores >= decision.threshold) == truth
    recalls = [float(right[part].mean()) for part in (truth, ~truth) if part.any()]
    return {
        "across": float(np.mean(recalls)),
        "confident": float((scores[~truth] >= decision.high).mean()) if (~truth).any() else None,
    }


def only(inputs: Inputs, sources: Sequence[str]) -> Inputs:
    """The inputs of some sources."""
    return inputs.take(np.flatnonzero(np.isin(inputs.sources, sources)))


def over_seeds(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Mean and deviation (n - 1) of each row's figures over the seeds' reports of one source; None where undefined."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in reports[0]["rows"]:
        found[row] = {}
        for name in (*FIGURES, "across", "confident"):
            entries = [report["rows"][row][name] for report in reports]
            values = [e["value"] if isinstance(e, dict) else e for e in entries]
            known = [v for v in values if v is not None]
            found[row][name] = {
                "mean": float(np.mean(known)) if known else None,
                "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            }
    return found
