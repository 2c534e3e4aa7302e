"""A whole study in seconds, on rendered images: shows that every part works, and nothing about accuracy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge.capture.phantom import training_frames
from trainer.data.types import FOLD, GLOTTIS, TISSUE
from trainer.segment.recipe import SegmentRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.types import Image

_SEQUENCES, _FRAMES, _RECORDINGS = 4, 2, 4
_DETAIL = 200  # pixels of the larynx plate: coarse, and quick


def smoke_segment_recipe(recipe: SegmentRecipe) -> SegmentRecipe:
    """The same study with the same rows, made tiny; of the protocols only the split by frame."""
    content = recipe.model_dump(mode="json")
    content |= {"sources": ["vocalfolds", "bagls-glottis"], "side": 32, "folds": 2}
    content["protocols"] = [protocol for protocol in recipe.protocols if protocol == "random_frames"]
    content["teacher"] |= {"encoder": "test_efficientnet", "weights": "none"}
    for network in ("teacher", "student"):
        content[network]["budget"] |= {"images": 8, "epochs": 1, "patience": 1, "batch": 4}
    content["quantise"] |= {"images": 8}
    return SegmentRecipe.model_validate(content)


def write_smoke_masks(root: Path, seed: int) -> None:
    """Render images with masks as the folders `vocalfolds` and `bagls-glottis` hold them below `root`, once.

    Args:
        root: the data root.
        seed: which.
    """
    done = root / "done"
    if done.exists():
        return
    for sequence in range(_SEQUENCES):
        frames = (frame for frame in training_frames(60, seed * 100 + sequence, detail=_DETAIL) if frame[1].visible)
        for number, (image, truth) in zip(range(_FRAMES), frames, strict=False):
            classes = np.full(image.shape[:2], TISSUE, np.uint8)
            classes[truth.folds], classes[truth.glottis] = FOLD, GLOTTIS
            name = f"patient{1 + sequence // 2}/seq{sequence}/{number:04d}.png"
            _save(root / "vocalfolds" / "img" / name, image)
            _save(root / "vocalfolds" / "annot" / name, classes)
    rows = []
    for recording in range(_RECORDINGS):
        dealt = training_frames(60, seed * 100 + 50 + recording, detail=_DETAIL)
        image, truth = next(frame for frame in dealt if frame[1].visible and frame[1].glottis.any())
        _save(root / "bagls-glottis" / "img" / f"{recording}.png", image)
        _save(root / "bagls-glottis" / "annot" / f"{recording}.png", truth.glottis.astype(np.uint8))
        rows.append(json.dumps({"file": f"{recording}.png", "Video Id": recording}))
    (root / "bagls-glottis" / "frames.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done.touch()


def _save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(path)
