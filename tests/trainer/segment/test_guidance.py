"""The pathways: each compares what it says, trains what it must, and a recipe that asks for nonsense is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.errors import ConfigError  # noqa: E402  after the check for torch
from trainer.models import count_parameters  # noqa: E402
from trainer.segment.guidance import Answer, Guidance, grouped, levels_of  # noqa: E402
from trainer.segment.networks import MapStudent, TinyUNet  # noqa: E402
from trainer.segment.recipe import Row, load_segment_recipe  # noqa: E402

STUDENT, TEACHER = [8, 16, 24], [16, 40, 56]


def answer(channels: Any, seed: int) -> Answer:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(2, c, 16 >> i, 16 >> i, generator=generator) for i, c in enumerate(channels)]
    return Answer(torch.randn(2, 3, 32, 32, generator=generator), levels)


def distance(pathway: Any, loss: Any) -> Any:
    torch.manual_seed(0)
    guidance = Guidance(Row(pathway=pathway, loss=loss, teacher="usual"), STUDENT, TEACHER)
    return guidance, guidance(answer(STUDENT, 1), answer(TEACHER, 2))


def test_channels_are_averaged_in_equal_groups() -> None:
    features = torch.randn(2, 12, 3, 5)
    expected = features.numpy().astype(np.float64).reshape(2, 4, 3, 3, 5).mean(axis=2)
    assert np.allclose(grouped(features, 4).numpy(), expected, atol=1e-6)


def test_hidden_compares_the_last_level_and_all_compares_every_one() -> None:
    ours, theirs = answer(STUDENT, 1), answer(TEACHER, 2)
    each = [
        float((a - grouped(b, a.shape[1])).square().mean()) for a, b in zip(ours.features, theirs.features, strict=True)
    ]
    assert float(distance("hidden", "mse")[1]) == pytest.approx(each[-1], rel=1e-5)
    assert float(distance("all", "mse")[1]) == pytest.approx(np.mean(each), rel=1e-5)


def test_both_is_the_mean_of_output_and_regressed_hidden_layer() -> None:
    output, hidden = distance("logits", "kl")[1], distance("regressor", "kl")[1]
    assert float(distance("both", "kl")[1].detach()) == pytest.approx(float((output + hidden).detach()) / 2, rel=1e-5)


def test_only_a_regressor_learns_beside_the_student() -> None:
    for pathway in ("logits", "hidden", "all"):
        assert count_parameters(distance(pathway, "mse")[0]) == 0
    guidance, loss = distance("regressor", "mse")
    loss.backward()
    assert all(p.grad is not None for p in guidance.parameters())


@pytest.mark.parametrize("pathway", ["logits", "hidden", "regressor", "all", "both"])
def test_a_pathway_needs_no_other_levels_than_it_names(pathway: Any) -> None:
    row = Row(pathway=pathway, loss="mse", teacher="usual")
    torch.manual_seed(0)
    guidance = Guidance(row, STUDENT, TEACHER)
    ours, theirs = answer(STUDENT, 1), answer(TEACHER, 2)
    some = Answer(theirs.logits, theirs.features[levels_of(row)])
    assert float(guidance(ours, some).detach()) == float(guidance(ours, theirs).detach())


def test_the_student_has_a_hundredth_of_the_teacher_and_shows_its_levels() -> None:
    student = MapStudent([8, 8, 16, 16, 24, 32], [16, 16, 16, 8, 8]).eval()
    assert count_parameters(student) * 100 < 3_832_499  # the teacher of the study's recipe
    pixels = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    logits, features = student.answer(pixels)
    assert torch.equal(logits, student(pixels))
    assert [tuple(f.shape[1:]) for f in features] == [(8, 32, 16), (16, 16, 8), (16, 8, 4), (24, 4, 2), (32, 2, 1)]
    assert student.channels == [8, 16, 16, 24, 32]


def test_widths_that_the_quantised_kernels_do_not_like_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        TinyUNet((8, 12), (8,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("{pathway: hidden, loss: bce, teacher: usual}", "loss bce compares outputs"),
        ("{pathway: logits}", "needs a loss and a teacher"),
        ("{pathway: alone, loss: kl, teacher: usual}", "one that learns alone has neither"),
        ("{pathway: alone}\n  - {pathway: alone}", "holds alone twice"),
    ],
)
def test_a_recipe_that_asks_for_nonsense_is_refused(tmp_path: Any, change: Any, said: Any) -> None:
    path = tmp_path / "study.yaml"
    budget = "{images: 8, epochs: 1, patience: 1}"
    path.write_text(
        f"kind: segmentation\nname: x\nsources: [vocalfolds]\nteacher: {{budget: {budget}}}\n"
        f"student: {{budget: {budget}}}\ngrid:\n  - {change}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=said):
        load_segment_recipe(str(path))


def test_the_shipped_study_holds_the_paper_and_its_review() -> None:
    recipe = load_segment_recipe("segmentation")
    names = {row.name for row in recipe.grid}
    assert len(names) == 17
    assert set(recipe.published.rows) <= names
    assert {"logits-bce-usual", "all-l1-usual", "logits-squared-usual", "both-kl-usual"} < names
    with pytest.raises(ConfigError, match="no recipe there"):
        load_segment_recipe("nothing")
