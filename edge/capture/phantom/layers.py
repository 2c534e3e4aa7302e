"""Paints what lies in front of the camera: larynx, glottis, epiglottis, tube, blood, mucus, or other places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edge.capture.phantom import effects
from edge.capture.phantom.anatomy import PROCESS, REACH, Anatomy, draw_plates, plate_pixels
from edge.capture.phantom.parts import Part
from edge.capture.phantom.places import PLACES
from edge.capture.phantom.posture import opened_to_closed
from edge.capture.phantom.texture import Array, Bytes, cv, smoothstep, value_noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.capture.phantom.camera import Camera
    from edge.capture.phantom.effects import Look
    from edge.capture.phantom.posture import Posture
    from edge.capture.phantom.script import State

STEP = 8  # warps are computed on every 8th pixel and enlarged
_SLIDE = 6  # texels by which reflections slide over the tissue when the camera sways
_TRACE = 0.03  # less of an effect than this is not drawn
_OPAQUE = 127  # of 255: from here on what lies behind counts as hidden
_NEAR = 1.25  # scene units from the folds to where the throat's walls begin to come towards the camera
_SHADE = (255 - np.arange(256) * 0.60).astype(np.uint8)


@dataclass(slots=True)
class Layer:
    """A painted layer.

    Attributes:
        image: BGR uint8 (H, W, 3), unlit.
        gloss: uint8 (H, W), how directly the wet surface reflects the light; None = dull.
        cover: uint8 (H, W), opacity of what hides the folds; None = nothing does.
        shade: uint8, brightness left by a shadow, on the coarse grid; None = none.
        parts: uint8 (H, W), what each pixel shows (`parts.Part`); None where nobody asked.
    """

    image: Bytes
    gloss: Bytes | None = None
    cover: Bytes | None = None
    shade: Bytes | None = None
    parts: Bytes | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """A place's developed plate, how wet it is, and what it shows: one part, or a plate of parts."""

    image: Bytes
    gloss: Bytes | None
    parts: Part | Bytes


def _stretch(u: Array, v: Array) -> tuple[Array, Array]:
    """Plate coordinates in which what is far from the folds is drawn out, as the throat's walls are in a wide view."""
    far = np.sqrt(u * u + v * v)
    near = np.where(far > _NEAR, _NEAR + 0.45 * (1.0 - np.exp((_NEAR - far) / 0.8)), far)
    share = (near / np.maximum(far, 1e-6)).astype(np.float32)
    return u * share, v * share


def enlarge(coarse: Array | Bytes, width: int, height: int) -> Array:
    """Full-size version of values computed at pixels -0.5, 7.5, 15.5, ... of a `width` by `height` image."""
    rows, cols = coarse.shape[:2]
    full = cv.resize(coarse, (cols * STEP, rows * STEP), interpolation=cv.INTER_LINEAR)
    # resize puts sample k at k * STEP + (STEP - 1) / 2: cut where pixel -0.5 came to lie.
    return np.asarray(full[STEP // 2 : STEP // 2 + height, STEP // 2 : STEP // 2 + width])


def grid(x0: int, y0: int, width: int, height: int) -> tuple[Array, Array]:
    """The pixels at which `enlarge` wants values, for a window of the image."""
    x = np.arange(-(-width // STEP) + 1, dtype=np.float32)[None, :] * STEP + np.float32(x0 - 0.5)
    y = np.arange(-(-height // STEP) + 1, dtype=np.float32)[:, None] * STEP + np.float32(y0 - 0.5)
    return x, y


def wide(plane: Bytes) -> Bytes:
    """The same plane three times, (H, W, 3)."""
    return np.asarray(cv.cvtColor(plane, cv.COLOR_GRAY2BGR))


def lay_over(part: Bytes, layer: Bytes, opacity: Bytes) -> None:
    """Blend `layer` over `part` in place; `opacity` is uint8 (H, W)."""
    weight = wide(opacity)
    cv.multiply(part, cv.bitwise_not(weight), part, scale=1 / 255.0)
    cv.add(part, cv.multiply(layer, weight, scale=1 / 255.0), part)


class Painter:
    """Paints the layers of one anatomy as one scope sees them, `width` by `height` pixels."""

    def __init__(
        self, anatomy: Anatomy, look: Look, width: int, height: int, detail: int, sway: Callable[[float, int], float]
    ) -> None:
        """Draw the plates; `sway(t, index)` is the hand's irregular swing."""
        plates = draw_plates(anatomy, detail)
        self._anatomy, self._small = anatomy, max(128, detail * 2 // 3)
        self._parts = plates.parts
        self._look, self._w, self._h, self._sway = look, width, height, sway
        self._relief = plates.relief
        self._larynx = look.develop(plates.larynx)
        gloss = np.ascontiguousarray(plates.larynx[..., 3])
        self._gloss = cv.copyMakeBorder(gloss, *(2 * _SLIDE,) * 4, cv.BORDER_REPLICATE)
        self._epiglottis = np.dstack([look.develop(plates.epiglottis), plates.epiglottis_alpha])
        self._trachea = look.develop(plates.trachea)
        self._places = {
            "mouth": _Place(look.develop(plates.mouth), np.ascontiguousarray(plates.mouth[..., 3]), plates.mouth_parts),
            "room": _Place(look.develop(plates.room), None, Part.ROOM),
            "trachea": _Place(self._trachea, None, Part.TRACHEA),
        }
        rng = np.random.default_rng([anatomy.seed, 42])
        self._blood = np.clip(128 + 45 * value_noise(rng, (384, 384), 7, 4), 0, 255).astype(np.uint8)
        self._strands = rng.uniform(-1, 1, (3, 4))
        self._tube_lean = float(rng.uniform(-0.25, 0.25))
        self._grid = grid(0, 0, width, height)

    def _maps(self, u: Array, v: Array, size: int) -> Array:
        """Full-size remap coordinates on a plate of `size` pixels from coarse scene coordinates."""
        return enlarge(np.dstack([plate_pixels(u, size), plate_pixels(v, size)]), self._w, self._h)

    def _place(self, name: str) -> _Place:
        """A place's plate; those off the usual way are drawn when they are first asked for."""
        if name not in self._places:
            plate, parts = PLACES[name](self._anatomy, self._small)
            self._places[name] = _Place(self._look.develop(plate), np.ascontiguousarray(plate[..., 3]), parts)
        return self._places[name]

    def other(self, name: str, state: State, camera: Camera, t: float, *, parts: bool = False) -> Layer:
        """Paint one of `script.PLACES`; the trachea is seen from inside."""
        place = self._place(name)
        if name == "trachea":
            at = (0.30 * self._sway(t, 0), 0.25 * self._sway(t, 1))
            span = (1.20 + 0.15 * self._sway(t, 3)) * max(1.0, 2.0 - state.trachea)
            camera = replace(camera, at=at, span=span)
        maps = self._maps(*camera.to_scene(*self._grid), place.image.shape[0])
        layer = Layer(cv.remap(place.image, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101))
        if place.gloss is not None:
            layer.gloss = cv.remap(place.gloss, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        if parts and isinstance(place.parts, Part):
            layer.parts = np.full((self._h, self._w), place.parts, np.uint8)
        elif parts:
            layer.parts = cv.remap(place.parts, maps, None, cv.INTER_NEAREST, borderMode=cv.BORDER_REFLECT_101)
        return layer

    def larynx(self, state: State, camera: Camera, posture: Posture, t: float, *, parts: bool = False) -> Layer:
        """Paint the larynx from above, with everything that lies in it or hangs before it."""
        u, v = camera.to_scene(*self._grid)
        # What stands up is nearer: it moves away from the optical axis.
        scale = 32.0 / REACH
        where = np.dstack([(u + REACH) * scale - 0.5, (v + REACH) * scale - 0.5]).astype(np.float32)
        rise = cv.remap(self._relief, where, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        lift = 1.0 - 0.30 * rise
        u = camera.at[0] + (u - camera.at[0]) * lift
        v = camera.at[1] + (v - camera.at[1]) * lift
        if self._look.walls:
            u, v = _stretch(u, v)
        if posture.squeeze > 0:
            # Where false folds meet, tissue jumps: nothing may be interpolated from one side to the other.
            full = enlarge(np.dstack([u, v]), self._w, self._h)
            across, along = full[..., 0], full[..., 1]
            side = posture.unsqueezed(np.abs(across), along)
            across = np.copysign(opened_to_closed(side, *posture.tissue(along, across)), across)
            size = self._larynx.shape[0]
            maps: Array = np.dstack([plate_pixels(across, size), plate_pixels(along, size)])
        opening, cleft = posture.tissue(v, u)
        u = np.copysign(opened_to_closed(posture.unsqueezed(np.abs(u), v), opening, cleft), u)
        if posture.squeeze <= 0:
            maps = self._maps(u, v, self._larynx.shape[0])
        image = cv.remap(self._larynx, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        gloss = cv.remap(self._slid_gloss(t), maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        layer = Layer(image, gloss)
        if parts:
            layer.parts = cv.remap(self._parts, maps, None, cv.INTER_NEAREST, borderMode=cv.BORDER_REPLICATE)
        if state.blood > _TRACE:
            self._bleed(layer, u, v, state.blood)
        self._paint_glottis(layer, camera, posture)
        if state.mucus > _TRACE:
            self._string_mucus(image, camera, posture, state.mucus)
        if self._look.tube:
            self._lay_tube(layer, camera, posture)
        self._hang_epiglottis(layer, state, camera, t)
        return layer

    def _slid_gloss(self, t: float) -> Bytes:
        """The larynx' gloss, moved by whole texels: reflections slide over tissue as the camera sways."""
        x = 2 * _SLIDE + round(_SLIDE * float(np.clip(self._sway(t, 0), -2, 2)))
        y = 2 * _SLIDE + round(_SLIDE * float(np.clip(self._sway(t, 1), -2, 2)))
        size = self._larynx.shape[0]
        return np.asarray(self._gloss[y : y + size, x : x + size])

    def _bleed(self, layer: Layer, u: Array, v: Array, amount: float) -> None:
        """Lay blood on the tissue: it moves with it, and shines."""
        size = self._blood.shape[0]
        where = np.dstack([(u + REACH) * (size / 2 / REACH), (v + REACH) * (size / 2 / REACH)]).astype(np.float32)
        pool = cv.remap(self._blood, where, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        pool = np.ascontiguousarray(enlarge(pool, self._w, self._h))
        level = 228.0 - 105.0 * amount
        film = np.clip((np.arange(256) - level) / 34.0, 0, 1) ** 0.7
        left = np.stack([1 - 0.90 * film, 1 - 0.88 * film, 1 - 0.46 * film], axis=-1) * 255.0
        cv.multiply(layer.image, cv.LUT(wide(pool), left.astype(np.uint8)[None]), layer.image, scale=1 / 255.0)

    def _box(self, x: Array, y: Array, pad: int = 3) -> tuple[int, int, int, int] | None:
        """Pixels x0, y0, x1, y1 around points, cut to the frame; None when nothing of it is inside."""
        x0, y0 = max(0, int(x.min()) - pad), max(0, int(y.min()) - pad)
        x1, y1 = min(self._w, int(x.max()) + pad + 1), min(self._h, int(y.max()) + pad + 1)
        return None if min(x1 - x0, y1 - y0) < STEP // 2 else (x0, y0, x1, y1)

    def _paint_glottis(self, layer: Layer, camera: Camera, posture: Posture) -> None:
        """Paint the gap: the windpipe far below, in the folds' shadow."""
        x, y = posture.glottis(camera)
        box = self._box(x, y)
        if box is None:
            return
        x0, y0, x1, y1 = box
        width, height = x1 - x0, y1 - y0
        mask = np.zeros((height, width), np.uint8)
        points = np.round(np.stack([x - x0, y - y0], axis=1) * 16).astype(np.int32)
        cv.fillPoly(mask, [points], (255,), cv.LINE_AA, 4)
        unit = camera.radius / camera.span  # pixels per scene unit
        mask = cv.GaussianBlur(mask, (0, 0), max(0.6, 0.006 * unit))
        u, v = camera.to_scene(*grid(x0, y0, width, height))
        # Far below: it moves less than the folds do when the camera goes sideways.
        u, v = 1.9 * (u - 0.35 * camera.at[0]), 1.9 * (v - 0.05 - 0.35 * camera.at[1])
        size = self._trachea.shape[0]
        maps = enlarge(np.dstack([plate_pixels(u, size), plate_pixels(v, size)]), width, height)
        below = cv.remap(self._trachea, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REFLECT_101)
        # Dark under the folds' edges, some light in the middle of a wide gap.
        shadow = effects.defocus(mask, max(1.0, 0.05 * unit))
        glow = np.clip((np.arange(256) - 100) / 155.0, 0, 1) ** 1.3 * 170.0 + 14.0
        below = cv.multiply(below, wide(cv.LUT(shadow, glow.astype(np.uint8))), scale=1 / 255.0)
        lay_over(layer.image[y0:y1, x0:x1], below, mask)
        if layer.gloss is not None:
            part = layer.gloss[y0:y1, x0:x1]
            cv.subtract(part, mask, part)

    def _string_mucus(self, image: Bytes, camera: Camera, posture: Posture, amount: float) -> None:
        """String mucus from fold to fold, in place."""
        unit = camera.radius / camera.span
        bow = np.sin(np.linspace(0, np.pi, 12, dtype=np.float32))
        for place, sag, left, right in self._strands:
            at = -0.05 + 0.25 * place
            gap = float(posture.gap(np.array([at], np.float32))[0])
            u = np.linspace(-gap - 0.03 - 0.05 * abs(left), gap + 0.03 + 0.05 * abs(right), 12, dtype=np.float32)
            x, y = camera.to_image(u, (at + 0.06 * sag * bow).astype(np.float32))
            points = np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)[:, None, :]
            tone = 60 + 80 * amount
            thick = max(1, int(0.010 * unit * (0.5 + abs(left))))
            cv.polylines(image, [points], False, (0.9 * tone, 0.96 * tone, tone), thick, cv.LINE_AA, 4)

    def _lay_tube(self, layer: Layer, camera: Camera, posture: Posture) -> None:
        """Lay a breathing tube through the back of the glottis: dull, ribbed, growing towards the camera."""
        end = -0.12
        along = np.linspace(end - 0.1, 5.0, 24, dtype=np.float32)
        corners_u = np.concatenate([along * 0.0 - 0.4, along * 0.6 + 0.5, along * -0.6])
        corners_v = np.tile(along, 3)
        box = self._box(*camera.to_image(corners_u, corners_v))
        if box is None:
            return
        x0, y0, x1, y1 = box
        u, v = camera.to_scene(*grid(x0, y0, x1 - x0, y1 - y0))
        full = enlarge(np.dstack([u, v]).astype(np.float32), x1 - x0, y1 - y0)
        u, v = full[..., 0], full[..., 1]
        nearer = np.clip(v - end, 0, None)
        half = 0.115 + 0.10 * nearer
        across = (u - self._tube_lean * nearer * nearer * 0.5) / half
        bent = across * across
        inside = smoothstep(1.0, 0.93, np.abs(across)) * smoothstep(-0.02, 0.02, v - end - 0.10 * bent)
        # In front of the vocal processes it lies below the folds: only the gap shows it.
        gap = np.abs(u) < posture.gap(v)
        inside *= np.where(v < PROCESS + 0.02, gap, 1.0)
        ribs = 0.80 + 0.20 * np.sin(60.0 * (nearer - 0.05 * bent) / (1.0 + 0.5 * nearer))
        lit = (0.25 + 0.75 * np.sqrt(np.clip(1.0 - bent, 0, 1))) * ribs * (0.12 + 0.88 * smoothstep(end, 0.55, v))
        tone = np.clip(lit[..., None] * np.array([110.0, 118.0, 122.0]), 0, 255).astype(np.uint8)
        opacity = np.clip(inside * 255.0, 0, 255).astype(np.uint8)
        lay_over(layer.image[y0:y1, x0:x1], tone, opacity)
        layer.cover = np.zeros((self._h, self._w), np.uint8)
        layer.cover[y0:y1, x0:x1] = opacity
        if layer.parts is not None:
            layer.parts[y0:y1, x0:x1][opacity > _OPAQUE] = Part.TUBE
        if layer.gloss is not None:
            cv.subtract(layer.gloss, layer.cover, layer.gloss)

    def _hang_epiglottis(self, layer: Layer, state: State, camera: Camera, t: float) -> None:
        """Hang the epiglottis before the larynx."""
        reach = state.epiglottis * (1.0 + 0.05 * self._sway(t, 4))
        if reach < _TRACE:
            return
        tip = -1.55 + 2.15 * reach
        near = 1.30  # nearer than the folds: larger
        above = replace(camera, at=(camera.at[0] / near, (camera.at[1] - tip) / near + 0.34), span=camera.span / near)
        u, v = above.to_scene(*self._grid)
        size = self._epiglottis.shape[0]
        coarse = np.dstack([plate_pixels(u, size), plate_pixels(v, size)])
        alpha = np.ascontiguousarray(self._epiglottis[..., 3])
        alpha = cv.remap(alpha, coarse, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        col, row, cols, rows = cv.boundingRect(alpha)
        if cols == 0 or rows == 0:
            return
        # It shades what lies behind its edge, not itself.
        layer.shade = cv.LUT(cv.subtract(cv.GaussianBlur(alpha, (0, 0), 3.0), alpha), _SHADE)
        x0, y0 = max(0, (col - 1) * STEP), max(0, (row - 1) * STEP)
        x1, y1 = min(self._w, (col + cols) * STEP), min(self._h, (row + rows) * STEP)
        maps = enlarge(coarse[y0 // STEP :, x0 // STEP :], x1 - x0, y1 - y0)
        leaf = cv.remap(self._epiglottis, maps, None, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        if state.near > 0.5:  # noqa: PLR2004 # closer than the focus
            leaf = effects.defocus(leaf, 0.9 * state.near)
        opacity = cv.extractChannel(leaf, 3)
        lay_over(layer.image[y0:y1, x0:x1], cv.cvtColor(leaf, cv.COLOR_BGRA2BGR), opacity)
        if layer.cover is None:
            layer.cover = np.zeros((self._h, self._w), np.uint8)
        cover = layer.cover[y0:y1, x0:x1]
        cv.max(cover, opacity, cover)
        if layer.parts is not None:
            layer.parts[y0:y1, x0:x1][opacity > _OPAQUE] = Part.EPIGLOTTIS
        if layer.gloss is not None:
            part = layer.gloss[y0:y1, x0:x1]
            cv.subtract(part, opacity, part)
