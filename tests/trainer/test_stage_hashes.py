"""New settings must not make old work worthless: the hashes of stages that were trained long ago stay as they were."""

from __future__ import annotations

from pathlib import Path

import yaml

from trainer.recipe import Recipe
from trainer.stages import Run

CONTENT = """
name: vocal-folds
seed: 7
labels: [no_folds, folds]
finding: folds
input: {height: 160, width: 160, fit: letterbox, interpolation: linear-area}
data: {sources: null, visibility: {phantom_frames: 2000}}
augment: {}
teacher:
  {backbone: tf_efficientnet_lite0, weights: package, frozen_stages: 2, dropout: 0.2, train: {epochs: 10,
   epoch_images: 4608, batch: 32, learning_rate: 6.0e-4, warmup: 0.05, weight_decay: 0.02, ema: 0.998, smoothing: 0.05,
   precision: 32-true}}
student:
  {model: simple_resnet, widths: [16, 32, 64, 128], blocks: [2, 2, 2, 2], dropout: 0.1, train: {epochs: 16,
   epoch_images: 6144, batch: 64, learning_rate: 2.0e-3, warmup: 0.05, weight_decay: 0.05, ema: 0.998,
   precision: auto}}
smaller:
  {model: simple_resnet, widths: [16, 16, 32, 64], blocks: [1, 1, 1, 1], dropout: 0.0, train: {epochs: 8,
   epoch_images: 6144, batch: 64, learning_rate: 2.0e-3, warmup: 0.05, weight_decay: 0.02, ema: 0.998,
   precision: auto}}
distil: {temperature: 3.0, soft: 0.8, hard: 0.2}
maps: {weight: 1.0, positive: 2.0, smoothing_s: 0.12}
bundle: {name: vocal-folds, version: 0.2.0, licence: x, research_only: true}
"""
"""The recipe of November 2026, whatever has become of the one that ships."""
KNOWN = {
    "teacher": "e5d3b7792669e5ca",
    "scratch": "5d807b715aba95ed",
    "maps": "9dbf03c87ff0b251",
    "no_map": "c51514a523122d7d",
    "distilled": "ed86fc79b573f077",
    "smaller": "3ae01829062d3690",
}


def test_stages_keep_their_hashes(tmp_path: Path) -> None:
    run = Run(Recipe.model_validate(yaml.safe_load(CONTENT)), tmp_path, tmp_path / "run")
    run.__dict__["data_key"] = "0" * 64  # as if of the images of that day
    found = {"teacher": run.teacher_key, "scratch": run.scratch_key, "maps": run.maps_key}
    found |= {row: run.distil_key(row) for row in run.students}
    assert {name: key[:16] for name, key in found.items()} == KNOWN
