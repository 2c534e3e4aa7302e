"""The segmentation teacher: its encoder is the pretrained one, it trains, comes back from its folder, and answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer._torchvision import ensure_torchvision  # noqa: E402  after the check for torch

ensure_torchvision()
pytest.importorskip("segmentation_models_pytorch")

from edge.errors import ConfigError, FoldsightError  # noqa: E402
from trainer.losses.pixel import PartialDice, PartialLabels  # noqa: E402
from trainer.models import create_backbone  # noqa: E402
from trainer.recipe import MapTeacherSettings, TrainSettings  # noqa: E402
from trainer.segment import fit_map_teacher, load_map_teacher, predict_maps  # noqa: E402
from trainer.segment.networks import MapTeacher  # noqa: E402
from trainer.stages import Machine  # noqa: E402

ENCODER = "tf_efficientnet_lite0"
SETTINGS = MapTeacherSettings(
    weights="none", side=64, train=TrainSettings(epochs=1, epoch_images=16, batch=8, precision="32-true")
)


def test_the_encoder_holds_the_packaged_weights() -> None:
    teacher = MapTeacher(ENCODER, "package", 64).eval()
    classifier = create_backbone(ENCODER, 1000, "package").eval()
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        deepest = teacher.body.encoder(image)[-1]
        stem = classifier.bn1(classifier.conv_stem(image))
        assert torch.allclose(deepest, classifier.blocks(stem), atol=1e-5)


def test_an_encoder_that_cannot_be_one_is_named() -> None:
    with pytest.raises(ConfigError, match="timm has no model 'nothing_b9'"):
        MapTeacher("nothing_b9", "none", 64)


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 5.0)])
def test_partial_labels_is_the_likelihood_of_the_set(weights: Any) -> None:
    rng = np.random.default_rng(1)
    logits, sets = rng.normal(0, 3, (2, 3, 4, 5)), rng.integers(1, 8, (2, 4, 5))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    terms, shares = [], []
    for n, row, column in np.ndindex(*sets.shape):
        if sets[n, row, column] != 7:
            inside = [c for c in range(3) if sets[n, row, column] >> c & 1]
            terms.append(-np.log(chances[n, inside, row, column].sum()))
            shares.append(weights[inside[0]] if weights and len(inside) == 1 else 1)
    found = PartialLabels(weights)(torch.tensor(logits), torch.tensor(sets, dtype=torch.uint8))
    assert float(found) == pytest.approx(np.average(terms, weights=shares), rel=1e-5)


def test_partial_labels_learns_nothing_from_what_is_unknown() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = PartialLabels()(logits, torch.full((1, 2, 2), 7, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_partial_labels_with_one_class_each_is_cross_entropy() -> None:
    logits, classes = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    expected = torch.nn.functional.cross_entropy(logits, classes)
    assert float(PartialLabels()(logits, (1 << classes).to(torch.uint8))) == pytest.approx(float(expected), rel=1e-5)


def test_partial_dice_counts_where_a_class_is_decided() -> None:
    rng = np.random.default_rng(2)
    logits, sets = rng.normal(0, 2, (2, 3, 4, 5)), rng.integers(1, 8, (2, 4, 5))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = []
    for c in (1, 2):
        truth = sets == 1 << c
        told = truth | (sets >> c & 1 == 0)
        both = (chances[:, c] * truth).sum()
        expected.append(1 - (2 * both + 1) / ((chances[:, c] * told).sum() + truth.sum() + 1))
    found = PartialDice((1, 2))(torch.tensor(logits), torch.tensor(sets, dtype=torch.uint8))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_it_trains_comes_back_and_answers(mask_pack: Any, tmp_path: Any) -> None:
    def trained(folder: Any) -> Any:
        return fit_map_teacher(mask_pack, mask_pack.records, mask_pack, mask_pack.records, SETTINGS, folder,
                               seed=4, machine=Machine(threads=1, accelerator="cpu"))  # fmt: skip

    first = trained(tmp_path / "a")
    assert 0 <= first.metrics["score"] <= 1
    assert {"vocalfolds_folds", "vocalfolds_glottis", "bagls-glottis_glottis", "kvasir-seg_false"} < set(first.metrics)
    assert "bagls-glottis_folds" not in first.metrics
    model = load_map_teacher(first.weights)
    images = np.asarray(mask_pack.images[:3])
    maps = predict_maps(model, images, batch=2)
    assert maps.shape == (3, 256, 256, 2)
    assert maps.dtype == np.uint8
    assert (maps.astype(int).sum(axis=3) <= 256).all()  # they exclude each other
    assert np.abs(maps.astype(int) - predict_maps(load_map_teacher(tmp_path / "a"), images)).max() <= 1
    assert trained(tmp_path / "a") == first  # what is done is not done again
    other = load_map_teacher(trained(tmp_path / "b").weights).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_a_folder_without_its_settings_is_named(tmp_path: Any) -> None:
    with pytest.raises(FoldsightError, match=r"settings.json: these are no settings of a segmentation teacher"):
        load_map_teacher(tmp_path / "best.pt")
