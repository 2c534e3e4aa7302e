"""Several processes: the same losses as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edge.errors import FoldsightError  # noqa: E402  after the check for torch
from trainer.processes import in_turn, is_first, wait_for  # noqa: E402
from trainer.recipe import load_recipe  # noqa: E402
from trainer.stages import DONE, Run  # noqa: E402
from trainer.train import LAST, METRICS  # noqa: E402

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("two_processes.py")

pytestmark = pytest.mark.timeout(900)  # seconds on an idle machine: five Pythons that import torch


def train(folder: Path, processes: int, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(processes), *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line], torch.load(folder / LAST, weights_only=True)


def test_two_processes_show_the_losses_of_one(tmp_path: Path) -> None:
    (one, alone), (two, together) = train(tmp_path / "one", 1), train(tmp_path / "two", 2)
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "hard", "kl", "fitnets"):
            assert second[name] == pytest.approx(first[name], rel=1e-4), (first, second)
    for part in ("model", "helpers"):
        for name, weight in alone[part].items():
            assert torch.allclose(weight, together[part][name], atol=1e-5), name


def test_two_processes_distrust_their_sources_as_one_does(tmp_path: Path) -> None:
    """Groups are of the whole batch, twins stay together, and both processes hold the same weights of groups."""
    one, alone = train(tmp_path / "one", 1, "distrust")
    two, both = train(tmp_path / "two", 2, "distrust")
    for first, second in zip(one, two, strict=True):
        assert {"group_dro", "adversary", "twin"} < first.keys()
        for name, value in first.items():
            if name not in ("rate", "epoch", "step"):
                assert second[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, first, second)
    for part in ("model", "helpers"):
        for name, weight in alone[part].items():
            assert torch.allclose(weight, both[part][name], atol=1e-5), name


def test_the_first_process_is_known_by_what_its_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first()
    monkeypatch.setenv("RANK", "2")  # the first of the second machine
    assert not is_first()


def test_processes_prepare_one_after_the_other_and_wait_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with in_turn(tmp_path):
            order.append("second")
        wait_for(tmp_path / "done")
        order.append("done")

    with in_turn(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    while "second" not in order:
        time.sleep(0.01)
    (tmp_path / "done").touch()
    thread.join()
    assert order == ["first", "second", "done"]
    with pytest.raises(FoldsightError, match="has not come from the run's first process"):
        wait_for(tmp_path / "never", seconds=0)


def test_other_processes_train_along_and_leave_the_rest_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, did = Run(load_recipe("vocal-folds"), tmp_path, tmp_path / "run"), []

    def work(name: str) -> Any:
        did.append(name)
        (tmp_path / name / DONE).touch()  # as the first process would
        return {}

    monkeypatch.setenv("LOCAL_RANK", "1")
    run._once("teacher", tmp_path / "teacher", lambda: work("teacher"))
    (tmp_path / "quantise").mkdir()
    thread = threading.Thread(target=run._once, args=("quantise", tmp_path / "quantise", lambda: work("quantise")))
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive()
    (tmp_path / "quantise" / DONE).touch()
    thread.join()
    assert did == ["teacher"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    run._once("evaluate", tmp_path / "evaluate", lambda: {"said": 1})
    assert '"said": 1' in (tmp_path / "evaluate" / DONE).read_text(encoding="utf-8")
