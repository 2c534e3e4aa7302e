"""Each loss against its formula, computed independently in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer.distil import Distillation, Supervised, mix_images  # noqa: E402  after the check for torch
from trainer.losses import HardLabels, SoftMaps, SoftTargets  # noqa: E402
from trainer.models import PixelModel, SimpleResNet  # noqa: E402

NO_MAPS = torch.zeros(4, 0, 0, 0)


def log_softmax(z: Any) -> Any:
    z = z.astype(np.float64)
    return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_soft_targets_is_kl_times_temperature_squared(temperature: Any, classes: Any) -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(0, 4, (7, classes)), rng.normal(0, 4, (7, classes))
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    expected = temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum() / 7
    found = SoftTargets(temperature)(torch.tensor(student), torch.tensor(teacher))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_is_zero_for_the_teacher_itself_and_sends_it_no_gradient() -> None:
    teacher = torch.randn(4, 2, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    loss = SoftTargets(4.0)(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_is_smoothed_cross_entropy(smoothing: Any) -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 3, (9, 3)), rng.integers(0, 3, 9)
    wanted = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    expected = -(wanted * log_softmax(logits)).sum() / 9
    found = HardLabels(smoothing)(torch.tensor(logits), torch.tensor(labels))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_task_names_its_terms_and_adds_them_up_by_weight() -> None:
    student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    task = Distillation(student, teacher, soft=SoftTargets(2), hard=HardLabels(), soft_weight=0.7, hard_weight=0.2)
    terms = task(torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]), NO_MAPS)
    assert set(terms) == {"loss", "soft", "hard"}
    weighted = 0.7 * float(terms["soft"]) + 0.2 * float(terms["hard"])
    assert float(terms["loss"].detach()) == pytest.approx(weighted, rel=1e-6)


def test_the_teacher_is_frozen_and_no_part_of_the_task() -> None:
    student, teacher = torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.9))
    task = Distillation(student, teacher, soft=SoftTargets(2), hard=HardLabels(), soft_weight=1, hard_weight=0)
    task.train()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert set(task.state_dict()) == {"model.weight", "model.bias"}
    assert task.frozen() == [teacher]


def test_supervised_has_its_loss_alone() -> None:
    terms = Supervised(torch.nn.Linear(3, 2), HardLabels())(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]), NO_MAPS)
    assert float(terms["loss"].detach()) == float(terms["hard"])


@pytest.mark.parametrize("positive", [1.0, 3.0])
def test_soft_maps_is_weighted_binary_cross_entropy(positive: Any) -> None:
    rng = np.random.default_rng(4)
    logits, targets = rng.normal(0, 3, (3, 2, 5, 4)), rng.random((3, 2, 5, 4))
    chance = 1 / (1 + np.exp(-logits))
    weight = 1 + (positive - 1) * targets
    expected = -(weight * (targets * np.log(chance) + (1 - targets) * np.log(1 - chance))).mean()
    found = SoftMaps(positive)(torch.tensor(logits), torch.tensor(targets, dtype=torch.float32))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_distillation_with_a_map_adds_its_loss() -> None:
    torch.manual_seed(0)
    student = PixelModel(SimpleResNet(2, (16, 16, 16), (1, 1, 1), maps=2))
    teacher = PixelModel(SimpleResNet(2, (16,), (1,)))
    pixels, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    maps = torch.rand(4, 2, 8, 8)
    task = Distillation(student, teacher, soft=SoftTargets(2.0), hard=HardLabels(), soft_weight=0.5, hard_weight=0.25,
                        dense=SoftMaps(), map_weight=3.0)  # fmt: skip
    terms = task(pixels, labels, maps)
    weighted = 0.5 * terms["soft"] + 0.25 * terms["hard"] + 3.0 * terms["map"]
    assert float(terms["loss"].detach()) == pytest.approx(float(weighted), rel=1e-6)
    terms["loss"].backward()
    assert student.body.map_head[3].bias.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


# --- images mixed with others of their batch ---


def test_mixed_images_lie_between_two_of_the_batch_and_the_others_stay() -> None:
    torch.manual_seed(3)
    pixels = torch.arange(40, dtype=torch.uint8).mul(6).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    found, plain = mix_images(pixels, 0.5)
    assert found.dtype == torch.uint8
    assert 8 < int(plain.sum()) < 32
    assert torch.equal(found[plain], pixels[plain])
    assert float((found[~plain] != pixels[~plain]).float().mean()) > 0.8
    assert int(found.min()) >= 0
    assert int(found.max()) <= 39 * 6
    assert torch.equal(mix_images(pixels, 0.0)[0], pixels)


def test_a_mixture_has_the_teachers_answer_and_no_label() -> None:
    """With all images mixed the hard term is 0 whatever the labels, and the soft one is that of the blends."""
    torch.manual_seed(0)
    student, teacher = PixelModel(torch.nn.Flatten()), PixelModel(torch.nn.Flatten())
    task = Distillation(student, teacher, soft=SoftTargets(2), hard=HardLabels(), soft_weight=1, hard_weight=1, mix=1.0)
    pixels = torch.randint(0, 255, (6, 3, 1, 1), dtype=torch.uint8)
    terms = task.train()(pixels, torch.tensor([0, 1, 2, 0, 1, 2]), NO_MAPS)
    assert float(terms["hard"]) == 0.0
    assert float(terms["soft"]) == pytest.approx(0.0, abs=1e-6)  # the two networks are one, on whatever they see
    plain = task.eval()(pixels, torch.tensor([0, 1, 2, 0, 1, 2]), NO_MAPS)
    assert float(plain["hard"]) > 0  # asked, not taught: nothing is mixed


def test_maps_and_labels_count_of_the_images_that_are_not_mixed() -> None:
    body = SimpleResNet(2, (16, 16, 16, 16), (1, 1, 1, 1), maps=2)
    teacher = PixelModel(SimpleResNet(2, (16, 16, 16, 16), (1, 1, 1, 1)))
    task = Distillation(PixelModel(body), teacher, soft=SoftTargets(2), hard=HardLabels(), soft_weight=0.5,
                        hard_weight=0.25, dense=SoftMaps(), map_weight=2.0, mix=0.5)  # fmt: skip
    pixels, labels = torch.randint(0, 255, (8, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1] * 4)
    maps = torch.rand(8, 2, 8, 8)
    torch.manual_seed(5)
    terms = task.train()(pixels, labels, maps)
    weighted = 0.5 * terms["soft"] + 0.25 * terms["hard"] + 2.0 * terms["map"]
    assert float(terms["loss"].detach()) == pytest.approx(float(weighted), rel=1e-5)
    torch.manual_seed(5)
    blended, plain = mix_images(pixels, 0.5)
    with torch.no_grad():
        logits, found = task.train().model(blended)
    assert 0 < int(plain.sum()) < 8
    assert float(terms["hard"]) == pytest.approx(float(HardLabels()(logits[plain], labels[plain])), rel=1e-4)
    assert float(terms["map"]) == pytest.approx(float(SoftMaps()(found[plain], maps[plain])), rel=1e-4)
