"""Grad-CAM against its closed form, and maps against masks by hand."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if find_spec("timm") is None:  # not imported here: torchvision may need help first
    pytest.skip("timm is not installed", allow_module_level=True)

from edge.geometry import Box  # noqa: E402  after the check for torch
from trainer.data.manifest import Record  # noqa: E402
from trainer.gradcam import GLOTTIS_MARGIN, GradCam, Looks, Place, choose_frames, draw_sheet, focus, focus_by_source  # noqa: E402
from trainer.inputs import Inputs  # noqa: E402
from trainer.models import PixelModel, SimpleResNet, create_backbone  # noqa: E402


def pixels(count: int = 3, side: int = 64) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize("kind", ["simple_resnet", "simple_resnet with a map", "tf_efficientnet_lite0"])
def test_before_pooling_and_a_linear_layer_it_is_the_class_activation_map(kind: str) -> None:
    torch.manual_seed(1)
    if kind.startswith("simple"):
        body: Any = SimpleResNet(3, maps=2 if "map" in kind else 0)
        layer, last = body.stages[-1], body.classifier
    else:
        body = create_backbone(kind, 3, "none")
        layer, last = body.bn2, body.classifier
    model = PixelModel(body).eval()
    taken: list[Any] = []
    handle = layer.register_forward_hook(lambda *a: taken.append(a[2].detach()))
    targets = np.array([0, 2, 1])
    with torch.no_grad():
        answer = model(torch.from_numpy(pixels().transpose(0, 3, 1, 2).copy()))
    handle.remove()
    cam = GradCam(model)
    maps, logits = cam(pixels(), targets)
    assert cam.layer
    assert "map_head" not in cam.layer
    assert logits == pytest.approx((answer[0] if isinstance(answer, tuple) else answer).numpy(), abs=1e-5)
    features = taken[0].double().numpy()
    weights = last.weight.detach().double().numpy()[targets]
    expected = np.maximum(np.einsum("nk,nkhw->nhw", weights, features), 0)
    scale = torch.nn.functional.interpolate(torch.from_numpy(expected)[:, None], (64, 64), mode="bilinear")[:, 0]
    expected = (scale / scale.amax((1, 2), keepdim=True).clamp_min(1e-12)).numpy()
    assert maps == pytest.approx(expected, abs=2e-4)
    assert maps.shape == (3, 64, 64)


def test_frozen_early_stages_are_no_hindrance() -> None:
    body = create_backbone("tf_efficientnet_lite0", 2, "none")
    maps, _ = GradCam(PixelModel(body, ["conv_stem", "bn1", "blocks.0"]))(pixels(1), np.array([1]))
    assert np.isfinite(maps).all()


def test_a_network_without_maps_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    with pytest.raises(ValueError, match="no layer with a spatial extent"):
        GradCam(PixelModel(flat))(pixels(1, 4), np.array([0]))


def test_the_share_inside_is_the_sum_by_hand() -> None:
    heat = np.zeros((40, 40), np.float32)
    heat[20, 20], heat[0, 0], heat[20, 30] = 1.0, 0.6, 0.4
    mask = np.zeros((40, 40), bool)
    mask[19:22, 19:22] = True  # grown by 4 pixels: from 15 to 25
    found = focus(heat, Place(mask, Box(0, 0, 40, 40)))
    assert found is not None
    assert found.inside == pytest.approx(1 / 2)
    assert found.border == pytest.approx(0.6 / 2)
    assert found.peak
    assert 9 / 1600 < found.chance < 11 * 11 / 1600
    assert focus(heat, Place(None, Box(0, 0, 40, 40))) is None
    assert focus(np.zeros_like(heat), Place(mask, Box(0, 0, 40, 40))) is None


def test_a_mask_of_the_glottis_alone_grows_further() -> None:
    heat = np.ones((40, 40), np.float32)
    mask = np.zeros((40, 40), bool)
    mask[20, 20] = True
    near = focus(heat, Place(mask, Box(0, 0, 40, 40)))
    far = focus(heat, Place(mask, Box(0, 0, 40, 40), GLOTTIS_MARGIN))
    assert near is not None
    assert far is not None
    assert far.chance > 3 * near.chance


def test_padding_is_no_part_of_the_picture() -> None:
    heat = np.ones((40, 40), np.float32)
    mask = np.zeros((40, 40), bool)
    mask[10:30] = True
    found = focus(heat, Place(mask, Box(0, 10, 40, 20)))
    assert found is not None
    assert found.inside == found.chance == 1
    assert found.border == 0


@pytest.fixture
def sample() -> Any:
    records = tuple(
        Record(f"{i}.png", "folds" if i % 2 else "no_folds", f"g{i // 4}", "one", "val", "CC0") for i in range(16)
    )
    labels = np.array([r.label_index for r in records])
    inputs = Inputs(pixels(16, 32), labels, np.ones(16, bool), records)
    said = labels.copy()
    said[[1, 2, 3]] = 1 - said[[1, 2, 3]]
    maps = np.zeros((16, 32, 32), np.float16)
    maps[:, 16, 16] = 1
    maps[5] = 0
    maps[5, 0, 0] = 1
    mask = np.zeros((32, 32), bool)
    mask[14:18, 14:18] = True
    places = [Place(mask if r.label == "folds" else None, Box(0, 0, 32, 32)) for r in records]
    return inputs, Looks(maps, said, np.linspace(0.5, 1, 16), "stages"), places


def test_only_right_answers_with_a_mask_count(sample: Any) -> None:
    inputs, looks, places = sample
    found = focus_by_source(looks, inputs, places)
    assert found["one"]["images"] == found["all"]["images"] == 6  # of eight with folds two are wrong
    assert found["one"]["groups"] == 3
    assert found["one"]["on_folds"] == pytest.approx(5 / 6)
    assert found["one"]["peak"] == pytest.approx(5 / 6)
    assert found["one"]["border"] == pytest.approx(1 / 6)


def test_sheets_take_frames_from_every_group(sample: Any) -> None:
    inputs, looks, places = sample
    assert sorted(choose_frames(inputs, looks, "one", right=False)) == [1, 2, 3]
    right = choose_frames(inputs, looks, "one", right=True, count=4)
    assert len(right) == len(set(right)) == 4
    assert len({inputs.records[i].group for i in right}) == 4
    assert all(inputs.labels[i] for i in choose_frames(inputs, looks, "one", right=True, label=1))
    assert choose_frames(inputs, looks, "two", right=True) == []
    sheet = draw_sheet(inputs, right, {"a": looks, "b": looks}, places, {"a": "teacher"})
    assert sheet.ndim == 3
    assert sheet.std() > 10
