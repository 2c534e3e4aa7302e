"""Procedural building blocks of the phantom: smooth noise, vessels, and the shading of a height field."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

cv: Any = cv2  # OpenCV's stubs know neither element types nor absent maps
Array = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

HEADROOM = 0.6  # plates hold fully lit white as this share of 255, so that brighter tissue keeps its colour


def smoothstep(low: float | Array, high: float | Array, x: Array) -> Array:
    """0 below `low`, 1 above `high`, a cubic between them (`low` may exceed `high`: then it falls)."""
    span = high - low
    if isinstance(span, np.ndarray):
        span = np.where(span == 0, 1e-9, span)  # where both meet it is a step
    t = np.clip((x - low) / span, 0.0, 1.0).astype(np.float32)
    return t * t * (3.0 - 2.0 * t)


def ease(x: float) -> float:
    """Return the scalar smoothstep of `x` between 0 and 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def value_noise(rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int = 1) -> Array:
    """Smooth noise of zero mean and about unit deviation, shape (H, W).

    Args:
        rng: source of randomness.
        shape: rows and columns of the result.
        cells: number of noise cells along the longer side in the first octave; each further octave doubles it.
        octaves: number of octaves, each half as strong as the one before.
    """
    out = np.zeros(shape, np.float32)
    longer = max(shape)
    strength = 1.0
    power = 0.0
    for _ in range(octaves):
        rows = max(3, round(cells * shape[0] / longer) + 2)
        cols = max(3, round(cells * shape[1] / longer) + 2)
        grid = rng.standard_normal((rows, cols)).astype(np.float32)
        out += strength * cv.resize(grid, (shape[1], shape[0]), interpolation=cv.INTER_CUBIC)
        power += strength * strength
        strength *= 0.5
        cells *= 2.0
    return np.asarray(out * (1.35 / np.sqrt(power)), np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur that works on a smaller copy when `sigma` (pixels) is large."""
    factor = max(1, int(sigma // 3))
    if factor == 1:
        return np.asarray(cv.GaussianBlur(image, (0, 0), sigma))
    height, width = image.shape[:2]
    small = cv.resize(image, (max(4, width // factor), max(4, height // factor)), interpolation=cv.INTER_AREA)
    small = cv.GaussianBlur(small, (0, 0), sigma / factor)
    return np.asarray(cv.resize(small, (width, height), interpolation=cv.INTER_LINEAR))


def vessel_paths(
    rng: np.random.Generator,
    starts: Array,
    headings: Array,
    *,
    length: float,
    wander: float,
    branches: int = 2,
    steps: int = 26,
) -> list[tuple[Array, float]]:
    """Random walks that branch, as polylines with a relative width.

    Args:
        rng: source of randomness.
        starts: (n, 2) starting points.
        headings: (n,) directions in radians.
        length: length of a trunk, in the units of `starts`.
        wander: turning per step in radians (standard deviation).
        branches: side branches of each trunk; each has half its length and width.
        steps: points of a trunk.
    """
    paths: list[tuple[Array, float]] = []
    for start, heading in zip(starts, headings, strict=True):
        turn = cv.blur(rng.standard_normal((steps, 1)).astype(np.float32), (1, 3))[:, 0] * wander
        angle = heading + np.cumsum(turn)
        step = length * float(rng.uniform(0.5, 1.3)) / steps
        trunk = start + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=1) * step, axis=0)
        width = float(rng.uniform(0.5, 1.0))
        paths.append((trunk.astype(np.float32), width))
        for _ in range(branches):
            at = int(rng.integers(2, steps - 4))
            count = int(rng.integers(6, 14))
            side = angle[at] + rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 0.9)
            side = side + np.cumsum(rng.standard_normal(count) * wander)
            twig = trunk[at] + np.cumsum(np.stack([np.cos(side), np.sin(side)], axis=1) * step, axis=0)
            paths.append((twig.astype(np.float32), width * 0.55))
    return paths


def draw_paths(shape: tuple[int, int], paths: list[tuple[Array, float]], thickness: float) -> Array:
    """Draw `paths` (points in pixels) as soft lines of 0..1, thinner ones fainter; shape (H, W)."""
    canvas = np.zeros(shape, np.uint8)
    for points, width in paths:
        fixed = np.round(points * 16.0).astype(np.int32)
        wide = max(1, round(thickness * width))
        strength = int(255 * min(1.0, 0.35 + 0.65 * width))
        cv.polylines(canvas, [fixed[:, None, :]], False, (strength,), wide, cv.LINE_AA, 4)
    out = canvas.astype(np.float32) * np.float32(1.0 / 255.0)
    return np.asarray(cv.GaussianBlur(out, (0, 0), 0.7))


def shade(
    albedo: Array,
    height: Array,
    spacing: tuple[Array, Array],
    bump: Array,
    *,
    light: tuple[Array, Array, float],
    occlusion: float = 1.0,
) -> Bytes:
    """Light a height field from an endoscope's tip; returns BGR and gloss as uint8 (H, W, 4).

    The light sits above the field at the camera, so it falls off with the square of the distance; hollows are darkened
    by how far they lie below their surroundings; red survives in shade, as light that went through tissue is red.

    Args:
        albedo: (H, W, 3) BGR, 0..1.
        height: (H, W) height towards the camera, in scene units.
        spacing: scene units per pixel along x (1, W) and y (H, 1).
        bump: (H, W) fine relief that only the wet film's reflections see.
        light: offsets to the light along x (1, W), y (H, 1) and its height, scene units.
        occlusion: strength of the darkening of hollows.
    """
    rows, cols = height.shape
    kernel = np.array([[-0.5, 0.0, 0.5]], np.float32)
    slope_x = cv.filter2D(height, -1, kernel) / spacing[0]
    slope_y = cv.filter2D(height, -1, kernel.T) / spacing[1]
    to_x, to_y, above = light
    to_z = above - height
    distance = to_x * to_x + to_y * to_y + to_z * to_z
    inverse = 1.0 / np.sqrt(distance)
    facing = (to_z - slope_x * to_x - slope_y * to_y) * inverse
    facing /= np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    lit = 0.22 + 0.78 * np.clip(facing, 0.0, 1.0)
    lit *= np.minimum(above * above / distance, 1.9)
    hollow = np.zeros_like(height)
    for sigma, weight in ((cols * 0.012, 4.0), (cols * 0.04, 1.8)):
        hollow += weight * np.minimum(height - blur(height, sigma), 0.03)
    lit *= np.clip(1.0 + occlusion * hollow, 0.12, 1.25)
    lit = np.clip(lit, 0.0, 2.4)
    bright = np.maximum(lit, 1.0)
    deep = np.log(np.clip(lit, 1e-3, 1.0))
    out = np.empty((rows, cols, 4), np.uint8)
    for channel, power in enumerate((1.16, 1.12, 0.86)):
        out[..., channel] = np.clip(albedo[..., channel] * bright * np.exp(power * deep) * (255.0 * HEADROOM), 0, 255)
    # Gloss: how nearly the wet surface faces the light, with its fine relief, 0..255.
    relief = height * 0.8 + bump
    wet_x = cv.filter2D(relief, -1, kernel) / spacing[0] - to_x * inverse
    wet_y = cv.filter2D(relief, -1, kernel.T) / spacing[1] - to_y * inverse
    gloss = np.exp(-4.0 * (wet_x * wet_x + wet_y * wet_y))
    out[..., 3] = np.clip(gloss * 255.0, 0, 255)
    return out
