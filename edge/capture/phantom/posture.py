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
_NOTHING = 1e-4  # scene units: an outline that is no wider holds no pixel
_SLIT = 0.0035  # half width of the dark line between closed folds


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
        lag: how much less than the other one side opens, -1..1; above 0 the right one (u > 0) stays behind.
        squeeze: how far the false folds have come over the true ones, scene units.
    """

    anatomy: Anatomy
    opening: float
    voice: float
    phase: float
    lag: float = 0.0
    squeeze: float = 0.0

    def _share(self, side: Array | float) -> Array:
        """The share of the opening that the fold on `side` (its sign) takes part in."""
        return np.asarray(1.0 - np.maximum(np.sign(side) * self.lag, 0.0), np.float32)

    def tissue(self, v: Array, side: Array | float = 1.0) -> tuple[Array, Array]:
        """How far the midline's tissue has moved out at `v` on a side, and how wide the unparted cleft is."""
        way = np.clip((v - FRONT) / (PROCESS - FRONT), 0, 1)
        opening = self.opening * self._share(side) * way**1.15 * smoothstep(1.02, 0.62, v)
        opening += self.wave(v) * 0.8
        cleft = 0.11 * smoothstep(PROCESS + 0.02, BACK + 0.06, v)
        return opening.astype(np.float32), cleft

    def wave(self, v: Array) -> Array:
        """The gap that vibration makes at `v`: a spindle between the membranous folds."""
        along = np.clip((v - FRONT) / (PROCESS + 0.04 - FRONT), 0, 1)
        swing = max(0.0, float(np.sin(self.phase)) + 0.25) / 1.25
        apart = self.voice * swing + self.anatomy.bow
        return np.asarray(apart * np.maximum(np.sin(np.pi * along), 0.0) ** 0.8, np.float32)

    def gap(self, v: Array, side: float = 1.0) -> Array:
        """Half width of the glottis at `v` on a side, before the false folds come over it."""
        way = np.clip((v - FRONT) / (PROCESS - FRONT), 0, 1)
        round_back = np.sqrt(np.clip(1 - (np.maximum(v - PROCESS, 0) / (BACK - PROCESS)) ** 2, 0, 1))
        return np.asarray(self.opening * self._share(side) * way**1.15 * round_back + self.wave(v), np.float32)

    def squeezed(self, side: Array) -> Array:
        """Where tissue that lay `side` (>= 0) from the midline lies once the false folds have come over it."""
        if self.squeeze <= 0:
            return side
        moved = (side - self.squeeze) * np.float32(HINGE / (HINGE - self.squeeze))
        return np.where(side < HINGE, np.maximum(moved, 0.0), side).astype(np.float32)

    def unsqueezed(self, side: Array, v: Array) -> Array:
        """Undo `squeezed` for tissue that is still to be seen; before and behind the folds nothing is squeezed."""
        if self.squeeze <= 0:
            return side
        moved = np.float32(self.squeeze) * smoothstep(FRONT - 0.26, FRONT - 0.02, v) * smoothstep(0.76, BACK + 0.02, v)
        return np.where(side < HINGE, side * (HINGE - moved) / HINGE + moved, side).astype(np.float32)

    def glottis(self, camera: Camera, *, slit: bool = True) -> tuple[Array, Array]:
        """Outline of the gap in the image; even closed folds show a dark line, and so do false folds that meet.

        Args:
            camera: that looks.
            slit: also where false folds hide the gap: it is dark there, but no glottis.
        """
        v = np.linspace(FRONT, BACK, 48, dtype=np.float32)
        least = _SLIT * np.sin(np.pi * np.linspace(0.02, 0.98, 48))
        sides = []
        for sign in (1.0, -1.0):
            half = np.maximum(self.gap(v, sign), least)
            for side, at, radius in self.anatomy.lesions:
                if side == sign:
                    dent = np.sqrt(np.clip(1.1 - ((v - at) / radius) ** 2, 0, 1)) * radius * 0.55
                    np.maximum(half - dent, -0.4 * radius, out=half)
            if self.squeeze > 0:
                half = self.squeezed(half)
                half = np.maximum(half, least) if slit else half
            sides.append(half)
        right, left = sides
        if self.squeeze > 0 and not slit:
            open_ = np.maximum(right, left) > _NOTHING
            v, right, left = v[open_], right[open_], left[open_]
        return camera.to_image(np.concatenate([right, -left[::-1]]), np.concatenate([v, v[::-1]]))

    def folds(self, camera: Camera) -> list[tuple[Array, Array]]:
        """Outlines of both folds' visible bands in the image."""
        v = np.linspace(FRONT + 0.01, FOLD_BACK, 40, dtype=np.float32)
        along = np.concatenate([v, v[::-1]])
        outlines = []
        for sign in (-1.0, 1.0):
            opening, cleft = self.tissue(v, sign)
            inner = np.maximum(self.gap(v, sign), 0.0)
            outer = np.maximum(closed_to_opened(self.anatomy.half_width(v), opening, cleft), inner)
            band = self.squeezed(np.concatenate([inner, outer[::-1]]))
            if self.squeeze > 0:
                left_over = self.squeezed(outer) > _NOTHING
                kept = np.concatenate([left_over, left_over[::-1]])
                outlines.append(camera.to_image(sign * band[kept], along[kept]))
                continue
            outlines.append(camera.to_image(sign * band, along))
        return outlines
