"""What every training stream draws: a record, the frame's shape, a crop of the picture, a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.data.augment import Rng
    from trainer.data.blend import Rect

ASPECTS = (1.0, 1.0, 1.0, 1.1, 1.17, 1.25, 4 / 3, 4 / 3, 16 / 9, 0.85, 0.7, 0.55)
"""Width over height of the picture inside the model's square input, as frames and their apertures have it."""


def draw_record(pools: Mapping[str, Sequence[int]], weights: Mapping[str, float], rng: Rng) -> int:
    """One of the pools' entries: first a source, by its weight (1 where none is given), then one of its entries."""
    sources = sorted(pools)
    shares = np.array([weights.get(source, 1.0) for source in sources])
    if not shares.any():
        shares[:] = 1
    pool = pools[sources[int(rng.choice(len(sources), p=shares / shares.sum()))]]
    return pool[int(rng.integers(len(pool)))]


def draw_size(side: int, rng: Rng, aspects: Sequence[float] = ASPECTS) -> tuple[int, int]:
    """(height, width) of the picture inside a square of `side` pixels, its width over height one of the aspects."""
    aspect = aspects[int(rng.integers(len(aspects)))]
    return (round(side / aspect), side) if aspect >= 1 else (side, round(side * aspect))


def draw_turn(largest: float, rng: Rng) -> tuple[float, tuple[bool, bool]]:
    """Degrees up to `largest`, small ones more often; and whether to mirror left-right, and up-down."""
    angle = float(np.clip(rng.normal(0, 0.5), -1, 1)) * largest
    return angle, (bool(rng.random() < 0.5), bool(rng.random() < 0.25))  # noqa: PLR2004


def draw_crop(width: int, height: int, size: tuple[int, int], zoom: tuple[float, float], rng: Rng) -> Rect:
    """A rectangle of about the shape of `size` (height, width), of a drawn share of the picture, anywhere in it."""
    shape = size[1] / size[0] * float(np.exp(rng.normal(0, 0.08)))
    scale = float(rng.uniform(*zoom))
    # Between the largest rectangle inside the picture and the smallest around it.
    inner, outer = min(width, height * shape), max(width, height * shape)
    w = scale * (inner + (outer - inner) * float(rng.uniform(0, 0.5)))
    h = w / shape
    x = (width - w) / 2 + float(rng.uniform(-0.5, 0.5)) * abs(width - w)
    y = (height - h) / 2 + float(rng.uniform(-0.5, 0.5)) * abs(height - h)
    return x, y, w, h
