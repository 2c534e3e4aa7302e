"""The INT8 graph: whole numbers from the first node to the last, and close to the FP32 one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnxruntime as ort  # noqa: E402  after the check for torch

from edge.runtime import OnnxRuntime  # noqa: E402
from trainer.models import PixelModel, SimpleResNet  # noqa: E402
from trainer.onnx_export import export_body, with_image_input  # noqa: E402
from trainer.quantise import quantise  # noqa: E402
from trainer.recipe import QuantiseSettings  # noqa: E402


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
def trained() -> Any:
    """A tiny student that has learnt something, as FP32 and INT8 graphs."""
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
    body = export_body(model.body, 64, 64)
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
