"""A bundle's INT8 model against its form for ncnn, image by image (docs/quantisation.md).

Usage: agreement.py BUNDLE IMAGES.npy ANSWERS.npz, where IMAGES are a run's prepared validation images
(`cache/inputs-val-*/images.npy`) and ANSWERS any answers to them (`evaluate-*/answers-int8-val.npz`), for their labels,
groups and sources. Which images are a bundle's is seen from its manifest: INT8's accuracy must be the one told there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge.bundle import Bundle
from edge.decision import calibrate
from edge.runtime import open_runtime
from edge.runtime.ncnn import open_ncnn
from trainer.answers import SplitAnswers
from trainer.metrics import group_weights, paired_difference

bundle, images, known = Bundle.open(Path(sys.argv[1])), np.load(sys.argv[2]), SplitAnswers.load(Path(sys.argv[3]))
spec, index = bundle.manifest.decision, bundle.manifest.labels.index(bundle.manifest.finding)
runtimes = [open_runtime(bundle, bundle.artefact("int8")), open_ncnn(bundle)[1]]
scores = np.array(
    [[calibrate(r.infer(i[None]), spec.temperature, exclusive=True)[index] for i in images] for r in runtimes]
)
truth = known.labels == index
label, side, apart = scores >= 0.5, scores >= spec.threshold, np.abs(scores[0] - scores[1])  # noqa: PLR2004
told = {m.source: m.value for m in bundle.manifest.metrics if (m.split, m.name) == ("val", "accuracy")}
print("| source | images | INT8 % (manifest) | ncnn % | same label % | change sides % | score apart, mean (most) |")
for source in ["all", *sorted(set(known.sources))]:
    at = np.full(len(truth), fill_value=True) if source == "all" else known.sources == source
    right = [100 * float((row == truth)[at].mean()) for row in label]
    same, flips = 100 * (label[0] == label[1])[at].mean(), 100 * (side[0] != side[1])[at].mean()
    print(
        f"| {source} | {at.sum()} | {right[0]:.2f} ({100 * told[source]:.2f}) | {right[1]:.2f} | {same:.2f} | "
        f"{flips:.2f} | {apart[at].mean():.4f} ({apart[at].max():.3f}) |"
    )
weights = group_weights(known.groups, known.sources, 1000, 0)
found = paired_difference(truth, scores[1], scores[0], known.groups, weights)["accuracy"]
print(f"accuracy, ncnn - INT8: {found.value:+.4f} ({found.low:.4f} to {found.high:.4f}), over groups")
