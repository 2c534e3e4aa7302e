"""A whole comparison in seconds, on generated images: shows that every part works, and nothing about accuracy."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data.labelled import FolderSettings, TableSettings
from trainer.laboratory.recipe import LaboratoryRecipe, VisibilityTask
from trainer.smoke import MANIFEST, write_smoke_images

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.types import Image

_GROUPS, _FRAMES, _SIDE = 8, 2, 96
_TINY = "test_efficientnet"
_CAMERAS = ("KayPentax HSV 9710 (Photron)", "HERS 5562 Endocam Wolf", "Phantom v210")


def smoke_laboratory_recipe(recipe: LaboratoryRecipe) -> LaboratoryRecipe:
    """The same comparison with the same teachers by name, students and rows, made tiny."""
    content = recipe.model_dump(mode="json")
    content |= {"side": 32, "seeds": recipe.seeds[:1], "lesson": {"images": 16, "variants": 2, "feature_side": 2}}
    for network in (*content["teachers"].values(), *content["students"].values()):
        network["train"] |= {"epochs": 1, "batch": 8}
    for teacher in content["teachers"].values():
        teacher |= {"side": 48, "weights": "none", "frozen_stages": 0, "layers": []}
        if teacher["model"] not in ("simple_resnet", "micro", "three_conv"):
            teacher["model"] = _TINY
    if isinstance(recipe.task, VisibilityTask):
        content["task"]["data"] |= {
            "sources": [], "class_folders": [], "manifest": MANIFEST, "allow_duplicates": True, "hold_out": [],
        }  # fmt: skip
    return LaboratoryRecipe.model_validate(content)


def write_smoke_task(recipe: LaboratoryRecipe, root: Path) -> None:
    """Make the images that a recipe's task looks for below `root`, once.

    Args:
        recipe: of `smoke_laboratory_recipe`.
        root: the data root.
    """
    task = recipe.task
    if isinstance(task, VisibilityTask):
        write_smoke_images(root, recipe.seed)
        return
    done = root / "done"
    if done.exists():
        return
    rng = np.random.default_rng(recipe.seed)
    if isinstance(task, FolderSettings):
        for kind, label in enumerate(task.labels):
            for group in range(_GROUPS):
                for frame in range(_FRAMES):
                    _save(root / task.folder / label / f"patient{group}" / f"{frame}.png", _blobs(kind, rng))
    elif isinstance(task, TableSettings):
        _write_table(task, root, rng)
    else:
        _write_scenes(root, rng)
    done.touch()


def _write_table(task: TableSettings, root: Path, rng: np.random.Generator) -> None:
    words = [choices[0] for choices in task.labels.values()] + ([] if task.exclusive else [task.none[0]])
    rows = []
    for group in range(_GROUPS * len(words)):
        kind = group % len(words)
        said = words[kind]
        if not task.exclusive and kind + 2 < len(words) and group % 3 == 0:
            said += f" with {words[kind + 1]}"
        for frame in range(_FRAMES):
            name = f"{group}-{frame}.png"
            _save(root / task.images / name, _blobs(kind, rng))
            rows.append({task.file: name, task.group: str(group), task.label: said})
    _write_csv(root / task.table, rows)


def _write_scenes(root: Path, rng: np.random.Generator) -> None:
    rows = []
    for group in range(_GROUPS):
        for frame in range(_FRAMES):
            inside = f"patient1/seq{group + 20}/{frame}"
            _save(root / "vocalfolds" / "img" / f"{inside}.png", _blobs(0, rng))
            _save(root / "vocalfolds" / "annot" / f"{inside}.png", np.full((_SIDE, _SIDE, 3), 2, np.uint8))
            for kind, camera in enumerate(_CAMERAS):
                name = f"{group}-{kind}-{frame}.png"
                _save(root / "bagls" / "img" / name, _blobs(kind + 1, rng))
                rows.append({"file": name, "video_id": str(10 * group + kind), "camera": camera})
    for index in range(4 * _GROUPS):
        image, mask = _blobs(4 + index % 2, rng), np.zeros((_SIDE, _SIDE), np.uint8)
        mask[8:40, 8:40] = 1
        _save(root / "kvasir-seg" / "img" / f"{index:02d}.jpg", image)
        _save(root / "kvasir-seg" / "annot" / f"{index:02d}.png", mask)
    _write_csv(root / "bagls" / "frames.csv", rows)


def _blobs(kind: int, rng: np.random.Generator) -> Image:
    """Noise with an ellipse whose colour and place say the kind."""
    noise = rng.integers(40, 160, (_SIDE // 4, _SIDE // 4, 3), dtype=np.uint8)
    image = cv2.resize(noise, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    colour = [int(v) for v in (255 * np.array([kind & 1, kind >> 1 & 1, kind >> 2 & 1]))]
    centre = int(rng.integers(30, 66)), int(rng.integers(30, 66))
    cv2.ellipse(image, centre, (10 + 3 * kind, 22), 30.0 * kind, 0, 360, colour, -1)
    return np.asarray(image)


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(path)
