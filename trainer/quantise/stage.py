"""The ladder as a stage of a run: what it stands on, what it leaves in its folder, what the bundle takes from there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.console import say
from trainer.evaluate import Judging, run_model
from trainer.export import Shipped, artefact_name
from trainer.maps import map_truth
from trainer.models import PixelModel
from trainer.ncnn_export import float_graph, ncnn_form
from trainer.onnx_export import MAPS, with_cast_input, with_image_input
from trainer.quantise.calibrate import Calibration, limits
from trainer.quantise.gate import Ground, measure
from trainer.quantise.ladder import Climbed, climb, ladder_markdown
from trainer.quantise.static import Static, tensorrt_graph

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from trainer.stages import Run

INT8, TENSORRT, LADDER, TABLE = "int8.onnx", "tensorrt.onnx", "ladder.json", "ladder.md"


@dataclass(frozen=True)
class Quantised:
    """What the stage gives.

    Attributes:
        climbed: the ladder.
        tensorrt: the same weights as TensorRT wants them, where the recipe asks for it.
        tensorrt_measured: how that graph compares with FP32, on ONNX Runtime.
    """

    climbed: Climbed
    tensorrt: onnx.ModelProto | None
    tensorrt_measured: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.climbed.as_dict() | ({} if self.tensorrt is None else {"tensorrt": self.tensorrt_measured})


def quantise_row(
    run: Run, row: str, folder: Path, *, body: onnx.ModelProto | None = None, every: bool = False
) -> Quantised:
    """Climb the recipe's ladder with one of a run's distilled students.

    Args:
        run: recipe and data.
        row: `distilled` or `smaller`.
        folder: where the last rung keeps its checkpoints.
        body: another graph in place of the student's.
        every: try all rungs.
    """
    recipe = run.recipe
    given = run.body(row) if body is None else body
    images = run.calibration().images
    static = Static(given, images, recipe.quantise)
    say(f"quantising, calibrated on {len(images)} training images")
    ground = ground_of(run, given)

    def train(wide: onnx.ModelProto, narrow: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        from trainer.quantise.aware import AwareBody  # noqa: PLC0415  torch
        from trainer.train import BEST, load_weights  # noqa: PLC0415  torch

        learning = AwareBody(wide, narrow)
        model = PixelModel(learning)
        run.learn(row, model, recipe.quantise.aware, folder / "aware", "quantisation-aware training",
                  focus=False)  # fmt: skip
        load_weights(model, folder / "aware" / BEST)
        return learning.float_graph(), learning.graph()

    climbed = climb(static, ground, recipe.quantise, train=train, every=every)
    if "tensorrt-int8" not in recipe.bundle.artefacts:
        return Quantised(climbed, None, None)
    way, learnt = climbed.taken.way, climbed.taken.rung == "aware"
    seen = Calibration(climbed.body, images).ranges(way.method, recipe.quantise.percentile) if learnt else None
    engine = with_cast_input(
        tensorrt_graph(climbed.body, static.ranges(way) if seen is None else limits(seen), way.wide)
    )
    answers = run_model(engine.SerializeToString(), ground.inputs, title="INT8 for TensorRT", labels=len(recipe.labels),
                        maps=None if ground.maps is None else MAPS)  # fmt: skip
    measured = measure(ground, answers, {})
    failures = measured.failures(recipe.quantise.gate)
    say(f"quantising for TensorRT ({way}): {'; '.join(failures) or 'the gate passes'}")
    return Quantised(climbed, engine, {**measured.as_dict(), "failures": failures})


def ground_of(run: Run, body: onnx.ModelProto) -> Ground:
    """A run's validation split with what the FP32 graph says of it through the device's runtime."""
    recipe, inputs = run.recipe, run.inputs("val")
    with_maps = recipe.maps is not None and MAPS in [value.name for value in body.graph.output]
    wide = run_model(with_image_input(body).SerializeToString(), inputs, title="FP32", labels=len(recipe.labels),
                     maps=MAPS if with_maps else None)  # fmt: skip
    return Ground(
        inputs,
        Judging(recipe.labels, recipe.finding),
        wide,
        recipe.decide,
        recipe.quantise.gate,
        recipe.evaluate.repeats,
        recipe.seed,
        recipe.maps if with_maps else None,
        map_truth(inputs.records, run.root, recipe.input, recipe.maps.labels) if recipe.maps and with_maps else None,
    )


def write_results(quantised: Quantised, folder: Path) -> dict[str, Any]:
    """Write the models and the ladder; returns what is to be remembered of them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = quantised.climbed.model.SerializeToString()
    (folder / INT8).write_bytes(model)
    if quantised.tensorrt is not None:
        (folder / TENSORRT).write_bytes(quantised.tensorrt.SerializeToString())
    told = quantised.as_dict()
    (folder / LADDER).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (folder / TABLE).write_text(ladder_markdown(told), encoding="utf-8")
    return {"bytes": len(model), "taken": told["taken"], "passed": told["passed"], "why": told["why"]}


def primary_artefacts(run: Run) -> list[Shipped]:
    """The primary model in the forms that the recipe's bundle holds."""
    made: list[Shipped] = []
    for kind in run.recipe.bundle.artefacts:
        if kind == "int8":
            made.append(Shipped("primary", "int8", "onnxruntime", (run.quantise() / INT8).read_bytes()))
        elif kind == "fp32":
            graph = with_image_input(run.body("distilled"))
            made.append(Shipped("primary", "fp32", "onnxruntime", graph.SerializeToString()))
        elif kind == "tensorrt-int8":
            made.append(Shipped("primary", "int8", "tensorrt", (run.quantise() / TENSORRT).read_bytes()))
        elif kind == "ncnn":
            narrow = (run.quantise() / INT8).read_bytes()
            file = f"{artefact_name(run.recipe.bundle.name, 'primary', 'int8', 'onnxruntime')}.onnx"
            made.append(Shipped("primary", "fp32", "ncnn", ncnn_form(narrow, file), float_graph(narrow)))
        else:
            graph = with_cast_input(run.body("distilled"))
            made.append(Shipped("primary", "fp32", "tensorrt", graph.SerializeToString()))
    return made
