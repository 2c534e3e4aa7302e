"""The operating point and the golden inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jinja2")

from edge.bundle import InputSpec
from trainer.data.manifest import Record
from trainer.evaluate import Judging, finding_scores
from trainer.export import cell_weights, choose_decision, fit_temperature, golden_inputs
from trainer.inputs import Inputs
from trainer.recipe import DecideSettings

JUDGING = Judging(("no_folds", "folds"), "folds")


def answers(count: Any = 4000, temperature: Any = 2.5, seed: Any = 0) -> Any:
    """Logits that are over-confident by a known temperature, and labels drawn from what they should say."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(0, 3, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-margin))).astype(np.int64)
    logits = np.stack((-margin / 2, margin / 2), 1) * temperature
    return logits.astype(np.float32), labels


def prepared(labels: Any, sources: Any = None) -> Any:
    names = ("no_folds", "folds")
    sources = sources if sources is not None else ["one"] * len(labels)
    records = tuple(
        Record(f"{i}.png", names[label], f"g{i}", source, "val", "none")
        for i, (label, source) in enumerate(zip(labels, sources, strict=True))
    )
    return Inputs(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, np.ones(len(labels), bool), records)


def test_temperature_scaling_finds_the_temperature() -> None:
    logits, labels = answers()
    found = fit_temperature(logits, labels, np.full(len(labels), 1 / len(labels)))
    assert found == pytest.approx(2.5, rel=0.1)


def test_every_source_counts_alike() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [1] * 2)
    sources = np.array(["a"] * 100 + ["b"] * 2)
    weights = cell_weights(labels, sources)
    assert weights.sum() == pytest.approx(1)
    assert weights[labels == 0].sum() == pytest.approx(0.5)
    assert weights[sources == "b"].sum() == pytest.approx(0.25)


def test_beyond_the_band_answers_are_as_right_as_wanted() -> None:
    logits, labels = answers(seed=1)
    wanted = DecideSettings(precision=0.9, widest=0.45)
    decision = choose_decision(logits, prepared(labels), JUDGING, wanted)
    assert 0 <= decision.low < decision.threshold < decision.high <= 1
    scores = finding_scores(logits, JUDGING, decision.temperature)
    assert labels[scores >= decision.high].mean() >= 0.88
    assert labels[scores <= decision.low].mean() <= 0.12


def test_a_model_without_doubt_gets_a_threshold_of_a_half_and_a_narrow_band() -> None:
    labels = np.array([0, 1] * 50)
    logits = np.where(labels[:, None] == np.arange(2), 6.0, -6.0).astype(np.float32)
    decision = choose_decision(logits, prepared(labels), JUDGING, DecideSettings())
    assert decision.threshold == pytest.approx(0.5)
    assert decision.high - decision.low == pytest.approx(0.1)


def test_golden_inputs_are_the_same_everywhere_and_free_of_any_licence() -> None:
    spec = InputSpec(height=160, width=160)
    inputs = golden_inputs(spec)
    assert inputs.shape == (8, 160, 160, 3)
    assert inputs.dtype == np.uint8
    assert (inputs == golden_inputs(spec)).all()
    assert len({image.tobytes() for image in inputs}) == 8
