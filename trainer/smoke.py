"""A whole recipe in under a minute, on rendered images: shows that every stage works, and nothing about accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from edge.capture.phantom import training_frames
from trainer.data.manifest import Record, write_manifest
from trainer.data.phantom import class_map
from trainer.data.splits import split_by_group
from trainer.data.types import LABELS
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, MANIFEST = "smoke", "smoke.csv"
_GROUPS, _PER_GROUP = 16, 8
_DETAIL = 256  # pixels of the larynx plate: coarse, and quick


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The same recipe with the same stages, made tiny."""
    content = recipe.model_dump(mode="json")
    content["data"] |= {"sources": [], "class_folders": [], "manifest": MANIFEST, "allow_duplicates": True}
    content["teacher"]["weights"] = "none"
    content["teacher"]["train"] |= {"epochs": 1, "epoch_images": 32, "batch": 16}
    content["student"]["train"] |= {"epochs": 2, "epoch_images": 64, "batch": 16}
    if content["smaller"] is not None:
        content["smaller"]["train"] |= {"epochs": 1, "epoch_images": 32, "batch": 16}
    if content["maps"] is not None:
        content["maps"]["teacher"]["weights"] = "none"
        content["maps"]["teacher"]["train"] |= {"epochs": 1, "epoch_images": 16, "batch": 8}
    content["quantise"] |= {"images": 16, "ladder": ["static", "aware"]}
    content["quantise"]["aware"] |= {"epochs": 1, "epoch_images": 16, "batch": 16}
    content["unseen"] = None  # there is one source alone
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
    """Render labelled images with masks and write their manifest, once.

    Args:
        root: the data root; images go to its folder `FOLDER`, by label and anatomy, their masks beside them.
        seed: which.
    """
    if (root / MANIFEST).exists():
        return
    records = []
    for group in range(_GROUPS):
        frames = training_frames(_PER_GROUP, seed * 1000 + group, detail=_DETAIL)
        for index, (image, truth) in enumerate(frames):
            label = LABELS[int(truth.visible)]
            name = f"{label}/anatomy-{group}/{index}.png"
            path, mask = f"{FOLDER}/{name}", f"{FOLDER}-masks/{name}"
            for file, content in ((path, image), (mask, class_map(truth))):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / file), content)
            records.append(Record(path, label, f"anatomy-{group}", FOLDER, "train", "Apache-2.0", mask))
    write_manifest(root / MANIFEST, split_by_group(records, seed))
