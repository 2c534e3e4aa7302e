"""Training that does not trust sources: each loss against its formula in float64, what it does, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, log_softmax

torch = pytest.importorskip("torch")

from trainer._torchvision import ensure_torchvision  # noqa: E402  after the check for torch

ensure_torchvision()
pytest.importorskip("lightning")

from test_train import Discs, fit, same, state, student  # noqa: E402

from edge.errors import ConfigError  # noqa: E402
from trainer import train  # noqa: E402
from trainer.data.augment import AugmentSettings  # noqa: E402
from trainer.data.manifest import read_manifest, write_manifest  # noqa: E402
from trainer.distil import Beside, Distillation, Supervised  # noqa: E402
from trainer.distrust import Distrust  # noqa: E402
from trainer.losses import GroupRobust, HardLabels, SoftTargets, SourceAdversary, TwinMargin  # noqa: E402
from trainer.losses.distrust import ramp, reverse  # noqa: E402
from trainer.models import PixelModel, Pooled, SimpleResNet  # noqa: E402
from trainer.recipe import Recipe, RobustSettings, load_recipe  # noqa: E402
from trainer.smoke import MANIFEST, smoke_recipe, write_smoke_images  # noqa: E402
from trainer.stages import Run  # noqa: E402

ALL = RobustSettings(group_dro=0.1, adversary=0.5, twins=0.5)
CELLS = {0: ["a", "b", "c"], 1: ["a", "b"]}


# --- group DRO ---


def test_group_dro_follows_its_formula() -> None:
    """Step by step, with groups that are not in a batch, which keep their weight."""
    rng = np.random.default_rng(0)
    loss, weights = GroupRobust(4, 0.3), np.full(4, 0.25)
    for present in ([0, 1, 2, 3], [0, 2], [1], [3, 1, 0]):
        groups = rng.choice(present, 12)
        each = rng.uniform(0, 3, 12)
        seen = sorted(set(groups))
        means = np.array([each[groups == g].mean() for g in seen])
        grown = weights[seen] * np.exp(0.3 * means)
        weights[seen] = grown * weights[seen].sum() / grown.sum()
        found = torch.tensor(each, dtype=torch.float32, requires_grad=True)
        value = loss(found, torch.tensor(groups))
        assert float(value.detach()) == pytest.approx((weights[seen] * means).sum(), rel=1e-5)
        assert loss.weights.double().numpy() == pytest.approx(weights, rel=1e-5)
        value.backward()
        counts = np.array([(groups == g).sum() for g in groups])
        assert found.grad is not None
        assert found.grad.double().numpy() == pytest.approx(weights[groups] / counts, rel=1e-5)
    assert weights.sum() == pytest.approx(1)


def test_the_worst_group_comes_to_count_most() -> None:
    loss, groups = GroupRobust(3, 0.05), torch.tensor([0, 0, 0, 1, 1, 2])
    each = torch.tensor([0.1, 0.1, 0.1, 0.5, 0.5, 2.0])
    course = []
    for _ in range(200):
        loss(each, groups)
        course.append(float(loss.weights[2]))
    assert course == sorted(course)
    assert course[-1] > 0.99
    loss.eval()
    before = loss.weights.clone()
    loss(each, groups)
    assert torch.equal(loss.weights, before)
    assert bool((before > 0).all())


def test_a_loss_that_is_no_number_leaves_the_weights() -> None:
    loss = GroupRobust(2, 1.0)
    loss(torch.tensor([float("nan"), 1.0]), torch.tensor([0, 1]))
    assert loss.weights.tolist() == pytest.approx([0.5, 0.5])


# --- adversary ---


def test_the_gradient_comes_back_reversed() -> None:
    features = torch.tensor([[1.0, -2.0]], requires_grad=True)
    seen = reverse(features, 0.3)
    assert torch.equal(seen, features)
    (seen * torch.tensor([[5.0, 7.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist()[0] == pytest.approx([-1.5, -2.1])


def test_the_adversary_grows_as_in_the_paper() -> None:
    assert ramp(0) == 0
    assert ramp(0.1) == pytest.approx(np.tanh(0.5))  # 2 / (1 + exp(-2 x)) - 1 = tanh(x)
    assert ramp(1) == pytest.approx(0.9999, abs=1e-4)


def test_the_adversary_follows_its_formula_within_each_label() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    features, labels, sources = rng.normal(size=(9, 5)), rng.integers(0, 3, 9), rng.integers(0, 2, 9)
    labels[:3], sources[:3] = (0, 1, 2), (3, 4, 0)
    sources[labels == 2] = 0
    adversary = SourceAdversary(5, {0: [0, 1, 3], 1: [0, 1, 4], 2: [0]}, 0.7, width=6)
    assert set(adversary.sources) == {0, 1}  # the third has one source: to hide it were to hide the label
    weights = {name: value.double().numpy() for name, value in adversary.state_dict().items()}
    expected = []
    for f, y, s in zip(features, labels, sources, strict=True):
        if y == 2:
            continue
        hidden = np.maximum(weights[f"heads.{y}.0.weight"] @ f + weights[f"heads.{y}.0.bias"], 0)
        said = weights[f"heads.{y}.2.weight"] @ hidden + weights[f"heads.{y}.2.bias"]
        expected.append(-log_softmax(said)[[[0, 1, 3], [0, 1, 4]][y].index(s)])
    gradients, told = [], (torch.tensor(labels), torch.tensor(sources))
    for strength in (0.7, -1 / ramp(0.4)):  # the second undoes the reversal
        adversary.strength = strength
        adversary.zero_grad()
        given = torch.tensor(features, dtype=torch.float32, requires_grad=True)
        value = adversary(given, *told, 0.4)
        assert float(value.detach()) == pytest.approx(np.mean(expected), rel=1e-5)
        value.backward()
        gradients.append((given.grad, [p.grad.clone() for p in adversary.parameters()]))
    (reversed_, heads), (plain, same_heads) = gradients
    assert torch.allclose(reversed_, -0.7 * ramp(0.4) * plain, rtol=1e-5, atol=1e-8)
    assert all(map(torch.equal, heads, same_heads))  # they learn to tell, whatever the features are told
    assert float(plain.abs().max()) > 0
    assert not bool(plain[labels == 2].any())


def test_an_adversary_without_its_images_costs_nothing() -> None:
    adversary = SourceAdversary(5, {0: [0, 1], 1: [2]}, 1.0)
    value = adversary(torch.randn(2, 5, requires_grad=True), torch.tensor([1, 1]), torch.tensor([2, 2]), 0.5)
    assert float(value.detach()) == 0
    value.backward()


def test_pooled_features_are_what_the_classifier_is_given() -> None:
    model = student().eval()
    pooled = Pooled(model)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad(), pooled:
        logits = model(pixels)
    assert torch.allclose(model.body.classifier(pooled.take()), logits)
    assert pooled.features == 16
    model(pixels)
    with pytest.raises(ConfigError, match="set adversary to 0"):
        pooled.take()  # outside nothing is taken
    with pytest.raises(ConfigError, match="no linear layer"):
        Pooled(torch.nn.Conv2d(3, 2, 1))


# --- twins ---


def test_the_twins_margin_follows_its_formula() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (9, 2))
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0])
    records = np.array([5, 5, 7, 7, 3, 4, 6, 6, 6])  # the third couple is of two records, the fourth of one label
    odds = logits[:, 1] - logits[:, 0]
    apart = np.array([odds[0] - odds[1], odds[3] - odds[2]])
    given = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    value = TwinMargin(1.5, 1)(given, torch.tensor(labels), torch.tensor(records))
    assert float(value.detach()) == pytest.approx(np.log1p(np.exp(1.5 - apart)).mean(), rel=1e-5)
    value.backward()
    assert given.grad is not None
    pull = expit(1.5 - apart) / 2
    expected = np.zeros((9, 2))
    expected[[0, 3], 1], expected[[1, 2], 1] = -pull, pull
    expected[:, 0] = -expected[:, 1]
    assert given.grad.double().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    # What is added to both twins, as a source's light may be, changes nothing.
    moved = given.detach() + torch.tensor([[0.0, 3.0]])
    same_value = TwinMargin(1.5, 1)(moved, torch.tensor(labels), torch.tensor(records))
    assert float(same_value) == pytest.approx(float(value.detach()), rel=1e-5)
    assert float(TwinMargin(1.5, 1)(given, torch.tensor(labels), torch.arange(9)).detach()) == 0


# --- all of them in a task ---


class Couples(Discs):
    """The discs; couples are of one record."""

    def __getitem__(self, index: Any) -> Any:
        image, label, _, more = super().__getitem__(index)
        return image, label, index // 2, more


def distrust(model: Any, settings: RobustSettings = ALL, cells: Any = CELLS, **more: Any) -> Distrust:
    sources = ["abc"[record % 3] for record in range(24)]
    if "c" not in cells[1]:
        sources = ["a" if source == "c" else source for source in sources]
    return Distrust(settings, sources, cells, model, 1, **{"twins": True, "seed": 3, **more})


def task(settings: RobustSettings = ALL, *, distilled: bool = False) -> Any:
    model = student()
    if distilled:
        torch.manual_seed(4)
        teacher = PixelModel(SimpleResNet(widths=(16,), blocks=(1,)))
        made: Any = Distillation(
            model, teacher, soft=SoftTargets(3), hard=HardLabels(0.1), soft_weight=0.5, hard_weight=0.25
        )
    else:
        made = Supervised(model, HardLabels(0.1))
    made.distrust = distrust(model, settings)
    return made


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("settings", [RobustSettings(group_dro=0.1), ALL], ids=["group_dro", "all"])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, distilled: Any
) -> None:
    monkeypatch.setattr(train, "_SAVE_EVERY_S", 0.0)
    fit(tmp_path / "whole", Couples(), task=task(settings, distilled=distilled))
    for drawn in (20, 61):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", Couples(stop_after=drawn), task=task(settings, distilled=distilled))
    fit(tmp_path / "cut", Couples(), task=task(settings, distilled=distilled))
    whole = state(tmp_path / "whole")
    assert same(whole, state(tmp_path / "cut"))
    (logs,) = (value for name, value in whole["helpers"].items() if name.endswith("logs"))
    assert float(logs.std()) > 0
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_without_any_a_task_is_what_it_was(tmp_path: Path) -> None:
    """The weights of nothing but zeros are the same bits, and nothing joins the checkpoint."""
    fit(tmp_path / "plain", Couples(), task=Supervised(student(), HardLabels(0.1)))
    assert "helpers" not in state(tmp_path / "plain")
    pixels, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    plain, beside = Supervised(student(), HardLabels(0.1)).eval(), Beside(torch.arange(4), 0.5)
    terms = plain(pixels, labels, torch.zeros(0), beside)
    assert set(terms) == {"loss", "hard"}
    # With a single margin and no pair to hold to it, the loss is the plain one.
    only = task(RobustSettings(twins=1.0)).eval()
    with torch.no_grad():
        found = float(only(pixels, labels, torch.zeros(0), beside)["loss"])
    assert found == pytest.approx(float(terms["loss"].detach()), rel=1e-6)


def test_each_images_losses_are_those_of_the_mean() -> None:
    z, t, y = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    hard, soft = HardLabels(0.2), SoftTargets(3.0)
    assert float(hard.each(z, y).mean()) == pytest.approx(float(hard(z, y)), rel=1e-5)
    assert float(soft.each(z, t).mean()) == pytest.approx(float(soft(z, t)), rel=1e-5)


@pytest.mark.parametrize(("world", "expected"), [
    (1, [[0, 1, 2, 3, 4, 5, 6, 7]]), (2, [[0, 1, 4, 5], [2, 3, 6, 7]]), (3, [[0, 1, 6, 7], [2, 3], [4, 5]]),
])  # fmt: skip
def test_twins_go_to_one_process(world: Any, expected: Any) -> None:
    found = [list(train._Batches(3, 8, 1, rank, world, 2)) for rank in range(world)]
    assert [batches[0] for batches in found] == [[8 + i for i in part] for part in expected]
    alone = [list(train._Batches(3, 8, 0, rank, world)) for rank in range(world)]
    assert alone == [[list(range(8 * s + r, 8 * s + 8, world)) for s in range(3)] for r in range(world)]


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "cells", "more", "said"),
    [
        (RobustSettings(group_dro=0.1), {0: ["a"], 1: ["a"]}, {}, "group_dro is 0.1, but all training images are"),
        (RobustSettings(adversary=1), {0: ["a"], 1: ["a"]}, {}, "adversary is 1, but all training images are of one"),
        (RobustSettings(adversary=1), {0: ["a"], 1: ["b"]}, {}, "to hide the source would be to hide the label"),
        (RobustSettings(twins=1), CELLS, {"twins": False}, "the stream shows no twins"),
    ],
)  # fmt: skip
def test_what_has_nothing_to_work_on_is_refused(settings: Any, cells: Any, more: Any, said: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        distrust(student(), settings, cells, **more)


@pytest.fixture
def content() -> Any:
    recipe = load_recipe("vocal-folds").model_dump(mode="json")
    recipe["augment"]["twins"] = 0.5
    return recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": {"robust": {"group_dro": -0.1}}}, "greater than or equal to 0"),
        ({"teacher": {"robust": {"group_drop": 0.1}}}, "Extra inputs are not permitted"),
        ({"teacher": {"robust": {"twin_margin": 3.0}}}, "twin_margin is 3, but twins is 0"),
        ({"augment": {"twins": 0.0}, "teacher": {"robust": {"twins": 1.0}}}, "augment.twins is 0, so no picture is"),
        ({"augment": {"twins": 0.0}, "student": {"robust": {"twins": 1.0}}}, r"student\.robust\.twins is 1, but"),
    ],
)
def test_wrong_settings_are_refused(content: Any, change: Any, said: Any) -> None:
    for part, values in change.items():
        content[part] |= values
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(content)


def test_a_batch_that_parts_twins_is_refused(content: Any) -> None:
    content["teacher"] |= {"robust": {"twins": 1.0}}
    content["teacher"]["train"]["batch"] = 33
    with pytest.raises(ValidationError, match="which parts twins: make it even"):
        Recipe.model_validate(content)


def test_what_is_off_changes_no_key_and_what_is_on_does(content: Any, tmp_path: Path) -> None:
    def keys(change: Any) -> Any:
        teacher = content["teacher"] | change
        run = Run(Recipe.model_validate(content | {"teacher": teacher}), tmp_path, tmp_path / "run")
        run.__dict__["data_key"] = "0" * 64
        return run.teacher_key, run.scratch_key

    content["teacher"].pop("robust")
    plain = keys({})
    assert keys({"robust": {}}) == plain
    assert keys({"robust": {"group_dro": 0.0, "twin_margin": 2.0}}) == plain
    assert keys({"robust": {"group_dro": 0.01}})[0] != plain[0]
    assert keys({"robust": {"group_dro": 0.01}})[1] == plain[1]  # the student from scratch has its own


# --- a whole training ---


@pytest.mark.timeout(900)  # seconds on an idle machine
def test_a_teacher_and_a_student_train_with_all_of_it(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    root = tmp_path / "images"
    write_smoke_images(root, 7)
    records = read_manifest(root / MANIFEST)
    groups = sorted({record.group for record in records})
    mixed = [dataclasses.replace(r, source="other") if r.group in groups[::2] else r for r in records]
    write_manifest(root / MANIFEST, mixed)
    recipe = smoke_recipe(load_recipe("vocal-folds"))
    robust = ALL.model_copy(update={"group_dro": 0.5})
    recipe = recipe.model_copy(update={
        "augment": AugmentSettings(twins=1.0), "maps": None, "smaller": None,
        "teacher": recipe.teacher.model_copy(update={"robust": robust}),
        "student": recipe.student.model_copy(update={"robust": robust}),
    })  # fmt: skip
    run = Run(recipe, root, tmp_path / "run")
    for folder in (run.teacher(), run.distil()):
        lines = [json.loads(line) for line in (folder / train.METRICS).read_text(encoding="utf-8").splitlines()]
        (last, *_) = [line for line in lines if "loss" in line]
        weights = {name: value for name, value in last.items() if name.startswith("group_") and name != "group_dro"}
        assert set(weights) == {f"group_{source}_{label}" for source in ("other", "smoke") for label in (0, 1)}
        assert sum(weights.values()) == pytest.approx(1, abs=1e-4)
        assert last["loss"] == pytest.approx(last["group_dro"] + last["adversary"] + 0.5 * last["twin"], rel=1e-4)
        assert last["twin"] > 0
        helpers = torch.load(folder / train.LAST, weights_only=True)["helpers"]
        assert any(name.endswith("robust.logs") for name in helpers)
    alone = recipe.model_copy(update={"augment": AugmentSettings(twins=1.0)})
    write_manifest(root / MANIFEST, records)  # one source
    with pytest.raises(ConfigError, match=r"all training images are of one source \(smoke\)"):
        Run(alone, root, tmp_path / "one").teacher()
