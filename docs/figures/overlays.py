"""Regions on real frames, the best and the worst: `python docs/figures/overlays.py DATA MANIFEST`.

Takes the test frames of `vocalfolds` (Laves et al. 2018, arXiv 1807.06081, CC BY 4.0) that show folds in the manifest's
test split, sorts them by the IoU of the folds' box with the mask's, and draws the four at either end, taken evenly from
the first and the last tenth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from edge.analysis import Analyser
from edge.bundle import Bundle
from edge.overlay import draw
from trainer.data.manifest import read_manifest
from trainer.data.types import FOLD
from trainer.localise import box_iou, place_of

BUNDLE = Path("edge/models/visibility.zip")
TILE = 300  # pixels


def main() -> None:
    """Draw docs/images/overlays.jpg."""
    root, manifest = Path(sys.argv[1]), Path(sys.argv[2])
    bundle = Bundle.open(BUNDLE)
    maps = bundle.manifest.outputs.maps
    analyser, labels = Analyser(bundle), [] if maps is None else maps.labels
    scored = []
    for record in read_manifest(manifest):
        if record.source != "vocalfolds" or record.split != "test" or record.label != "folds":
            continue
        image, classes = np.ascontiguousarray(record.read_image(root)), record.read_mask(root)
        place = place_of(np.asarray(classes == FOLD))
        if place is None:
            continue
        analysis = analyser.analyse(image)
        boxes = [region.box for region in analysis.regions if region.label == "folds"]
        iou = box_iou(boxes[0], place.box) if boxes else 0.0
        drawn = cv2.resize(draw(image, analysis, labels), (TILE, TILE), interpolation=cv2.INTER_AREA)
        scored.append((iou, drawn))
    scored.sort(key=lambda pair: -pair[0])
    tenth = max(4, len(scored) // 10)
    picks = [*range(0, tenth, tenth // 4)[:4], *range(len(scored) - tenth, len(scored), tenth // 4)[:4]]
    tiles = [scored[k][1] for k in picks]
    cv2.imwrite("docs/images/overlays.jpg", np.vstack([np.hstack(tiles[:4]), np.hstack(tiles[4:])]),
                [cv2.IMWRITE_JPEG_QUALITY, 85])  # fmt: skip
    print(f"{len(scored)} frames; box IoU drawn: " + ", ".join(f"{scored[k][0]:.2f}" for k in picks))


main()
