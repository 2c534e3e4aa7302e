"""Trains a little network with a regressor in one process or in two, and leaves its losses: run by a test.

`python two_processes.py FOLDER PROCESSES [distrust]`; with the last word one that distrusts its sources.
Without batch normalisation, whose statistics are each process's own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer._torchvision import ensure_torchvision

ensure_torchvision()

from lightning.fabric import Fabric  # noqa: E402

from trainer.distil import Supervised, Task, Taught  # noqa: E402
from trainer.distrust import Distrust  # noqa: E402
from trainer.laboratory.guides import make_guides  # noqa: E402
from trainer.laboratory.terms import Divergence, Features  # noqa: E402
from trainer.losses import HardLabels  # noqa: E402
from trainer.models import PixelModel, Probe  # noqa: E402
from trainer.recipe import RobustSettings, TrainSettings  # noqa: E402
from trainer.train import fit  # noqa: E402

SETTINGS = TrainSettings(epochs=3, epoch_images=48, batch=8, learning_rate=3e-3, precision="32-true")


class Taught32:
    """Noise with labels and a teacher's answers, a function of epoch and index."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        image = torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8)
        answers = {"t/logits": torch.randn(2, generator=generator), "t/0": torch.randn(5, 8, 8, generator=generator)}
        return image, index % 2, index, answers


class Twins(Taught32):
    """The same without answers; couples are of one record, most of them, and records of three sources."""

    def __getitem__(self, index: int) -> Any:
        image, label, _, _ = super().__getitem__(index)
        record = index if index % 7 == 0 else index // 2
        return image, label, record, torch.zeros(0, 0, 0)


def distrusting(model: nn.Module) -> Task:
    task = Supervised(model, HardLabels())
    settings = RobustSettings(group_dro=0.5, adversary=1.0, twins=0.5)
    sources = ["abc"[record % 3] for record in range(48)]
    cells = {0: ["a", "b", "c"], 1: ["a", "b", "c"]}
    task.distrust = Distrust(settings, sources, cells, model, 1, twins=True, seed=3)
    return task


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    model = PixelModel(body)
    hard = HardLabels()
    distrust = "distrust" in sys.argv[3:]
    terms = [Divergence(loss="kl"), Features(loss="fitnets")]
    guides = make_guides(terms, [8], [[5]], 2, hard, exclusive=True)
    taught = Taught(model, hard, 1.0, guides, ["t"], Probe(model, ["body.0"]))
    task = distrusting(model) if distrust else taught
    devices = int(sys.argv[2])
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=devices, precision="32-true", strategy=strategy)
    fabric.launch()
    fit(fabric, task, Twins() if distrust else Taught32(), lambda _: {"score": 0.0}, SETTINGS, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
