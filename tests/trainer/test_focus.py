"""Evidence where the finding is: the loss against its formula, and what it does to what is learnt."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if find_spec("timm") is None:  # not imported here: torchvision may need help first
    pytest.skip("timm is not installed", allow_module_level=True)

from edge.errors import ConfigError  # noqa: E402  after the check for torch
from trainer import train  # noqa: E402
from trainer.distil import Distillation, Supervised, mix_images  # noqa: E402
from trainer.focus import Focus  # noqa: E402
from trainer.gradcam import GradCam  # noqa: E402
from trainer.losses import HardLabels, SoftTargets, StrayActivation  # noqa: E402
from trainer.models import PixelModel, SimpleResNet, create_backbone  # noqa: E402
from trainer.recipe import load_recipe  # noqa: E402
from trainer.smoke import smoke_recipe, write_smoke_images  # noqa: E402
from trainer.stages import Run  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

SMALL: Any = {"widths": (16, 16, 16, 16), "blocks": (1, 1, 1, 1)}


def some_batch(count: int = 6) -> tuple[Any, Any, Any]:
    """Pictures uint8 (N, 3, 64, 64), labels in turn, and masks (N, 2, 8, 8) with a corner on those of label 1."""
    torch.manual_seed(1)
    maps = torch.zeros(count, 2, 8, 8)
    maps[1::2, 0, :3, :3] = 1.0
    return torch.randint(0, 255, (count, 3, 64, 64), dtype=torch.uint8), torch.arange(count) % 2, maps


def test_it_is_the_share_of_the_activation_outside_the_grown_mask() -> None:
    rng = np.random.default_rng(4)
    features, weights = rng.random((3, 5, 4, 4)), rng.normal(0, 1, (3, 5))
    masks = np.zeros((3, 2, 16, 16), np.float32)
    masks[0, 0, 5, 6] = masks[1, 1, 0:4, 8:12] = 1.0
    masks[2] = 0.3  # nowhere sure: it does not count
    direction = weights[1] - (weights[0] + weights[2]) / 2
    shares = []
    for index, (rows, columns) in enumerate([(range(4, 7), range(5, 8)), (range(5), range(7, 13))]):
        inside = np.zeros((16, 16))
        inside[np.ix_(rows, columns)] = 1
        inside = inside.reshape(4, 4, 4, 4).mean((1, 3))
        evidence = np.maximum(np.einsum("chw,c->hw", features[index], direction), 0)
        shares.append(1 - (evidence * inside).sum() / evidence.sum())
    found = StrayActivation(1, grow=0.06)(torch.tensor(features), torch.tensor(weights), torch.tensor(masks))
    assert float(found) == pytest.approx(np.mean(shares), rel=1e-5)


def test_of_no_picture_it_is_zero_and_can_be_learnt_from() -> None:
    features = torch.rand(2, 5, 4, 4, requires_grad=True)
    loss = StrayActivation(1)(features, torch.rand(2, 5), torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert features.grad is not None


@pytest.mark.parametrize("kind", ["simple_resnet", "simple_resnet with a map", "tf_efficientnet_lite0"])
def test_what_it_weighs_is_what_gradcam_shows(kind: str) -> None:
    """With two labels of opposite weights its map is Grad-CAM's: where all of it is inside, nothing is lost."""
    torch.manual_seed(2)
    maps = 2 if "map" in kind else 0
    body: Any = create_backbone(kind, 2, "none") if kind.startswith("tf") else SimpleResNet(2, maps=maps, **SMALL)
    model = PixelModel(body).eval()
    with torch.no_grad():
        body.classifier.weight[0] = -body.classifier.weight[1]
    focus = Focus(model, 1, 1.0, 64)
    pixels, _, _ = some_batch(2)
    heat, _ = GradCam(model)(pixels.permute(0, 2, 3, 1).numpy(), np.array([1, 1]))
    cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(heat)[:, None], 8)
    for shown, wanted in ((torch.ones(2, 1, 8, 8), 0.0), ((cells > 0.5 * cells.amax()).float(), None)):
        with torch.no_grad(), focus.watch():
            model(pixels)
            lost = float(focus(torch.tensor([1, 1]), shown))
        assert lost == pytest.approx(wanted, abs=1e-6) if wanted is not None else 0 < lost < 0.9


def test_learning_moves_the_evidence_into_the_mask() -> None:
    torch.manual_seed(3)
    model = PixelModel(SimpleResNet(2, **SMALL))
    task = Supervised(model, HardLabels())
    task.focus = Focus(model, 1, 1.0, 64)
    pixels, labels, maps = some_batch()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    found = []
    for _ in range(30):
        terms = task.train()(pixels, labels, maps)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        found.append(float(terms["focus"]))
        assert float(terms["loss"].detach()) == pytest.approx(float(terms["hard"] + terms["focus"]), rel=1e-5)
    assert found[-1] < 0.5 * found[0]


def test_of_mixed_pictures_only_the_plain_ones_are_looked_at() -> None:
    torch.manual_seed(6)
    model, teacher = PixelModel(SimpleResNet(2, **SMALL)), PixelModel(SimpleResNet(2, **SMALL))
    task = Distillation(model, teacher, soft=SoftTargets(2), hard=HardLabels(), soft_weight=0.5, hard_weight=0.25,
                        mix=0.5)  # fmt: skip
    task.focus = Focus(model, 1, 2.0, 64)
    pixels, labels, maps = some_batch(12)
    torch.manual_seed(7)
    terms = task.train()(pixels, labels, maps)
    weighted = 0.5 * terms["soft"] + 0.25 * terms["hard"] + 2.0 * terms["focus"]
    assert float(terms["loss"].detach()) == pytest.approx(float(weighted), rel=1e-5)
    torch.manual_seed(7)
    blended, plain = mix_images(pixels, 0.5)
    with torch.no_grad(), task.focus.watch():
        task.train().model(blended)
        wanted = float(task.focus(labels, maps, plain))
    counted = plain & (labels == 1)
    assert 0 < int(counted.sum()) < 6
    assert float(terms["focus"]) == pytest.approx(wanted, rel=1e-4)


def test_a_network_whose_last_map_no_linear_layer_weighs_is_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4 * 16, 2))
    with pytest.raises(ConfigError, match="has 4 channels, which no linear layer weighs"):
        Focus(PixelModel(flat), 1, 1.0, 4)
    with pytest.raises(ConfigError, match="no layer with a spatial extent"):
        Focus(PixelModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))), 1, 1.0, 4)


@pytest.mark.timeout(900)  # seconds on an idle machine
def test_a_recipe_trains_teacher_and_student_with_it_and_its_keys_follow(tmp_path: Path) -> None:
    root = tmp_path / "images"
    write_smoke_images(root, 7)
    plain = smoke_recipe(load_recipe("vocal-folds")).model_copy(update={"smaller": None})
    recipe = plain.model_copy(update={
        "teacher": plain.teacher.model_copy(update={"focus": 0.5}),
        "distil": plain.distil.model_copy(update={"focus": 0.25, "mix": 0.5}),
    })  # fmt: skip
    run = Run(recipe, root, tmp_path / "run")
    taught = {"soft": recipe.distil.soft, "hard": recipe.distil.hard, "map": 1, "focus": 0.25}
    for folder, weights in ((run.teacher(), {"hard": 1, "focus": 0.5}), (run.distil(), taught)):
        lines = [json.loads(line) for line in (folder / train.METRICS).read_text(encoding="utf-8").splitlines()]
        (last, *_) = [line for line in lines if "loss" in line]
        assert 0 < last["focus"] < 1
        assert last["loss"] == pytest.approx(sum(weight * last[name] for name, weight in weights.items()), rel=1e-3)
    assert Run(plain, root, tmp_path / "run").teacher_key != run.teacher_key
    off = recipe.model_copy(update={"teacher": plain.teacher, "distil": plain.distil})
    assert Run(off, root, tmp_path / "run").distil_key() == Run(plain, root, tmp_path / "run").distil_key()
