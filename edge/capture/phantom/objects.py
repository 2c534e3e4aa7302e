"""Things before the tissue: instruments, a laryngoscope's blade, pools of blood and mucus; what they cover, they hide.

Lengths are radii of the aperture, x to the right and y downwards from its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom.parts import Part
from edge.capture.phantom.texture import Array, Bytes, cv, smoothstep, value_noise

if TYPE_CHECKING:
    from edge.capture.phantom.layers import Layer

TOOLS = ("forceps", "needle", "fibre", "suction", "swab")
FLUIDS = ("blood", "mucus", "foam")
_OPAQUE = 127  # of 255: from here on what lies behind counts as hidden


@dataclass(frozen=True, slots=True)
class Scene:
    """Where an object is drawn: the layer's circle in pixels, and the brightness that white tissue has."""

    centre: tuple[float, float]
    radius: float
    white: float

    def axes(self, width: int, height: int) -> tuple[Array, Array]:
        """Coordinates of all pixels, shapes (1, W) and (H, 1)."""
        x = (np.arange(width, dtype=np.float32)[None, :] - np.float32(self.centre[0])) / np.float32(self.radius)
        y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(self.centre[1])) / np.float32(self.radius)
        return x, y


@dataclass(frozen=True, slots=True)
class Tool:
    """A long instrument that comes in from the border.

    Attributes:
        kind: one of `TOOLS`.
        at: its tip.
        angle: the direction from the tip to the hand, radians.
        width: of its shaft at the tip.
        taper: share by which it widens towards the camera per radius.
        bend: sideways bow, radii per squared radius.
        colour: BGR 0..1.
        seed: of its details.
    """

    kind: str
    at: tuple[float, float]
    angle: float
    width: float
    taper: float
    bend: float
    colour: tuple[float, float, float]
    seed: int

    def lay(self, layer: Layer, scene: Scene) -> None:
        """Draw it over a layer, with its shadow."""
        height, width = layer.image.shape[:2]
        rng = np.random.default_rng([self.seed, 71])
        x, y = scene.axes(width, height)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along = (x - self.at[0]) * cos + (y - self.at[1]) * sin
        across = (y - self.at[1]) * cos - (x - self.at[0]) * sin
        across = across - np.float32(self.bend) * along * along
        half = np.float32(0.5 * self.width) * (1.0 + np.float32(self.taper) * np.maximum(along, 0.0))
        soft = np.float32(1.5 / scene.radius)
        inside, tone = getattr(self, f"_{self.kind}")(along, across, half, soft, rng)
        opacity = np.clip(inside * 255.0, 0, 255).astype(np.uint8)
        if not opacity.any():
            return
        _cast_shadow(layer.image, opacity, 0.10 * scene.radius * self.width**0.5)
        colour = np.array(self.colour, np.float32) * np.float32(scene.white)
        _cover(layer, np.clip(tone[..., None] * colour, 0, 255).astype(np.uint8), opacity, Part.INSTRUMENT)
        if self.kind == "fibre":
            self._aim(layer.image, scene, rng)

    @staticmethod
    def _rod(along: Array, across: Array, half: Array, soft: Array) -> tuple[Array, Array]:
        """Opacity and shading of a round shaft that begins at the tip."""
        share = np.clip(across / half, -1.5, 1.5)
        inside = smoothstep(1.0, 1.0 - 2.0 * float(np.mean(soft / half)), np.abs(share)) * smoothstep(0.0, soft, along)
        round_ = np.sqrt(np.clip(1.0 - share * share, 0.0, 1.0))
        glint = 1.2 * np.exp(-(((share - 0.28) / 0.11) ** 2)) + 0.35 * np.exp(-(((share + 0.6) / 0.10) ** 2))
        return inside, (0.12 + 0.42 * round_ + glint * 0.5).astype(np.float32)

    def _suction(
        self, along: Array, across: Array, half: Array, soft: Array, _: np.random.Generator
    ) -> tuple[Array, Array]:
        inside, tone = self._rod(along, across, half, soft)
        hole = (along / (0.35 * half)) ** 2 + (across / (0.72 * half)) ** 2
        rim = (along / (0.55 * half)) ** 2 + (across / half) ** 2
        inside = np.maximum(inside, smoothstep(1.05, 0.9, rim))
        return inside, tone * smoothstep(0.75, 1.1, hole) + 0.02

    def _fibre(
        self, along: Array, across: Array, half: Array, soft: Array, _: np.random.Generator
    ) -> tuple[Array, Array]:
        core = self._rod(along, across, half * np.float32(0.45), soft)
        sheath = self._rod(along - np.float32(1.6 * self.width), across, half, soft)
        inside = np.maximum(core[0], sheath[0])
        return inside, np.where(sheath[0] > core[0], sheath[1], core[1] * np.float32(1.5))

    def _needle(
        self, along: Array, across: Array, half: Array, soft: Array, _: np.random.Generator
    ) -> tuple[Array, Array]:
        bevel = np.clip(along / np.float32(1.2 * self.width), 0.03, 1.0)
        thin = self._rod(along, across, half * np.float32(0.28) * bevel, soft)
        body = self._rod(along - np.float32(3.5 * self.width), across, half, soft)
        return np.maximum(thin[0], body[0]), np.where(body[0] > thin[0], body[1], thin[1])

    def _forceps(
        self, along: Array, across: Array, half: Array, soft: Array, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        length = np.float32(self.width * rng.uniform(1.6, 3.0))
        spread = np.float32(rng.uniform(0.15, 0.9))
        shaft = self._rod(along - length * np.float32(0.8), across, half, soft)
        inside, tone = shaft
        way = np.clip(along / length, 0.0, 1.0)
        for side in (-1.0, 1.0):
            # A jaw bows out from the hinge and comes in again at its tip.
            middle = np.float32(side) * half * spread * np.float32(2.0) * way * (1 - way) * np.float32(2.0)
            middle = middle + np.float32(side * 0.30) * half
            jaw = self._rod(along, across - middle, half * np.float32(0.42), soft)
            opacity = jaw[0] * (along < length)
            teeth = 1.0 - 0.45 * (np.sin(along * np.float32(70.0 / self.width * 0.2)) > 0.3) * (np.abs(jaw[1]) < 0.6)  # noqa: PLR2004
            tone = np.where(opacity > inside, jaw[1] * teeth, tone)
            inside = np.maximum(inside, opacity)
        return inside, tone

    def _swab(
        self, along: Array, across: Array, half: Array, soft: Array, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        inside, tone = self._rod(along - np.float32(1.5 * self.width), across, half * np.float32(0.3), soft)
        rough = value_noise(rng, (along.shape[0], along.shape[1]), 24, 3)
        far = ((along - self.width) / (1.25 * self.width)) ** 2 + (across / (0.85 * self.width)) ** 2 + 0.18 * rough
        ball = smoothstep(1.04, 0.92, far)
        cloth = (0.55 + 0.45 * np.sqrt(np.clip(1 - far, 0, 1)) + 0.10 * rough) * np.float32(1.15)
        return np.maximum(inside, ball), np.where(ball > inside, cloth, tone)

    def _aim(self, image: Bytes, scene: Scene, rng: np.random.Generator) -> None:
        """The aiming beam's spot on the tissue ahead."""
        ahead = self.width * float(rng.uniform(1.0, 4.0))
        at = (
            scene.centre[0] + scene.radius * (self.at[0] - ahead * np.cos(self.angle)),
            scene.centre[1] + scene.radius * (self.at[1] - ahead * np.sin(self.angle)),
        )
        spot = np.zeros(image.shape[:2], np.uint8)
        reach = max(1, round(0.35 * self.width * scene.radius))
        cv.circle(spot, (round(at[0]), round(at[1])), reach, (255,), -1, cv.LINE_AA)
        spot = cv.GaussianBlur(spot, (0, 0), 0.8 * reach)
        red = bool(rng.random() < 0.6)  # noqa: PLR2004 # or green
        glow = cv.merge([spot // 5, spot // 5 if red else spot // 2, spot // 2 if red else spot // 5])
        cv.add(image, glow, image)


@dataclass(frozen=True, slots=True)
class Blade:
    """The metal around the view of direct laryngoscopy: everything outside an ellipse, or one side.

    Attributes:
        at: centre of the opening.
        size: its half axes.
        turn: radians.
        colour: BGR 0..1.
        seed: of scratches and reflections.
    """

    at: tuple[float, float]
    size: tuple[float, float]
    turn: float
    colour: tuple[float, float, float]
    seed: int

    def lay(self, layer: Layer, scene: Scene) -> None:
        """Draw it over a layer."""
        height, width = layer.image.shape[:2]
        rng = np.random.default_rng([self.seed, 72])
        x, y = scene.axes(width, height)
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        a = ((x - self.at[0]) * cos + (y - self.at[1]) * sin) / np.float32(self.size[0])
        b = ((y - self.at[1]) * cos - (x - self.at[0]) * sin) / np.float32(self.size[1])
        far = np.sqrt(a * a + b * b).astype(np.float32)
        opacity = np.clip(smoothstep(1.0, 1.03, far) * 255.0, 0, 255).astype(np.uint8)
        if not opacity.any():
            return
        _cast_shadow(layer.image, opacity, 0.06 * scene.radius)
        scratches = value_noise(rng, (height, width), 90, 2)
        sheen = np.exp(-(((np.arctan2(b, a) - rng.uniform(-3, 3)) / rng.uniform(0.2, 0.6)) ** 2))
        edge = np.exp(-(((far - 1.05) / 0.035) ** 2))
        tone = (0.30 + 0.10 * scratches + 0.55 * sheen + 0.30 * edge) * np.exp(-0.5 * np.maximum(far - 1, 0))
        colour = np.array(self.colour, np.float32) * np.float32(scene.white)
        _cover(layer, np.clip(tone[..., None] * colour, 0, 255).astype(np.uint8), opacity, Part.BLADE)


@dataclass(frozen=True, slots=True)
class Pool:
    """Blood, mucus or foam that lies over the tissue.

    Attributes:
        kind: one of `FLUIDS`.
        at: its middle.
        size: its radius.
        colour: BGR 0..1.
        seed: of its outline.
    """

    kind: str
    at: tuple[float, float]
    size: float
    colour: tuple[float, float, float]
    seed: int

    def lay(self, layer: Layer, scene: Scene) -> None:
        """Draw it over a layer; wet, so it shines."""
        height, width = layer.image.shape[:2]
        rng = np.random.default_rng([self.seed, 73])
        x, y = scene.axes(width, height)
        far = np.sqrt((x - self.at[0]) ** 2 + (y - self.at[1]) ** 2) / np.float32(self.size)
        surface = value_noise(rng, (height, width), 9, 4)
        depth = smoothstep(0.0, 0.35, 1.0 - far + 0.22 * surface)
        most = 0.97 if self.kind == "blood" else 0.90
        opacity = np.clip(depth * (most * 255.0), 0, 255).astype(np.uint8)
        if not opacity.any():
            return
        swell = 0.90 + 0.16 * surface
        if self.kind == "foam":
            swell = swell + self._bubbles(rng, width, height, scene)
        colour = np.array(self.colour, np.float32) * np.float32(scene.white)
        tone = np.clip(swell[..., None] * colour, 0, 255).astype(np.uint8)
        _cover(layer, tone, opacity, Part.BLOOD if self.kind == "blood" else Part.MUCUS)
        if layer.gloss is not None:
            # Reflections where the smooth surface happens to face the light.
            bright = smoothstep(1.5, 2.1, value_noise(rng, (height, width), 16, 2)) * depth
            np.maximum(layer.gloss, np.clip(bright * 255.0, 0, 255).astype(np.uint8), out=layer.gloss)

    def _bubbles(self, rng: np.random.Generator, width: int, height: int, scene: Scene) -> Array:
        """Rims and glints of bubbles, about -0.3..1."""
        plane = np.zeros((height, width), np.float32)
        for _ in range(int(60 + 150 * self.size)):
            turn, out = rng.uniform(0, 2 * np.pi), self.size * np.sqrt(rng.uniform(0, 1)) * 1.1
            at = (
                round(scene.centre[0] + scene.radius * (self.at[0] + out * np.cos(turn))),
                round(scene.centre[1] + scene.radius * (self.at[1] + out * np.sin(turn))),
            )
            reach = max(2, round(scene.radius * 0.11 * rng.uniform(0.2, 1.0) ** 2))
            cv.circle(plane, at, reach, (-0.18,), -1)
            cv.circle(plane, at, reach, (0.22,), 1)
            cv.circle(plane, (at[0] - reach // 3, at[1] - reach // 3), max(1, reach // 5), (0.6,), -1)
        return plane


Thing = Tool | Blade | Pool


def _cast_shadow(image: Bytes, opacity: Bytes, reach: float) -> None:
    """Darken what lies beside an object, in place."""
    shade = cv.GaussianBlur(opacity, (0, 0), max(1.0, reach))
    left = (255 - np.arange(256) * 0.55).astype(np.uint8)
    plane = cv.LUT(shade, left)
    cv.multiply(image, cv.cvtColor(plane, cv.COLOR_GRAY2BGR), image, scale=1 / 255.0)


def _cover(layer: Layer, tone: Bytes, opacity: Bytes, part: Part) -> None:
    """Blend an object over a layer and note what it hides."""
    weight = cv.cvtColor(opacity, cv.COLOR_GRAY2BGR)
    cv.multiply(layer.image, cv.bitwise_not(weight), layer.image, scale=1 / 255.0)
    cv.add(layer.image, cv.multiply(tone, weight, scale=1 / 255.0), layer.image)
    if layer.gloss is not None:
        layer.gloss = cv.subtract(layer.gloss, opacity)
    if layer.cover is None:
        layer.cover = np.zeros(opacity.shape, np.uint8)
    cv.max(layer.cover, opacity, layer.cover)
    if layer.parts is not None:
        layer.parts[opacity > _OPAQUE] = part
