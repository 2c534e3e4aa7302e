"""Draw every step that makes source, colour and optics uninformative, each by itself, and twins.

    python docs/figures/augment.py --data ../shared/data --out docs/images/augment.jpg

The pictures are a frame of `vocalfolds` (Laves et al. 2018, CC BY 4.0), or of the rendered larynx where no data is
given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from edge.capture.phantom import training_frames
from trainer.data import augment

if TYPE_CHECKING:
    from trainer.data.types import Image

SIDE = 200
STEPS = {
    "light and contrast": lambda i, r: augment.jitter_light(i, r, 1.6),
    "saturation, hue": lambda i, r: augment.jitter_saturation(i, r, 2.0),
    "grey": lambda i, _: augment.to_grey(i),
    "grey, coloured again": lambda i, r: augment.colour_by_tables(augment.to_grey(i), [augment.colour_table(i)], r),
    "narrow band": augment.narrow_band,
    "light falls off": augment.light_fall_off,
    "blood": lambda i, _: augment.blood(i, np.random.default_rng(4)),
    "mucus": augment.mucus,
    "glare": augment.glare_spots,
    "smoke": augment.smoke,
    "fog": augment.fog,
    "motion": augment.motion_blur,
    "interlaced": augment.interlace,
    "resolution": augment.match_sharpness,
    "field stop": augment.put_aperture,
    "overlay": augment.put_overlay,
    "noise": augment.sensor_noise,
    "compression": augment.jpeg,
}


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds vocalfolds/")
    parser.add_argument("--out", type=Path, required=True, help="a JPEG")
    given = parser.parse_args()
    picture = _picture(given.data)
    columns, rows = 5, 4
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 2.1, rows * 2.32), dpi=110)
    shown = [("as it is", picture)] + [
        (name, step(picture, np.random.default_rng([5, k]))) for k, (name, step) in enumerate(STEPS.items())
    ]
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image) in zip(axes.flat, shown, strict=False):
        axis.imshow(image)
        axis.set_title(name, fontsize=9, pad=3)
    figure.tight_layout(pad=0.4)
    figure.savefig(given.out, pil_kwargs={"quality": 82})
    print(f"{given.out}: {given.out.stat().st_size / 1e3:.0f} kB")


def _picture(root: Path | None) -> Image:
    """uint8 (200, 200, 3) RGB."""
    files = sorted((root / "vocalfolds" / "img").rglob("*.jpg")) if root is not None else []
    image = cv2.imread(str(files[len(files) // 3])) if files else next(frame for frame, _ in training_frames(1, 3))
    return np.asarray(cv2.cvtColor(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))


if __name__ == "__main__":
    main()
