"""The phantom's camera: from image pixels to scene units and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge.capture.phantom.texture import Array


@dataclass(frozen=True, slots=True)
class Camera:
    """A pose and a lens.

    Attributes:
        centre: the optical axis in the image, pixels.
        radius: pixels from the axis to where the view is `span` wide.
        at: the point of the scene it looks at.
        span: scene units at `radius`.
        roll: radians.
        tilt: perspective along x and y (0 = straight on; |tilt| < 0.4).
        barrel: radial distortion, share of widening at `radius`.
    """

    centre: tuple[float, float]
    radius: float
    at: tuple[float, float]
    span: float
    roll: float = 0.0
    tilt: tuple[float, float] = (0.0, 0.0)
    barrel: float = 0.10

    def to_scene(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Scene coordinates of image points (float32 arrays that broadcast)."""
        nx = (x - np.float32(self.centre[0])) * np.float32(1.0 / self.radius)
        ny = (y - np.float32(self.centre[1])) * np.float32(1.0 / self.radius)
        stretch = 1.0 + np.float32(self.barrel) * (nx * nx + ny * ny)
        nx, ny = nx * stretch, ny * stretch
        depth = np.float32(self.span) / np.maximum(1.0 + self.tilt[0] * nx + self.tilt[1] * ny, 0.3).astype(np.float32)
        cos, sin = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        u = (cos * nx - sin * ny) * depth + np.float32(self.at[0])
        v = (sin * nx + cos * ny) * depth + np.float32(self.at[1])
        return u, v

    def to_image(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Image pixels of scene points: the inverse of `to_scene`."""
        du = (u - self.at[0]) / self.span
        dv = (v - self.at[1]) / self.span
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        nx = cos * du + sin * dv
        ny = -sin * du + cos * dv
        depth = 1.0 / np.maximum(1.0 - self.tilt[0] * nx - self.tilt[1] * ny, 0.2)
        nx, ny = nx * depth, ny * depth
        # Undo r' = r (1 + k r^2) by Newton's method: it converges for every r, k >= 0.
        far = np.sqrt(nx * nx + ny * ny)
        near = far / (1.0 + self.barrel * np.minimum(far, 1.0) ** 2)
        for _ in range(5):
            near = near - (near + self.barrel * near**3 - far) / (1.0 + 3.0 * self.barrel * near * near)
        shrink = near / np.maximum(far, 1e-6)
        x = nx * shrink * self.radius + self.centre[0]
        y = ny * shrink * self.radius + self.centre[1]
        return x.astype(np.float32), y.astype(np.float32)
