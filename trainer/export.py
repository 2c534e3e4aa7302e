"""The last step: the operating point, golden outputs, the model card, and the bundle that a device installs."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import onnxruntime
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from edge.bundle import CARD, GOLDEN, Artefact, Bundle, DecisionSpec, Manifest, Metric, OutputSpec, write_bundle
from edge.capture.phantom import training_frames
from edge.decision import calibrate
from edge.errors import FoldsightError
from edge.optics import find_aperture
from edge.preprocess import Preprocessor
from edge.regions import map_probabilities
from edge.runtime import OnnxRuntime
from trainer.evaluate import finding_scores
from trainer.metrics import NAMES
from trainer.ncnn_export import MINIMUM as NCNN_MINIMUM
from trainer.ncnn_export import float_graph, ncnn_form
from trainer.report import markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edge.bundle import InputSpec, MapSpec, RuntimeName
    from trainer.answers import SplitAnswers
    from trainer.evaluate import Judging
    from trainer.inputs import Inputs
    from trainer.recipe import DecideSettings, Recipe

TEMPLATES = Path(__file__).parent / "templates"
_TEMPERATURES = np.geomspace(0.2, 20.0, 461)  # each 1 % above the one before
# Of a calibrated score; another processor rounds differently. TensorRT fuses what ONNX Runtime rounds in between, and
# builds half precision of FP32.
_TOLERANCE = {
    "onnxruntime": {"int8": 0.02, "fp32": 0.002},
    "tensorrt": {"int8": 0.05, "fp32": 0.02},
    "ncnn": {"fp32": 0.05},  # half precision where the processor has that: 0.022 was seen, INT8 lies 0.08 from FP32
}
# Of one cell, which rests on less than a score.
_MAP_TOLERANCE = {
    "onnxruntime": {"int8": 0.05, "fp32": 0.005},
    "tensorrt": {"int8": 0.1, "fp32": 0.05},
    "ncnn": {"fp32": 0.1},
}
_MINIMUM_RUNTIME: dict[str, str] = {"onnxruntime": "1.23", "tensorrt": "8.6", "ncnn": NCNN_MINIMUM}
_NCNN_CARD = """
## In ncnn

The bundle also holds the form for ncnn: the same weights, activations without rounding. The figures above are the INT8
model's; docs/quantisation.md of Foldsight says how the two compare.
"""
_GOLDEN_PHANTOMS, _GOLDEN_PATTERNS, _GOLDEN_SEED = 5, 3, 1


def cell_weights(labels: NDArray[np.int64], sources: NDArray[np.str_]) -> NDArray[np.float64]:
    """Weights (N,) that sum to 1, give both labels a half, and each source of a label the same part of it."""
    weights = np.zeros(len(labels))
    for label in set(labels.tolist()):
        present = sorted(set(sources[labels == label].tolist()))
        for source in present:
            cell = (labels == label) & (sources == source)
            weights[cell] = 1 / len(set(labels.tolist())) / len(present) / cell.sum()
    return weights


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """The temperature with the lowest weighted cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (N, C).
        labels: (N,).
        weights: (N,), their sum is 1.
    """
    wide = logits.astype(np.float64)

    def loss(temperature: float) -> float:
        scaled = wide / temperature
        top = scaled.max(1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(scaled - top).sum(1))
        return float((weights * (log_sum - scaled[np.arange(len(labels)), labels])).sum())

    return float(min(_TEMPERATURES, key=loss))


def choose_decision(
    logits: NDArray[np.float32], inputs: Inputs | SplitAnswers, judging: Judging, settings: DecideSettings
) -> DecisionSpec:
    """Temperature, threshold and uncertain band from the validation split of the model that ships.

    Every source counts alike (`cell_weights`). The threshold has the best balanced accuracy and, among equals, lies
    nearest to one half. From it the band opens on either side until what lies beyond is right as often as wanted, or
    until it is as wide as allowed.

    Args:
        logits: (N, C) of the INT8 model on the device's runtime.
        inputs: the validation split, or answers whose labels and sources count.
        judging: how logits are read.
        settings: what is wanted.
    """
    labels = np.asarray(inputs.labels, np.int64)
    weights = cell_weights(labels, inputs.sources)
    temperature = fit_temperature(logits, labels, weights)
    scores = finding_scores(logits, judging, temperature)
    truth = labels == judging.index
    grid = np.arange(0.2, 0.8001, 0.01)
    right = [float((weights * ((scores >= at) == truth)).sum()) for at in grid]
    best = max(right)
    near = [float(at) for at, value in zip(grid, right, strict=True) if value >= best - 1e-9]
    threshold = min(near, key=lambda at: abs(at - 0.5))

    def pure(chosen: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> bool:
        total = weights[chosen].sum()
        return bool(total > 0 and weights[chosen & wanted].sum() / total >= settings.precision)

    widths = np.arange(0, settings.widest + 1e-9, 0.01)
    up = next((float(w) for w in widths if pure(scores >= threshold + w, truth)), settings.widest)
    down = next((float(w) for w in widths if pure(scores <= threshold - w, ~truth)), settings.widest)
    return DecisionSpec(
        temperature=round(temperature, 4),
        low=round(max(0.0, threshold - max(down, 0.05)), 4),
        threshold=round(threshold, 4),
        high=round(min(1.0, threshold + max(up, 0.05)), 4),
        smoothing_s=settings.smoothing_s,
        dwell_s=settings.dwell_s,
        expire_s=settings.expire_s,
    )


def golden_inputs(spec: InputSpec) -> NDArray[np.uint8]:
    """Inputs whose outputs prove that a device computes the same: rendered larynges and patterns, free of any licence.

    Returns:
        uint8 (8, height, width, 3) RGB.
    """
    preprocess = Preprocessor(spec)
    images = []
    for image, _ in training_frames(_GOLDEN_PHANTOMS, _GOLDEN_SEED):
        aperture = find_aperture(image)
        images.append(preprocess(image, None if aperture is None else aperture.box)[0].copy())
    rows, columns = np.mgrid[0 : spec.height, 0 : spec.width].astype(np.float64)
    ramp = np.stack((rows / spec.height, columns / spec.width, (rows + columns) / (spec.height + spec.width)), -1)
    waves = 0.5 + 0.5 * np.stack([np.sin(columns / 3 + k) * np.cos(rows / (5 + k)) for k in range(3)], -1)
    coarse = np.random.default_rng(_GOLDEN_SEED).random((8, 8, 3))
    clouds = np.clip(cv2.resize(coarse, (spec.width, spec.height), interpolation=cv2.INTER_CUBIC), 0, 1)
    patterns = [(255 * pattern).astype(np.uint8) for pattern in (ramp, waves, clouds)]
    return np.stack([*images, *patterns[:_GOLDEN_PATTERNS]])


class Shipped(NamedTuple):
    """A model for a bundle.

    Attributes:
        role: what it is for.
        precision: how it computes.
        runtime: what runs it.
        model: its file.
        stands_for: a graph for ONNX Runtime that answers the same, where the file is none: it gives golden outputs.
    """

    role: Literal["primary", "smaller"]
    precision: Literal["int8", "fp32"]
    runtime: RuntimeName
    model: bytes
    stands_for: bytes | None = None


def artefact_name(bundle: str, role: str, precision: str, runtime: RuntimeName) -> str:
    """What a form of a bundle's model is called."""
    own = [*(["smaller"] if role == "smaller" else []), *([] if runtime == "onnxruntime" else [runtime])]
    return "-".join([bundle, *own, precision])


def describe(
    bundle: str, model: Shipped, inputs: NDArray[np.uint8], *, labels: int, temperature: float, maps: MapSpec | None
) -> tuple[Artefact, dict[str, NDArray[np.float32]]]:
    """A form's entry in the manifest, and its golden outputs by their names in the bundle.

    Args:
        bundle: its name.
        model: the form.
        inputs: golden inputs uint8 (n, H, W, 3) RGB.
        labels: how many logits there are.
        temperature: of the scores.
        maps: how its maps are read, None without.
    """
    role, precision, runtime_name, content, stands_for = model
    name = artefact_name(bundle, role, precision, runtime_name)
    artefact = Artefact(
        name=name,
        format="ncnn" if runtime_name == "ncnn" else "onnx",
        precision=precision,
        role=role,
        runtime=runtime_name,
        file=f"{name}.json" if runtime_name == "ncnn" else f"{name}.onnx",
        minimum_runtime=_MINIMUM_RUNTIME[runtime_name],
        tolerance=_TOLERANCE[runtime_name][precision],
        map_tolerance=None if maps is None else _MAP_TOLERANCE[runtime_name][precision],
    )
    runtime = OnnxRuntime(stands_for or content, where=name, labels=labels, maps=None if maps is None else maps.output)
    scores, shown = [], []
    for image in inputs:
        scores.append(calibrate(runtime.infer(image[None]), temperature, exclusive=True))
        if maps is not None and runtime.maps is not None:
            shown.append(map_probabilities(runtime.maps, maps.temperature))
    golden = {f"scores_{name}": np.stack(scores)}
    return artefact, golden | ({f"maps_{name}": np.stack(shown)} if shown else {})


def with_ncnn(bundle: Bundle, path: Path, version: str) -> Bundle:
    """Write a bundle anew that holds the form for ncnn, too: the weights and all else stay.

    Args:
        bundle: opened, with an INT8 model. Its signature does not hold for the new one.
        path: where to.
        version: of the new one: of one version there is one bundle.

    Returns:
        The new bundle.

    Raises:
        FoldsightError: its graph holds what the form does not know, it has the form already, or this is no version.
    """
    manifest, primary = bundle.manifest, bundle.artefact("int8")
    if any(artefact.runtime == "ncnn" for artefact in manifest.artefacts):
        raise FoldsightError(f"{bundle.path} holds a form for ncnn already")
    if version == manifest.version:
        raise FoldsightError(f"{bundle.path} is version {version} itself: give the new bundle another one")
    narrow = bundle.files[primary.file]
    made = Shipped("primary", "fp32", "ncnn", ncnn_form(narrow, primary.file), float_graph(narrow))
    with np.load(io.BytesIO(bundle.files[GOLDEN]), allow_pickle=False) as arrays:
        golden = dict(arrays)
    artefact, answers = describe(
        manifest.name,
        made,
        golden["inputs"],
        labels=len(manifest.labels),
        temperature=manifest.decision.temperature,
        maps=manifest.outputs.maps,
    )
    stream = io.BytesIO()
    np.savez(stream, **{**golden, **answers})
    card = bundle.files[CARD].decode().replace(f"{manifest.name} {manifest.version}", f"{manifest.name} {version}")
    files = {name: content for name, content in bundle.files.items() if name in manifest.files}
    files |= {artefact.file: made.model, GOLDEN: stream.getvalue(), CARD: f"{card}{_NCNN_CARD}".encode()}
    new = manifest.model_copy(update={"version": version, "artefacts": [*manifest.artefacts, artefact]})
    try:
        write_bundle(path, new, files)
    except ValidationError as error:
        raise FoldsightError(f"{version} is no version: write for example {manifest.version}") from error
    return Bundle.open(path)


def build_bundle(
    path: Path,
    *,
    recipe: Recipe,
    models: Sequence[Shipped],
    decision: DecisionSpec,
    maps: MapSpec | None,
    report: Mapping[str, Any],
    judging: Judging,
    recipe_sha256: str,
    data_sha256: str,
    licences: Sequence[str],
    facts: Mapping[str, Any],
) -> Manifest:
    """Write a bundle.

    Args:
        path: the zip file.
        recipe: what it was made by.
        models: what it holds; the first is the primary one, whose rows of the report go into the manifest.
        decision: the operating point.
        maps: how the models' maps are read; None where they have none.
        report: the evaluation.
        judging: labels and finding.
        recipe_sha256: hash of the recipe.
        data_sha256: hash of the data.
        licences: of the images it learnt from, one line each.
        facts: what else the card tells: parameters, teacher, images per source.

    Raises:
        FoldsightError: it became larger than the recipe allows.
    """
    inputs = golden_inputs(recipe.input)
    golden: dict[str, NDArray[Any]] = {"inputs": inputs}
    artefacts, files = [], {}
    for model in models:
        artefact, answers = describe(
            recipe.bundle.name, model, inputs, labels=len(recipe.labels), temperature=decision.temperature, maps=maps
        )
        artefacts.append(artefact)
        golden |= answers
        files[artefact.file] = model.model
    stream = io.BytesIO()
    np.savez(stream, **golden)  # type: ignore[arg-type]
    files[GOLDEN] = stream.getvalue()
    manifest = Manifest(
        name=recipe.bundle.name,
        version=recipe.bundle.version,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        labels=recipe.labels,
        finding=recipe.finding,
        exclusive=True,
        input=recipe.input,
        outputs=OutputSpec(maps=maps),
        decision=decision,
        artefacts=artefacts,
        metrics=_metrics(report, "int8" if models[0].precision == "int8" else "distilled"),
        recipe_sha256=recipe_sha256,
        data_sha256=data_sha256,
        licence=recipe.bundle.licence,
        research_only=recipe.bundle.research_only,
        attributions=recipe.bundle.attributions,
        files=dict.fromkeys((*files, CARD), "0" * 64),
    )
    files[CARD] = model_card(manifest, report, judging, licences, facts).encode()
    written = write_bundle(path, manifest, files)
    size = path.stat().st_size
    if size > recipe.bundle.max_bytes:
        path.unlink()
        raise FoldsightError(
            f"{path} would have {size} bytes, more than the {recipe.bundle.max_bytes} of bundle.max_bytes: "
            "choose narrower widths, or raise the limit"
        )
    return written


def _metrics(report: Mapping[str, Any], row: str) -> list[Metric]:
    found = []
    for split, part in report["splits"].items():
        entry = part["rows"][row]
        places = {"all": {"images": part["images"], "groups": part["groups"], **entry["overall"]}, **entry["sources"]}
        for source, figures in places.items():
            found += [
                Metric(split=split, source=source, name=name, images=figures["images"], groups=figures["groups"],
                       **figures[name])
                for name in NAMES if figures[name]["value"] is not None
            ]  # fmt: skip
    return found


def model_card(
    manifest: Manifest, report: Mapping[str, Any], judging: Judging, licences: Sequence[str], facts: Mapping[str, Any]
) -> str:
    """The model card (Mitchell et al. 2019, arXiv 1810.03993) in Markdown."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # noqa: S701  Markdown, from our own values
    )  # fmt: skip
    return environment.get_template("model_card.md").render(
        m=manifest,
        tables=markdown(report, judging),
        licences=licences,
        facts=facts,
        runtime=onnxruntime.__version__,
        unseen="unseen" in report,
    )
