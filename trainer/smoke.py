"""A whole recipe in under a minute, on rendered images: shows that every stage works, and nothing about accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from edge.capture.phantom import training_frames
from trainer.data.types import LABELS
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "smoke"
_GROUPS, _PER_GROUP = 16, 8
_DETAIL = 256  # pixels of the larynx plate: coarse, and quick


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The same recipe with the same stages, made tiny."""
    content = recipe.model_dump(mode="json")
    content["data"] |= {"sources": [], "class_folders": [FOLDER], "manifest": None, "allow_duplicates": True}
    content["teacher"]["weights"] = "none"
    content["teacher"]["train"] |= {"epochs": 1, "epoch_images": 32, "batch": 16}
    content["student"]["train"] |= {"epochs": 2, "epoch_images": 64, "batch": 16}
    content["quantise"] |= {"images": 16}
    content["evaluate"] |= {"repeats": 100}
    content["bundle"] |= {
        "name": f"{recipe.bundle.name}-smoke",
        "version": "0.0.0",
        "licence": "Apache-2.0",
        "research_only": True,
        "attributions": ["Rendered images only: of no use"],
    }
    return Recipe.model_validate(content)


def write_smoke_images(root: Path, seed: int) -> None:
    """Render labelled images into one folder per label below `root`, once.

    Args:
        root: the data root; images go to its folder `FOLDER`, by label and anatomy.
        seed: which.
    """
    done = root / "done"
    if done.exists():
        return
    for group in range(_GROUPS):
        frames = training_frames(_PER_GROUP, seed * 1000 + group, detail=_DETAIL)
        for index, (image, truth) in enumerate(frames):
            folder = root / FOLDER / LABELS[int(truth.visible)] / f"anatomy-{group}"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), image)
    done.touch()
