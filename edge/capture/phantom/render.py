"""Draws one frame of the phantom, and what is true in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom import effects
from edge.capture.phantom.camera import Camera
from edge.capture.phantom.layers import Layer, Painter, enlarge, wide
from edge.capture.phantom.objects import Scene as DrawnOn
from edge.capture.phantom.parts import Part
from edge.capture.phantom.posture import TUBE_ROOM, Posture
from edge.capture.phantom.texture import HEADROOM, Array, Bytes, cv, ease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edge.capture.phantom.anatomy import Anatomy
    from edge.capture.phantom.effects import Look
    from edge.capture.phantom.objects import Thing
    from edge.capture.phantom.script import State

# The rule of "visible": folds count as in view when, inside the aperture and not covered, they fill at least
# VISIBLE_AREA of the lit area and at least VISIBLE_CLARITY of their contrast reaches the sensor. Within a factor of
# MARGIN of the area, or below CLEAR in contrast, the frame is ambiguous: neither answer is wrong.
VISIBLE_AREA = 0.008
VISIBLE_CLARITY = 0.25
CLEAR = 0.55
MARGIN = 2.2

_ROWS = 480  # larger frames are drawn at this height and enlarged: scopes resolve no more
_HIDES = 170  # opacity, of 255, of glare or a drop that nothing is recognised through
_VEILS, _BLINDS = 110, 235  # and of smoke, between which folds may be recognised or not
_TRACE = 0.03  # less of an effect than this is not drawn
_EXPOSURE = 1.0 / 60.0  # seconds over which motion smears


@dataclass(frozen=True, slots=True)
class Truth:
    """What a frame shows.

    Attributes:
        visible: the vocal folds are in view (the rule stands above).
        ambiguous: within the rule's margin, or veiled: neither answer is wrong.
        scene: name of the scene, a key of `script.SCENES`.
        folds: (H, W) visible vocal folds.
        glottis: (H, W) visible gap between them.
        aperture: centre x, y and radius in pixels of the lit circle (of a square or octagon: the circle inside it; it
            may reach beyond the frame); None where the whole frame is lit.
        parts: uint8 (H, W), what each pixel shows, see `parts.Part`; None where nobody asked.
    """

    visible: bool
    ambiguous: bool
    scene: str
    folds: NDArray[np.bool_]
    glottis: NDArray[np.bool_]
    aperture: tuple[float, float, float] | None
    parts: Bytes | None = None


class Renderer:
    """Draws frames of one anatomy through one look.

    Args:
        anatomy: the larynx.
        look: the scope and camera.
        width: frame width in pixels, at least 64.
        height: frame height in pixels, at least 64.
        detail: size of the larynx plate in pixels.
    """

    def __init__(self, anatomy: Anatomy, look: Look, width: int, height: int, *, detail: int = 900) -> None:
        self.anatomy, self.look = anatomy, look
        self.width, self.height = width, height
        shrink = min(1.0, _ROWS / height)
        self._w, self._h = round(width * shrink), round(height * shrink)
        rng = np.random.default_rng([anatomy.seed, 41])
        self._phases = rng.uniform(0, 2 * np.pi, 16)
        self._rates = rng.uniform(0.8, 1.25, 16)
        self._painter = Painter(anatomy, look, self._w, self._h, detail, self.sway)
        self._noise = effects.SensorNoise(look, width, height, rng)
        self._haze = effects.Haze(rng)
        self._smoke: effects.Smoke | None = None
        self._flare_at = rng.uniform(-1, 1, 2)
        lit = effects.aperture_weight(look, width, height)
        self._lit = lit > 0.5  # noqa: PLR2004 # half opaque
        self._lit_area = max(1, int(self._lit.sum()))
        self._circle = look.circle(self._w, self._h) or (0.5 * self._w, 0.5 * self._h, 0.56 * min(self._w, self._h))
        self._aperture = None if look.aperture == "none" else wide(np.round(lit * 255.0).astype(np.uint8))
        rim = np.round((1.0 - lit) * look.surround).astype(np.uint8)
        self._rim = wide(rim) if rim.any() else None
        light = effects.light_field(look, self._w, self._h)
        self._light = wide(np.round(light * 255.0).astype(np.uint8))
        # Reflections fade with the light that makes them.
        self._dull = np.round((1.0 - light) * 28.0).astype(np.uint8)
        self._shine = np.clip((np.arange(256.0) - 224) * 8.5 * look.shine, 0, 250).astype(np.uint8)

    # --- geometry -----------------------------------------------------------------------------------------------

    def sway(self, t: float, index: int) -> float:
        """A slow irregular swing of about unit amplitude at `t` seconds: hand, breath and pulse; five of them."""
        p, r = self._phases, self._rates
        k = index * 3
        slow = np.sin(2 * np.pi * 0.17 * r[k] * t + p[k]) + 0.55 * np.sin(2 * np.pi * 0.53 * r[k + 1] * t + p[k + 1])
        return float(slow + 0.10 * np.sin(2 * np.pi * 2.3 * r[k + 2] * t + p[k + 2]))

    def camera(self, state: State, t: float) -> Camera:
        """The camera at `t`, the hand's tremor included."""
        shake = 0.030 * state.tremor * state.span
        roll = state.roll + 0.03 * state.tremor * self.sway(t, 2) + (np.pi if self.look.upside_down else 0.0)
        return Camera(
            centre=(self._circle[0], self._circle[1]),
            radius=self._circle[2],
            at=(state.x + shake * self.sway(t, 0), state.y + shake * self.sway(t, 1)),
            span=state.span * (1 + 0.02 * min(state.tremor, 2.0) * self.sway(t, 3)),
            roll=float(roll),
            tilt=(state.tilt_x, state.tilt_y),
        )

    def posture(self, state: State, t: float) -> Posture:
        """The folds at `t`."""
        breath = np.sin(2 * np.pi * t / 4.2 + self._phases[15])
        opening = max(0.0, state.opening + state.breathing * float(breath))
        if self.look.tube:
            return Posture(self.anatomy, max(opening, TUBE_ROOM), 0.0, 0.0)
        phase = float(2 * np.pi * self.anatomy.f0 * t)
        return Posture(self.anatomy, opening, state.voice, phase, state.lag, state.squeeze)

    # --- the frame ----------------------------------------------------------------------------------------------

    def render(
        self,
        scene: str,
        state: State,
        t: float,
        *,
        truth: bool = True,
        parts: bool = False,
        things: Sequence[Thing] = (),
    ) -> tuple[Bytes, Truth | None]:
        """Draw the frame of `state` at `t` seconds.

        Args:
            scene: its name, for the truth.
            state: what is to be seen.
            t: of the hand's and the voice's motion.
            truth: also work out what the frame shows.
            parts: and of which part each pixel is.
            things: instruments and pools before the tissue.

        Returns:
            BGR uint8 (H, W, 3) and, unless unwanted, its truth.
        """
        camera, posture = self.camera(state, t), self.posture(state, t)
        parts = parts and truth
        share = 1.0 - min(1.0, sum(weight for _, weight in state.elsewhere))
        layers: list[tuple[float, Layer]] = []
        if share > 0.005:  # noqa: PLR2004 # less cannot be seen
            layers.append((share, self._painter.larynx(state, camera, posture, t, parts=parts)))
        larynx = layers[0][1] if layers else None
        layers += [
            (weight, self._painter.other(name, state, camera, t, parts=parts))
            for name, weight in state.elsewhere
            if weight > 0.005  # noqa: PLR2004 # less cannot be seen
        ]
        drawn = DrawnOn((self._circle[0], self._circle[1]), self._circle[2], 255.0 * HEADROOM**self.look.gamma)
        for thing in things:
            for _, layer in layers:
                thing.lay(layer, drawn)
        image = self._mix([(weight, self._light_up(layer, state, t)) for weight, layer in layers])
        veil = None
        if state.smoke > _TRACE:
            image, veil = self._smoked(image, state, t)
        image, hidden = self._degrade(image, state, t)
        image = self._sense(image, t)
        if not truth:
            return image, None
        found = self._truth(scene, state, camera, posture, larynx.cover if larynx else None, hidden, veil, share, image)
        if parts:
            found = replace(found, parts=self._parts(found, max(layers, key=lambda pair: pair[0])[1], hidden))
        return image, found

    def _light_up(self, layer: Layer, state: State, t: float) -> Bytes:
        """Light a layer from the scope's tip, and let its wet surface reflect that."""
        exposure = self.look.gain * (1.0 - 0.93 * state.dark) * (1.0 + 0.012 * self.sway(t, 3))
        image: Bytes = cv.multiply(layer.image, self._light, scale=exposure / HEADROOM**self.look.gamma / 255.0)
        if layer.shade is not None:
            shade = np.ascontiguousarray(enlarge(layer.shade, self._w, self._h))
            cv.multiply(image, wide(np.asarray(shade, np.uint8)), image, scale=1 / 255.0)
        if layer.gloss is not None:
            cv.add(image, wide(cv.LUT(cv.subtract(layer.gloss, self._dull), self._shine)), image)
        return image

    @staticmethod
    def _mix(images: list[tuple[float, Bytes]]) -> Bytes:
        """Blend weighted images."""
        total, image = images[0]
        for weight, layer in images[1:]:
            total += weight
            image = cv.addWeighted(image, 1.0 - weight / total, layer, weight / total, 0)
        return image

    def _smoked(self, image: Bytes, state: State, t: float) -> tuple[Bytes, Bytes]:
        """The image behind smoke, and the smoke's opacity."""
        self._smoke = self._smoke or effects.Smoke(np.random.default_rng([self.anatomy.seed, 44]))
        return self._smoke.apply(image, state.smoke, t, self._light)

    def _degrade(self, image: Bytes, state: State, t: float) -> tuple[Bytes, Bytes | None]:
        """Fog, defocus, motion, glare and drops; returns the image and the opacity of what hides it."""
        hidden = None
        smear = (self.look.soft + 7.0 * state.smear) * self._h / _ROWS
        pixels = 0.030 * state.tremor * self._circle[2]
        dx = (self.sway(t + _EXPOSURE, 0) - self.sway(t, 0)) * pixels
        dy = (self.sway(t + _EXPOSURE, 1) - self.sway(t, 1)) * pixels
        if smear > 0.35:  # noqa: PLR2004 # pixels; below it nothing is seen
            image = effects.defocus(image, smear)
        elif abs(dx) + abs(dy) > 2.0:  # noqa: PLR2004 # pixels
            image = effects.motion_blur(image, dx, dy)
        if state.fog > _TRACE:
            image = self._haze.apply(image, state.fog, t)
        if state.glare > _TRACE:
            at = (
                self._circle[0] + self._circle[2] * (0.35 * self._flare_at[0] + 0.22 * self.sway(t, 0)),
                self._circle[1] + self._circle[2] * (0.40 + 0.25 * self._flare_at[1] + 0.15 * self.sway(t, 1)),
            )
            flare = effects.add_glare(image, at, 0.55 * self._circle[2], state.glare)
            hidden = flare if hidden is None else cv.max(hidden, flare)
        if state.drops > _TRACE:
            rng = np.random.default_rng([self.anatomy.seed, 45, round(abs(t) * 10)])
            drops = effects.add_drops(image, state.drops, rng)
            hidden = drops if hidden is None else cv.max(hidden, drops)
        return image, hidden

    def _sense(self, image: Bytes, t: float) -> Bytes:
        """Aperture, sharpening, noise: what the sensor makes of the image, at full size."""
        if image.shape[:2] != (self.height, self.width):
            image = cv.resize(image, (self.width, self.height), interpolation=cv.INTER_LINEAR)
        if self._aperture is not None:
            image = cv.multiply(image, self._aperture, scale=1 / 255.0)
        if self._rim is not None:
            cv.add(image, self._rim, image)
        if self.look.sharpen > _TRACE:
            soft = cv.GaussianBlur(image, (0, 0), 1.3)
            image = cv.addWeighted(image, 1 + self.look.sharpen, soft, -self.look.sharpen, 0)
        if self.look.grey:
            image = wide(cv.cvtColor(image, cv.COLOR_BGR2GRAY))
        self._noise.add(image, np.random.default_rng([self.anatomy.seed, 43, round(abs(t) * 1e6)]))
        return image

    # --- the truth ----------------------------------------------------------------------------------------------

    def _fill(self, outlines: list[tuple[Array, Array]]) -> Bytes:
        """Outlines in drawing pixels as a full-size mask of 0 and 255."""
        mask = np.zeros((self.height, self.width), np.uint8)
        for x, y in outlines:
            if len(x) < 3:  # noqa: PLR2004 # false folds hide it all
                continue
            full = np.stack([(x + 0.5) * (self.width / self._w), (y + 0.5) * (self.height / self._h)], axis=1) - 0.5
            cv.fillPoly(mask, [np.round(np.clip(full, -4e3, 8e3) * 16).astype(np.int32)], (255,), cv.LINE_8, 4)
        return mask

    def _truth(
        self,
        scene: str,
        state: State,
        camera: Camera,
        posture: Posture,
        cover: Bytes | None,
        hidden: Bytes | None,
        veil: Bytes | None,
        share: float,
        image: Bytes,
    ) -> Truth:
        """Masks and verdict, from the same outlines that were painted."""
        shown = share > 0.4  # noqa: PLR2004 # the larynx has faded in
        gap_mask = (self._fill([posture.glottis(camera, slit=False)] if shown else []) > 0) & self._lit
        fold_mask = (self._fill(posture.folds(camera) if shown else []) > 0) & self._lit & ~gap_mask
        for plane, opaque in ((cover, 127), (hidden, _HIDES)):
            if plane is not None:
                size = (self.width, self.height)
                free = cv.resize(plane, size, interpolation=cv.INTER_NEAREST) <= opaque
                fold_mask &= free
                gap_mask &= free
        clear = fold_mask
        if veil is not None:
            veil = cv.resize(veil, (self.width, self.height), interpolation=cv.INTER_NEAREST)
            clear = fold_mask & (veil <= _VEILS)
            fold_mask &= veil <= _BLINDS
            gap_mask &= veil <= _BLINDS
        area = float(np.count_nonzero(fold_mask)) / self._lit_area
        clarity = self._clarity(state, share) * self._exposed(image)
        # What thick smoke may or may not hide counts towards the upper bound only.
        surely = float(np.count_nonzero(clear)) / self._lit_area
        within = area > VISIBLE_AREA / MARGIN and surely < VISIBLE_AREA * MARGIN
        veiled = area >= VISIBLE_AREA / MARGIN and clarity < CLEAR
        visible = area >= VISIBLE_AREA and clarity >= VISIBLE_CLARITY
        return Truth(visible, within or veiled, scene, fold_mask, gap_mask, self.look.circle(self.width, self.height))

    def _parts(self, truth: Truth, layer: Layer, hidden: Bytes | None) -> Bytes | None:
        """The part that each pixel shows, the truth's masks among them."""
        if layer.parts is None:
            return None
        size = (self.width, self.height)
        parts = np.asarray(cv.resize(layer.parts, size, interpolation=cv.INTER_NEAREST), np.uint8)
        parts[truth.folds & (parts != Part.LESION)] = Part.FOLDS
        parts[truth.glottis] = Part.GLOTTIS
        if hidden is not None:
            parts[cv.resize(hidden, size, interpolation=cv.INTER_NEAREST) > _HIDES] = Part.GLARE
        parts[~self._lit] = Part.OUTSIDE
        return parts

    def _exposed(self, image: Bytes) -> float:
        """1 for a well exposed frame, less when much of it is burnt out."""
        burnt = np.count_nonzero((image[::4, ::4, 1] > 249) & self._lit[::4, ::4]) * 16.0 / self._lit_area  # noqa: PLR2004
        return 1.0 - ease((burnt - 0.30) / 0.45)

    def _clarity(self, state: State, share: float) -> float:
        """The share of the tissue's contrast that reaches the sensor."""
        light = self.look.gain * (1.0 - 0.93 * state.dark)
        sharp = 1.0 - 0.75 * ease((self.look.soft + 7.0 * state.smear) / 9.0)
        return share * (1.0 - 0.92 * state.fog) * ease(light / 0.35) * sharp
