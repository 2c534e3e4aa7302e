"""What a scope's own mishaps do to the answers: eight corruptions at five strengths, through the device's own code.

After Hendrycks & Dietterich 2019 (arXiv 1903.12261), who did so for photographs; here they are those of endoscopy. A
corruption is put on the camera's frame, before the aperture is searched: what the device makes of it is measured too.
What comes from the scope (fog, smoke, blood) stays within its bright image; what comes from the camera covers all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge.optics import QualityLimits, find_aperture, measure_quality
from edge.preprocess import Preprocessor
from edge.runtime import OnnxRuntime
from trainer.console import Meter
from trainer.data.augment import smooth_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import InputSpec
    from trainer.data.manifest import Record

    Image = NDArray[np.uint8]
    Field = NDArray[np.float32]
    Rng = np.random.Generator

STRENGTHS = (1, 2, 3, 4, 5)
CLEAN = "clean"
_GAMMA = 2.2  # of a camera's picture
_GRAIN = 320  # grains along a frame's longer side: a camera's denoiser leaves no finer ones
_DARK = 12  # grey level up to which a pixel outside a found aperture belongs to the surround


def corrupt(image: Image, name: str, strength: int, seed: int) -> Image:
    """Put a corruption on a frame; the same seed gives the same one, more of it at a greater strength.

    Args:
        image: uint8 (H, W, 3) BGR; left as it is.
        name: a key of `CORRUPTIONS`.
        strength: 1 (hardly seen) to 5 (hardly to be seen through).
        seed: any whole number from 0 on.

    Returns:
        uint8 (H, W, 3) BGR.
    """
    if strength not in STRENGTHS:
        msg = f"strength {strength} is none of {STRENGTHS}"
        raise ValueError(msg)
    rng = np.random.default_rng([seed, list(CORRUPTIONS).index(name)])  # not of the strength: the same spot grows
    return CORRUPTIONS[name](image, strength - 1, rng)


def _lit(image: Image) -> Field:
    """Where the scope's picture is, float32 (H, W) in 0..1: all of the frame, or its aperture without the surround."""
    aperture = find_aperture(image)
    height, width = image.shape[:2]
    mask = np.ones((height, width), np.float32)
    if aperture is not None:
        mask[:] = 0
        box = aperture.box
        if aperture.circle is None:
            inside = image[box.y : box.y + box.height, box.x : box.x + box.width].max(2) > _DARK
            closed = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
            mask[box.y : box.y + box.height, box.x : box.x + box.width] = closed
        else:
            x, y, radius = aperture.circle
            cv2.circle(mask, (round(x), round(y)), round(radius), 1.0, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.5), np.float32)


def _mix(image: Image, other: NDArray[Any], share: NDArray[Any]) -> Image:
    """Lay another picture over an image, share float32 (H, W) of it."""
    weight = share[..., None]
    return np.asarray(np.clip(image * (1 - weight) + other * weight + 0.5, 0, 255), np.uint8)


def _field(image: Image, cells: int, rng: Rng) -> Field:
    """Soft noise over the frame, 0..1."""
    noise = smooth_noise(image.shape[:2], cells, rng)
    return np.asarray((noise - noise.min()) / max(1e-6, float(noise.max() - noise.min())), np.float32)


def _light(image: Image, lit: Field) -> float:
    """How bright the picture is where it is well lit."""
    return float(np.percentile(image.max(2)[lit > 0.5], 90)) if (lit > 0.5).any() else 200.0  # noqa: PLR2004


def fog(image: Image, level: int, rng: Rng) -> Image:
    """Breath on the cold lens: the picture soft and without contrast under a pale veil, thicker in places."""
    lit, thick = _lit(image), (0.22, 0.38, 0.54, 0.7, 0.84)[level]
    soft = cv2.GaussianBlur(image, (0, 0), (0.006, 0.01, 0.015, 0.021, 0.028)[level] * max(image.shape[:2]))
    veil = 0.35 * soft + 0.65 * _light(image, lit) * np.array([0.86, 0.85, 0.84])
    share = lit * np.clip(thick * (0.75 + 0.5 * _field(image, 3, rng)), 0, 0.97)
    return _mix(image, veil, share)


def blur(image: Image, level: int, rng: Rng) -> Image:  # noqa: ARG001  nothing in it is drawn
    """Out of focus: a round, even smear."""
    radius = max(1, round((0.005, 0.01, 0.017, 0.026, 0.038)[level] * max(image.shape[:2])))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)


def glare(image: Image, level: int, rng: Rng) -> Image:
    """The lamp's reflections on wet tissue: burnt-out spots with a halo, and the light that scatters from them."""
    lit, side = _lit(image), max(image.shape[:2])
    spots = np.zeros(image.shape[:2], np.float32)
    rows, columns = np.nonzero(lit > 0.9)  # noqa: PLR2004
    if not len(rows):
        return np.array(image, np.uint8)
    for _ in range((4, 8, 14, 22, 32)[level]):
        at = int(rng.integers(len(rows)))
        axes = rng.uniform(0.004, 0.016, 2) * (1 + 0.3 * level) * side
        angle = float(rng.uniform(0, 180))
        where, size = (int(columns[at]), int(rows[at])), (max(1, round(axes[0])), max(1, round(axes[1])))
        cv2.ellipse(spots, where, size, angle, 0, 360, 1.0, -1)
    core = cv2.GaussianBlur(spots, (0, 0), 0.003 * side)
    halo = cv2.GaussianBlur(spots, (0, 0), 0.03 * side)
    bright = image + lit[..., None] * (300 * core + (120 + 40 * level) * halo)[..., None]
    return np.asarray(np.clip(bright, 0, 255), np.uint8)


def blood(image: Image, level: int, rng: Rng) -> Image:
    """Blood on tissue and lens: dark red patches that run together, thin at their edges, shining through."""
    lit, field = _lit(image), _field(image, 5, rng)
    share = (0.08, 0.18, 0.3, 0.45, 0.62)[level]
    edge = float(np.quantile(field[lit > 0.5], 1 - share)) if (lit > 0.5).any() else 1.0  # noqa: PLR2004
    cover = lit * np.clip((field - edge) / 0.08 + 0.5, 0, 1) * np.float32(0.92)
    shade = np.clip(image.mean(2) / max(1.0, _light(image, lit)), 0.15, 1)
    pool = (shade[..., None] * np.array([16, 14, 120]) + 8 * _field(image, 24, rng)[..., None]).astype(np.float32)
    return _mix(image, pool, cover)


def smoke(image: Image, level: int, rng: Rng) -> Image:
    """Smoke of laser or cautery: grey billows between lens and tissue that dim as well as veil."""
    lit, thick = _lit(image), (0.3, 0.48, 0.65, 0.8, 0.93)[level]
    billows = 0.6 * _field(image, 4, rng) + 0.4 * _field(image, 9, rng)
    share = lit * thick * np.clip(1.6 * billows, 0, 1)
    return _mix(image, np.full_like(image, 0) + 0.75 * _light(image, lit) * np.ones(3), share)


def dark(image: Image, level: int, rng: Rng) -> Image:  # noqa: ARG001  nothing in it is drawn
    """Too little light: dimmed as the sensor sees it, and left with the few levels that remain."""
    gain = (0.6, 0.4, 0.26, 0.16, 0.1)[level]
    table = 255 * ((np.arange(256) / 255) ** _GAMMA * gain) ** (1 / _GAMMA)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)), np.uint8)


def noise(image: Image, level: int, rng: Rng) -> Image:
    """A sensor at high gain: coloured grain of the light and of the electronics, as coarse in any frame size."""
    photons, read = (220, 90, 40, 18, 9)[level], (4, 8, 13, 19, 26)[level]
    light = image.astype(np.float32)
    height, width = image.shape[:2]
    scale = min(1.0, _GRAIN / max(height, width))
    grain = rng.standard_normal((max(1, round(height * scale)), max(1, round(width * scale)), 3), np.float32)
    grain = np.asarray(cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)
    return np.asarray(np.clip(light + grain * np.sqrt(light * 255 / photons / 4 + read**2) + 0.5, 0, 255), np.uint8)


def compression(image: Image, level: int, rng: Rng) -> Image:  # noqa: ARG001  nothing in it is drawn
    """A starved link: smaller, JPEG of low quality, and back."""
    height, width = image.shape[:2]
    share = (1.0, 0.8, 0.6, 0.45, 0.35)[level]
    size = (max(16, round(width * share)), max(16, round(height * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, (35, 22, 14, 9, 5)[level]])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.resize(decoded, (width, height)), np.uint8)


CORRUPTIONS: dict[str, Callable[[Image, int, Rng], Image]] = {
    "fog": fog,
    "blur": blur,
    "glare": glare,
    "blood": blood,
    "smoke": smoke,
    "dark": dark,
    "noise": noise,
    "compression": compression,
}
"""By name; each takes a frame, the strength less one, and a generator."""


@dataclass(frozen=True)
class Corrupted:
    """Answers to corrupted images.

    Attributes:
        conditions: `clean`, then every corruption and strength, as (name, strength).
        logits: by row, float32 (conditions, N, labels).
        fit: bool (conditions, N), whether the device finds the frame fit to be judged.
    """

    conditions: tuple[tuple[str, int], ...]
    logits: dict[str, NDArray[np.float32]]
    fit: NDArray[np.bool_]


def measure_corrupted(
    models: Mapping[str, bytes],
    records: Sequence[Record],
    root: Path,
    spec: InputSpec,
    labels: int,
    *,
    names: Sequence[str] = tuple(CORRUPTIONS),
    strengths: Sequence[int] = STRENGTHS,
) -> Corrupted:
    """Ask models about every record under every corruption, each frame through edge's optics, preprocessing, runtime.

    Args:
        models: ONNX files by row.
        records: the images.
        root: the data root.
        spec: the models' input.
        labels: how many logits they give.
        names: of `CORRUPTIONS`.
        strengths: of `STRENGTHS`.
    """
    conditions = ((CLEAN, 0), *((name, strength) for name in names for strength in strengths))
    shape = (1, spec.height, spec.width, 3)
    runtimes = {row: OnnxRuntime(model, where=row, shape=shape, labels=labels) for row, model in models.items()}
    preprocess, limits = Preprocessor(spec), QualityLimits()
    logits = {row: np.empty((len(conditions), len(records), labels), np.float32) for row in models}
    fit = np.zeros((len(conditions), len(records)), np.bool_)
    with Meter("corrupting and asking", len(records) * len(conditions)) as meter:
        for index, record in enumerate(records):
            image = np.ascontiguousarray(record.read_image(root))
            for place, (name, strength) in enumerate(conditions):
                seen = image if name == CLEAN else corrupt(image, name, strength, _seed(record))
                aperture = find_aperture(seen)
                pixels = preprocess(seen, None if aperture is None else aperture.box)
                fit[place, index] = measure_quality(pixels, preprocess.inner, limits).good
                for row, runtime in runtimes.items():
                    logits[row][place, index] = runtime.infer(pixels)
                meter.advance(1)
    return Corrupted(conditions, logits, fit)


def _seed(record: Record) -> int:
    return int.from_bytes(hashlib.sha256(record.name().encode()).digest()[:4], "big")


def draw_sheet(image: Image, width: int = 220, seed: int = 4) -> Image:
    """All corruptions of one frame, a row each, from untouched to strongest; uint8 (H, W, 3) BGR."""
    height = round(image.shape[0] * width / image.shape[1])
    gap, left, top = 4, 118, 30
    sheet = np.full((top + len(CORRUPTIONS) * (height + gap), left + 6 * (width + gap), 3), 255, np.uint8)

    def write(text: str, x: int, y: int) -> None:
        cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)

    for column, title in enumerate(("as it was", *map(str, STRENGTHS))):
        write(title, left + column * (width + gap) + 6, 20)
    for row, name in enumerate(CORRUPTIONS):
        y = top + row * (height + gap)
        write(name, 6, y + height // 2 + 5)
        for column in range(6):
            shown = image if not column else corrupt(image, name, column, seed)
            x = left + column * (width + gap)
            sheet[y : y + height, x : x + width] = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA)
    return sheet
