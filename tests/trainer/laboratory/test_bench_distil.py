"""The benchmark of a teacher that is asked once: it compares like with like. How fast it is, is no test's business."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from trainer.cli import main  # noqa: E402  after the check for torch

pytestmark = pytest.mark.timeout(900)


def test_both_ways_show_the_same_losses(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench-distil", "--teacher", "test_efficientnet", "--student", "micro", "--side", "32", "--images", "16",
             "--epochs", "1", "--threads", "1", "--json"]  # fmt: skip
    assert main(words) == 0
    found: Any = json.loads(capsys.readouterr().out)
    assert found["loss_difference"] < 2e-3
    assert set(found["epochs_per_hour"]) == {"cached", "online"}
    assert found["bytes_per_image"] > 3 * 32 * 32
    assert found["student"]["parameters"] < 51_800


def test_what_cannot_be_timed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench-distil", "--side", "40"]) == 2
    assert "--side 40: Input should be a multiple of 16" in capsys.readouterr().err
    assert main(["bench-distil", "--images", "0"]) == 2
