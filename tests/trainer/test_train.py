"""The loop: it learns, an interrupted run ends with the same weights bit for bit, and a broken one says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from trainer._torchvision import ensure_torchvision  # noqa: E402  after the check for torch

ensure_torchvision()
pytest.importorskip("lightning")

from lightning.fabric import Fabric  # noqa: E402

from edge.errors import FoldsightError  # noqa: E402
from trainer import train  # noqa: E402
from trainer.distil import Distillation, Supervised  # noqa: E402
from trainer.losses import HardLabels, SoftTargets  # noqa: E402
from trainer.models import PixelModel, SimpleResNet  # noqa: E402
from trainer.recipe import TrainSettings  # noqa: E402

SETTINGS = TrainSettings(epochs=3, epoch_images=48, batch=8, learning_rate=3e-3, precision="32-true")


class Discs:
    """Bright or dark discs in noise, a function of epoch and index; may stop or wait at a certain draw."""

    def __init__(self, stop_after: Any = None, wait: Any = 0.0) -> None:
        self.epoch, self.drawn, self.stop_after, self.wait = 0, 0, stop_after, wait

    def set_epoch(self, epoch: Any) -> None:
        self.epoch = epoch

    def __len__(self) -> Any:
        return 48

    def __getitem__(self, index: Any) -> Any:
        self.drawn += 1
        if self.stop_after is not None and self.drawn > self.stop_after:
            raise KeyboardInterrupt
        time.sleep(self.wait)
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        label = index % 2
        image = torch.randint(60, 120, (3, 32, 32), generator=generator, dtype=torch.uint8)
        image[:, 8:24, 8:24] += 100 * label
        return image, label, index, torch.zeros(0, 0, 0)


def student() -> Any:
    torch.manual_seed(3)
    return PixelModel(SimpleResNet(widths=(16,), blocks=(1,), dropout=0.3))


def task(distilled: Any = False) -> Any:
    if not distilled:
        return Supervised(student(), HardLabels())
    torch.manual_seed(4)
    teacher = PixelModel(SimpleResNet(widths=(16,), blocks=(1,)))
    return Distillation(student(), teacher, soft=SoftTargets(3), hard=HardLabels(), soft_weight=0.5, hard_weight=0.5)


def score(model: Any) -> Any:
    data = Discs()
    data.set_epoch(99)
    images = torch.stack([data[i][0] for i in range(16)])
    with torch.no_grad():
        right = (model(images).argmax(1) == torch.arange(16) % 2).float().mean()
    return {"score": float(right)}


def fit(folder: Any, data: Any = None, settings: Any = SETTINGS, **more: Any) -> Any:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1, precision=settings.precision)
    return train.fit(fabric, more.pop("task", None) or task(), data or Discs(), score, settings, folder, **more)


def state(folder: Any) -> Any:
    return torch.load(folder / train.LAST, weights_only=True)


def same(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    trained = fit(tmp_path, settings=SETTINGS.model_copy(update={"epochs": 8}))
    assert trained.metrics["score"] >= 0.9
    model = student()
    assert train.load_weights(model, trained.weights) == trained.metrics
    assert score(model) == trained.metrics


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distilled: Any, ema: Any
) -> None:
    monkeypatch.setattr(train, "_SAVE_EVERY_S", 0.0)  # a checkpoint after every step
    settings = SETTINGS.model_copy(update={"ema": ema})
    fit(tmp_path / "whole", settings=settings, task=task(distilled))
    for drawn in (20, 61):  # in the middle of the first epoch, then of a later one
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", Discs(stop_after=drawn), settings, task=task(distilled))
    fit(tmp_path / "cut", settings=settings, task=task(distilled))
    assert same(state(tmp_path / "whole"), state(tmp_path / "cut"))
    lines = [[json.loads(line) for line in (tmp_path / run / train.METRICS).read_text().splitlines()]
             for run in ("whole", "cut")]  # fmt: skip
    for line in (*lines[0], *lines[1]):
        line.pop("rate", None)
    assert lines[0] == lines[1]


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """kill -9 from outside, while it trains with a worker process."""
    fit(tmp_path / "whole", workers=1)
    code = (
        "import test_train as t, pathlib; t.train._SAVE_EVERY_S = 0.0;"
        f"t.fit(pathlib.Path({str(tmp_path / 'cut')!r}), t.Discs(wait=0.02), workers=1)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    victim = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, start_new_session=True
    )
    while not (tmp_path / "cut" / train.LAST).exists():
        assert victim.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert state(tmp_path / "cut")["epoch"] < SETTINGS.epochs
    fit(tmp_path / "cut", workers=1)
    assert same(state(tmp_path / "whole"), state(tmp_path / "cut"))


def test_tensorboard_shows_what_the_lines_say(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Discs(stop_after=61))  # in the second epoch: what comes again replaces what was written
    fit(tmp_path)
    board = reader.EventAccumulator(str(tmp_path / train.BOARD))
    board.Reload()
    lines = [json.loads(line) for line in (tmp_path / train.METRICS).read_text(encoding="utf-8").splitlines()]
    losses = {6 * (line["epoch"] - 1) + line["step"]: line["loss"] for line in lines if "loss" in line}
    assert {event.step: pytest.approx(event.value, rel=1e-4) for event in board.Scalars("loss")} == losses
    assert [event.step for event in board.Scalars("val_score")] == [6, 12, 18]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    fit(tmp_path)
    data = Discs()
    fit(tmp_path, data)
    assert data.drawn == 0


def test_a_loss_that_is_no_number_ends_the_run_and_spares_the_checkpoint(tmp_path: Path) -> None:
    class Broken(Supervised):
        def forward(self, pixels: Any, labels: Any, maps: Any, beside: Any = None) -> Any:
            terms = super().forward(pixels, labels, maps, beside)
            return {"loss": terms["loss"] * float("nan")}

    with pytest.raises(FoldsightError, match="the loss became nan in epoch 1, step 1; lower the learning rate"):
        fit(tmp_path, task=Broken(student(), HardLabels()))
    assert not (tmp_path / train.LAST).exists()


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / train.LAST).write_bytes(b"cut off")
    with pytest.raises(FoldsightError, match=r"last\.pt cannot be read"):
        fit(tmp_path)
    fit(tmp_path / "other", task=Supervised(PixelModel(SimpleResNet(widths=(32,), blocks=(1,))), HardLabels()))
    with pytest.raises(FoldsightError, match="checkpoint of another network"):
        fit(tmp_path / "other")


def test_an_epoch_of_less_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoldsightError, match="less than one batch"):
        fit(tmp_path, settings=SETTINGS.model_copy(update={"batch": 64}))


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train.save_atomically(tmp_path / "x.pt", {"a": 1})

    def full(_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train.os, "fsync", full)
    with pytest.raises(FoldsightError, match="No space left on device"):
        train.save_atomically(tmp_path / "x.pt", {"a": 2})
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_the_learning_rate_rises_and_falls() -> None:
    settings = SETTINGS.model_copy(update={"warmup": 0.1})
    rates = [train._rate(step, 100, settings) for step in range(100)]
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] < rates[5] < rates[9]
    assert rates[99] < 0.02 * settings.learning_rate
