"""How the folds open and vibrate: where tissue goes, and the outlines that are both painted and reported as truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.anatomy import BACK, FOLD_BACK, FRONT, HINGE, PROCESS, Anatomy
from edge.capture.phantom.texture import Array, smoothstep

if TYPE_CHECKING:
    from edge.capture.phantom.camera import Camera

TUBE_ROOM = 0.17  # a breathing tube keeps the folds this far from the midline


def opened_to_closed(side: Array, opening: Array, cleft: Array) -> Array:
    """Distance from the midline before the folds opened, for tissue now at `side` (>= 0).

    Tissue at the midline moves out by `opening`; the mucosa between the arytenoids (`cleft` > 0) stretches instead of
    parting; at `HINGE` nothing moves.
    """
    start = opening + cleft
    inner = side * cleft / np.maximum(start, 1e-6)
    outer = cleft + (side - start) * (HINGE - cleft) / (HINGE - start)
    return np.where(side < start, inner, np.where(side < HINGE, outer, side)).astype(np.float32)


def closed_to_opened(side: Array, opening: Array, cleft: Array) -> Array:
    """Undo `opened_to_closed` for tissue outside the cleft."""
    start = opening + cleft
    return np.where(side < HINGE, start + (side - cleft) * (HINGE - start) / (HINGE - cleft), side).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Posture:
    """The folds at one moment.

    Attributes:
        anatomy: whose.
        opening: half width of the gap at the vocal processes, scene units.
        voice: amplitude of the vibration, scene units.
        phase: of the vibration, radians.
    """

    anatomy: Anatomy
    opening: float
    voice: float
    phase: float

    def tissue(self, v: Array) -> tuple[Array, Array]:
        """How far the midline's tissue has moved out at `v`, and how wide the unparted cleft is."""
        way = np.clip((v - FRONT) / (PROCESS - FRONT), 0, 1)
        opening = self.opening * way**1.15 * smoothstep(1.02, 0.62, v)
        opening += self.wave(v) * 0.8
        cleft = 0.11 * smoothstep(PROCESS + 0.02, BACK + 0.06, v)
        return opening.astype(np.float32), cleft

    def wave(self, v: Array) -> Array:
        """The gap that vibration makes at `v`: a spindle between the membranous folds."""
        along = np.clip((v - FRONT) / (PROCESS + 0.04 - FRONT), 0, 1)
        swing = max(0.0, float(np.sin(self.phase)) + 0.25) / 1.25
        return np.asarray(self.voice * swing * np.maximum(np.sin(np.pi * along), 0.0) ** 0.8, np.float32)

    def gap(self, v: Array) -> Array:
        """Half width of the glottis at `v`."""
        way = np.clip((v - FRONT) / (PROCESS - FRONT), 0, 1)
        round_back = np.sqrt(np.clip(1 - (np.maximum(v - PROCESS, 0) / (BACK - PROCESS)) ** 2, 0, 1))
        return np.asarray(self.opening * way**1.15 * round_back + self.wave(v), np.float32)

    def glottis(self, camera: Camera) -> tuple[Array, Array]:
        """Outline of the gap in the image; even closed folds show a dark line."""
        v = np.linspace(FRONT, BACK, 48, dtype=np.float32)
        half = np.maximum(self.gap(v), 0.0035 * np.sin(np.pi * np.linspace(0.02, 0.98, 48)))
        right, left = half.copy(), half.copy()
        side, at, radius = self.anatomy.lesion
        if side:
            dent = np.sqrt(np.clip(1.1 - ((v - at) / radius) ** 2, 0, 1)) * radius * 0.55
            target = right if side > 0 else left
            np.maximum(target - dent, -0.4 * radius, out=target)
        return camera.to_image(np.concatenate([right, -left[::-1]]), np.concatenate([v, v[::-1]]))

    def folds(self, camera: Camera) -> list[tuple[Array, Array]]:
        """Outlines of both folds' visible bands in the image."""
        v = np.linspace(FRONT + 0.01, FOLD_BACK, 40, dtype=np.float32)
        opening, cleft = self.tissue(v)
        inner = np.maximum(self.gap(v), 0.0)
        outer = np.maximum(closed_to_opened(self.anatomy.half_width(v), opening, cleft), inner)
        band = np.concatenate([inner, outer[::-1]])
        along = np.concatenate([v, v[::-1]])
        return [camera.to_image(sign * band, along) for sign in (-1.0, 1.0)]
