"""Plates of other places on the way and beyond: nose, teeth, gullet, bronchi. None of them shows vocal folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.anatomy import Anatomy, bleed, mottle, plate_axis, tint, wild_vessels
from edge.capture.phantom.parts import Part
from edge.capture.phantom.texture import Array, Bytes, blur, cv, shade, smoothstep, value_noise

if TYPE_CHECKING:
    from collections.abc import Callable


def _light(albedo: Array, height: Array, axis: Array, wet: Array, above: float = 1.9) -> Bytes:
    spacing = np.gradient(axis).astype(np.float32)
    return shade(
        np.clip(albedo, 0.01, 1.0), height.astype(np.float32), (spacing[None, :], spacing[:, None]), wet,
        light=(0 - axis[None, :], 0 - axis[:, None], above),
    )  # fmt: skip


def _filled(size: int, part: Part) -> Bytes:
    return np.full((size, size), part, np.uint8)


def nose_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """A nasal passage: a flat septum on one side, a swollen turbinate on the other, a dark slit between, hairs."""
    rng = np.random.default_rng([anatomy.seed, 26])
    axis = plate_axis(size)
    u, v = axis[None, :], axis[:, None]
    bend = value_noise(rng, (size, size), 3, 2)
    side = float(rng.choice([-1.0, 1.0]))
    slit = side * (u + 0.14 * bend - float(rng.uniform(-0.15, 0.15)) * v)
    half = 0.05 + 0.09 * float(rng.uniform(0.2, 1)) * (1 + np.sin(2.2 * v + rng.uniform(0, 6)))
    far = np.abs(slit) - half
    septum = smoothstep(0.0, 0.9, np.maximum(far, 0)) * (slit < 0)
    bulge = np.sqrt(np.clip(np.maximum(far, 0) / 0.7, 0, 1)) * (slit >= 0)
    lower = smoothstep(0.15, 0.45, np.abs(v - float(rng.uniform(-0.5, 0.3)) + 0.1 * bend))
    height = 0.55 * septum + 0.50 * bulge * (0.6 + 0.4 * lower) + 0.012 * value_noise(rng, (size, size), 14, 3)
    way = smoothstep(0.02, -0.06, far)
    height = height - 0.5 * way
    albedo = mottle(rng, size, anatomy.mucosa)
    bleed(albedo, wild_vessels(rng, size, int(size * 0.14), 0.14, size / 520), 0.55)
    tint(albedo, (0.03, 0.03, 0.09), (0.93 * way).astype(np.float32))
    if rng.random() < 0.4:  # noqa: PLR2004 # just inside the nostril
        hairs = np.zeros((size, size), np.uint8)
        for _ in range(int(rng.integers(8, 26))):
            start = rng.uniform(0, size, 2)
            turn = float(np.arctan2(size / 2 - start[1], size / 2 - start[0]) + rng.normal(0, 0.5))
            steps = np.linspace(0, size * rng.uniform(0.08, 0.2), 8)
            bow = turn + steps / size * rng.normal(0, 4)
            points = np.stack([start[0] + steps * np.cos(bow), start[1] + steps * np.sin(bow)], axis=1)
            cv.polylines(hairs, [np.round(points * 16).astype(np.int32)[:, None, :]], False, (255,), 1, cv.LINE_AA, 4)
        tint(albedo, (0.06, 0.06, 0.08), hairs.astype(np.float32) / 255.0)
    wet = value_noise(rng, (size, size), 50, 2) * 0.007
    return _light(albedo, height, axis, wet), _filled(size, Part.NOSE)


def gullet_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """The gullet's entrance: a rosette of soft folds around a closed, or nearly closed, middle."""
    rng = np.random.default_rng([anatomy.seed, 27])
    axis = plate_axis(size)
    u = axis[None, :] * float(rng.uniform(0.5, 1.0)) + value_noise(rng, (size, size), 3, 2) * 0.08
    v = axis[:, None] + value_noise(rng, (size, size), 3, 2) * 0.08
    far = np.sqrt(u * u + v * v + 1e-4)
    ridges = int(rng.integers(4, 8))
    turn = np.arctan2(v, u) * ridges + 2.2 * value_noise(rng, (size, size), 4, 2)
    ridge = np.sqrt(0.5 + 0.5 * np.sin(turn))
    open_ = float(rng.uniform(0.0, 0.22))
    height = 0.45 * smoothstep(0.0, 1.1, far) + 0.20 * ridge * np.exp(-far / 0.75)
    hole = smoothstep(open_ + 0.10, open_ * 0.5, far * (1 + 0.25 * ridge))
    height = height - 0.4 * hole
    albedo = mottle(rng, size, anatomy.mucosa)
    tint(
        albedo, (anatomy.mucosa[0] * 1.2, anatomy.mucosa[1] * 1.2, anatomy.mucosa[2]), (0.4 * ridge).astype(np.float32)
    )
    bleed(albedo, wild_vessels(rng, size, int(size * 0.10), 0.12, size / 560), 0.45)
    tint(albedo, (0.04, 0.04, 0.12), (0.9 * hole).astype(np.float32))
    wet = value_noise(rng, (size, size), 50, 2) * 0.008
    return _light(albedo, height, axis, wet), _filled(size, Part.OESOPHAGUS)


def bronchi_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """The end of the windpipe: a sharp ridge between two dark ways down, with rings."""
    rng = np.random.default_rng([anatomy.seed, 28])
    axis = plate_axis(size)
    u = axis[None, :] + value_noise(rng, (size, size), 3, 2) * 0.04
    v = axis[:, None] + value_noise(rng, (size, size), 3, 2) * 0.04
    apart, wide_ = float(rng.uniform(0.36, 0.52)), float(rng.uniform(0.24, 0.34))
    holes = []
    for side in (-1.0, 1.0):
        grow = float(rng.uniform(0.85, 1.2))
        holes.append(np.sqrt(((u - side * apart) / grow) ** 2 + ((v - rng.normal(0, 0.05)) / (grow * 1.25)) ** 2))
    near = np.minimum(*holes)
    depth = wide_ / np.maximum(near, 0.05)
    outer = np.sqrt(u * u + v * v)
    wave = np.sin((depth * 2.6 + 0.1 * value_noise(rng, (size, size), 5, 2)) * np.pi) * smoothstep(0.7, 0.35, near)
    wave = wave + np.sin(outer * 9.0 + value_noise(rng, (size, size), 4, 2)) * smoothstep(0.75, 1.1, outer)
    height = 0.5 * smoothstep(0.0, 0.45, near) + 0.05 * wave + 0.3 * smoothstep(0.8, 1.6, outer)
    albedo = mottle(rng, size, anatomy.mucosa)
    tint(albedo, (0.60, 0.66, 0.86), (0.5 * np.clip(wave, 0, 1)).astype(np.float32))
    bleed(albedo, wild_vessels(rng, size, int(size * 0.12), 0.12, size / 600), 0.4)
    albedo *= np.clip(1.15 / (1 + 0.9 * depth * depth), 0.03, 1.1)[..., None]
    wet = value_noise(rng, (size, size), 50, 2) * 0.006
    return _light(albedo, height, axis, wet), _filled(size, Part.TRACHEA)


def teeth_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """The mouth from outside: lips, one or two rows of teeth, the tongue, the dark behind."""
    rng = np.random.default_rng([anatomy.seed, 29])
    axis = plate_axis(size)
    u = axis[None, :] + value_noise(rng, (size, size), 3, 2) * 0.04
    v = axis[:, None] + value_noise(rng, (size, size), 3, 2) * 0.04
    opening = float(rng.uniform(0.35, 0.75))
    mouth = np.sqrt((u / 1.15) ** 2 + (v / opening) ** 2)
    lips = np.exp(-(((mouth - 1.18) / 0.16) ** 2))
    height = 0.5 * smoothstep(0.9, 1.15, mouth) + 0.12 * lips + 0.006 * value_noise(rng, (size, size), 60, 2)
    tongue = smoothstep(1.0, 0.75, np.sqrt((u / 0.75) ** 2 + ((v - 0.75 * opening) / (0.75 * opening)) ** 2))
    height = np.maximum(height, 0.35 * np.sqrt(tongue))
    parts = _filled(size, Part.PHARYNX)
    parts[np.broadcast_to(mouth < 1.0, parts.shape)] = Part.PALATE
    parts[tongue > 0.5] = Part.TONGUE  # noqa: PLR2004 # half
    rows = [(-1.0, float(rng.uniform(0.7, 0.95)))]
    if rng.random() < 0.6:  # noqa: PLR2004 # the lower row too
        rows.append((1.0, float(rng.uniform(0.75, 0.98))))
    teeth = np.zeros((size, size), np.float32)
    for side, out in rows:
        wide_ = float(rng.uniform(0.16, 0.26))
        for k in np.arange(-4, 5) + float(rng.choice([0.0, 0.5])):
            if rng.random() < 0.06:  # noqa: PLR2004 # one is missing
                continue
            middle = k * wide_ * 1.03
            edge = side * opening * out * np.sqrt(max(0.05, 1 - (middle / 1.25) ** 2))
            far = np.abs((u - middle) / (0.5 * wide_)) ** 4 + np.abs((v - edge) / (wide_ * 0.75)) ** 4
            teeth = np.maximum(teeth, np.clip(1.0 - far, 0, 1) ** 0.4)
    there = smoothstep(0.0, 0.25, teeth)
    height = np.where(there > 0.05, np.maximum(height, 0.42 + 0.12 * teeth), height)  # noqa: PLR2004
    parts[there > 0.5] = Part.TEETH  # noqa: PLR2004
    albedo = mottle(rng, size, anatomy.mucosa)
    skin = (0.50, 0.60, 0.82) if rng.random() < 0.7 else (0.22, 0.30, 0.45)  # noqa: PLR2004
    tint(albedo, skin, (0.8 * smoothstep(1.3, 1.5, mouth)).astype(np.float32))
    tint(albedo, (0.55, 0.58, 0.80), (0.35 * tongue).astype(np.float32))
    dark = smoothstep(0.95, 0.5, mouth) * (1 - tongue)
    tint(albedo, (0.04, 0.04, 0.12), (0.85 * dark).astype(np.float32))
    ivory = (float(rng.uniform(0.55, 0.8)), float(rng.uniform(0.75, 0.88)), 0.92)
    tint(albedo, ivory, there.astype(np.float32))
    wet = value_noise(rng, (size, size), 60, 2) * 0.006
    return _light(albedo, blur(height.astype(np.float32), 1.0), axis, wet), parts


PLACES: dict[str, Callable[[Anatomy, int], tuple[Bytes, Bytes]]] = {
    "nose": nose_plate,
    "gullet": gullet_plate,
    "bronchi": bronchi_plate,
    "teeth": teeth_plate,
}
