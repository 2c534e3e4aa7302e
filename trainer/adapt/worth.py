"""What a clinic's own frames buy: a model that never saw a source, adapted with a few of its frames, asked about more.

Two thirds of the source's groups give frames, the others are asked about: no frame of a patient or recording is on both
sides. This is repeated with other parts, and with nested numbers of frames, so that 50 frames hold the 20 before them.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edge.errors import ConfigError, FoldsightError
from trainer.console import say
from trainer.options import add_machine

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge.bundle import DecisionSpec
    from trainer.evaluate import Judging
    from trainer.inputs import Inputs
    from trainer.recipe import Recipe
    from trainer.stages import Run

FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "decided": "decided",
    "right": "of those right",
    "confident": "others surely the finding",
}
"""What is told of a model at its own operating point, and its title."""
CHOSEN = "as chosen"
"""The way that the command would ship."""
_GIVEN = 2 / 3  # of the groups
_TRIES = 200  # ways of parting the groups before it is said that none will do


class Parts(NamedTuple):
    """One way of parting a source's groups.

    Attributes:
        given: indices of the frames that may be given, in the order in which they are: both labels alike, and of each
            label one group after the other.
        asked: indices of the frames that are asked about.
    """

    given: NDArray[np.int64]
    asked: NDArray[np.int64]


def part(labels: NDArray[np.int64], groups: NDArray[np.str_], most: int, seed: int) -> Parts:
    """Part a source's groups so that both sides hold both labels, and the given ones enough of each.

    Args:
        labels: (N,), 0 or 1.
        groups: (N,).
        most: how many frames must be there to give.
        seed: of the parts and of the order.

    Raises:
        FoldsightError: no way of parting these groups will do.
    """
    from trainer.adapt.choose import LEAST_GROUPS  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    names = np.array(sorted(set(groups.tolist())))
    for _ in range(_TRIES):
        order = rng.permutation(len(names))
        chosen = names[order[: max(LEAST_GROUPS, round(_GIVEN * len(names)))]]
        inside = np.isin(groups, chosen)
        given, asked = np.flatnonzero(inside), np.flatnonzero(~inside)
        if len(given) < most or len(set(labels[asked].tolist())) < 2:  # noqa: PLR2004
            continue
        turns = [_in_turn(given[labels[given] == label], groups, rng) for label in (0, 1)]
        several = all(len(set(groups[turn].tolist())) > 1 for turn in turns)
        if several and min(len(turn) for turn in turns) >= most // 2:
            both = np.stack([turn[: most // 2] for turn in turns], axis=1).reshape(-1)
            return Parts(both, asked)
    raise FoldsightError(
        f"its {len(names)} groups cannot be parted so that one part gives {most} frames, {most // 2} of each label and "
        "each of two groups or more, and the other shows both labels: ask for fewer frames, or add groups"
    )


def _in_turn(frames: NDArray[np.int64], groups: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Frames in an order that takes one of each group before the second of any."""
    drawn = rng.permutation(frames)
    turn = np.zeros(len(drawn), np.int64)
    for name in set(groups[drawn].tolist()):
        own = groups[drawn] == name
        turn[own] = np.arange(own.sum())
    return np.asarray(drawn[np.argsort(turn, kind="stable")])


def measured(model: bytes, point: DecisionSpec, inputs: Inputs, judging: Judging) -> dict[str, float]:
    """The figures of `FIGURES` of an INT8 model at an operating point, frame by frame."""
    from trainer.evaluate import finding_scores, run_model  # noqa: PLC0415
    from trainer.metrics import figures  # noqa: PLC0415

    logits = run_model(model, inputs, title="frames of other groups", labels=len(judging.labels)).logits
    scores = finding_scores(logits, judging, point.temperature)
    truth = inputs.labels == judging.index
    found = figures(truth, scores - point.threshold + 0.5, np.ones((1, len(truth))))  # `figures` decides at one half
    sure = (scores >= point.high) | (scores <= point.low)
    right = (scores >= point.threshold) == truth
    return {
        "balanced_accuracy": float(found["balanced_accuracy"][0]),
        "auc": float(found["auc"][0]),
        "decided": float(sure.mean()),
        "right": float(right[sure].mean()) if sure.any() else float("nan"),
        "confident": float((scores[~truth] >= point.high).mean()),
    }


def worth(
    run: Run, sources: Sequence[str], *, frames: Sequence[int], draws: int, seed: int, scratch: Path
) -> dict[str, Any]:
    """Adapt the bundle of a run that left sources out, with more and more of their frames.

    Args:
        run: of `trainer.unseen.without`, its student trained.
        sources: that it left out.
        frames: how many are given, rising.
        draws: ways of parting the groups.
        seed: of the parts and the fits.
        scratch: a folder for what is made on the way.

    Returns:
        For JSON: `images`, `groups`, `draws`; and `rows`, each with the `frames` given, the `way` (`CHOSEN`: what the
        command would ship), the figures' mean and `deviation` (n - 1) over draws, and for `CHOSEN` how often each way
        was it.
    """
    from edge.bundle import Bundle  # noqa: PLC0415
    from trainer.adapt.choose import SHIPPED  # noqa: PLC0415
    from trainer.adapt.command import rendered, try_ways  # noqa: PLC0415
    from trainer.unseen import only  # noqa: PLC0415

    bundle = Bundle.open(run.bundle())
    shipped = bundle.files[bundle.artefact("int8").file]
    every = only(run.inputs("test"), sources)
    fit = np.flatnonzero(every.fit)
    if not len(fit):
        raise FoldsightError(f"{'+'.join(sources)}: none of its frames is fit to be judged")
    labels, groups = every.labels[fit], every.groups[fit]
    replay = rendered(bundle)
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    chosen: dict[int, list[str]] = {count: [] for count in frames}
    for draw in range(draws):
        parts = part(labels, groups, max(frames), seed + draw)
        asked = every.take(fit[parts.asked])
        for count in frames:
            say(f"adapting with {count} frames, part {draw + 1} of {draws}")
            given = [every.records[k] for k in fit[parts.given[:count]].tolist()]
            tried = try_ways(bundle, given, run.root, trained=run.out, seed=seed, threads=run.machine.threads,
                             scratch=scratch / f"{draw}-{count}", more=replay)  # fmt: skip
            best, best_model, best_point = tried.best()
            made = {way.name: tried.made(way) for way in tried.ways if way is not best}
            made[best.name] = best_model, best_point
            for name, (model, point) in made.items():
                told = measured(model or shipped, point, asked, tried.bench.judging)
                if name != SHIPPED or count == frames[0]:  # it is the same for all counts
                    found.setdefault((count if name != SHIPPED else 0, name), []).append(told)
                if name == best.name:
                    found.setdefault((count, CHOSEN), []).append(told)
            chosen[count].append(best.name)
    rows = [{"frames": count, "way": name, "figures": _over(told)} for (count, name), told in sorted(found.items())]
    for row in rows:
        if row["way"] == CHOSEN:
            row["chosen"] = dict(Counter(chosen[row["frames"]]).most_common())  # type: ignore[index]
    return {"images": len(fit), "groups": len(set(groups.tolist())), "draws": draws, "rows": rows}


def _over(found: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    told = {}
    for name in FIGURES:
        values = np.array([one[name] for one in found])
        known = values[~np.isnan(values)]
        told[name] = {"value": float(known.mean()) if len(known) else None,
                      "deviation": float(known.std(ddof=1)) if len(known) > 1 else None}  # fmt: skip
    return told


def markdown(report: dict[str, Any]) -> str:
    """The report as a table in percent: mean over draws +- their deviation."""
    lines = [
        "| frames given | way | " + " | ".join(FIGURES.values()) + " |",
        "| ---: | --- |" + " ---: |" * len(FIGURES),
    ]
    for row in report["rows"]:
        cells = []
        for name in FIGURES:
            figure = row["figures"][name]
            more = "" if figure["deviation"] is None else f" +- {100 * figure['deviation']:.1f}"
            cells.append("" if figure["value"] is None else f"{100 * figure['value']:.1f}{more}")
        times = ", ".join(f"{name} {count}" for name, count in row.get("chosen", {}).items())
        lines.append(f"| {row['frames']} | {row['way']}{f' ({times})' if times else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the command ---


def add_options(parser: Any) -> None:
    """The command's options."""
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe that ships with Foldsight")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the images")
    parser.add_argument("--without", required=True, help="the source that training leaves out; A+B: both at once")
    parser.add_argument("--out", type=Path, help="folder of the runs, as of `unseen` (default: runs/RECIPE-unseen)")
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--frames", default="20,50,100", help="how many are given, by commas (default: 20,50,100)")
    parser.add_argument("--draws", type=int, default=5, help="ways of parting the source's groups (default: 5)")
    add_machine(parser, workers=True)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def held_out(recipe: Recipe, source: str, seed: int) -> Recipe:
    """The recipe of the run without a source, with a bundle for INT8 alone, judged on the validation split alone."""
    from trainer.unseen import Held, without  # noqa: PLC0415

    found = without(recipe, Held(source, seed))
    return found.model_copy(
        update={
            "evaluate": found.evaluate.model_copy(update={"splits": ["val"]}),
            "bundle": found.bundle.model_copy(update={"artefacts": ["int8"]}),
            "maps": found.maps if found.teacher.focus or found.distil.focus else None,  # no refit touches a map
        }
    )


def run(arguments: argparse.Namespace) -> int:
    """`foldsight-trainer adapt-worth`."""
    from trainer.adapt.choose import LEAST_EACH, LEAST_FRAMES  # noqa: PLC0415
    from trainer.ledger import note_reading  # noqa: PLC0415
    from trainer.recipe import digest, load_recipe  # noqa: PLC0415
    from trainer.stages import Machine, Run  # noqa: PLC0415
    from trainer.unseen import Held  # noqa: PLC0415

    recipe = load_recipe(arguments.recipe)
    parts = [part.strip() for part in arguments.frames.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) >= LEAST_FRAMES for part in parts):
        raise ConfigError(
            f"--frames {arguments.frames}: give whole numbers from {LEAST_FRAMES} on, by commas; fewer cannot be "
            f"validated ({LEAST_EACH} of each label)"
        )
    if arguments.draws < 1 or arguments.seed < 0:
        raise ConfigError(
            f"--draws {arguments.draws} --seed {arguments.seed}: give one draw or more, and a seed from 0"
        )
    frames = sorted({2 * (int(part) // 2) for part in parts})
    held = Held(arguments.without, arguments.seed)
    out = (arguments.out or Path("runs") / f"{recipe.name}-unseen") / held.folder
    own = Run(
        held_out(recipe, held.source, held.seed), arguments.data, out, Machine(arguments.threads, arguments.workers)
    )
    own.remember()
    asked = sum(record.source in held.sources for record in own.records)
    note_reading(out, "adapt-worth", digest(own.recipe), asked)
    with tempfile.TemporaryDirectory() as folder:
        report = worth(own, held.sources, frames=frames, draws=arguments.draws, seed=held.seed, scratch=Path(folder))
    if arguments.json:
        print(json.dumps(report))
    else:
        print(
            f"{held.source}: {report['images']} images of {report['groups']} groups, parted in {report['draws']} ways\n"
        )
        print(markdown(report))
    return 0
