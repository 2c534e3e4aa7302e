"""Draws masks of held-out sequences beside what teacher and student see there, as segmentation.jpg.

`.venv/bin/python docs/figures/segmentation.py --data DIR --out runs/segmentation --student logits-kl-weak`, after the
study of the same folder. Pictures: vocalfolds, Laves et al. 2018 (arXiv 1807.06081), CC BY 4.0; of no other set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.segment.recipe import load_segment_recipe
from trainer.segment.study import Cell, Study
from trainer.segment.targets import CLASSES, FOLDS, GLOTTIS
from trainer.stages import Machine

if TYPE_CHECKING:
    from trainer.segment.folds import Fold

HERE = Path(__file__).parent
PROTOCOL = "leave_one_sequence_out"
COLOURS = {FOLDS: (230, 159, 0), GLOTTIS: (86, 180, 233)}
"""RGB, of Okabe and Ito's palette: told apart with any colour vision."""
_TITLE = 22


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Tint the pixels of folds and glottis, and draw their outlines."""
    out = image.copy()
    for number, colour in COLOURS.items():
        region = (classes == number).astype(np.uint8)
        out[region > 0] = (0.6 * out[region > 0] + 0.4 * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, outlines, -1, colour, 1, cv2.LINE_AA)
    return out


def true_classes(sets: np.ndarray) -> np.ndarray:
    """The masks' own classes; what they leave open counts as other."""
    out = np.zeros_like(sets)
    for number in COLOURS:
        out[sets == 1 << number] = number
    return out


def choose(study: Study, student: Cell, fold: Fold) -> int:
    """The test image of median Dice: neither the best nor the worst of its sequence."""
    found = study.result(student)["test"]
    dice = [np.mean([v["dice"] for v in image["classes"].values() if "dice" in v] or [0.0]) for image in found]
    return fold.test[int(np.argsort(dice)[len(dice) // 2])]


def titled(tile: np.ndarray, text: str) -> np.ndarray:
    """A tile with a line of text above it."""
    head = np.full((_TITLE, tile.shape[1], 3), 255, np.uint8)
    cv2.putText(head, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate((head, tile))


def main() -> None:
    """Draw one column per sequence whose networks are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--student", required=True)
    arguments = parser.parse_args()
    recipe = load_segment_recipe("segmentation")
    study = Study(recipe, arguments.data, arguments.out, Machine(threads=1, accelerator="cpu"))
    row = study.named(arguments.student)
    columns = []
    for fold in study.folds(PROTOCOL):
        teacher, student = Cell(PROTOCOL, fold, weak=row.teacher == "weak"), Cell(PROTOCOL, fold, row, int8=True)
        if not (study.done(teacher) and study.done(student)):
            continue
        place = choose(study, student, fold)
        image = np.asarray(study.pack.images[place])
        shown = [image, overlay(image, true_classes(study.sets(place)))]
        shown += [overlay(image, study.classes(cell, [place])[0]) for cell in (teacher, student)]
        names = (fold.name, "mask", "teacher", "student, INT8")
        tiles = [titled(cv2.resize(tile, (200, 200), interpolation=cv2.INTER_AREA), name)
                 for tile, name in zip(shown, names, strict=True)]  # fmt: skip
        columns.append(np.concatenate(tiles))
    picture = np.concatenate(columns, axis=1)
    path = HERE / "segmentation.jpg"
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(f"{path}: {len(columns)} sequences; {', '.join(CLASSES[number] for number in COLOURS)}")


if __name__ == "__main__":
    main()
