"""Figures against a well-kept library, and intervals that know what a group is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")

from trainer.metrics import (  # noqa: E402  after the check for scikit-learn
    figures,
    group_weights,
    many_class_figures,
    mean_over_sources,
    multi_label_figures,
    paired_difference,
    weighted_auc,
    with_intervals,
)


@pytest.fixture
def sample() -> Any:
    rng = np.random.default_rng(3)
    truth = rng.random(300) < 0.4
    return truth, np.clip(0.5 + 0.25 * (truth - 0.5) + rng.normal(0, 0.2, 300), 0, 1).round(2)


def test_figures_are_the_librarys(sample: Any) -> None:
    truth, scores = sample
    found = {k: float(v[0]) for k, v in figures(truth, scores, np.ones((1, 300))).items()}
    said = scores >= 0.5
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["recall_finding"] == pytest.approx(metrics.recall_score(truth, said))
    assert found["recall_other"] == pytest.approx(metrics.recall_score(~truth, ~said))
    assert found["precision_finding"] == pytest.approx(metrics.precision_score(truth, said))
    assert found["precision_other"] == pytest.approx(metrics.precision_score(~truth, ~said))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, said))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores))


def test_auc_with_weights_is_the_librarys(sample: Any) -> None:
    truth, scores = sample
    weights = np.random.default_rng(0).integers(0, 4, (5, 300)).astype(float)
    expected = [metrics.roc_auc_score(truth, scores, sample_weight=w) for w in weights]
    assert weighted_auc(truth, scores, weights) == pytest.approx(expected)


def test_one_class_alone_has_a_recall_and_no_auc() -> None:
    found = figures(np.ones(4, bool), np.array([0.9, 0.8, 0.2, 0.7]), np.ones((1, 4)))
    assert found["recall_finding"][0] == 0.75
    assert found["balanced_accuracy"][0] == 0.75
    assert np.isnan(found["auc"][0])
    assert np.isnan(found["recall_other"][0])


def interval(truth: Any, scores: Any, groups: Any) -> Any:
    weights = group_weights(groups, np.full(len(groups), "one"), 1000, 0)
    return with_intervals(truth, scores, groups, weights)["accuracy"]


def test_copies_within_a_group_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(40) < 0.5
    scores = np.where(rng.random(40) < 0.8, truth, ~truth).astype(float)
    groups = np.array([f"g{i}" for i in range(40)])
    single = interval(truth, scores, groups)
    copied = interval(np.repeat(truth, 25), np.repeat(scores, 25), np.repeat(groups, 25))
    assert copied == single
    # The same thousand images as groups of their own would look far more certain.
    naive = interval(np.repeat(truth, 25), np.repeat(scores, 25), np.array([f"i{i}" for i in range(1000)]))
    assert naive.high - naive.low < 0.5 * (single.high - single.low)


def test_the_interval_has_the_width_of_theory() -> None:
    rng = np.random.default_rng(6)
    truth = rng.random(400) < 0.5
    scores = np.where(rng.random(400) < 0.9, truth, ~truth).astype(float)
    found = interval(truth, scores, np.arange(400).astype(str))
    theory = 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert (found.high - found.low) / 2 == pytest.approx(theory, rel=0.15)


def test_a_single_group_has_no_interval() -> None:
    found = interval(np.array([True, False]), np.array([0.9, 0.1]), np.array(["g", "g"]))
    assert (found.value, found.low, found.high) == (1.0, None, None)


def test_a_pair_of_equal_models_differs_by_nothing(sample: Any) -> None:
    truth, scores = sample
    groups = np.arange(300).astype(str)
    weights = group_weights(groups, np.full(300, "one"), 200, 0)
    found = paired_difference(truth, scores, scores, groups, weights)["accuracy"]
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_groups_are_drawn_within_their_source() -> None:
    groups, sources = np.array(["a", "a", "b", "c", "d"]), np.array(["x", "x", "x", "y", "y"])
    weights = group_weights(groups, sources, 50, 0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights[:, 3] + weights[:, 4] == 2).all()


def test_a_small_source_counts_as_much_as_a_large_one() -> None:
    truth = np.ones(110, bool)
    scores = np.r_[np.ones(100), np.zeros(10)]
    sources = np.r_[np.full(100, "large"), np.full(10, "small")]
    assert mean_over_sources(truth, scores, sources) == {"score": 0.5, "large": 1.0, "small": 0.0}


def test_many_classes_are_the_librarys() -> None:
    rng = np.random.default_rng(8)
    truth = rng.choice(5, 400, p=(0.5, 0.2, 0.2, 0.1, 0.0))  # of the last class there is none
    scores = rng.dirichlet(np.ones(5), 400)
    scores[np.arange(400), truth] += 0.3 * rng.random(400)
    weights = rng.integers(0, 3, (3, 400)).astype(float)
    found = many_class_figures(truth, scores, weights)
    said = scores.argmax(1)
    for r, weight in enumerate(weights):
        w: Any = {"sample_weight": weight}
        assert found["accuracy"][r] == pytest.approx(metrics.accuracy_score(truth, said, **w))
        assert found["macro_f1"][r] == pytest.approx(metrics.f1_score(truth, said, average="macro", **w))
        recall = metrics.recall_score(truth, said, labels=range(4), average=None, **w)
        assert found["recall"][r, :4] == pytest.approx(recall)
        assert found["balanced_accuracy"][r] == pytest.approx(recall.mean())
        areas = [metrics.roc_auc_score(truth == k, scores[:, k], **w) for k in range(4)]
        assert found["auc"][r, :4] == pytest.approx(areas)
        assert found["macro_auc"][r] == pytest.approx(np.mean(areas))
        assert np.isnan(found["auc"][r, 4])
        assert np.isnan(found["recall"][r, 4])


def test_several_labels_at_once_are_the_librarys() -> None:
    rng = np.random.default_rng(9)
    truth = rng.random((300, 4)) < (0.5, 0.2, 0.05, 0.3)
    scores = np.clip(0.35 + 0.3 * truth + rng.normal(0, 0.2, (300, 4)), 0, 1)
    weights = rng.integers(0, 3, (2, 300)).astype(float)
    found = multi_label_figures(truth, scores, weights)
    said = scores >= 0.5
    for r, weight in enumerate(weights):
        w: Any = {"sample_weight": weight}
        assert found["exact"][r] == pytest.approx(metrics.accuracy_score(truth, said, **w))
        assert found["macro_f1"][r] == pytest.approx(metrics.f1_score(truth, said, average="macro", **w))
        assert found["micro_f1"][r] == pytest.approx(metrics.f1_score(truth, said, average="micro", **w))
        assert found["macro_auc"][r] == pytest.approx(metrics.roc_auc_score(truth, scores, average="macro", **w))
        assert found["precision"][r] == pytest.approx(metrics.precision_score(truth, said, average=None, **w))
        each = [metrics.balanced_accuracy_score(truth[:, k], said[:, k], **w) for k in range(4)]
        assert found["balanced_accuracy"][r] == pytest.approx(np.mean(each))
