"""Draws one frame of the phantom, and what is true in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom import effects
from edge.capture.phantom.anatomy import (
    BACK,
    FOLD_BACK,
    FRONT,
    HINGE,
    PROCESS,
    REACH,
    Anatomy,
    draw_plates,
    plate_pixels,
)
from edge.capture.phantom.camera import Camera
from edge.capture.phantom.texture import Array, Bytes, cv, ease, smoothstep, value_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge.capture.phantom.effects import Look
    from edge.capture.phantom.script import State

# The rule of "visible": folds count as in view when, inside the aperture and not covered, they fill at least
# VISIBLE_AREA of the lit area and at least VISIBLE_CLARITY of their contrast reaches the sensor. Within a factor of
# MARGIN of the area, or below CLEAR in contrast, the frame is ambiguous: neither answer is wrong.
VISIBLE_AREA = 0.008
VISIBLE_CLARITY = 0.25
CLEAR = 0.55
MARGIN = 2.2

_STEP = 8  # the warp is computed on every 8th pixel
_ROWS = 480  # larger frames are drawn at this height and enlarged: scopes resolve no more


@dataclass(frozen=True, slots=True)
class Truth:
    """What a frame shows.

    Attributes:
        visible: the vocal folds are in view (the rule stands above).
        ambiguous: within the rule's margin, or veiled: neither answer is wrong.
        scene: name of the scene, a key of `script.SCENES`.
        folds: (H, W) visible vocal folds.
        glottis: (H, W) visible gap between them.
        aperture: centre x, y and radius in pixels of the lit circle; None where the whole frame is lit.
    """

    visible: bool
    ambiguous: bool
    scene: str
    folds: NDArray[np.bool_]
    glottis: NDArray[np.bool_]
    aperture: tuple[float, float, float] | None


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
    """The folds at one moment."""

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
        """Vibration: the membranous folds' gap at `v`."""
        along = np.clip((v - FRONT) / (PROCESS + 0.04 - FRONT), 0, 1)
        swing = max(0.0, float(np.sin(self.phase)) + 0.25) / 1.25
        return np.asarray(self.voice * swing * np.maximum(np.sin(np.pi * along), 0.0) ** 0.8, np.float32)

    def gap(self, v: Array) -> Array:
        """Half width of the glottis at `v`."""
        way = np.clip((v - FRONT) / (PROCESS - FRONT), 0, 1)
        round_back = np.sqrt(np.clip(1 - (np.maximum(v - PROCESS, 0) / (BACK - PROCESS)) ** 2, 0, 1))
        return np.asarray(self.opening * way**1.15 * round_back + self.wave(v), np.float32)


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
        plates = draw_plates(anatomy, detail)
        self._relief = plates.relief
        self._larynx = look.develop(plates.larynx)
        self._gloss = np.ascontiguousarray(plates.larynx[..., 3])
        self._epiglottis = look.develop(plates.epiglottis)
        self._epiglottis_alpha = plates.epiglottis_alpha
        self._trachea = look.develop(plates.trachea)
        self._mouth = look.develop(plates.mouth)
        self._mouth_gloss = np.ascontiguousarray(plates.mouth[..., 3])
        self._room = look.develop(plates.room)
        rng = np.random.default_rng([anatomy.seed, 41])
        self._noise = effects.SensorNoise(look, width, height, rng)
        self._haze = effects.Haze(rng)
        pool = value_noise(rng, (384, 384), 7, 4)
        self._blood = np.clip(128 + 45 * pool, 0, 255).astype(np.uint8)
        self._strands = rng.uniform(-1, 1, (3, 8))
        self._phases = rng.uniform(0, 2 * np.pi, 16)
        self._rates = rng.uniform(0.8, 1.25, 16)
        lit = effects.aperture_weight(look, width, height)
        self._lit = lit > 0.5  # noqa: PLR2004 # half opaque
        self._lit_area = max(1, int(self._lit.sum()))
        circle = look.circle(self._w, self._h)
        self._circle = circle or (0.5 * self._w, 0.5 * self._h, 0.56 * min(self._w, self._h))
        gain = np.clip(lit * effects.light_field(look, width, height) * 255.0, 0, 255).astype(np.uint8)
        self._gain = cv.merge([gain, gain, gain])
        rim = np.clip((1.0 - lit) * look.surround, 0, 255).astype(np.uint8)
        self._rim = cv.merge([rim, rim, rim]) if look.surround else None
        cells = np.arange(256, dtype=np.float32)
        self._shine = np.clip((cells - 205) * 5.5 * look.shine, 0, 235).astype(np.uint8)
        cols, rows = -(-self._w // _STEP) + 1, -(-self._h // _STEP) + 1
        self._grid_x = (np.arange(cols, dtype=np.float32) * _STEP)[None, :]
        self._grid_y = (np.arange(rows, dtype=np.float32) * _STEP)[:, None]

    # --- geometry -------------------------------------------------------------------------------------------------

    def _sway(self, t: float, index: int) -> float:
        """A slow irregular swing of about unit amplitude: hand, breath and pulse."""
        p, r = self._phases, self._rates
        k = index * 3
        slow = np.sin(2 * np.pi * 0.17 * r[k] * t + p[k]) + 0.55 * np.sin(2 * np.pi * 0.53 * r[k + 1] * t + p[k + 1])
        return float(slow + 0.10 * np.sin(2 * np.pi * 2.3 * r[k + 2] * t + p[k + 2]))

    def camera(self, state: State, t: float) -> Camera:
        """The camera at `t`, the hand's tremor included."""
        shake = 0.030 * state.tremor * state.span
        roll = state.roll + 0.03 * state.tremor * self._sway(t, 2) + (np.pi if self.look.upside_down else 0.0)
        return Camera(
            centre=(self._circle[0], self._circle[1]),
            radius=self._circle[2],
            at=(state.x + shake * self._sway(t, 0), state.y + shake * self._sway(t, 1)),
            span=state.span * (1 + 0.02 * state.tremor * self._sway(t, 3)),
            roll=float(roll),
            tilt=(state.tilt_x, state.tilt_y),
        )

    def posture(self, state: State, t: float) -> Posture:
        """The folds at `t`."""
        breath = np.sin(2 * np.pi * t / 4.2 + self._phases[13])
        opening = max(0.0, state.opening + state.breathing * float(breath))
        return Posture(opening, state.voice, float(2 * np.pi * self.anatomy.f0 * t))

    def _maps(self, u: Array, v: Array, size: int) -> Array:
        """Full-resolution remap coordinates on a plate of `size` pixels from coarse scene coordinates."""
        coarse = np.dstack([plate_pixels(u, size), plate_pixels(v, size)])
        rows, cols = coarse.shape[:2]
        full = cv.resize(coarse, (cols * _STEP, rows * _STEP), interpolation=cv.INTER_LINEAR)
        # resize puts sample k at (k + 0.5) * STEP - 0.5: start where sample 0 lies.
        start = _STEP // 2
        return np.asarray(full[start : start + self._h, start : start + self._w])

    # --- layers ---------------------------------------------------------------------------------------------------

    def _draw_larynx(self, state: State, camera: Camera, posture: Posture, t: float) -> tuple[Bytes, Bytes | None]:
        """Tissue, glottis, blood and epiglottis; returns the image and the epiglottis' opacity."""
        u, v = camera.to_scene(self._grid_x - 0.5, self._grid_y - 0.5)
        # What stands up is nearer: it moves away from the optical axis.
        where = np.dstack([(u + REACH) * (32.0 / REACH) - 0.5, (v + REACH) * (32.0 / REACH) - 0.5]).astype(np.float32)
        rise = cv.remap(self._relief, where, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        lift = 1.0 - 0.30 * rise
        u = camera.at[0] + (u - camera.at[0]) * lift
        v = camera.at[1] + (v - camera.at[1]) * lift
        opening, cleft = posture.tissue(v)
        side = np.abs(u)
        u = np.copysign(opened_to_closed(side, opening, cleft), u)
        maps = self._maps(u, v, self._larynx.shape[0])
        image = cv.remap(self._larynx, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        if state.blood > 0.02:  # noqa: PLR2004 # a trace
            self._bleed(image, u, v, state.blood)
        slide = np.float32(5.0 * self._sway(t, 0)), np.float32(5.0 * self._sway(t, 1))
        gloss = cv.remap(
            self._gloss, maps + np.array(slide, np.float32), None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101
        )
        cv.add(image, cv.cvtColor(cv.LUT(gloss, self._shine), cv.COLOR_GRAY2BGR), image)
        self._draw_glottis(image, camera, posture)
        if state.mucus > 0.05:  # noqa: PLR2004 # a trace
            self._draw_mucus(image, camera, posture, state.mucus)
        alpha = self._draw_epiglottis(image, state, camera, t)
        return image, alpha

    def _bleed(self, image: Bytes, u: Array, v: Array, amount: float) -> None:
        """Lay blood on the tissue, in place: it moves with it."""
        size = self._blood.shape[0]
        where = np.dstack([(u + REACH) * (size / 2 / REACH), (v + REACH) * (size / 2 / REACH)]).astype(np.float32)
        rows, cols = u.shape
        pool = cv.remap(self._blood, where, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        pool = cv.resize(pool, (cols * _STEP, rows * _STEP), interpolation=cv.INTER_CUBIC)
        pool = pool[_STEP // 2 : _STEP // 2 + self._h, _STEP // 2 : _STEP // 2 + self._w]
        level = 232.0 - 105.0 * amount
        cover = np.clip((np.arange(256) - level) / 14.0, 0, 1)
        keep = np.stack([1 - 0.90 * cover, 1 - 0.88 * cover, 1 - 0.42 * cover], axis=-1) * 255.0
        tint = cv.LUT(cv.merge([pool, pool, pool]), keep.astype(np.uint8)[None])
        cv.multiply(image, tint, image, scale=1 / 255.0)

    def _outline(self, camera: Camera, posture: Posture, *, least: float = 0.0) -> tuple[Array, Array]:
        """The glottis as a closed outline: image x and y."""
        v = np.linspace(FRONT, BACK, 48, dtype=np.float32)
        half = np.maximum(posture.gap(v), least * np.sin(np.pi * np.linspace(0.02, 0.98, 48)))
        right, left = half.copy(), half.copy()
        side, at, radius = self.anatomy.lesion
        if side:
            dent = np.sqrt(np.clip(1.1 - ((v - at) / radius) ** 2, 0, 1)) * radius * 0.55
            target = right if side > 0 else left
            np.maximum(target - dent, -0.4 * radius, out=target)
        u = np.concatenate([right, -left[::-1]])
        return camera.to_image(u.astype(np.float32), np.concatenate([v, v[::-1]]))

    def _fold_outlines(self, camera: Camera, posture: Posture) -> list[tuple[Array, Array]]:
        """Both folds' visible bands as closed outlines."""
        v = np.linspace(FRONT + 0.01, FOLD_BACK, 40, dtype=np.float32)
        opening, cleft = posture.tissue(v)
        inner = np.maximum(posture.gap(v), 0.0)
        outer = np.maximum(closed_to_opened(self.anatomy.half_width(v), opening, cleft), inner)
        band = np.concatenate([inner, outer[::-1]])
        along = np.concatenate([v, v[::-1]])
        return [camera.to_image((sign * band).astype(np.float32), along) for sign in (-1.0, 1.0)]

    def _box(self, x: Array, y: Array, pad: int = 3) -> tuple[int, int, int, int] | None:
        """Pixels x0, y0, x1, y1 around points, cut to the frame; None when outside it."""
        x0, y0 = max(0, int(x.min()) - pad), max(0, int(y.min()) - pad)
        x1, y1 = min(self._w, int(x.max()) + pad + 1), min(self._h, int(y.max()) + pad + 1)
        return None if x1 - x0 < 2 or y1 - y0 < 2 else (x0, y0, x1, y1)  # noqa: PLR2004 # too thin to draw

    def _draw_glottis(self, image: Bytes, camera: Camera, posture: Posture) -> None:
        """Paint the gap: the windpipe far below, in the folds' shadow."""
        x, y = self._outline(camera, posture, least=0.0035)
        box = self._box(x, y)
        if box is None:
            return
        x0, y0, x1, y1 = box
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        points = np.round(np.stack([x - x0, y - y0], axis=1) * 16).astype(np.int32)
        cv.fillPoly(mask, [points], (255,), cv.LINE_AA, 4)
        unit = camera.radius / camera.span  # pixels per scene unit
        mask = cv.GaussianBlur(mask, (0, 0), max(0.6, 0.006 * unit))
        grid_x = np.arange(0, x1 - x0 + 8, 8, dtype=np.float32)[None, :] + (x0 - 0.5 + 3.5)
        grid_y = np.arange(0, y1 - y0 + 8, 8, dtype=np.float32)[:, None] + (y0 - 0.5 + 3.5)
        u, v = camera.to_scene(grid_x - 3.5, grid_y - 3.5)
        # Far below: it shifts less than the folds do when the camera moves sideways.
        u, v = 1.7 * (u - 0.35 * camera.at[0]), 1.7 * (v - 0.12 - 0.35 * camera.at[1])
        size = self._trachea.shape[0]
        coarse = np.dstack([plate_pixels(u, size), plate_pixels(v, size)])
        full = cv.resize(coarse, (coarse.shape[1] * 8, coarse.shape[0] * 8), interpolation=cv.INTER_LINEAR)
        below = cv.remap(self._trachea, full[4 : 4 + y1 - y0, 4 : 4 + x1 - x0], None, cv.INTER_LINEAR)
        # The folds' shadow: dark at their edge, some light in the middle of a wide gap.
        sigma = max(1.0, 0.05 * unit)
        shadow = effects.defocus(mask, sigma)
        lit = np.clip((np.arange(256) - 110) / 145.0, 0, 1) ** 1.3 * 150.0 + 14.0
        glow = cv.LUT(shadow, lit.astype(np.uint8))
        below = cv.multiply(below, cv.cvtColor(glow, cv.COLOR_GRAY2BGR), scale=1 / 255.0)
        part = image[y0:y1, x0:x1]
        wide = cv.cvtColor(mask, cv.COLOR_GRAY2BGR)
        cv.multiply(part, cv.bitwise_not(wide), part, scale=1 / 255.0)
        cv.add(part, cv.multiply(below, wide, scale=1 / 255.0), part)
        if self.look.tube:
            self._draw_tube(part, mask, camera, (x0, y0))

    def _draw_tube(self, part: Bytes, mask: Bytes, camera: Camera, corner: tuple[int, int]) -> None:
        """Lay a breathing tube into the posterior gap, in place; only what the gap shows."""

    def _draw_mucus(self, image: Bytes, camera: Camera, posture: Posture, amount: float) -> None:
        """String mucus from fold to fold, in place."""
        unit = camera.radius / camera.span
        for place, sag, left, right, *_ in self._strands:
            v = np.float32(-0.05 + 0.25 * place) + np.linspace(-0.03, 0.05, 12, dtype=np.float32) * np.float32(sag)
            gap = float(posture.gap(np.array([v[6]], np.float32))[0])
            u = np.linspace(-gap - 0.03 - 0.05 * abs(left), gap + 0.03 + 0.05 * abs(right), 12, dtype=np.float32)
            v = v + np.float32(0.05 * sag) * np.sin(np.linspace(0, np.pi, 12, dtype=np.float32))
            x, y = camera.to_image(u, v)
            points = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)[:, None, :]
            shade = int(90 + 110 * amount)
            wide = max(1, int(0.008 * unit))
            cv.polylines(image, [points], False, (shade, shade + 10, shade + 18), wide, cv.LINE_AA, 4)

    def _draw_epiglottis(self, image: Bytes, state: State, camera: Camera, t: float) -> Bytes | None:
        """Hang the epiglottis before the larynx, in place; returns its opacity, None when it is out of view."""
        reach = state.epiglottis + 0.05 * self._sway(t, 4) * state.epiglottis
        if reach < 0.02:  # noqa: PLR2004 # out of view for every span in use
            return None
        tip = -1.55 + 2.15 * reach
        near = 1.30  # nearer than the folds: larger
        above = Camera(
            centre=camera.centre,
            radius=camera.radius,
            at=(camera.at[0] / near, (camera.at[1] - tip) / near + 0.34),
            span=camera.span / near,
            roll=camera.roll,
            tilt=camera.tilt,
            barrel=camera.barrel,
        )
        u, v = above.to_scene(self._grid_x - 0.5, self._grid_y - 0.5)
        maps = self._maps(u, v, self._epiglottis.shape[0])
        alpha = cv.remap(self._epiglottis_alpha, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        x0, y0, wide, high = cv.boundingRect(alpha)
        if wide == 0 or high == 0:
            return None
        alpha = cv.GaussianBlur(alpha, (0, 0), 1.0 + 1.2 * state.near)
        window = np.s_[y0 : y0 + high, x0 : x0 + wide]
        leaf = cv.remap(self._epiglottis, maps[window], None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        if state.near > 0.3:  # noqa: PLR2004 # closer than the focus
            leaf = effects.defocus(leaf, 1.3 * state.near)
        part = image[window]
        weight = cv.cvtColor(alpha[window], cv.COLOR_GRAY2BGR)
        # It shades what lies below its edge.
        shade = cv.GaussianBlur(
            cv.resize(alpha, (self._w // 4, self._h // 4), interpolation=cv.INTER_AREA), (0, 0), 5.0
        )
        shade = cv.resize(cv.LUT(shade, (255 - np.arange(256) * 0.55).astype(np.uint8)), (self._w, self._h))
        cv.multiply(image, cv.cvtColor(shade, cv.COLOR_GRAY2BGR), image, scale=1 / 255.0)
        cv.multiply(part, cv.bitwise_not(weight), part, scale=1 / 255.0)
        cv.add(part, cv.multiply(leaf, weight, scale=1 / 255.0), part)
        return np.asarray(alpha)

    def _draw_plate(self, plate: Bytes, gloss: Bytes | None, camera: Camera) -> Bytes:
        """Draw one of the simple plates."""
        u, v = camera.to_scene(self._grid_x - 0.5, self._grid_y - 0.5)
        maps = self._maps(u, v, plate.shape[0])
        image = cv.remap(plate, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        if gloss is not None:
            wet = cv.remap(gloss, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
            cv.add(image, cv.cvtColor(cv.LUT(wet, self._shine), cv.COLOR_GRAY2BGR), image)
        return np.asarray(image)

    def _draw_other(self, name: str, state: State, camera: Camera, t: float) -> Bytes:
        """Draw mouth, room or windpipe from inside it."""
        if name == "mouth":
            return self._draw_plate(self._mouth, self._mouth_gloss, camera)
        if name == "room":
            return self._draw_plate(self._room, None, camera)
        inside = Camera(
            centre=camera.centre,
            radius=camera.radius,
            at=(0.30 * self._sway(t, 0), 0.25 * self._sway(t, 1)),
            span=(1.25 + 0.15 * self._sway(t, 3)) * max(1.0, 2.0 - state.trachea),
            roll=camera.roll,
        )
        return self._draw_plate(self._trachea, None, inside)

    # --- the frame ------------------------------------------------------------------------------------------------

    def render(self, scene: str, state: State, t: float, *, truth: bool = True) -> tuple[Bytes, Truth | None]:
        """Draw the frame of `state` at `t` seconds; returns BGR uint8 (H, W, 3) and, unless unwanted, its truth."""
        camera, posture = self.camera(state, t), self.posture(state, t)
        outside = min(1.0, state.room + state.mouth + state.trachea)
        cover: Bytes | None = None
        image: Bytes | None = None
        if outside < 0.995:  # noqa: PLR2004 # the rest would be invisible
            image, cover = self._draw_larynx(state, camera, posture, t)
        mixed = 1.0 - outside
        for name, weight in (("mouth", state.mouth), ("room", state.room), ("trachea", state.trachea)):
            if weight < 0.005:  # noqa: PLR2004 # invisible
                continue
            layer = self._draw_other(name, state, camera, t)
            mixed += weight
            image = layer if image is None else cv.addWeighted(image, 1 - weight / mixed, layer, weight / mixed, 0)
        if image is None:  # pragma: no cover # the weights always leave a layer
            image = np.zeros((self._h, self._w, 3), np.uint8)
        image, flare = self._degrade(image, state, t)
        image = self._sense(image, state, t)
        if not truth:
            return image, None
        return image, self._truth(scene, state, camera, posture, cover, flare, 1.0 - outside)

    def _degrade(self, image: Bytes, state: State, t: float) -> tuple[Bytes, Bytes | None]:
        """Fog, defocus, motion and glare; returns the image and the glare's opacity."""
        smear = (self.look.soft + 7.0 * state.smear) * self._h / _ROWS
        if smear > 0.35:  # noqa: PLR2004 # below it nothing is seen
            image = effects.defocus(image, smear)
        elif state.tremor > 1.2:  # noqa: PLR2004 # steady enough otherwise
            step = 1.0 / 60.0
            dx = (self._sway(t + step, 0) - self._sway(t, 0)) * 0.03 * state.tremor * self._circle[2]
            dy = (self._sway(t + step, 1) - self._sway(t, 1)) * 0.03 * state.tremor * self._circle[2]
            if abs(dx) + abs(dy) > 2.0:  # noqa: PLR2004 # pixels
                image = effects.motion_blur(image, dx, dy)
        if state.fog > 0.03:  # noqa: PLR2004 # a trace
            image = self._haze.apply(image, state.fog, t)
        flare = None
        if state.glare > 0.03:  # noqa: PLR2004 # a trace
            at = (
                self._circle[0] + self._circle[2] * (0.25 * self._strands[0, 4] + 0.22 * self._sway(t, 0)),
                self._circle[1] + self._circle[2] * (0.35 + 0.25 * self._strands[0, 5] + 0.15 * self._sway(t, 1)),
            )
            flare = effects.add_glare(image, at, 0.55 * self._circle[2], state.glare)
        return image, flare

    def _sense(self, image: Bytes, state: State, t: float) -> Bytes:
        """Light, aperture, sharpening, noise: what the sensor makes of it, at full size."""
        if image.shape[:2] != (self.height, self.width):
            image = cv.resize(image, (self.width, self.height), interpolation=cv.INTER_LINEAR)
        flicker = 1.0 + 0.012 * self._sway(t, 3)
        exposure = self.look.gain * (1.0 - 0.93 * state.dark) * flicker
        image = cv.multiply(image, self._gain, scale=exposure / 255.0)
        if self._rim is not None:
            cv.add(image, self._rim, image)
        if self.look.sharpen > 0.05:  # noqa: PLR2004 # nothing to see below
            soft = cv.GaussianBlur(image, (0, 0), 1.3)
            image = cv.addWeighted(image, 1 + self.look.sharpen, soft, -self.look.sharpen, 0)
        if self.look.grey:
            image = cv.cvtColor(cv.cvtColor(image, cv.COLOR_BGR2GRAY), cv.COLOR_GRAY2BGR)
        self._noise.add(image, np.random.default_rng([self.anatomy.seed, 43, round(t * 1e6)]))
        return image

    def _truth(
        self,
        scene: str,
        state: State,
        camera: Camera,
        posture: Posture,
        cover: Bytes | None,
        flare: Bytes | None,
        share: float,
    ) -> Truth:
        """Masks and verdict, from the same outlines that were painted."""
        scale = self.width / self._w, self.height / self._h
        folds = np.zeros((self.height, self.width), np.uint8)
        glottis = np.zeros_like(folds)
        if share > 0.4:  # noqa: PLR2004 # the larynx fades in

            def fill(target: Bytes, x: Array, y: Array) -> None:
                points = np.stack([(x + 0.5) * scale[0] - 0.5, (y + 0.5) * scale[1] - 0.5], axis=1)
                cv.fillPoly(target, [np.round(np.clip(points, -4e3, 8e3) * 16).astype(np.int32)], (255,), cv.LINE_8, 4)

            for x, y in self._fold_outlines(camera, posture):
                fill(folds, x, y)
            fill(glottis, *self._outline(camera, posture, least=0.0035))
            folds[glottis > 0] = 0
            hidden = np.zeros((self._h, self._w), np.uint8) if cover is None else (cover > 127).astype(np.uint8)  # noqa: PLR2004
            if flare is not None:
                hidden |= (flare > 170).astype(np.uint8)  # noqa: PLR2004 # burnt out
            if hidden.any():
                hidden = cv.resize(hidden, (self.width, self.height), interpolation=cv.INTER_NEAREST)
                folds[hidden > 0] = 0
                glottis[hidden > 0] = 0
        fold_mask, gap_mask = (folds > 0) & self._lit, (glottis > 0) & self._lit
        area = float(fold_mask.sum()) / self._lit_area
        clarity = self._clarity(state, share)
        within = VISIBLE_AREA / MARGIN < area < VISIBLE_AREA * MARGIN
        veiled = area >= VISIBLE_AREA / MARGIN and clarity < CLEAR
        visible = area >= VISIBLE_AREA and clarity >= VISIBLE_CLARITY
        return Truth(visible, within or veiled, scene, fold_mask, gap_mask, self.look.circle(self.width, self.height))

    def _clarity(self, state: State, share: float) -> float:
        """The share of the tissue's contrast that reaches the sensor."""
        light = self.look.gain * (1.0 - 0.93 * state.dark)
        dim = ease(light / 0.35)
        sharp = 1.0 - 0.75 * ease((self.look.soft + 7.0 * state.smear) / 9.0)
        return share * (1.0 - 0.92 * state.fog) * dim * sharp
