"""Leave one source out: train without it, then ask about it. What a model does in a clinic it has never seen.

Accuracy on groups of a known source says little about another scope in another room; here no image of the source, and
none that shares a group with one, takes part in training, validation or calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluate import Judging, evaluate_split, finding_scores, run_model
from trainer.export import choose_decision
from trainer.inputs import Inputs
from trainer.stages import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trainer.recipe import Recipe
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
    """The recipe of the run that never sees the source."""
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-{held.folder}",
            "seed": held.seed,
            "data": recipe.data.model_copy(update={"hold_out": held.sources}),
        }
    )


def leave_out(
    recipe: Recipe, root: Path, out: Path, machine: Machine, held: Held, rows: Sequence[str]
) -> dict[str, Any]:
    """Train without a source and measure every row on all of its images; what is trained already is not trained again.

    Args:
        recipe: the whole recipe.
        root: the data root.
        out: folder of all such runs.
        machine: what it may use.
        held: what is left out.
        rows: of `trainer.evaluate.TITLES`.

    Returns:
        For JSON, by row: figures with intervals over the source's groups, and `confident`, the share of its images
        without the finding whose score reaches the upper end of the uncertain band fitted on the other sources.
    """
    run = Run(without(recipe, held), root, out / held.folder, machine)
    run.remember()
    judging = Judging(recipe.labels, recipe.finding)
    labels = len(recipe.labels)
    models = run.models(rows)
    val, unseen = run.inputs("val"), only(run.inputs("test"), held.sources)
    answers = {row: run_model(model, unseen, title=f"{row} on {held.source}", labels=labels).logits
               for row, model in models.items()}  # fmt: skip
    report = evaluate_split(answers, unseen, judging, repeats=recipe.evaluate.repeats, seed=held.seed)
    found: dict[str, Any] = {}
    for row, model in models.items():
        decision = choose_decision(
            run_model(model, val, title=f"{row} on the other sources", labels=labels).logits, val, judging,
            recipe.decide,
        )  # fmt: skip
        scores = finding_scores(answers[row], judging, decision.temperature)
        other = unseen.labels != judging.index
        overall = report["rows"][row]["overall"]
        found[row] = {
            **{name: overall[name] for name in FIGURES},
            "confident": float((scores[other] >= decision.high).mean()) if other.any() else None,
        }
    return {"images": report["images"], "groups": report["groups"], "rows": found}


def only(inputs: Inputs, sources: Sequence[str]) -> Inputs:
    """The inputs of some sources."""
    kept = np.flatnonzero(np.isin(inputs.sources, sources))
    return Inputs(inputs.images[kept], inputs.labels[kept], inputs.fit[kept], tuple(inputs.records[i] for i in kept))


def over_seeds(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Mean and deviation (n - 1) of each row's figures over the seeds' reports of one source; None where undefined."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in reports[0]["rows"]:
        found[row] = {}
        for name in (*FIGURES, "confident"):
            entries = [report["rows"][row][name] for report in reports]
            values = [e["value"] if isinstance(e, dict) else e for e in entries]
            known = [v for v in values if v is not None]
            found[row][name] = {
                "mean": float(np.mean(known)) if known else None,
                "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else None,
            }
    return found
