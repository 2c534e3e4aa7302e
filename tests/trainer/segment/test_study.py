"""A whole study, tiny, on rendered images: every row is measured, and what is done is not done again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from trainer._torchvision import ensure_torchvision  # noqa: E402  after the check for torch

ensure_torchvision()
pytest.importorskip("segmentation_models_pytorch")

from trainer.cli import main  # noqa: E402
from trainer.segment import optimise as optimising  # noqa: E402
from trainer.segment.optimise import Batch, optimise  # noqa: E402
from trainer.segment.recipe import Budget, load_segment_recipe  # noqa: E402
from trainer.segment.report import dice_by_cell, dice_by_group, paired_p, pooled_iou  # noqa: E402


@pytest.mark.timeout(900)  # half a minute, but for a machine that is busy with other things
def test_the_whole_study_and_its_second_run(tmp_path: Path, capsys: Any) -> None:
    command = ["segment", "segmentation", "--smoke", "--out", str(tmp_path), "--threads", "1"]
    table = tmp_path / "tables.md"
    assert main([*command, "--json", "--markdown", str(table)]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = load_segment_recipe("segmentation")
    rows = {row["name"]: row for row in found["grid"]}
    assert set(rows) == {"teacher-usual", "teacher-weak", *(row.name for row in recipe.grid)}
    for row in rows.values():
        assert set(row["dice"]) == {"vocalfolds folds", "vocalfolds glottis", "bagls-glottis glottis"}
        assert row["mean"] == pytest.approx(np.mean(list(row["dice"].values())))
        assert row["groups"] == 8
        assert row["name"] == "alone" or 0 <= row["p"] <= 1
    assert found["best"] in rows
    assert set(found["protocols"]) == {"random_frames"}
    assert found["folds"] == {"done": 2, "of": 2}
    for rows_of in found["protocols"].values():
        names = [row["name"] for row in rows_of]
        assert names[1:] == ["alone", found["best"], f"{found['best']} INT8"]
        assert names[0] == f"teacher-{found['best'].rpartition('-')[2]}"
    text = table.read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for name in rows)
    assert "random frames (leaks)" in text
    assert "81.50" in text

    networks = sorted((tmp_path / "networks").glob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in networks}
    alone = next(path for path in networks if "fold-2-alone" in path.name and "INT8" not in path.name)
    first = json.loads(alone.read_text(encoding="utf-8"))
    alone.unlink()  # as if it had been cut off there
    assert main([*command, "--json", "--table"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"] == {"done": 1, "of": 2}
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    again = json.loads(alone.read_text(encoding="utf-8"))
    assert again["test"] == first["test"]
    assert {path for path in networks if path.stat().st_mtime_ns != before[path]} == {alone}


def test_an_unknown_student_is_named(tmp_path: Path, capsys: Any) -> None:
    command = ["segment", "segmentation", "--data", str(tmp_path), "--out", str(tmp_path), "--student", "best"]
    assert main(command) == 2
    assert "the grid has no taught student 'best': give one of logits-mse-usual, " in capsys.readouterr().err


def test_without_images_it_says_what_to_do(tmp_path: Path, capsys: Any) -> None:
    assert main(["segment", "segmentation", "--out", str(tmp_path)]) == 2
    assert "give their folder with --data" in capsys.readouterr().err


class Slope:
    """A stream on which a single weight learns, whose validation says what it is told to."""

    steps = 2

    def epoch(self, _: int) -> Any:
        for _ in range(self.steps):
            yield Batch(torch.zeros(4, 1), torch.zeros(4), torch.arange(4))


def test_training_ends_when_validation_stays_behind_and_keeps_the_best() -> None:
    model, seen = torch.nn.Linear(1, 1), []
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])

    def validate() -> float:
        seen.append(model.weight.item())
        return next(losses)

    told: list[int] = []
    outcome = optimise(
        model, None, Slope(), lambda _: model.weight.sum(), validate,
        Budget(images=8, epochs=5, patience=2, batch=4), title="x", advance=lambda count, _: told.append(count),
    )  # fmt: skip
    assert outcome == (2, 4, 1.0)
    assert model.weight.item() == seen[1] != seen[3]
    assert sum(told) == 5 * 8  # what is left out counts as done


def test_a_loss_that_is_no_number_is_said_and_where() -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(
        optimising.FoldsightError, match=r"row x: the loss became nan in epoch 1; lower the learning rate"
    ):
        optimise(model, None, Slope(), lambda _: model.weight.sum() * math.nan, lambda: 0.0,
                 Budget(images=8, epochs=1, patience=1, batch=4), title="row x")  # fmt: skip


def image(group: str, dice: float, counts: Any = (1, 2)) -> Any:
    classes = {
        "folds": {"dice": dice, "intersection": counts[0], "union": counts[1]},
        "other": {"intersection": 1, "union": 1},
    }
    return {"image": "i", "group": group, "source": "s", "classes": classes}


def test_figures_of_images() -> None:
    images = [image("a", 0.2, (1, 10)), image("a", 0.4, (9, 10)), image("b", 0.9, (0, 20))]
    assert dice_by_cell(images) == {"s folds": pytest.approx(0.5)}
    assert dice_by_group(images) == {"a": pytest.approx(0.3), "b": pytest.approx(0.9)}
    assert pooled_iou(images) == {"other": 1.0, "folds": 0.25}


def test_p_is_of_pairs() -> None:
    ours = {str(i): 0.5 + 0.01 * i for i in range(10)}
    assert paired_p(ours, ours) == 1
    assert paired_p(ours, {name: value - 0.1 - 0.001 * int(name) for name, value in ours.items()}) == pytest.approx(
        2 / 2**10
    )
