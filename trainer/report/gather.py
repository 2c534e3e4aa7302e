"""From a run's folder to what a report needs: answers, sizes, corrupted answers and maps, kept in its `evidence`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge import optics, preprocess
from edge.bench.host import fingerprint
from edge.errors import FoldsightError
from trainer import robustness
from trainer.answers import Study, StudyComparison, StudyData, StudyRow
from trainer.console import say
from trainer.data.manifest import data_hash
from trainer.data.pack import code_hash
from trainer.evaluate import TITLES, answers_file, kept_answers, run_model
from trainer.ledger import note_reading
from trainer.metrics import group_weights, interval
from trainer.onnx_cost import count_graph
from trainer.recipe import digest
from trainer.robustness import CLEAN, Corrupted, measure_corrupted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trainer.data.manifest import Record
    from trainer.gradcam import Looks, Place
    from trainer.inputs import Inputs
    from trainer.stages import Run

EVIDENCE, ROBUSTNESS, GRADCAM = "evidence", "robustness.json", "gradcam.json"
_CONTROLS = ("scratch", "same_budget", "smoothing", "plain")
_TESTED = (("int8", "distilled", "what INT8 costs"), ("distilled", "no_map", "what the map costs"),
           ("smaller", "int8", "what the smaller student costs"))  # fmt: skip
_ROBUST_ROWS = ("teacher", "distilled", "int8")
_LOOKING_ROWS = ("teacher", "scratch", "distilled")
_PANEL_SIDE = 160


def machine() -> str:
    """This machine in a few words."""
    found = fingerprint()
    return f"{found['cores']} cores of {found['board'] or found['cpu']}, {platform.system()} {platform.machine()}"


def gather_run(run: Run, *, read_test: bool = False) -> Path:
    """Make a study of a run: its rows' answers to the validation split, and to the test split where they are kept.

    Args:
        run: with trained networks; nothing is trained.
        read_test: ask about the test split too where its answers are not kept; it is written into the ledger.

    Returns:
        The folder of the study.
    """
    folder = run.out / EVIDENCE
    folder.mkdir(parents=True, exist_ok=True)
    names = run.finished()
    models = run.models(names)
    answers: dict[str, dict[str, str]] = {name: {} for name in names}
    for split in ("val", "test"):
        for name in names:
            kept = run.report_folder / answers_file(name, split)
            own = folder / _own_file(run, split, name, models[name])
            if kept.exists():
                answers[name][split] = f"../{kept.parent.name}/{kept.name}"
            elif own.exists():
                answers[name][split] = own.name
        missing = [name for name in names if split not in answers[name]]
        if not missing or (split == "test" and not read_test):
            continue
        require_same_images(run)
        inputs = run.inputs(split)
        if split == "test":
            note_reading(run.out, "report", digest(*(models[name].hex()[:64] for name in missing)), len(inputs.labels))
        for name in missing:
            own = folder / _own_file(run, split, name, models[name])
            said = run_model(models[name], inputs, title=f"{name} on {split}", labels=len(run.recipe.labels)).logits
            kept_answers(said, inputs).save(own)
            answers[name][split] = own.name
    _study(run, models, answers).save(folder)
    return folder


def _device_code() -> str:
    """Changes with the code that brings an image into the model's input."""
    return code_hash(Path(optics.__file__).parent, Path(preprocess.__file__))


def _own_file(run: Run, split: str, name: str, model: bytes) -> str:
    """Name of a file of answers that stands for all that they depend on."""
    key = digest("answers", 1, hashlib.sha256(model).hexdigest(), run.data_sha256, run.recipe.input, _device_code())
    return f"{split}-{name}-{key[:12]}.npz"


def require_same_images(run: Run) -> None:
    """Refuse to measure on images other than those that the run was made with: its labels may not be theirs.

    Raises:
        FoldsightError: files were changed, or the code that renders the phantom was.
    """
    if data_hash(run.records, run.root) != run.data_sha256:
        raise FoldsightError(
            f"{run.root}: its images, or the phantom's renderer, are no longer those of {run.out}: what "
            "was measured now would be of other images under old labels; train again, or give the images of then"
        )


def _study(run: Run, models: Mapping[str, bytes], answers: Mapping[str, dict[str, str]]) -> Study:
    recipe = run.recipe
    rows = []
    for name, model in models.items():
        cost = count_graph(model)
        kind = "teacher" if name == "teacher" else "control" if name in _CONTROLS else "student"
        rows.append(StudyRow(
            name=name, title=TITLES.get(name, name), kind=kind,
            note=recipe.teacher.backbone if name == "teacher" else "",
            precision="int8" if name in ("int8", "smaller") else "fp32",
            parameters=cost.parameters, macs=cost.macs, bytes=cost.bytes,
            answers={str(recipe.seed): answers[name]},
        ))  # fmt: skip
    return Study(
        name=recipe.name,
        about=recipe.about,
        labels=recipe.labels,
        finding=recipe.finding,
        rows=rows,
        baseline="scratch" if "scratch" in models else None,
        teacher="teacher" if "teacher" in models else None,
        comparisons=[StudyComparison(first=a, second=b, about=why) for a, b, why in _TESTED if {a, b} <= set(models)],
        data=data_rows(run.records),
        machine=machine(),
        recipe_sha256=digest(recipe),
        data_sha256=run.data_sha256,
    )


def data_rows(records: Sequence[Record]) -> list[StudyData]:
    """How many images and groups each split, source and label has."""
    cells = Counter((r.split, r.source, r.label) for r in records)
    groups = {cell: len({r.group for r in records if (r.split, r.source, r.label) == cell}) for cell in cells}
    order = {"train": 0, "val": 1, "test": 2}
    return [
        StudyData(split=cell[0], source=cell[1], label=cell[2], images=cells[cell], groups=groups[cell])
        for cell in sorted(cells, key=lambda c: (order.get(c[0], 3), c[1], c[2]))
    ]


# --- corruptions ---


def robustness_evidence(
    found: Corrupted, records: Sequence[Record], *, finding: str, repeats: int, seed: int
) -> dict[str, Any]:
    """Accuracy under every corruption, and what INT8 changes there.

    Args:
        found: the answers.
        records: of the images.
        finding: the label of the second logit.
        repeats: of the bootstrap over groups.
        seed: of it.

    Returns:
        For JSON: `conditions` (name, strength), `fit` (share that the device judges at all), and by row `accuracy` and
        `auc` per condition, `mean` (over all corruptions) by strength; `int8_minus_fp32` over all of them.
    """
    truth = np.array([r.label == finding for r in records])
    groups, sources = np.array([r.group for r in records]), np.array([r.source for r in records])
    weights = group_weights(groups, sources, repeats, seed)
    total = weights.sum(1)
    right = {row: (logits.argmax(2) == 1) == truth for row, logits in found.logits.items()}

    def figure(values: NDArray[np.float64]) -> dict[str, float | None]:
        return interval(float(values.mean()), weights @ values / total).as_dict()

    strengths = sorted({strength for name, strength in found.conditions if name != CLEAN})
    at = {s: [i for i, (_, strength) in enumerate(found.conditions) if strength == s] for s in strengths}
    report: dict[str, Any] = {
        "images": len(records),
        "groups": len(set(groups.tolist())),
        "sources": sorted(set(sources.tolist())),
        "conditions": [list(condition) for condition in found.conditions],
        "fit": [float(part.mean()) for part in found.fit],
        "rows": {
            row: {
                "accuracy": [figure(part.astype(np.float64)) for part in hits],
                "mean": {str(s): figure(hits[places].mean(0)) for s, places in at.items()},
            }
            for row, hits in right.items()
        },
    }
    if {"int8", "distilled"} <= set(right):
        corrupted = [i for i, (name, _) in enumerate(found.conditions) if name != CLEAN]
        less = right["int8"][corrupted].mean(0) - right["distilled"][corrupted].mean(0)
        report["int8_minus_fp32"] = figure(less)
    return report


def measure_robustness(run: Run, folder: Path, *, images: int, repeats: int = 1000) -> dict[str, Any]:
    """Corrupt validation images and ask teacher, FP32 and INT8 student; kept in the folder.

    Args:
        run: whose networks and images.
        folder: of the study.
        images: how many, spread over sources and labels.
        repeats: of the bootstrap.
    """
    names = [name for name in _ROBUST_ROWS if name in run.finished()]
    models = run.models(names)
    records = spread(run.split("val"), images, run.recipe.seed)
    code = code_hash(Path(robustness.__file__)) + _device_code()
    graphs = [hashlib.sha256(model).hexdigest() for model in models.values()]
    key = digest("robustness", 1, code, run.data_sha256, images, run.recipe.input, graphs)
    path = folder / ROBUSTNESS
    kept = _kept(path, key)
    if kept is not None:
        return kept
    require_same_images(run)
    say(f"corrupting {len(records)} validation images")
    found = measure_corrupted(models, records, run.root, run.recipe.input, len(run.recipe.labels))
    report = robustness_evidence(found, records, finding=run.recipe.finding, repeats=repeats, seed=run.recipe.seed)
    return _keep(path, {"key": key, "split": "val", "machine": machine(), **report})


def spread(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most `count` records, in turn from every source and label, and there in turn from every group."""
    rng = np.random.default_rng(seed)
    pools: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for i in rng.permutation(len(records)):
        record = records[i]
        pools.setdefault((record.source, record.label), {}).setdefault(record.group, []).append(record)
    queues = {
        cell: [part[turn] for turn in range(max(map(len, by.values()))) for part in by.values() if turn < len(part)]
        for cell, by in pools.items()
    }
    drawn: list[Record] = []
    while len(drawn) < min(count, len(records)):
        for cell in sorted(queues):
            if queues[cell] and len(drawn) < count:
                drawn.append(queues[cell].pop(0))
    return drawn


# --- where networks look ---


def measure_looks(run: Run, folder: Path, *, shown: Sequence[str] | None = None) -> dict[str, Any]:
    """Grad-CAM of teacher, scratch and distilled student on the validation split; figures and panels kept.

    Args:
        run: whose networks and images.
        folder: of the study; the panels lie in its `gradcam`.
        shown: sources whose frames may be drawn; None for all.
    """
    from trainer.gradcam import focus_by_source  # noqa: PLC0415

    names = [name for name in _LOOKING_ROWS if name in run.finished()]
    key = digest("gradcam", 2, run.data_sha256, run.recipe.input, sorted(shown or []),
                 [_weights(run, name).stat().st_mtime_ns for name in names])  # fmt: skip
    path = folder / GRADCAM
    kept = _kept(path, key)
    if kept is not None:
        return kept
    inputs, looks, places = looks_of(run, names)
    report: dict[str, Any] = {"key": key, "split": "val", "rows": {}, "panels": []}
    for name, seen in looks.items():
        report["rows"][name] = {"layer": seen.layer, "sources": focus_by_source(seen, inputs, places)}
    report["panels"] = _panels(run, inputs, looks, places, folder / "gradcam", shown)
    return _keep(path, report)


def looks_of(run: Run, names: Sequence[str]) -> tuple[Inputs, dict[str, Looks], list[Place]]:
    """Where networks look in the validation split, and where its masks are."""
    from trainer.console import Meter  # noqa: PLC0415
    from trainer.gradcam import look, place_in_input  # noqa: PLC0415
    from trainer.train import load_weights  # noqa: PLC0415

    require_same_images(run)
    inputs = run.inputs("val")
    looks = {}
    for name in names:
        model = run.new_teacher() if name == "teacher" else run.new_student(name)
        load_weights(model, _weights(run, name))
        looks[name] = look(model, inputs, name)
    places = []
    with Meter("masks", len(inputs.records)) as meter:
        for record in inputs.records:
            places.append(place_in_input(record, run.root, run.recipe.input))
            meter.advance(1)
    return inputs, looks, places


def _weights(run: Run, name: str) -> Path:
    from trainer.train import BEST  # noqa: PLC0415

    folder = run.teacher() if name == "teacher" else run.scratch() if name == "scratch" else run.distil(name)
    return folder / BEST


def _panels(
    run: Run,
    inputs: Inputs,
    looks: Mapping[str, Looks],
    places: Sequence[Place],
    folder: Path,
    shown: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Draw frames with and without the finding, those that the student has right and those that it has wrong."""
    from trainer.gradcam import choose_frames, overlay, plain  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    labels = run.recipe.labels
    judge = looks.get("distilled") or next(iter(looks.values()))
    sources = [s for s in sorted(set(inputs.sources.tolist())) if shown is None or s in shown]
    panels = []
    for label in (labels.index(run.recipe.finding), 1 - labels.index(run.recipe.finding)):
        for right, count in ((True, 2), (False, 1)):
            for source in sources:
                for index in choose_frames(inputs, judge, source, right=right, count=count, label=label):
                    tiles = {"frame": plain(inputs.images[index], places[index], _PANEL_SIDE)}
                    tiles |= {
                        name: overlay(inputs.images[index], seen.maps[index], _PANEL_SIDE)
                        for name, seen in looks.items()
                    }
                    files = {}
                    for name, tile in tiles.items():
                        files[name] = f"gradcam/{index:05}-{name}.jpg"
                        cv2.imwrite(str(folder.parent / files[name]), tile, [cv2.IMWRITE_JPEG_QUALITY, 82])
                    panels.append({
                        "label": labels[label], "right": right, "source": source,
                        "licence": inputs.records[index].licence, "mask": places[index].mask is not None,
                        "files": files,
                        "said": {name: {"label": labels[int(seen.said[index])], "score": float(seen.scores[index])}
                                 for name, seen in looks.items()},
                    })  # fmt: skip
    return panels


# --- keeping ---


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("key") == key else None


def _keep(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return report
