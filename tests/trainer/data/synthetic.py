"""Generated data roots: small pictures in the folders' own shapes, no real image."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data.types import FOLD, GLOTTIS, TISSUE

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.types import Image, Mask


def tissue(seed: int, height: int = 256, width: int = 256) -> Image:
    """Pinkish BGR noise, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 190, (9, 9, 1)) + rng.integers(0, 30, (9, 9, 3)) + np.array([0, 10, 60])
    image = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + rng.normal(0, 4, image.shape), 1, 255).astype(np.uint8)


def larynx(seed: int, side: int = 512) -> tuple[Image, Mask]:
    """A tissue picture with two pale folds and a dark gap, and its class map."""
    rng = np.random.default_rng(seed)
    image, classes = tissue(seed + 1000, side, side), np.full((side, side), TISSUE, np.uint8)
    centre = (int(side * rng.uniform(0.6, 0.72)), int(side * rng.uniform(0.5, 0.6)))
    for axes, colour, number in (
        ((side // 6, side // 4), (190, 200, 230), FOLD),
        ((side // 24, side // 5), (20, 15, 25), GLOTTIS),
    ):
        cv2.ellipse(image, centre, axes, 0, 0, 360, colour, -1)
        cv2.ellipse(classes, centre, axes, 0, 0, 360, int(number), -1)
    return image, classes


def write_root(root: Path, sequences: int = 3, frames: int = 2, recordings: int = 6, scenes: int = 12) -> Path:
    """A data root with all the folders that have no video."""
    for sequence in range(sequences):
        for frame in range(frames):
            image, classes = larynx(10 * sequence + frame)
            name = f"patient{sequence // 2}/seq{sequence}/{frame:04d}"
            save(root / "vocalfolds/img" / f"{name}.jpg", image)
            save(root / "vocalfolds/annot" / f"{name}.png", classes)
    rows = []
    for recording in range(recordings):
        for frame in (0, 7, 14):
            name = f"bagls_{recording:03d}_f{frame:02d}.jpg"
            save(root / "bagls/img" / name, recording_frame(recording, frame))
            rows.append({"file": name, "video_id": recording, "frame": frame})
    with (root / "bagls/frames.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["file", "video_id", "frame"])
        writer.writeheader()
        writer.writerows(rows)
    lines = []
    for number in range(recordings // 2):
        image, classes = larynx(500 + number, 256)
        save(root / f"bagls-glottis/img/{number}.png", image)
        save(root / f"bagls-glottis/annot/{number}.png", (classes == GLOTTIS).astype(np.uint8))
        lines.append(json.dumps({"file": f"{number}.png", "Video Id": number}))
    (root / "bagls-glottis/frames.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for scene in range(scenes):
        save(root / f"kvasir-seg/img/scene{scene:02d}.jpg", tissue(5000 + scene))
    return root


def recording_frame(recording: int, frame: int) -> Image:
    """A grey high-speed frame: a still larynx, a glottis whose width changes with the frame."""
    image = np.repeat(cv2.cvtColor(tissue(3000 + recording, 256, 200), cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    cv2.ellipse(image, (100, 130), (30, 60), 0, 0, 360, (210, 210, 210), -1)
    cv2.ellipse(image, (100, 130), (3 + (frame * 5) % 9, 40), 0, 0, 360, (10, 10, 10), -1)
    return image


def save(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
