"""Students by name, teachers by timm's, and their feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.errors import ConfigError  # noqa: E402  after the check for torch
from trainer._torchvision import ensure_torchvision  # noqa: E402
from trainer.models import (  # noqa: E402
    PixelModel,
    Probe,
    Renormalised,
    ThreeConv,
    count_parameters,
    create_student,
    feature_layers,
    feature_shapes,
    own_normalisation,
)
from trainer.models.students import MICRO_LIMIT  # noqa: E402

TEACHERS = ("vgg19", "resnetv2_50", "mobilenetv2_100", "inception_v3", "densenet121", "densenet201", "legacy_xception",
            "efficientnet_b1", "efficientnet_b6", "efficientnet_b7", "tf_efficientnet_lite0", "tf_efficientnet_lite1",
            "tf_efficientnet_lite2")  # fmt: skip


class Own(torch.nn.Module):
    feature_layers = ("first",)

    def __init__(self, classes: int, dropout: float, width: int = 4) -> None:
        super().__init__()
        self.first, self.dropout = torch.nn.Conv2d(3, width, 3, 2), torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        return self.last(self.dropout(self.first(x).mean((2, 3))))


def test_micro_is_small_and_has_only_parts_with_quantised_kernels() -> None:
    for classes in (2, 8, 23):
        assert count_parameters(create_student("micro", classes)) <= MICRO_LIMIT
    kinds = {type(m).__name__ for m in create_student("micro", 2).modules() if not list(m.children())}
    assert kinds <= {"Conv2d", "BatchNorm2d", "ReLU", "Identity", "Dropout", "Linear"}
    for module in create_student("micro", 2).modules():
        assert not isinstance(module, torch.nn.Conv2d) or module.out_channels % 16 == 0


def test_three_conv_is_paper_3s() -> None:
    model = create_student("three_conv", 14)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0]) for c in convolutions] == [(64, 5), (64, 3), (128, 3)]
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 14)
    shapes = feature_shapes(PixelModel(model), feature_layers(model, "body."), 64)
    assert shapes == [(64, 16, 16), (64, 8, 8), (128, 4, 4)]
    assert isinstance(model, ThreeConv)


def test_students_by_import_path_and_from_timm() -> None:
    own = create_student(f"{__name__}:Own", 3, dropout=0.2, options={"width": 6})
    assert own(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert feature_shapes(PixelModel(own), feature_layers(own, "body."), 32) == [(6, 15, 15)]
    assert create_student("test_efficientnet", 3)(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert create_student("micro", 2, maps=2)(torch.zeros(1, 3, 64, 64))[1].shape == (1, 2, 8, 8)


@pytest.mark.parametrize(
    ("model", "more", "reason"),
    [
        ("no.such.module:Net", {}, "cannot be imported"),
        ("json:dumps", {}, "does not take"),
        ("three_conv", {"maps": 2}, "three_conv has no map"),
        ("simple_resnet", {"options": {"widths": [16, 30], "blocks": [1, 1]}}, "multiples of 16"),
        ("test_efficientnet", {"options": {"width": 3}}, "takes no options"),
        ("simpel_resnet", {}, "timm has no model 'simpel_resnet'"),
    ],
)
def test_students_that_cannot_be_made_are_named(model: Any, more: Any, reason: Any) -> None:
    with pytest.raises(ConfigError, match=reason):
        create_student(model, 2, **more)


@pytest.mark.parametrize("name", TEACHERS)
def test_the_papers_teachers_exist_with_three_levels(name: Any) -> None:
    ensure_torchvision()
    import timm  # noqa: PLC0415  after the shim

    with torch.device("meta"):  # without their weights, which are hundreds of megabytes
        body = timm.create_model(name, num_classes=2)
    layers = feature_layers(body)
    assert len(layers) == 3
    assert all(body.get_submodule(layer) is not None for layer in layers)


def test_a_probe_takes_what_passes_and_leaves_the_model_as_it_is() -> None:
    model = PixelModel(create_student("micro", 2))
    keys = set(model.state_dict())
    probe = Probe(model, ["body.stem", "body.stages.1"])
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with probe:
        logits = model(pixels)
    stem, deep = probe.features
    assert (stem.shape[1:], deep.shape[1:]) == ((16, 16, 16), (16, 4, 4))
    assert stem.grad_fn is not None
    assert set(model.state_dict()) == keys
    model.eval()
    with probe:
        model(pixels)
    assert torch.equal(model.body.stem(pixels.float().sub(127).div(128)), probe.features[0])  # type: ignore[operator, union-attr]
    assert logits.shape == (2, 2)
    with pytest.raises(ConfigError, match=r"no layer 'body\.nothing'"):
        Probe(model, ["body.nothing"])
    with pytest.raises(ConfigError, match="does not say which layers"):
        feature_layers(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no map"):
        feature_shapes(model, ["body.classifier"], 32)


def test_a_teacher_gets_the_normalisation_it_learnt_with() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.float64)
    wanted = (pixels / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    model = PixelModel(Renormalised(torch.nn.Identity(), mean, std))
    assert np.allclose(model(torch.tensor(pixels, dtype=torch.uint8)), wanted, atol=1e-5)
    body = torch.nn.Identity()
    body.pretrained_cfg = {"mean": mean, "std": std}  # type: ignore[assignment]
    assert own_normalisation(body, "hub") == (mean, std)
    assert own_normalisation(body, "none") is None
    body.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # type: ignore[assignment]
    assert own_normalisation(body, "hub") is None
