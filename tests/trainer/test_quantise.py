"""The INT8 graph: whole numbers from the first node to the last, and close to the FP32 one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnxruntime as ort  # noqa: E402  after the check for torch

from edge.bundle import Bundle, DecisionSpec, InputSpec  # noqa: E402
from edge.errors import ConfigError, FoldsightError  # noqa: E402
from edge.runtime import OnnxRuntime  # noqa: E402
from trainer.cli import main  # noqa: E402
from trainer.data.manifest import Record  # noqa: E402
from trainer.evaluate import Answers, Judging, run_model  # noqa: E402
from trainer.export import Shipped, build_bundle  # noqa: E402
from trainer.inputs import Inputs  # noqa: E402
from trainer.metrics import NAMES  # noqa: E402
from trainer.models import PixelModel, SimpleResNet  # noqa: E402
from trainer.onnx_export import PIXELS, export_body, with_cast_input, with_image_input  # noqa: E402
from trainer.quantise import Static, Way, quantise  # noqa: E402
from trainer.quantise.aware import AwareBody  # noqa: E402
from trainer.quantise.calibrate import Calibration, _by_entropy, normalised, open_graph  # noqa: E402
from trainer.quantise.gate import Ground, Measured, measure  # noqa: E402
from trainer.quantise.ladder import climb, ladder_markdown, ladder_table  # noqa: E402
from trainer.quantise.signal import layer_signal  # noqa: E402
from trainer.quantise.static import prepare, tensorrt_graph  # noqa: E402
from trainer.quantise.weights import (  # noqa: E402
    constants,
    correct_biases,
    equalisable,
    equalise,
    rounded,
    set_constant,
)
from trainer.recipe import (  # noqa: E402
    DecideSettings,
    GateSettings,
    QuantiseSettings,
    Recipe,
    check_recipe,
    load_recipe,
)
from trainer.smoke import smoke_recipe  # noqa: E402


def shapes(count: Any, seed: Any) -> Any:
    """Images of two kinds: a bright disc or a bright bar, in noise; and which."""
    rng = np.random.default_rng(seed)
    images, kinds = rng.integers(0, 90, (count, 64, 64, 3)), rng.integers(0, 2, count)
    rows, columns = np.mgrid[:64, :64]
    for image, kind in zip(images, kinds, strict=True):
        x, y = rng.integers(16, 48, 2)
        near = np.hypot(rows - y, columns - x) < 12 if kind else (abs(rows - y) < 4)
        image[near] += 120
    return images.astype(np.uint8), kinds


@pytest.fixture(scope="module")
def body() -> Any:
    """A tiny student that has learnt something."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = PixelModel(SimpleResNet(widths=(16, 32), blocks=(1, 1)))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(25):
        images, kinds = shapes(32, step)
        loss = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(kinds)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return export_body(model.body, 64, 64)


@pytest.fixture(scope="module")
def trained(body: Any) -> Any:
    """The same as FP32 and INT8 graphs."""
    return with_image_input(body), quantise(body, shapes(64, 100)[0], QuantiseSettings(images=64))


def test_int8_answers_like_fp32(trained: Any) -> None:
    wide, narrow = (OnnxRuntime(m.SerializeToString(), shape=(1, 64, 64, 3), labels=2) for m in trained)
    images, kinds = shapes(200, 7)
    first = np.array([wide.infer(i[None]).copy() for i in images])
    second = np.array([narrow.infer(i[None]).copy() for i in images])
    assert (first.argmax(1) == kinds).mean() > 0.9
    assert (first.argmax(1) == second.argmax(1)).mean() >= 0.98
    assert np.abs(first - second).mean() < 0.05 * np.abs(first).mean()


def test_the_optimised_graph_is_whole_numbers_throughout(trained: Any, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(trained[1].SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds[0] == "QLinearConv"
    assert nodes[0].input[0] == "image"
    assert kinds[-1] == "QGemm"
    assert not {"Conv", "Cast", "QuantizeLinear", "DequantizeLinear", "Relu", "ReduceMean"} & set(kinds)


def test_a_map_is_quantised_with_the_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SimpleResNet(widths=(16, 32, 32), blocks=(1, 1, 1), maps=2).eval()
    torch.nn.init.normal_(model.map_head[3].weight, std=0.3)  # type: ignore[index, union-attr]
    body = export_body(model, 64, 64)
    images = shapes(64, 100)[0]
    wide, narrow = with_image_input(body), quantise(body, images, QuantiseSettings(images=64))
    answers = []
    for graph in (wide, narrow):
        session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        assert [o.name for o in session.get_outputs()] == ["logits", "maps"]
        assert session.get_outputs()[1].shape == [1, 8, 8, 2]
        answers.append(np.stack([session.run(["maps"], {"image": image[None]})[0] for image in images[:8]]))
    assert np.abs(answers[0] - answers[1]).max() < 0.06 * np.ptp(answers[0])
    with torch.no_grad():
        pixels = (torch.from_numpy(images[:1]).permute(0, 3, 1, 2).float() - 127) / 128
        maps = model(pixels)[1][0].permute(1, 2, 0).numpy()
    assert np.allclose(answers[0][0, 0], maps, atol=1e-4)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(narrow.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    # Floats only after the last convolution of the map: rearranging its few cells.
    assert {"Conv", "Cast", "QuantizeLinear", "Relu"}.isdisjoint(kinds)
    assert kinds.count("DequantizeLinear") == 1


def test_the_input_is_pixels_and_the_batch_is_one(trained: Any) -> None:
    for model in trained:
        (image,) = model.graph.input
        assert image.name == "image"
        assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 64, 64, 3]


def test_weights_are_signed_symmetric_and_per_channel(trained: Any) -> None:
    values = {t.name: onnx.numpy_helper.to_array(t) for t in trained[1].graph.initializer}
    weights = [v for k, v in values.items() if v.dtype == np.int8 and v.ndim == 4]
    assert weights
    scales = [v for k, v in values.items() if k.endswith("_scale") and v.ndim == 1 and len(v) > 1]
    assert len(scales) >= len(weights)
    assert all((v == 0).all() for k, v in values.items() if k.endswith("zero_point") and v.dtype == np.int8)


# --- rungs ---


def answer(graph: Any, images: Any) -> Any:
    session = open_graph(graph)
    return np.concatenate([session.run(["logits"], {PIXELS: normalised(image)})[0] for image in images])


def lopsided(body: Any) -> Any:
    """The same function, with channels of very different size between two convolutions."""
    graph = prepare(body)
    first, second = equalisable(graph)[0]
    values = constants(graph)
    factors = np.geomspace(0.05, 20, len(values[first.input[1]])).astype(np.float32)
    set_constant(graph, first.input[1], values[first.input[1]] * factors[:, None, None, None])
    set_constant(graph, first.input[2], values[first.input[2]] * factors)
    set_constant(graph, second.input[1], values[second.input[1]] / factors[None, :, None, None])
    return graph


def test_equalisation_changes_the_weights_and_not_the_answer(body: Any) -> None:
    uneven = lopsided(body)
    even = equalise(uneven)
    images = shapes(6, 3)[0]
    assert np.allclose(answer(uneven, images), answer(even, images), atol=1e-3)
    values = constants(even)
    for first, second in equalisable(even):
        made, used = np.abs(values[first.input[1]]).max((1, 2, 3)), np.abs(values[second.input[1]]).max((0, 2, 3))
        assert np.allclose(made, used, rtol=0.05)


def test_equalisation_helps_where_channels_differ(body: Any) -> None:
    static = Static(lopsided(body), shapes(32, 100)[0], QuantiseSettings(images=32))
    images = shapes(40, 5)[0]
    truth = answer(body, images)
    errors = [np.abs(answer(static.graph(way), images) - truth).mean() for way in (Way(), Way(equalised=True))]
    assert errors[1] < 0.5 * errors[0]


def test_layers_around_a_sum_or_a_clip_are_not_equalised(body: Any) -> None:
    pairs = equalisable(prepare(body))
    assert len(pairs) == 2  # one within each residual block; stem and shortcuts have other readers
    clipped = onnx.load_from_string(prepare(body).SerializeToString())
    for node in clipped.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Clip"
    assert equalisable(clipped) == []


def test_bias_correction_takes_the_shift_of_rounded_weights_away(body: Any) -> None:
    images, graph, top = shapes(48, 100)[0], prepare(body), 7  # four bits, so that it shows

    def coarse(model: Any) -> Any:
        rounder = onnx.load_from_string(model.SerializeToString())
        values = constants(rounder)
        for node in rounder.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                set_constant(rounder, node.input[1], rounded(values[node.input[1]], top))
        return rounder

    truth, plain = answer(graph, images), answer(coarse(graph), images)
    corrected = answer(coarse(correct_biases(graph, images, top)), images)
    assert np.abs((corrected - truth).mean(0)).max() < 0.6 * np.abs((plain - truth).mean(0)).max()


def test_percentile_cuts_outliers_and_minmax_does_not(body: Any) -> None:
    calibration = Calibration(prepare(body), shapes(16, 100)[0])
    widest, cut = calibration.ranges("minmax", 99.9), calibration.ranges("percentile", 99.0)
    assert set(widest) == set(cut)
    assert all(cut[name][1] - cut[name][0] <= widest[name][1] - widest[name][0] + 1e-6 for name in cut)
    assert sum(cut[name][1] < 0.9 * widest[name][1] for name in cut) > len(cut) / 3


def test_entropy_gives_up_a_lone_outlier_and_little_else() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, 200_000))
    lone = np.histogram(np.append(values, 40.0), 2048, (0, 40.0))[0]
    assert 2.5 < _by_entropy(lone, 0.0, 40.0)[1] < 10
    even = np.full(2048, 50)
    assert _by_entropy(even, 0.0, 1.0)[1] > 0.95


def test_a_layer_left_in_float_is_one_and_has_the_better_signal(body: Any) -> None:
    images = shapes(32, 100)[0]
    static = Static(body, images, QuantiseSettings(images=32))
    before = layer_signal(static.float_graph(Way()), static.graph(Way()), images[:4])
    assert list(before) == [n.name for n in static.float_graph(Way()).graph.node if n.op_type in ("Conv", "Gemm")]
    assert all(5 < value < 80 for value in before.values())
    first = next(iter(before))
    way = Way(wide=(first,))
    graph = static.graph(way)
    stored = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4}
    assert len(stored) == sum(n.op_type == "Conv" for n in graph.graph.node) - 1
    assert layer_signal(static.float_graph(way), graph, images[:4])[first] > before[first]


def test_signed_activations_answer_alike(body: Any) -> None:
    images = shapes(24, 100)[0]
    graph = Static(body, images, QuantiseSettings(images=24, activations="signed")).model(Way())
    kinds = {t.data_type for t in graph.graph.initializer if t.name.endswith("zero_point") and not t.dims}
    assert onnx.TensorProto.INT8 in kinds
    runtime = OnnxRuntime(graph.SerializeToString(), shape=(1, 64, 64, 3), labels=2)
    told = np.array([runtime.infer(image[None]).copy() for image in images])
    truth = answer(body, images)
    assert np.abs(told - truth).mean() < 0.05 * np.abs(truth).mean()


def test_the_graph_that_learns_is_the_graph_that_ships(body: Any) -> None:
    images = shapes(32, 100)[0]
    static = Static(body, images, QuantiseSettings(images=32, reduce_range=True))
    graph = static.graph(Way())
    learning = AwareBody(static.float_graph(Way()), graph)
    pixels = torch.from_numpy(np.concatenate([normalised(image) for image in images]))
    with torch.no_grad():
        told = learning(pixels).numpy()
    assert np.abs(told - answer(graph, images)).max() < 0.1 * np.abs(told).max()
    unchanged, before = constants(learning.graph()), constants(graph)
    assert set(unchanged) == set(before)
    assert all(np.allclose(unchanged[name], before[name], rtol=1e-5, atol=0) for name in before)

    wide = torch.from_numpy(answer(body, images))
    for weight in learning._weights.values():
        weight.top = 7  # so coarse that there is something to learn
    with torch.no_grad():
        first = float((learning(pixels) - wide).square().mean())
    optimiser = torch.optim.Adam(learning.parameters(), 2e-3)
    for _ in range(25):
        loss = (learning(pixels) - wide).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learning.parameters())
        optimiser.step()
    with torch.no_grad():
        last = learning(pixels)
    assert float((last - wide).square().mean()) < 0.5 * first
    assert np.abs(last.numpy() - answer(learning.graph(), images)).max() < 0.1 * float(last.abs().max())
    weights = constants(learning.graph())
    assert max(np.abs(v.astype(int)).max() for k, v in weights.items() if v.dtype == np.int8 and v.ndim == 4) == 7
    learnt, start = constants(learning.float_graph()), constants(static.float_graph(Way()))
    assert set(learnt) == set(start)
    assert any(not np.allclose(learnt[name], start[name]) for name in start)


def test_tensorrt_gets_symmetric_pairs_of_its_own(body: Any, trained: Any) -> None:
    images = shapes(32, 100)[0]
    static = Static(body, images, QuantiseSettings(images=32, reduce_range=True))
    graph = with_cast_input(tensorrt_graph(static.float_graph(Way()), static.ranges(Way())))
    values = constants(graph)
    assert all((value == 0).all() for name, value in values.items() if name.endswith("zero_point"))
    assert {v.dtype for n, v in values.items() if n.endswith("_quantized")} == {np.dtype(np.int8)}
    reads = [name for node in graph.graph.node for name in node.input]
    pairs = [node.output[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    assert all(reads.count(name) == 1 for name in pairs)
    assert [node.op_type for node in graph.graph.node[:4]] == ["Cast", "Transpose", "Sub", "Mul"]
    assert len(graph.SerializeToString()) < 1.2 * len(trained[1].SerializeToString())
    runtime = OnnxRuntime(graph.SerializeToString(), shape=(1, 64, 64, 3), labels=2)
    truth = answer(body, images)
    told = np.array([runtime.infer(image[None]).copy() for image in images])
    assert (told.argmax(1) == truth.argmax(1)).mean() >= 0.98
    assert np.abs(told - truth).mean() < 0.05 * np.abs(truth).mean()


# --- what is refused ---


def renamed(body: Any, change: Any) -> Any:
    copy = onnx.load_from_string(body.SerializeToString())
    change(copy.graph)
    return copy


def unknown_operator(graph: Any) -> None:
    graph.node[1].op_type = "Sparkle"


def other_input(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def other_output(graph: Any) -> None:
    graph.node[-1].output[0] = graph.output[0].name = "scores"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unknown_operator, "Sparkle"),
        (other_input, r"input is pixels \[1, 4, 64, 64\]: it must be one float pixels \[1, 3, H, W\]"),
        (other_output, "no output logits, only scores"),
    ],
)
def test_a_graph_that_cannot_be_quantised_is_refused_in_a_sentence(body: Any, change: Any, said: str) -> None:
    with pytest.raises(FoldsightError, match=said):
        quantise(renamed(body, change), shapes(8, 1)[0], QuantiseSettings(images=8))


def test_calibration_images_must_be_there_and_fit(body: Any) -> None:
    with pytest.raises(FoldsightError, match="no image to calibrate with"):
        quantise(body, [], QuantiseSettings(images=8))
    with pytest.raises(FoldsightError, match="input is 64x64, but the calibration images are"):
        quantise(body, np.zeros((8, 32, 32, 3), np.uint8), QuantiseSettings(images=8))


def test_what_cannot_learn_with_its_rounding_is_named() -> None:
    torch.manual_seed(0)
    hard = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.Hardswish(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    )  # fmt: skip
    static = Static(export_body(hard, 64, 64), shapes(8, 1)[0], QuantiseSettings(images=8))
    with pytest.raises(FoldsightError, match=r"cannot be trained with its rounding; .*quantise\.ladder"):
        AwareBody(static.float_graph(Way()), static.graph(Way()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rungs", "nonsense"], "--rungs nonsense: give one or more of static, percentile, entropy"),
        (["--body", "gone.onnx"], "gone.onnx cannot be read"),
        (["--body", __file__], "is no ONNX file"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = smoke_recipe(load_recipe("vocal-folds"))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
    assert main(["quantise", str(tmp_path), "--data", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


# --- gate and ladder ---


def ground(body: Any, gate: GateSettings, count: int = 80) -> Ground:
    images, kinds = shapes(count, 9)
    names = ("no_folds", "folds")
    records = tuple(Record(f"{i}.png", names[k], f"g{i // 2}", "one", "val", "none") for i, k in enumerate(kinds))
    inputs = Inputs(images, kinds.astype(np.int64), np.ones(count, bool), records)
    wide = run_model(with_image_input(body).SerializeToString(), inputs, title="FP32", labels=2)
    return Ground(inputs, Judging(names, "folds"), wide, DecideSettings(), gate, repeats=50, seed=0)


def test_the_gate_counts_what_changed(body: Any) -> None:
    base = ground(body, GateSettings())
    same = measure(base, base.wide, {"a": 30.0, "b": 22.0})
    assert same.failures(GateSettings()) == []
    assert (same.accuracy, same.agreement, same.ece, same.flips) == (0, 1, 0, 0)
    assert (same.worst, same.signal_db) == ("b", 22.0)
    assert same.excess(GateSettings()) == 0
    logits = base.wide.logits.copy()
    logits[:8] = logits[:8, ::-1]  # a tenth of the images says the other label
    other = measure(base, Answers(logits, None), {"a": 3.0})
    assert other.agreement == pytest.approx(0.9)
    said = " ".join(other.failures(GateSettings()))
    for word in ("accuracy", "agreement 90.000 %", "change sides at the threshold", "a keeps 3.0 dB"):
        assert word in said
    assert other.excess(GateSettings()) > 1


def measured(**changes: Any) -> Measured:
    plain: dict[str, Any] = {"accuracy": 0.0, "low": -0.001, "high": 0.001, "balanced_accuracy": 0.0, "agreement": 1.0,
                             "ece": 0.0, "flips": 0.0, "threshold": 0.5, "temperature": 1.0, "signal_db": 30.0,
                             "worst": "x", "dice": None, "images": 1000}  # fmt: skip
    return Measured(**(plain | changes))


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"accuracy": -0.003, "low": -0.006, "high": 0.0}, True),  # on the bound, its interval holds 0
        ({"accuracy": -0.002, "low": -0.0025, "high": -0.001}, True),  # surely there, and surely small
        ({"accuracy": -0.002, "low": -0.004, "high": -0.001}, False),  # surely there, maybe large
        ({"accuracy": -0.0038, "low": -0.0038, "high": -0.0037}, False),
        ({"accuracy": 0.004, "low": -0.001, "high": 0.009}, False),  # better is as suspicious
        ({"agreement": 0.995}, True),
        ({"agreement": 0.9949}, False),
        ({"ece": 0.011}, False),
        ({"ece": -0.02}, True),
        ({"flips": 0.011}, False),
        ({"signal_db": 9.9}, False),
        ({"signal_db": None}, True),
        ({"dice": 0.02}, False),
        ({"low": None, "high": None}, True),
    ],
)
def test_the_gate_passes_or_fails(changes: Any, passes: bool) -> None:
    assert (measured(**changes).failures(GateSettings()) == []) is passes


def test_the_first_rung_is_enough_where_it_passes(body: Any) -> None:
    gate = GateSettings(accuracy=0.1, agreement=0.9, ece=0.5, flips=0.2, signal_db=3)
    settings = QuantiseSettings(images=32, gate=gate)
    static = Static(body, shapes(32, 100)[0], settings)
    climbed = climb(static, ground(body, gate), settings, train=None)
    assert [attempt.rung for attempt in climbed.attempts] == ["static"]
    assert climbed.why == "static, as the recipe says passes the gate: nothing else was needed"
    assert climbed.model.graph.input[0].name == "image"


def test_every_rung_is_tried_in_order_where_none_passes(body: Any) -> None:
    gate = GateSettings(accuracy=0.1, agreement=0.5, ece=0.5, flips=0.5, signal_db=200)
    settings = QuantiseSettings(images=16, gate=gate, float_layers=2)
    static = Static(body, shapes(16, 100)[0], settings)
    asked = []

    def train(wide: Any, narrow: Any) -> Any:
        learning = AwareBody(wide, narrow)
        asked.append(len(list(learning.parameters())))
        return learning.float_graph(), learning.graph()

    climbed = climb(static, ground(body, gate, 24), settings, train=train)
    rungs = [attempt.rung for attempt in climbed.attempts]
    assert rungs == ["static", "percentile", "entropy", "bias", "equalise", "float", "float", "aware"]
    assert len(asked) == 1
    assert [len(a.way.wide) for a in climbed.attempts if a.rung == "float"] == [1, 2]
    nearest = min(climbed.attempts, key=lambda a: a.measured.excess(gate))
    assert climbed.taken is nearest
    told = json.loads(json.dumps(climbed.as_dict()))
    assert not told["passed"]
    assert told["why"].startswith("no rung passes; taken is the nearest")
    assert len(told["attempts"]) == len(rungs)
    assert ladder_table(told).row_count == len(rungs)
    assert ladder_markdown(told).count("\n| ") == len(rungs) + 1


def test_a_bundle_holds_the_forms_that_its_recipe_names(body: Any, tmp_path: Path) -> None:
    plain = smoke_recipe(load_recipe("vocal-folds"))
    recipe = plain.model_copy(update={"input": InputSpec(height=64, width=64)})
    images = shapes(16, 100)[0]
    static = Static(body, images, QuantiseSettings(images=16))
    engine = with_cast_input(tensorrt_graph(static.float_graph(Way()), static.ranges(Way())))
    shipped = [
        Shipped("primary", "int8", "onnxruntime", static.model(Way()).SerializeToString()),
        Shipped("primary", "int8", "tensorrt", engine.SerializeToString()),
        Shipped("primary", "fp32", "tensorrt", with_cast_input(body).SerializeToString()),
    ]
    decision = DecisionSpec(temperature=1, low=0.4, threshold=0.5, high=0.6, smoothing_s=0.2, dwell_s=0.3, expire_s=1)
    facts = {"about": "", "student": "tiny", "parameters": 1, "teacher": "none", "data": []}
    path = tmp_path / "b.zip"
    build_bundle(
        path, recipe=recipe, models=shipped, decision=decision, maps=None,
        report={"decision": decision.model_dump(), "splits": {"val": blank_split()}},
        judging=Judging(recipe.labels, recipe.finding, decision), recipe_sha256="0" * 64, data_sha256="0" * 64,
        licences=[], facts=facts,
    )  # fmt: skip
    bundle = Bundle.open(path)
    names = [(a.name, a.runtime, a.precision) for a in bundle.manifest.artefacts]
    assert names == [
        ("vocal-folds-smoke-int8", "onnxruntime", "int8"),
        ("vocal-folds-smoke-tensorrt-int8", "tensorrt", "int8"),
        ("vocal-folds-smoke-tensorrt-fp32", "tensorrt", "fp32"),
    ]
    for artefact in bundle.manifest.artefacts:
        _, expected = bundle.golden(artefact)
        assert expected.shape == (8, 2)
        assert artefact.tolerance >= (0.02 if artefact.runtime == "tensorrt" else 0)
    assert bundle.artefact("int8").runtime == "onnxruntime"


def blank_split() -> Any:
    figure = {"value": 0.9, "low": None, "high": None}
    entry = {"overall": dict.fromkeys(NAMES, figure), "mean_of_sources": figure, "sources": {}}
    return {"images": 1, "groups": 1, "rows": {"int8": entry}}


@pytest.mark.parametrize("named", [["tensorrt-int8"], ["int8", "int8"], []])
def test_a_bundle_begins_with_what_every_device_can_run(named: Any) -> None:
    content = load_recipe("vocal-folds").model_dump(mode="json")
    content["bundle"]["artefacts"] = named
    with pytest.raises(ConfigError, match="bundle"):
        check_recipe(Recipe, content, "here")
