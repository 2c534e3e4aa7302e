"""The phantom's anatomy: one random larynx, and the pre-lit pictures ("plates") that the renderer warps.

Scene units: the vocal folds lie along the y axis (v) from the anterior commissure at `FRONT` to the vocal processes
near `PROCESS`; x (u) is lateral; heights point to the camera. A plate covers u and v in -REACH..REACH, denser near its
middle (`plate_pixels`). The larynx plate is drawn with the folds closed: the renderer opens it by moving tissue aside
(`opened_to_closed`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.capture.phantom.parts import Part
from edge.capture.phantom.texture import (
    HEADROOM,
    Array,
    Bytes,
    blur,
    cv,
    draw_paths,
    shade,
    smoothstep,
    value_noise,
    vessel_paths,
)

REACH = 1.75  # a plate's half width
DENSITY = 1.7  # how much denser its middle is sampled: sinh(DENSITY) / DENSITY
FRONT = -0.46  # the anterior commissure
PROCESS = 0.30  # the vocal processes: the folds' ligament ends here
BACK = 0.50  # the posterior commissure
FOLD_BACK = 0.40  # the visible white band ends here
HINGE = 0.85  # tissue farther from the midline does not move when the glottis opens


def plate_pixels(scene: Array, size: int) -> Array:
    """Pixel coordinate on a plate of `size` pixels of the scene coordinate(s) `scene`."""
    t = np.arcsinh(scene * np.float32(np.sinh(DENSITY) / REACH)) * np.float32(1.0 / DENSITY)
    return np.asarray(t * np.float32(size / 2) + np.float32(size / 2 - 0.5), np.float32)


def plate_axis(size: int) -> Array:
    """Scene coordinates of a plate's pixel centres, shape (size,)."""
    t = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    return np.asarray(np.sinh(DENSITY * t) * (REACH / np.sinh(DENSITY)), np.float32)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One person's larynx: shapes in scene units, colours as BGR 0..1."""

    fold_width: float
    fold_bulge: float
    fold_colour: tuple[float, float, float]
    mucosa: tuple[float, float, float]
    false_fold_height: float
    false_fold_reach: float
    ring_u: float
    ring_v: float
    arytenoid_u: float
    arytenoid_size: float
    epiglottis_v: float
    epiglottis_curl: float
    vessels: float
    wetness: float
    lesion: tuple[float, float, float]  # side (-1, 0 none, 1), v, radius
    lesion_colour: tuple[float, float, float]
    f0: float  # voice, Hz; a little above a multiple of 60, so that cameras alias it to a slow swing
    seed: int
    more_lesions: tuple[tuple[float, float, float], ...] = ()  # as `lesion`, on either fold
    plaques: float = 0.0  # share of the folds under white, rough patches
    bow: float = 0.0  # how far thin folds stay apart in their middle
    epiglottis_width: float = 1.0
    epiglottis_lean: float = 0.0  # how far its edge slants
    creases: float = 1.0  # relief of the mucosa around the larynx

    @property
    def lesions(self) -> list[tuple[float, float, float]]:
        """Every nodule and polyp: side, v, radius."""
        return [lesion for lesion in (self.lesion, *self.more_lesions) if lesion[0]]

    def half_width(self, v: Array) -> Array:
        """Width of each fold's visible band at `v`."""
        front = np.sqrt(np.clip((v - FRONT + 0.03) / 0.36, 0.0, 1.0))
        back = 1.0 - 0.42 * smoothstep(PROCESS - 0.25, FOLD_BACK + 0.04, v)
        return np.asarray(self.fold_width * (0.16 + 0.84 * front) * back, np.float32)


FOLD_COLOURS = {
    "white": (0.53, 0.59, 0.71),
    "pink": (0.42, 0.48, 0.71),
    "red": (0.30, 0.35, 0.70),
    "oedema": (0.46, 0.54, 0.72),
}
MUCOSA = ((0.36, 0.43, 0.84), (0.27, 0.33, 0.78), (0.43, 0.52, 0.87), (0.30, 0.44, 0.84), (0.37, 0.38, 0.74))


def random_anatomy(seed: int) -> Anatomy:
    """Draw a larynx; the same seed gives the same one."""
    rng = np.random.default_rng([seed, 11])
    kind = str(rng.choice(list(FOLD_COLOURS), p=[0.52, 0.26, 0.12, 0.10]))
    swollen = kind == "oedema"
    lesion = (0.0, 0.0, 0.0)
    if rng.random() < 0.22:  # noqa: PLR2004 # about one larynx in five
        radius = float(rng.choice([rng.uniform(0.022, 0.04), rng.uniform(0.05, 0.085)]))
        lesion = (float(rng.choice([-1.0, 1.0])), float(rng.uniform(-0.28, 0.02)), radius)

    def near(colour: tuple[float, ...], spread: float) -> tuple[float, float, float]:
        b, g, r = np.clip(
            np.array(colour) * rng.uniform(1 - spread, 1 + spread) + rng.normal(0, spread / 5, 3), 0.05, 1
        )
        return float(b), float(g), float(r)

    mucosa = near(MUCOSA[int(rng.integers(len(MUCOSA)))], 0.10)
    return Anatomy(
        fold_width=float(rng.uniform(0.125, 0.185)) * (1.15 if swollen else 1.0),
        fold_bulge=float(rng.uniform(0.05, 0.075)) * (1.5 if swollen else 1.0),
        fold_colour=near(FOLD_COLOURS[kind], 0.06),
        mucosa=mucosa,
        false_fold_height=float(rng.uniform(0.10, 0.20)),
        false_fold_reach=float(rng.uniform(0.0, 0.05)),
        ring_u=float(rng.uniform(0.62, 0.76)),
        ring_v=float(rng.uniform(0.72, 0.82)),
        arytenoid_u=float(rng.uniform(0.17, 0.22)),
        arytenoid_size=float(rng.uniform(0.105, 0.145)),
        epiglottis_v=float(rng.uniform(-1.05, -0.86)),
        epiglottis_curl=float(rng.uniform(0.15, 1.1)),
        vessels=float(rng.uniform(0.3, 1.0)),
        wetness=float(rng.uniform(0.4, 1.0)),
        lesion=lesion,
        lesion_colour=near((0.62, 0.66, 0.86), 0.15),
        f0=60.0 * int(rng.integers(2, 5)) + float(rng.uniform(0.8, 2.2)),
        seed=seed,
    )


def _bump(u: Array, v: Array, at: tuple[float, float], size: tuple[float, float]) -> Array:
    return np.exp(-(((u - at[0]) / size[0]) ** 2) - ((v - at[1]) / size[1]) ** 2).astype(np.float32)


def _dome(u: Array, v: Array, at: tuple[float, float], radius: float) -> Array:
    far = ((u - at[0]) ** 2 + (v - at[1]) ** 2) / radius**2
    return np.asarray(np.sqrt(np.clip(1.0 - far, 0.0, 1.0)), np.float32)


@dataclass(slots=True)
class Plates:
    """The pre-lit pictures of one anatomy; BGR and gloss, uint8 (N, N, 4), unless said otherwise."""

    larynx: Bytes
    relief: Array  # (64, 64) coarse height of the larynx plate, for parallax
    parts: Bytes  # (N, N) of the larynx plate, see `parts.Part`
    epiglottis: Bytes  # BGR
    epiglottis_alpha: Bytes  # (N, N)
    trachea: Bytes
    mouth: Bytes
    mouth_parts: Bytes
    room: Bytes


def mottle(rng: np.random.Generator, size: int, colour: tuple[float, float, float]) -> Array:
    """Mucosa: `colour` with patches of more and of less blood, (N, N, 3)."""
    tone = value_noise(rng, (size, size), 5, 5) * 0.055
    blood = value_noise(rng, (size, size), 9, 4) * 0.07
    return np.stack(
        [
            colour[0] * (1 + tone - blood),
            colour[1] * (1 + tone - 1.1 * blood),
            colour[2] * (1 + 0.7 * tone - 0.1 * blood),
        ],
        axis=-1,
    ).astype(np.float32)


def tint(albedo: Array, colour: tuple[float, float, float], weight: Array) -> None:
    """Blend `colour` into `albedo` (in place) where `weight` is 1, keeping its mottling."""
    for channel in range(3):
        plane = albedo[..., channel]
        plane += weight * (colour[channel] - plane) * 0.9


def bleed(albedo: Array, lines: Array, strength: float) -> None:
    """Darken `albedo` (in place) where vessels run: blue and green far more than red."""
    for channel, power in enumerate((0.75, 0.85, 0.30)):
        albedo[..., channel] *= 1.0 - np.clip(lines * (strength * power), 0.0, 0.95)


def wild_vessels(rng: np.random.Generator, size: int, count: int, length: float, thickness: float) -> Array:
    """Vessels in all directions over a whole plate, 0..1."""
    starts = rng.uniform(0, size, (count, 2)).astype(np.float32)
    headings = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    paths = vessel_paths(rng, starts, headings, length=length * size, wander=0.42, branches=3)
    return draw_paths((size, size), paths, thickness)


def larynx_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Array, Bytes]:  # noqa: PLR0915 # an atlas: one structure a line
    """Draw the larynx from above with its folds closed; returns the plate, its coarse relief and its parts."""
    rng = np.random.default_rng([anatomy.seed, 21])
    axis = plate_axis(size)
    u0, v0 = axis[None, :], axis[:, None]
    # Nobody is symmetric: bend everything except the folds, whose outline is the ground truth.
    loose = smoothstep(0.18, 0.55, np.sqrt(u0 * u0 + (np.maximum(np.abs(v0 + 0.03) - 0.42, 0.0)) ** 2))
    u = u0 + loose * value_noise(rng, (size, size), 3, 2) * 0.045
    v = v0 + loose * value_noise(rng, (size, size), 3, 2) * 0.045
    s = np.abs(u)
    width = anatomy.half_width(v0)

    # Height: vestibule inside the aryepiglottic ring, sinuses outside it, the epiglottis in front, the folds below.
    front = smoothstep(-0.35, -0.75, v)
    ring = np.sqrt((u / anatomy.ring_u) ** 2 + ((v + 0.03) / anatomy.ring_v) ** 2)
    height = 0.26 * smoothstep(0.35, 1.0, ring)
    height += 0.13 * np.exp(-(((ring - 1.02) / 0.17) ** 2)) * (1 - 0.6 * front) * smoothstep(0.75, 0.45, v)
    outside = smoothstep(1.02, 1.55, ring) * smoothstep(0.12, 0.45, s)
    height -= 0.22 * outside * (1 - front)
    sinus = _bump(s, v, (0.96, 0.34), (0.20, 0.40)) + 0.35 * _bump(s, v, (0.66, 0.74), (0.20, 0.12))
    height -= 0.42 * sinus
    height += 0.55 * smoothstep(1.10, 1.6, s) * (1 - 0.5 * front)
    height += 0.22 * smoothstep(0.92, 1.25, v)
    gullet = np.exp(-(((v - 0.93 - 0.12 * u * u) / 0.045) ** 2) - (u / 0.55) ** 2)
    height -= 0.12 * gullet
    rim = anatomy.epiglottis_v + anatomy.epiglottis_curl * 0.42 * u * u + 0.05 * np.cos(u * 4.0)
    with np.errstate(divide="ignore"):  # where both ends meet it is a step
        leaf = smoothstep(-0.42, rim - 0.15, np.maximum(v, rim)) * smoothstep(1.02, 0.62, s)
    behind = smoothstep(-0.03, 0.26, rim - v)
    height = height * (1 - 0.5 * leaf) + 0.62 * leaf * (1 - behind) + 0.30 * behind * smoothstep(1.2, 0.8, s)
    tongue = smoothstep(0.14, 0.50, rim - v)
    height += tongue * (0.22 + 0.02 * value_noise(rng, (size, size), 26, 2))
    height += 0.07 * _bump(u, v, (0.0, -0.60), (0.13, 0.10))  # petiole
    creases = np.exp(-((value_noise(rng, (size, size), 5, 2) / 0.24) ** 2)) * np.maximum(outside, tongue)
    height -= 0.012 * anatomy.creases * creases

    middle = 0.19 + 0.17 * np.sin(np.pi * np.clip((v + 0.60) / 1.18, 0, 1)) - anatomy.false_fold_reach
    vestibular = np.exp(-(((s - middle - 0.06) / 0.105) ** 2)) * smoothstep(-0.66, -0.42, v) * smoothstep(0.62, 0.35, v)
    height += anatomy.false_fold_height * vestibular
    spread, size_a = anatomy.arytenoid_u, anatomy.arytenoid_size * 1.3
    mounds = _dome(s, v, (spread, 0.66), size_a)
    tips = _dome(s, v, (spread * 0.78, 0.66 + 0.72 * size_a), size_a * 0.52)
    wedges = _dome(s, v, (spread + 1.62 * size_a, 0.53), size_a * 0.72)
    for dome, base, rise in ((mounds, 0.19, 0.24), (tips, 0.36, 0.12), (wedges, 0.26, 0.16)):
        height = np.where(dome > 0, np.maximum(height, base + rise * dome), height)
    height = height + (blur(height, size * 0.008) - height) * smoothstep(0.42, 0.50, v)
    cleft = np.exp(-((u0 / 0.030) ** 2)) * smoothstep(BACK - 0.06, BACK + 0.14, v0) * smoothstep(0.86, 0.72, v0)
    height -= 0.06 * cleft

    s0 = np.abs(u0)
    along = smoothstep(FRONT - 0.05, FRONT + 0.07, v0) * smoothstep(FOLD_BACK + 0.10, FOLD_BACK - 0.10, v0)
    across = smoothstep(width + 0.018, width - 0.030, s0)
    fold = (across * along).astype(np.float32)
    band = np.clip(1.0 - ((s0 - width * 0.42) / (width * 0.72)) ** 2, 0.0, 1.0)
    groove = np.exp(-(((s0 - width - 0.026) / 0.036) ** 2)) * along
    height = height * (1 - fold) + fold * (anatomy.fold_bulge * band + 0.006)
    height -= 0.020 * groove
    grain = value_noise(rng, (size, size), 40, 3)
    stretched = cv.resize(value_noise(rng, (max(8, size // 14), size), 110, 2), (size, size))
    height += 0.0016 * grain * (1 - fold) + 0.0012 * stretched * fold
    height += 0.010 * value_noise(rng, (size, size), 9, 2) * loose
    polyp = np.zeros_like(height)
    if anatomy.lesion[0]:
        side, at, radius = anatomy.lesion
        edge = radius * (1 + 0.12 * value_noise(rng, (size, size), 40, 1))
        far = np.sqrt((u0 - side * radius * 0.75) ** 2 + (v0 - at) ** 2)
        polyp = smoothstep(1.15, 0.80, far / edge)
        height += polyp * np.sqrt(np.clip(1.15 - (far / edge) ** 2, 0, 1)) * radius * 0.5
    own = np.random.default_rng([anatomy.seed, 30])
    for side, at, radius in anatomy.more_lesions:
        edge = radius * (1 + 0.12 * value_noise(own, (size, size), 40, 1))
        far = np.sqrt((u0 - side * radius * 0.75) ** 2 + (v0 - at) ** 2)
        another = smoothstep(1.15, 0.80, far / edge)
        height += another * np.sqrt(np.clip(1.15 - (far / edge) ** 2, 0, 1)) * radius * 0.5
        polyp = np.maximum(polyp, another)
    plaque = np.zeros_like(height)
    if anatomy.plaques:
        rough = value_noise(own, (size, size), 30, 3)
        plaque = smoothstep(0.0, 0.25, value_noise(own, (size, size), 12, 2) - 1.6 + 2.6 * anatomy.plaques) * fold
        height += 0.006 * plaque * (1 + rough)
    height = height.astype(np.float32)

    # Colour.
    albedo = mottle(rng, size, anatomy.mucosa)
    blue, green, red = anatomy.mucosa
    pale = (min(1.0, blue * 1.45), min(1.0, green * 1.38), min(1.0, red * 1.12))
    tint(albedo, pale, 0.45 * np.clip(tips + 0.6 * mounds + 0.5 * wedges, 0, 1) + 0.22 * leaf * (1 - behind))
    deep = (blue * 0.62, green * 0.60, red * 0.88)
    tint(albedo, deep, 0.35 * vestibular * (1 - fold) + 0.35 * gullet + 0.45 * groove + 0.20 * creases)
    count = int(size * 0.16 * anatomy.vessels)
    lines = wild_vessels(rng, size, count, 0.10, size / 640)
    bleed(albedo, lines * (1 - fold), 0.42)
    fold_tone = 1 + 0.075 * stretched + 0.03 * grain
    rose = smoothstep(0.35, 1.10, s0 / width) * 0.55  # pinker towards the ventricle
    for channel in range(3):
        colour = anatomy.fold_colour[channel] * (1 - rose) + anatomy.mucosa[channel] * rose
        albedo[..., channel] += fold * (colour * fold_tone - albedo[..., channel])
    streaks = int(6 + 26 * anatomy.vessels)
    sides = rng.choice([-1.0, 1.0], streaks)
    starts = np.stack([sides * rng.uniform(0.02, 0.17, streaks), rng.uniform(-0.40, 0.15, streaks)], axis=1)
    headings = np.where(rng.random(streaks) < 0.5, 0.5 * np.pi, -0.5 * np.pi)  # noqa: PLR2004 # a coin
    paths = [
        (plate_pixels(points, size), wide * 0.8)
        for points, wide in vessel_paths(rng, starts.astype(np.float32), headings, length=0.30, wander=0.10, branches=1)
    ]
    bleed(albedo, draw_paths((size, size), paths, size / 560) * fold, 0.50 * anatomy.vessels)
    if anatomy.lesions:
        tint(albedo, anatomy.lesion_colour, polyp)
    if anatomy.plaques:
        tint(albedo, (0.86, 0.90, 0.93), plaque)
    np.clip(albedo, 0.02, 1.0, out=albedo)

    spacing = np.gradient(axis).astype(np.float32)
    wet = value_noise(rng, (size, size), 38, 2) * (0.005 + 0.005 * anatomy.wetness)
    plate = shade(
        albedo,
        height,
        (spacing[None, :], spacing[:, None]),
        wet,
        light=(0.0 - u0, 0.0 - v0, 2.2),
    )
    # Parallax: on an even grid, and none at the folds, whose place is the ground truth.
    even = plate_pixels(np.linspace(-REACH, REACH, 64, dtype=np.float32), size)
    at_x, at_y = np.meshgrid(even, even)
    coarse = cv.remap(height * loose, at_x, at_y, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
    parts = np.full((size, size), Part.PHARYNX, np.uint8)
    for part, where in (
        (Part.VESTIBULE, ring < 0.95),  # noqa: PLR2004 # inside the entrance's rim
        (Part.PYRIFORM, (sinus > 0.35) & (ring > 1.0)),  # noqa: PLR2004
        (Part.OESOPHAGUS, gullet > 0.4),  # noqa: PLR2004
        (Part.ARYEPIGLOTTIC, (np.abs(ring - 1.02) < 0.13) & (v < 0.6) & (v > rim + 0.1)),  # noqa: PLR2004
        (Part.FALSE_FOLDS, vestibular > 0.45),  # noqa: PLR2004
        (Part.EPIGLOTTIS, (leaf > 0.5) & (behind < 0.5)),  # noqa: PLR2004
        (Part.VALLECULA, (behind >= 0.5) & (s < 1.0)),  # noqa: PLR2004
        (Part.TONGUE, tongue > 0.6),  # noqa: PLR2004
        (Part.ARYTENOIDS, (mounds > 0) | (tips > 0) | (wedges > 0)),
        (Part.VESTIBULE, fold > 0.5),  # noqa: PLR2004 # the renderer knows the folds better
        (Part.LESION, polyp > 0.5),  # noqa: PLR2004
    ):
        parts[np.broadcast_to(where, parts.shape)] = part
    return plate, blur(coarse, 1.5), parts


def epiglottis_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """Draw the epiglottis as it hangs before the camera, its free edge towards +v; returns BGR and its opacity."""
    rng = np.random.default_rng([anatomy.seed, 22])
    axis = plate_axis(size)
    u, v = axis[None, :], axis[:, None]
    bend = value_noise(rng, (size, size), 3, 2) * 0.03
    curl = anatomy.epiglottis_curl
    u = u / np.float32(anatomy.epiglottis_width)
    edge = (
        np.float32(anatomy.epiglottis_lean) * u
        + 0.34
        - 0.55 * (1.25 - 0.4 * curl) * u * u
        + 0.10 * curl * np.cos(u * 5.0)
        - 0.35 * np.abs(u) ** 4
        + bend
    )
    depth = edge - v  # above 0 on the leaf
    lip = np.exp(-(((depth - 0.06) / 0.05) ** 2))
    height = 0.30 * np.sqrt(np.clip(depth / 0.25, 0, 1)) + 0.04 * lip
    height -= (0.20 + 0.25 * curl) * smoothstep(0.1, 0.8, depth) * np.exp(-((u / 0.28) ** 2))
    height -= 0.35 * smoothstep(0.5, 1.2, depth)
    height += 0.004 * value_noise(rng, (size, size), 40, 2) + 0.012 * value_noise(rng, (size, size), 8, 2)
    albedo = mottle(rng, size, anatomy.mucosa)
    pale = (anatomy.mucosa[0] * 1.25 + 0.05, anatomy.mucosa[1] * 1.25 + 0.06, min(1.0, anatomy.mucosa[2] * 1.08))
    tint(albedo, pale, (0.75 * smoothstep(0.7, 0.0, depth)).astype(np.float32))
    count = int(size * 0.10 * (0.4 + anatomy.vessels))
    starts = np.stack([rng.uniform(-0.8, 0.8, count), rng.uniform(-1.2, -0.1, count)], axis=1).astype(np.float32)
    headings = (0.5 * np.pi + rng.normal(0, 0.5, count)).astype(np.float32)
    trees = vessel_paths(rng, starts, headings, length=0.55, wander=0.22, branches=4)
    lines = draw_paths((size, size), [(plate_pixels(points, size), wide) for points, wide in trees], size / 420)
    bleed(albedo, lines, 0.5)
    np.clip(albedo, 0.02, 1.0, out=albedo)
    spacing = np.gradient(axis).astype(np.float32)
    wet = value_noise(rng, (size, size), 60, 2) * 0.005
    lit = shade(
        albedo, height.astype(np.float32), (spacing[None, :], spacing[:, None]), wet, light=(0 - u, 0.1 - v, 1.7)
    )
    alpha = np.clip(smoothstep(-0.006, 0.012, depth) * 255.0, 0, 255).astype(np.uint8)
    shine = (np.clip(lit[..., 3].astype(np.int16) - 215, 0, 40) * 4).astype(np.uint8)
    return cv.add(np.ascontiguousarray(lit[..., :3]), cv.cvtColor(shine, cv.COLOR_GRAY2BGR)), alpha


def trachea_plate(anatomy: Anatomy, size: int) -> Bytes:
    """Draw the windpipe looking down it: cartilage rings in front, a flat membrane behind (+v), dark far away."""
    rng = np.random.default_rng([anatomy.seed, 23])
    axis = plate_axis(size)
    u, v = axis[None, :], axis[:, None]
    bend = value_noise(rng, (size, size), 4, 2) * 0.02
    flat = 1.0 + 0.22 * smoothstep(0.2, 0.9, v / np.sqrt(u * u + v * v + 1e-4))
    radius = np.sqrt(u * u + v * v + 2e-4) * flat * (1 + bend)
    depth = 0.62 / radius  # distance down the tube
    membrane = smoothstep(0.62, 0.86, v / np.sqrt(u * u + v * v + 1e-4))
    wobble = value_noise(rng, (size, size), 5, 2) * 0.10
    wave = np.sin((depth * 3.1 + wobble) * 2 * np.pi * 0.5)
    rings = np.clip(0.5 + 0.9 * wave, 0, 1) * (1 - membrane)
    albedo = mottle(rng, size, anatomy.mucosa)
    pale = (0.60, 0.66, 0.86)
    tint(albedo, pale, (0.62 * rings).astype(np.float32))
    bleed(albedo, wild_vessels(rng, size, int(size * 0.12), 0.12, size / 640), 0.4)
    fibres = np.sin(np.arctan2(v, u) * 46 + wobble * 8) * membrane
    light = np.clip(1.25 / (1 + 0.55 * depth * depth), 0.03, 1.1) * (0.72 + 0.30 * rings + 0.05 * fibres)
    albedo *= np.clip(light, 0, 1.2)[..., None]
    height = (0.06 * wave * (1 - membrane) + 0.003 * value_noise(rng, (size, size), 40, 2)).astype(np.float32)
    spacing = np.gradient(axis).astype(np.float32)
    wet = value_noise(rng, (size, size), 50, 2) * 0.006
    return shade(
        np.clip(albedo, 0.01, 1),
        height,
        (spacing[None, :], spacing[:, None]),
        wet,
        light=(0 - u, 0 - v, 1.9),
        occlusion=0.5,
    )


def mouth_plate(anatomy: Anatomy, size: int) -> tuple[Bytes, Bytes]:
    """Draw the throat from the mouth: palate and uvula (-v), pillars, back wall, tongue (+v), the dark way down.

    Returns the plate and its parts.
    """
    rng = np.random.default_rng([anatomy.seed, 24])
    axis = plate_axis(size)
    u0, v0 = axis[None, :], axis[:, None]
    u = u0 + value_noise(rng, (size, size), 3, 2) * 0.05
    v = v0 + value_noise(rng, (size, size), 3, 2) * 0.05
    s = np.abs(u)
    arch = np.sqrt((u / 0.85) ** 2 + ((v - 0.25) / 0.80) ** 2)
    inner = np.sqrt((u / 0.62) ** 2 + ((v - 0.30) / 0.70) ** 2)
    height = 0.35 * smoothstep(0.85, 1.0, arch) + 0.30 * smoothstep(0.9, 1.04, inner)
    height += 0.3 * smoothstep(1.0, 1.9, arch)
    uvula = _bump(u, np.maximum(v + 0.40, 0.0), (0.0, 0.0), (0.085, 0.22)) * smoothstep(-0.75, -0.45, v)
    height += 0.40 * uvula
    tongue = smoothstep(0.42 + 0.12 * u * u, 0.75, v)
    height = np.maximum(height, tongue * (0.55 + 0.15 * np.exp(-((u / 0.7) ** 2)) - 0.10 * np.exp(-((u / 0.04) ** 2))))
    way = _bump(u, v, (0.0, 0.40), (0.42, 0.13)) * (1 - tongue)
    height -= 0.45 * way
    pebbles = np.maximum(value_noise(rng, (size, size), 22, 1), 0.6)
    height += 0.025 * pebbles * (1 - tongue) + 0.004 * value_noise(rng, (size, size), 60, 2) * (1 + tongue)
    albedo = mottle(rng, size, anatomy.mucosa)
    coat = (0.55, 0.58, 0.80)
    tint(
        albedo,
        coat,
        (0.45 * tongue * np.clip(0.7 + 0.5 * value_noise(rng, (size, size), 12, 3), 0, 1)).astype(np.float32),
    )
    bleed(albedo, wild_vessels(rng, size, int(size * 0.12), 0.16, size / 560) * (1 - tongue), 0.5)
    tint(albedo, (0.05, 0.05, 0.14), (0.8 * way).astype(np.float32))
    np.clip(albedo, 0.01, 1.0, out=albedo)
    spacing = np.gradient(axis).astype(np.float32)
    wet = value_noise(rng, (size, size), 60, 2) * 0.007 * smoothstep(1.6, 0.2, s)
    parts = np.full((size, size), Part.PALATE, np.uint8)
    parts[inner < 1.0] = Part.PHARYNX
    parts[uvula > 0.5] = Part.PALATE  # noqa: PLR2004 # half
    parts[tongue > 0.5] = Part.TONGUE  # noqa: PLR2004
    plate = shade(
        albedo, height.astype(np.float32), (spacing[None, :], spacing[:, None]), wet, light=(0 - u0, 0 - v0, 1.9)
    )
    return plate, parts


def room_plate(anatomy: Anatomy, size: int) -> Bytes:
    """Draw what a scope sees on the table: out-of-focus drapes, a bright lamp, a monitor, a gloved hand."""
    rng = np.random.default_rng([anatomy.seed, 25])
    base = rng.choice(np.array([[0.42, 0.40, 0.34], [0.48, 0.44, 0.40], [0.38, 0.42, 0.30], [0.30, 0.28, 0.26]]))
    scene = np.ones((size, size, 3), np.float32) * base.astype(np.float32)
    scene *= 1 + 0.25 * value_noise(rng, (size, size), 3, 3)[..., None]
    for _ in range(int(rng.integers(9, 15))):
        colour = np.array(
            rng.choice(
                np.array(
                    [
                        [0.62, 0.50, 0.26],
                        [0.35, 0.45, 0.20],
                        [0.7, 0.7, 0.72],
                        [0.16, 0.15, 0.15],
                        [0.55, 0.62, 0.78],
                        [0.85, 0.86, 0.88],
                    ]
                )
            )
        ) * rng.uniform(0.6, 1.15)
        centre = (float(rng.uniform(0, size)), float(rng.uniform(0, size)))
        extent = (float(rng.uniform(0.05, 0.4)) * size, float(rng.uniform(0.03, 0.25)) * size)
        corners = cv.boxPoints((centre, extent, float(rng.uniform(0, 180)))).astype(np.int32)
        cv.fillPoly(scene, [corners], tuple(float(c) for c in colour))
    for _ in range(int(rng.integers(1, 4))):
        at = (int(rng.uniform(0.1, 0.9) * size), int(rng.uniform(0.05, 0.6) * size))
        cv.circle(scene, at, int(size * rng.uniform(0.02, 0.06)), (1.6, 1.7, 1.7), -1)
    scene = blur(scene, size * float(rng.uniform(0.010, 0.022)))
    out = np.zeros((size, size, 4), np.uint8)
    out[..., :3] = np.clip(scene * (255.0 * HEADROOM), 0, 255)
    return out


def draw_plates(anatomy: Anatomy, size: int) -> Plates:
    """Draw every plate of `anatomy`: the larynx at `size` pixels, the others at two thirds of it."""
    small = max(128, size * 2 // 3)
    larynx, relief, parts = larynx_plate(anatomy, size)
    epiglottis, alpha = epiglottis_plate(anatomy, small)
    mouth, mouth_parts = mouth_plate(anatomy, small)
    return Plates(
        larynx=larynx,
        relief=relief,
        parts=parts,
        epiglottis=epiglottis,
        epiglottis_alpha=alpha,
        trachea=trachea_plate(anatomy, small),
        mouth=mouth,
        mouth_parts=mouth_parts,
        room=room_plate(anatomy, max(128, size // 2)),
    )
