"""Colour, light, optics and transmission as distributions: small seeded functions on RGB images, cv2 and numpy only.

All functions take and return uint8 (H, W, 3) RGB and a `numpy.random.Generator`, and leave their input alone.
None of them knows the label: what they do says nothing about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.data.types import Image, Mask

Rng = np.random.Generator


class AugmentSettings(BaseModel):
    """How often (shares of samples, 0..1) and how strongly the training stream is varied; part of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch_length: int = Field(6000, ge=1)
    """Samples per epoch, half of them with folds."""
    source_weights: dict[str, float] = Field(
        default={"bagls": 3.0, "bagls-glottis": 1.0, "vocalfolds": 2.0, "kvasir-seg": 2.0, "phantom": 2.0}
    )
    """How often a source is drawn within its label, against 1 for a source that is not named."""
    side: int = Field(160, ge=32, le=256)
    """Pixels of the square output."""
    blend: float = Field(0.4, ge=0, le=1)
    """Samples in which a patch is blended into a foreign scene: a larynx's folds, or as often something fold-free."""
    removal: float = Field(0.2, ge=0, le=1)
    """Samples in which something is covered by tissue: the folds themselves, or as often anything but them."""
    covered_donors: float = Field(0.4, ge=0, le=1)
    """Fold-free patches that are a larynx whose folds were covered, rather than other tissue."""
    twins: float = Field(0.0, ge=0, le=1)
    """Couples of samples that show one composed picture, once with its folds and once without, in one style."""
    patch_min: float = Field(0.25, gt=0, le=1)
    patch_max: float = Field(0.67, gt=0, le=1)
    """A blended patch's width as a share of the scene's."""
    grey: float = Field(0.3, ge=0, le=1)
    """Colour samples turned grey."""
    colour_grey: float = Field(0.65, ge=0, le=1)
    """Grey samples coloured like mucosa."""
    narrow_band: float = Field(0.05, ge=0, le=1)
    recolour: float = Field(0.2, ge=0, le=1)
    """Colour samples that take on another image's mucosa colours."""
    aperture: float = Field(0.4, ge=0, le=1)
    overlay: float = Field(0.15, ge=0, le=1)
    glare: float = Field(0.2, ge=0, le=1)
    fog: float = Field(0.08, ge=0, le=1)
    smoke: float = Field(0.0, ge=0, le=1)
    blood: float = Field(0.0, ge=0, le=1)
    mucus: float = Field(0.0, ge=0, le=1)
    motion: float = Field(0.1, ge=0, le=1)
    interlace: float = Field(0.0, ge=0, le=1)
    fall_off: float = Field(0.4, ge=0, le=1)
    sharpness: float = Field(0.6, ge=0, le=1)
    noise: float = Field(0.4, ge=0, le=1)
    jpeg: float = Field(0.4, ge=0, le=1)
    strength: float = Field(1.0, ge=0, le=2)
    """Scales the jitter of light and colour; 0 leaves them as they are."""
    rotation: float = Field(35.0, ge=0, le=180)
    """Largest rotation in degrees."""
    zoom_min: float = Field(0.5, gt=0, le=1)
    """Smallest crop as a share of the image's sides."""
    zoom_max: float = Field(1.15, ge=1, le=2)
    """Largest crop; above 1 the image is continued by its mirror."""


def smooth_noise(shape: tuple[int, int], cells: int, rng: Rng) -> Mask:
    """A random field that varies over 1/`cells` of the image, float32 (H, W) within about -1..1."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def is_grey(image: Image) -> bool:
    """Whether a picture has (nearly) no colour."""
    small = image[::8, ::8].astype(np.int16)
    return bool(np.abs(small[..., 0] - small[..., 1]).mean() + np.abs(small[..., 1] - small[..., 2]).mean() < 6)  # noqa: PLR2004


# --- colour ---------------------------------------------------------------------------------------------------------


def colour_table(image: Image, valid: Mask | None = None) -> Mask:
    """How an image's mucosa is coloured at each lightness: float32 (256, 2), Lab's a and b over L.

    Args:
        image: A colour image.
        valid: bool (H, W), the pixels that count; None for all.
    """
    lab = cv2.cvtColor(np.ascontiguousarray(image[::2, ::2]), cv2.COLOR_RGB2LAB).reshape(-1, 3)
    if valid is not None:
        lab = lab[valid[::2, ::2].ravel()]
    bins = np.asarray(lab[:, 0], np.uint8) >> 3
    weight = np.bincount(bins, minlength=32).astype(np.float32)
    # A prior at the image's mean colour fills lightnesses that it does not have.
    prior = 0.01 * len(lab) / 32 + 1e-3
    table = np.empty((32, 2), np.float32)
    for channel in (1, 2):
        total = np.bincount(bins, lab[:, channel], minlength=32)
        mean = total.sum() / max(1.0, float(weight.sum()))
        smooth_total = np.convolve(total + prior * mean, _TABLE_KERNEL, "same")
        smooth_weight = np.convolve(weight + prior, _TABLE_KERNEL, "same")
        table[:, channel - 1] = smooth_total / smooth_weight
    return np.asarray(cv2.resize(table, (2, 256), interpolation=cv2.INTER_LINEAR))


_TABLE_KERNEL = np.array([1, 4, 6, 4, 1]) / 16


def to_grey(image: Image) -> Image:
    """Drop the colour, as a monochrome camera would."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def colour_by_tables(image: Image, tables: Sequence[Mask], rng: Rng) -> Image:
    """Colour an image by its lightness, as the mucosa of two reference images is coloured, mixed over smooth patches.

    Args:
        image: Grey or colour; only its lightness is kept.
        tables: One or more of `colour_table`.
        rng: Draws the references, their mixture in space, and the saturation.
    """
    light = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 0]
    first, second = tables[int(rng.integers(len(tables)))], tables[int(rng.integers(len(tables)))]
    mix = np.clip(0.5 + 0.7 * smooth_noise(light.shape, 3, rng), 0, 1)
    saturation = np.float32(rng.uniform(0.75, 1.25))
    pair = cv2.merge((light, light))
    looked_up = [
        cv2.LUT(pair, np.clip(128 + (table - 128) * saturation, 0, 255).astype(np.uint8)[None])
        for table in (first, second)
    ]
    a, b = cv2.split(cv2.blendLinear(looked_up[0], looked_up[1], 1 - mix, mix))
    a = cv2.add(a, 4 * smooth_noise(light.shape, 6, rng), dtype=cv2.CV_8U)
    return np.asarray(cv2.cvtColor(cv2.merge((light, a, b)), cv2.COLOR_LAB2RGB))


def stretch_tones(image: Image, rng: Rng) -> Image:
    """Spread a dim grey recording over more of the range, by percentiles; how much is drawn."""
    low, high = np.percentile(image[::4, ::4], (2, 99))
    target = rng.uniform(150, 250)
    gain = max(1.0, target / max(20.0, float(high) - float(low)))
    mix = rng.uniform(0.3, 1)
    gain = 1 + (min(gain, 5.0) - 1) * mix
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain, beta=0))


def narrow_band(image: Image, rng: Rng) -> Image:
    """A narrow-band-like tint: red gives way to green and blue, vessels turn dark and brownish."""
    mix = np.array([[0.15, 0.85, 0.0], [0.0, 0.55, 0.45], [0.0, 0.35, 0.65]], np.float32)
    mix = mix * rng.uniform(0.85, 1.15, (3, 1)).astype(np.float32)
    return np.asarray(cv2.transform(image, mix))


def jitter_light(image: Image, rng: Rng, strength: float = 1.0) -> Image:
    """White balance, brightness, contrast and gamma, in one look-up per channel."""
    x = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal(0, 0.25 * strength))
    gain = np.exp(rng.normal(0, 0.18 * strength))
    offset = rng.normal(0, 0.03 * strength)
    contrast = np.exp(rng.normal(0, 0.15 * strength))
    balance = np.exp(rng.normal(0, 0.09 * strength, 3))
    curve = (x**gamma - 0.4) * contrast + 0.4 + offset
    table = np.clip(np.outer(curve * gain, balance) * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]))


def jitter_saturation(image: Image, rng: Rng, strength: float = 1.0) -> Image:
    """More or less colour, and a slight turn of hue, as a rotation of the chroma plane."""
    s = np.exp(rng.normal(0, 0.25 * strength))
    angle = rng.normal(0, 0.08 * strength)
    grey = np.full((3, 3), 1 / 3, np.float32)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3)
    turn = grey + s * (np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross)
    return np.asarray(cv2.transform(image, turn.astype(np.float32)))


# --- light and optics ------------------------------------------------------------------------------------------------


def light_fall_off(image: Image, rng: Rng) -> Image:
    """The scope's light cone: bright about a drawn point, darker away from it."""
    height, width = image.shape[:2]
    x = (np.arange(width, dtype=np.float32) / width - rng.uniform(0.2, 0.8)) ** 2
    y = (np.arange(height, dtype=np.float32) / height - rng.uniform(0.2, 0.8)) ** 2
    field = np.exp(-(x[None] + y[:, None]) * np.float32(rng.uniform(0.5, 3.5))) * np.float32(rng.uniform(1, 1.35))
    return scale_light(image, field)


def scale_light(image: Image, field: Mask) -> Image:
    """Multiply by a light field, float32 (H, W)."""
    return np.asarray(cv2.multiply(image, cv2.merge((field, field, field)), dtype=cv2.CV_8U))


def glare_spots(image: Image, rng: Rng) -> Image:
    """Wet specular spots: small clipped ellipses in clusters, with a faint halo."""
    height, width = image.shape[:2]
    spots = np.zeros((height, width), np.uint8)
    centre = rng.uniform(0.15, 0.85, 2) * (width, height)
    spread = rng.uniform(0.03, 0.3) * width
    for _ in range(int(rng.integers(2, 18))):
        x, y = centre + rng.normal(0, spread, 2)
        axes = (int(rng.integers(1, 5)), int(rng.integers(1, 3)))
        cv2.ellipse(spots, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    halo = cv2.GaussianBlur(spots, (0, 0), rng.uniform(0.6, 1.6))
    return np.asarray(cv2.add(image, cv2.merge((halo, halo, halo))))


def fog(image: Image, rng: Rng) -> Image:
    """Breath or fat on the lens: patches of lost contrast under a pale veil."""
    field = np.clip(0.45 + 0.6 * smooth_noise(image.shape[:2], 2, rng), 0, 1) * np.float32(rng.uniform(0.3, 0.75))
    veil = cv2.GaussianBlur(image, (0, 0), 5).astype(np.float32) * 0.6 + np.float32(rng.uniform(40, 100))
    soft = image.astype(np.float32)
    return np.asarray(np.clip(soft + (veil - soft) * field[..., None], 0, 255).astype(np.uint8))


def smoke(image: Image, rng: Rng) -> Image:
    """Plume of a laser: grey wisps that drift over the picture, thickest on one side."""
    height, width = image.shape[:2]
    wisps = 0.5 + 0.5 * (0.7 * smooth_noise((height, width), 4, rng) + 0.5 * smooth_noise((height, width), 9, rng))
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    side = 0.6 + 0.4 * (np.float32(np.cos(angle)) * x[None] + np.float32(np.sin(angle)) * y[:, None])
    share = np.clip(wisps * side, 0, 1) * np.float32(rng.uniform(0.3, 0.8))
    return _towards(image, share, np.full(3, rng.uniform(120, 220)))


def blood(image: Image, rng: Rng) -> Image:
    """Blood on the tissue: dark red, wet, in a pool or in streaks, through which the relief still shows."""
    return _liquid(image, rng, np.array([rng.uniform(90, 170), rng.uniform(8, 35), rng.uniform(5, 30)]), (0.5, 0.9))


def mucus(image: Image, rng: Rng) -> Image:
    """Strands and films of mucus: pale, yellowish to white, half transparent, with a gleam along them."""
    light = rng.uniform(170, 245)
    return _liquid(image, rng, np.array([light, light * 0.98, light * rng.uniform(0.75, 1.0)]), (0.2, 0.55))


def _liquid(image: Image, rng: Rng, colour: Mask, cover: tuple[float, float]) -> Image:
    height, width = image.shape[:2]
    where = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:  # noqa: PLR2004
            where = np.maximum(where, _strand((height, width), rng))
        else:
            relief = smooth_noise((height, width), 4, rng) + 0.35 * smooth_noise((height, width), 13, rng)
            pool = np.clip(5 * (relief - rng.uniform(-0.2, 0.3)), 0, 1)
            where = np.maximum(where, pool * _soft_round((height, width), rng))
    ragged = np.clip(where * (1 + 0.5 * smooth_noise((height, width), 16, rng)), 0, 1)
    # Light on it follows the picture's own light, or it would lie there as a sticker.
    relief = cv2.GaussianBlur(image.max(axis=2), (0, 0), 2).astype(np.float32) / max(1.0, float(image.max()))
    tint = colour[None, None] * (0.35 + 0.65 * relief[..., None])
    share = ragged * np.float32(rng.uniform(*cover))
    out = image.astype(np.float32) * (1 - share[..., None]) + tint.astype(np.float32) * share[..., None]
    edge = np.abs(cv2.Sobel(ragged, cv2.CV_32F, 1, 0)) * relief
    return np.asarray(np.clip(out + (60 * np.clip(edge - 0.4, 0, 1))[..., None], 0, 255).astype(np.uint8))


def _strand(shape: tuple[int, int], rng: Rng) -> Mask:
    """A curved thread that is now thick, now thin, float32 (H, W) in 0..1."""
    height, width = shape
    t = np.linspace(0, 1, 60)
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * (width, height)
    bend = np.stack(((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3), 1)  # a cubic Bezier curve
    points = bend @ ends
    thick = width / 160 * rng.uniform(0.6, 2.5) * (1 + 0.8 * np.sin(rng.uniform(5, 25) * t + rng.uniform(0, 6)))
    out = np.zeros(shape, np.uint8)
    for (x, y), radius in zip(points, thick, strict=True):
        cv2.circle(out, (round(x * 16), round(y * 16)), max(8, round(radius * 16)), 255, -1, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(out, (0, 0), 0.8).astype(np.float32) / 255)


def _soft_round(shape: tuple[int, int], rng: Rng) -> Mask:
    """A soft round spot at a drawn place, float32 (H, W) in 0..1."""
    height, width = shape
    x = np.arange(width, dtype=np.float32) / width - np.float32(rng.uniform(0, 1))
    y = np.arange(height, dtype=np.float32) / height - np.float32(rng.uniform(0, 1))
    reach = np.float32(rng.uniform(0.2, 0.5))
    return np.asarray(np.clip(2 * (1 - (x[None] ** 2 + y[:, None] ** 2) / reach**2), 0, 1))


def _towards(image: Image, share: Mask, colour: Mask) -> Image:
    wide = image.astype(np.float32)
    return np.asarray((wide + (colour.astype(np.float32) - wide) * share[..., None]).astype(np.uint8))


def interlace(image: Image, rng: Rng) -> Image:
    """Two fields of a moving scene woven into one frame: every other line comes from where things were before."""
    out: Image = image.copy()
    dx, dy = int(rng.integers(-5, 6)), int(rng.integers(-2, 3))
    moved = cv2.warpAffine(
        image, np.array([[1, 0, dx or 2], [0, 1, dy]], np.float32), image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE
    )
    out[1::2] = moved[1::2]
    return out


def motion_blur(image: Image, rng: Rng) -> Image:
    """A straight smear of 3 to 9 pixels in a drawn direction."""
    size = int(rng.integers(1, 5)) * 2 + 1
    kernel = np.zeros((size, size), np.float32)
    angle = rng.uniform(0, np.pi)
    middle = size // 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * middle
    start, end = (middle - reach).round().astype(int), (middle + reach).round().astype(int)
    cv2.line(kernel, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), 1)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101))


def match_sharpness(image: Image, rng: Rng) -> Image:
    """Another camera's resolution: smaller and back again, a defocus, or a camera's edge enhancement."""
    height, width = image.shape[:2]
    kind = rng.random()
    if kind < 0.5:  # noqa: PLR2004
        share = rng.uniform(0.4, 0.85)
        size = (max(8, int(width * share)), max(8, int(height * share)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
    if kind < 0.75:  # noqa: PLR2004
        return np.asarray(soft)
    gain = rng.uniform(0.3, 1.2)
    return np.asarray(cv2.addWeighted(image, 1 + gain, soft, -gain, 0))


# --- frame ------------------------------------------------------------------------------------------------------------


def aperture_mask(shape: tuple[int, int], rng: Rng) -> Mask:
    """A scope's field stop as a weight, float32 (H, W) in 0..1: round, octagonal, or square with cut corners.

    The edge is soft or hard and its centre may be off; most of the picture stays open.
    """
    height, width = shape
    kind = rng.choice(3, p=(0.6, 0.25, 0.15))
    if rng.random() < 0.7:  # noqa: PLR2004
        centre, reach = np.array([width / 2, height / 2]), max(width, height) / 2
        reach *= rng.uniform(0.97, 1.15)
    else:
        centre = np.array([width, height]) * rng.uniform(0.38, 0.62, 2)
        reach = max(width, height) / 2 * rng.uniform(0.85, 1.15)
    mask = np.zeros(shape, np.uint8)
    if kind == 0:
        cv2.circle(mask, (int(centre[0]), int(centre[1])), int(reach), 255, -1)
    else:
        half = np.array([width, height]) / 2
        cut = rng.uniform(0.45, 0.7) if kind == 1 else rng.uniform(0.1, 0.35)
        dx, dy = half * (1 - cut)
        hx, hy = half
        corners = [(-dx, -hy), (dx, -hy), (hx, -dy), (hx, dy), (dx, hy), (-dx, hy), (-hx, dy), (-hx, -dy)]
        points = (np.array(corners) + half + (centre - half) * 0.3).astype(np.int32)
        cv2.fillConvexPoly(mask, points, 255)
    if rng.random() < 0.6:  # noqa: PLR2004
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 3)))
    return np.asarray(mask.astype(np.float32) / 255)


def put_aperture(image: Image, rng: Rng) -> Image:
    """Darken what lies outside a drawn `aperture_mask`, to black or to a dark haze."""
    mask = aperture_mask(image.shape[:2], rng)
    floor = rng.uniform(0, 14) if rng.random() < 0.4 else 0.0  # noqa: PLR2004
    out = scale_light(image, mask)
    if floor:
        veil = ((1 - mask) * floor).astype(np.uint8)
        out = np.asarray(cv2.add(out, cv2.merge((veil, veil, veil))))
    return out


def put_overlay(image: Image, rng: Rng) -> Image:
    """What a processor writes over the picture: a patient strip, lines of text, or black boxes in the corners."""
    out: Image = image.copy()
    height, width = out.shape[:2]
    kind = int(rng.integers(3))
    bright = int(rng.integers(120, 256))
    if kind == 0:
        w, h = int(width * rng.uniform(0.15, 0.35)), int(height * rng.uniform(0.08, 0.3))
        x = 0 if rng.random() < 0.5 else width - w  # noqa: PLR2004
        y = 0 if rng.random() < 0.3 else height - h  # noqa: PLR2004
        out[y : y + h, x : x + w] = int(rng.integers(0, 12))
    lines = int(rng.integers(1, 5))
    left = int(rng.uniform(0, 0.1) * width) if rng.random() < 0.7 else int(rng.uniform(0.6, 0.8) * width)  # noqa: PLR2004
    top = int(rng.uniform(0.03, 0.8) * height)
    for line in range(lines):
        text = "".join(_GLYPHS[i] for i in rng.integers(0, len(_GLYPHS), int(rng.integers(3, 11))))
        where = (left, top + 5 + 7 * line)
        cv2.putText(out, text, where, cv2.FONT_HERSHEY_PLAIN, 0.45, (bright, bright, bright), 1, cv2.LINE_AA)
    return out


_GLYPHS = "0123456789:/-. ABCDEFGHIKLMNOPRSTUWZ"


# --- transmission -----------------------------------------------------------------------------------------------------


def sensor_noise(image: Image, rng: Rng) -> Image:
    """Gaussian noise, finer or coarser, grey or coloured, of 1 to 9 levels."""
    height, width = image.shape[:2]
    sigma = rng.uniform(1, 9)
    channels = 3 if rng.random() < 0.4 else 1  # noqa: PLR2004
    # A table of noise at a drawn offset is as good as fresh noise, and ten times as fast.
    start = int(rng.integers(0, len(_NOISE) - height * width * channels))
    grain = _NOISE[start : start + height * width * channels].reshape(height, width, channels) * np.float32(sigma)
    if rng.random() < 0.4:  # noqa: PLR2004
        grain = np.asarray(cv2.GaussianBlur(grain, (3, 3), 0)).reshape(height, width, channels) * 1.6
    if channels == 1:
        grain = cv2.merge((grain, grain, grain))
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U))


_NOISE = np.random.default_rng(0).standard_normal(1 << 19).astype(np.float32)


def jpeg(image: Image, rng: Rng) -> Image:
    """JPEG of quality 20 to 90, there and back."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 91))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


# --- all of it --------------------------------------------------------------------------------------------------------


def restyle(image: Image, tables: Sequence[Mask], settings: AugmentSettings, rng: Rng) -> Image:
    """Make the colour uninformative: grey ones coloured, colour ones grey or recoloured, narrow band now and then."""
    if is_grey(image):
        image = stretch_tones(image, rng)
        if tables and rng.random() < settings.colour_grey:
            image = colour_by_tables(image, tables, rng)
    elif rng.random() < settings.grey:
        image = to_grey(image)
    elif tables and rng.random() < settings.recolour:
        image = colour_by_tables(image, tables, rng)
    if rng.random() < settings.narrow_band:
        image = narrow_band(image, rng)
    return image


def degrade(image: Image, settings: AugmentSettings, rng: Rng) -> Image:
    """Light, optics, field stop, overlays and transmission, in the order in which a real chain adds them."""
    if rng.random() < settings.fall_off:
        image = light_fall_off(image, rng)
    image = jitter_light(image, rng, settings.strength)
    if not is_grey(image):
        image = jitter_saturation(image, rng, settings.strength)
    steps = (
        (settings.blood, blood),
        (settings.mucus, mucus),
        (settings.glare, glare_spots),
        (settings.smoke, smoke),
        (settings.fog, fog),
        (settings.motion, motion_blur),
        (settings.interlace, interlace),
        (settings.sharpness, match_sharpness),
        (settings.aperture, put_aperture),
        (settings.overlay, put_overlay),
        (settings.noise, sensor_noise),
        (settings.jpeg, jpeg),
    )
    for share, step in steps:
        if share and rng.random() < share:
            image = step(image, rng)
    return image
