"""An adapted bundle: the shipped one with another operating point, and maybe another model, and a card that says so."""

from __future__ import annotations

import hashlib
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge.bundle import CARD, GOLDEN, Metric, write_bundle
from edge.decision import calibrate
from edge.errors import ConfigError
from edge.regions import map_probabilities
from edge.runtime import OnnxRuntime
from trainer.export import TEMPLATES
from trainer.ncnn_export import float_graph, ncnn_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import Artefact, Bundle, DecisionSpec, Manifest
    from trainer.adapt.choose import Way

_ABOUT = {
    "operating point": "The network is the shipped one; temperature, threshold and uncertain band were found anew.",
    "last layer": "Its last layer was refitted, held at the shipped weights; then it was quantised again.",
    "last block": "Its last block and layer were trained on from the shipped weights; then it was quantised again.",
}


def golden_of(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The arrays of a bundle's golden file."""
    with np.load(io.BytesIO(bundle.files[GOLDEN])) as stored:
        return {name: stored[name] for name in stored.files}


def check_place(path: Path, bundle: Bundle) -> None:
    """Refuse a place or a bundle that must stay as it is.

    Raises:
        ConfigError: something is there already, or the bundle is one already adapted.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already: give another name, so that nothing is overwritten")
    if "-adapted" in bundle.manifest.version:
        raise ConfigError(f"{bundle.path} was adapted before: adapt the bundle that it was made of")


def write_adapted(
    path: Path,
    bundle: Bundle,
    *,
    way: Way,
    ways: Sequence[Way],
    decision: DecisionSpec,
    model: bytes | None,
    counts: Mapping[str, Any],
    licences: Sequence[str],
) -> Manifest:
    """Write the bundle; it is not signed.

    Args:
        path: the zip file.
        bundle: the shipped one.
        way: that was chosen.
        ways: all that were tried.
        decision: the operating point.
        model: the adapted INT8 model; None where the shipped one stays.
        counts: `frames`, `groups`, `folds`, `no_folds`, `unfit`, `data_sha256`.
        licences: of the given frames.
    """
    shipped = bundle.manifest
    artefacts: list[Artefact] = []
    files: dict[str, bytes] = {}
    for artefact in shipped.artefacts:
        if model is None:
            artefacts.append(artefact)
            files[artefact.file] = bundle.files[artefact.file]
        elif (artefact.role, artefact.precision, artefact.runtime) == ("primary", "int8", "onnxruntime"):
            artefacts.append(artefact)
            files[artefact.file] = model
        elif artefact.runtime == "ncnn":
            artefacts.append(artefact)
            files[artefact.file] = ncnn_form(model, bundle.artefact("int8").file)
    inputs = golden_of(bundle)["inputs"]
    golden: dict[str, NDArray[Any]] = {"inputs": inputs}
    maps = shipped.outputs.maps
    for artefact in artefacts:
        graph = files[artefact.file]
        if artefact.runtime == "ncnn":
            graph = float_graph(files[bundle.artefact("int8").file])
        runtime = OnnxRuntime(
            graph, where=artefact.name, labels=len(shipped.labels),
            maps=None if maps is None else maps.output,
        )  # fmt: skip
        scores, shown = [], []
        for image in inputs:
            scores.append(calibrate(runtime.infer(image[None]), decision.temperature, exclusive=shipped.exclusive))
            if maps is not None and runtime.maps is not None:
                shown.append(map_probabilities(runtime.maps, maps.temperature))
        golden[f"scores_{artefact.name}"] = np.stack(scores)
        if shown:
            golden[f"maps_{artefact.name}"] = np.stack(shown)
    stream = io.BytesIO()
    np.savez(stream, **golden)  # type: ignore[arg-type]
    files[GOLDEN] = stream.getvalue()
    figure = Metric(
        split="cross-validation", source="own", name="balanced_accuracy", value=way.balanced_accuracy,
        images=counts["frames"], groups=counts["groups"],
    )  # fmt: skip
    made = shipped.model_copy(
        update={
            "version": f"{shipped.version}-adapted",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "decision": decision,
            "artefacts": artefacts,
            # The shipped figures are of another model or operating point: they would be untrue of this one.
            "metrics": [figure],
            "data_sha256": hashlib.sha256(f"{shipped.data_sha256} {counts['data_sha256']}".encode()).hexdigest(),
            "files": dict.fromkeys((*files, CARD), "0" * 64),
        }
    )
    dropped = len(shipped.artefacts) - len(artefacts)
    files[CARD] = _card(bundle, made, way, ways, counts, licences, dropped).encode()
    return write_bundle(path, made, files)


def _card(
    bundle: Bundle,
    made: Manifest,
    way: Way,
    ways: Sequence[Way],
    counts: Mapping[str, Any],
    licences: Sequence[str],
    dropped: int,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # noqa: S701  Markdown, from our own values
    )  # fmt: skip
    return environment.get_template("adapted_card.md").render(
        m=made, shipped=bundle.manifest, shipped_sha256=bundle.sha256[:12], way=way, ways=ways, about=_ABOUT[way.name],
        counts=counts, licences=licences, dropped=dropped, card=bundle.files[CARD].decode(),
    )  # fmt: skip
