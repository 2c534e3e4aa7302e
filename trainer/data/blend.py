"""Matched pairs by compositing: folds blended into foreign scenes, fold-free patches likewise, folds covered by tissue.

Whatever is done to make a positive is done, with the same code and as often, to make a negative: so neither a seam nor
a source, a colour or a size tells the label, only the anatomy does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trainer.data.augment import Rng, colour_table, is_grey, smooth_noise, to_grey
from trainer.data.types import FOLD, GLOTTIS, TUBE, UNKNOWN, VOID, Image, Mask

if TYPE_CHECKING:
    from trainer.data.pack import Packed

Rect = tuple[float, float, float, float]
"""x, y, width, height."""


@dataclass(frozen=True, slots=True)
class View:
    """A picture seen through a drawn window.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        classes: uint8 (H, W) class map.
        focus: Where the folds are, in pixels of the view (may reach beyond it); None without folds.
        maps: uint8 (H, W, labels), the pack's soft masks carried along; None stands for nowhere anything.
    """

    image: Image
    classes: Mask
    focus: Rect | None
    maps: Image | None = None


def view(
    packed: Packed,
    rect: Rect,
    size: tuple[int, int],
    *,
    angle: float = 0.0,
    flip: tuple[bool, bool] = (False, False),
    target: Rect | None = None,
    mirrored: bool = True,
) -> View:
    """Look at a rectangle of a picture, turned and mirrored, resized to `size`.

    Args:
        packed: The picture.
        rect: In its pixels; it may reach beyond the picture, whose mirror then continues it.
        size: (height, width) of the view.
        angle: Degrees by which the picture turns.
        flip: Mirror left-right, mirror up-down.
        target: Where in the view the rectangle comes to lie; None for all of it.
        mirrored: Whether the class map goes on in the mirror too, or is UNKNOWN outside the picture.

    Returns:
        The view, with the class map and the folds' box carried along.
    """
    image, classes = packed.image, packed.classes
    x, y, width, height = rect
    left, top, across, down = target or (0.0, 0.0, float(size[1]), float(size[0]))
    shrink = min(width / across, height / down)
    scale = 1.0
    if shrink > 1.4:  # noqa: PLR2004
        scale = 1 / shrink
        small = (max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    sx, sy = across / width * (-1 if flip[0] else 1), down / height * (-1 if flip[1] else 1)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = np.array([[sx * c, sx * s], [-sy * s, sy * c]])
    centre = np.array([x + width / 2, y + height / 2])
    matrix = np.column_stack((linear, np.array([left + across / 2, top + down / 2]) - linear @ centre))
    for_image = matrix.copy()
    for_image[:, 0] *= packed.image.shape[1] / image.shape[1]
    for_image[:, 1] *= packed.image.shape[0] / image.shape[0]
    out = (size[1], size[0])
    seen = cv2.warpAffine(image, for_image, out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    border = cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT
    known = cv2.warpAffine(classes, matrix, out, flags=cv2.INTER_NEAREST, borderMode=border, borderValue=UNKNOWN)
    maps = None
    if packed.maps is not None:
        maps = cv2.warpAffine(packed.maps, matrix, out, flags=cv2.INTER_LINEAR, borderMode=border)
    focus = None
    if packed.focus is not None:
        fx, fy, fw, fh = packed.focus
        columns, rows = packed.image.shape[1], packed.image.shape[0]
        corners = np.array([[fx, fy], [fx + fw, fy], [fx, fy + fh], [fx + fw, fy + fh]]) * (columns, rows)
        turned = corners @ matrix[:, :2].T + matrix[:, 2]
        low, high = turned.min(axis=0), turned.max(axis=0)
        focus = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    return View(np.asarray(seen), np.asarray(known), focus, maps)


def soft_mask(shape: tuple[int, int], box: Rect, rng: Rng) -> Mask:
    """A soft, irregular round of weight 1 inside `box` and 0 outside it, float32 (H, W)."""
    x, y, width, height = box
    columns = (np.arange(shape[1], dtype=np.float32) - (x + width / 2)) / max(1.0, width / 2)
    rows = (np.arange(shape[0], dtype=np.float32) - (y + height / 2)) / max(1.0, height / 2)
    power = rng.uniform(2, 4)
    distance = (np.abs(columns)[None] ** power + np.abs(rows)[:, None] ** power) ** (1 / power)
    distance += rng.uniform(0, 0.22) * smooth_noise(shape, int(rng.integers(4, 9)), rng)
    feather = rng.uniform(0.08, 0.35)
    return np.asarray(np.clip((1 - distance) / feather, 0, 1).astype(np.float32))


def match_look(patch: Image, scene: Image, weight: Mask, rng: Rng) -> Image:
    """Give a patch the light, colour and sharpness that the scene has where the patch comes to lie.

    Colour: mean and spread in Lab (Reinhard et al. 2001), drawn between mostly and wholly matched. A grey patch takes
    the scene's colours over lightness; in a grey scene the patch turns grey.

    Args:
        patch: uint8 (H, W, 3) RGB, as large as the scene.
        scene: The scene.
        weight: float32 (H, W), where the patch will show.
        rng: Draws how closely it is matched.

    Returns:
        The matched patch.
    """
    grey_scene = is_grey(scene)
    if grey_scene:
        patch = to_grey(patch)
    light_scene = cv2.cvtColor(scene, cv2.COLOR_RGB2LAB)
    light_patch = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    if not grey_scene and is_grey(patch):
        table = colour_table(scene)
        lightness = light_patch[..., 0]
        (_, _spread) = cv2.meanStdDev(lightness)
        light_patch[..., 1:] = np.clip(table[lightness], 0, 255).astype(np.uint8)
    inside = (weight > 0.25).astype(np.uint8)  # noqa: PLR2004
    # What surrounds the place counts, not what it hides, which may be a lumen or an instrument.
    ring = cv2.dilate(inside, _RING) & (light_scene[..., 0] > 12).astype(np.uint8)  # noqa: PLR2004
    if cv2.countNonZero(ring) < 50 or cv2.countNonZero(inside) < 10:  # noqa: PLR2004
        return patch
    mean_p, dev_p = cv2.meanStdDev(light_patch, mask=inside)
    mean_s, dev_s = cv2.meanStdDev(light_scene, mask=ring)
    share = rng.uniform(0.65, 1.0)
    gain = np.clip(dev_s / np.maximum(dev_p, 1.0), 0.6, 1.8)
    gain = 1 + (gain - 1) * share * np.array([[0.6], [1.0], [1.0]])
    levels = np.arange(256, dtype=np.float32)
    target = mean_p + (mean_s - mean_p) * share
    table = np.clip((levels[:, None] - mean_p.T) * gain.T + target.T, 0, 255).astype(np.uint8)
    matched = cv2.cvtColor(cv2.LUT(light_patch, table[None]), cv2.COLOR_LAB2RGB)
    return _match_detail(np.asarray(matched), scene, inside, ring)


_RING = np.ones((15, 15), np.uint8)


def _match_detail(patch: Image, scene: Image, inside: Mask, ring: Mask) -> Image:
    """Soften the patch where it is sharper than the scene, sharpen it a little where it is softer."""

    def detail(image: Image, where: Mask) -> float:
        edges = cv2.Laplacian(image[..., 1], cv2.CV_16S)
        return float(cv2.meanStdDev(edges, mask=where)[1][0, 0])

    ratio = detail(patch, inside) / max(0.5, detail(scene, ring))
    if ratio > 1.25:  # noqa: PLR2004
        return np.asarray(cv2.GaussianBlur(patch, (0, 0), min(1.4, 0.35 * ratio**0.8)))
    if ratio < 0.7:  # noqa: PLR2004
        soft = cv2.GaussianBlur(patch, (0, 0), 1.0)
        return np.asarray(cv2.addWeighted(patch, 1.8, soft, -0.8, 0))
    return patch


def composite(scene: Image, patch: Image, weight: Mask) -> Image:
    """Lay a patch over a scene, both uint8 (H, W, 3), weighted by float32 (H, W) in 0..1."""
    return np.asarray(cv2.blendLinear(patch, scene, weight, 1 - weight))


def blend(scene: View, patch: View, weight: Mask, rng: Rng) -> View:
    """Blend a patch into a scene, matched in light, colour and sharpness.

    Args:
        scene: What it is laid into.
        patch: As large as the scene, its content already where it is to lie.
        weight: float32 (H, W); the patch's own dark surround is taken out of it.
        rng: Draws the closeness of the match.

    Returns:
        The composite: the patch's class map and folds where it weighs more than half, the scene's elsewhere.
    """
    shows = np.where(patch.classes == VOID, np.float32(0), np.float32(1))
    if shows.min() == 0:
        weight = weight * np.clip(cv2.blur(shows, (7, 7)) * 2 - 1, 0, 1)
    matched = match_look(patch.image, scene.image, weight, rng)
    shown = weight > 0.5  # noqa: PLR2004
    classes = np.where(shown, patch.classes, scene.classes)
    return View(
        composite(scene.image, matched, weight), classes, patch.focus or scene.focus, _blend_maps(scene, patch, shown)
    )


def _blend_maps(scene: View, patch: View, shown: Mask) -> Image | None:
    """The patch's soft masks where it shows, the scene's elsewhere; what has none has nothing there."""
    if scene.maps is None and patch.maps is None:
        return None
    below, above = (np.uint8(0) if v.maps is None else v.maps for v in (scene, patch))
    return np.where(shown[..., None], above, below)


def fold_weight(packed_view: View, grow: float) -> Mask:
    """A soft weight over the folds and the glottis of a view and `grow` pixels around them; float32 (H, W)."""
    folds = ((packed_view.classes == FOLD) | (packed_view.classes == GLOTTIS)).astype(np.uint8)
    if not (packed_view.classes == FOLD).any() and packed_view.focus is not None:
        # Only the glottis is known: the folds fill the box about it, and a little more.
        x, y, width, height = _inflate(packed_view.focus, 1.15 + 0.02 * grow)
        box = np.zeros(folds.shape, np.uint8)
        centre = (round((x + width / 2) * 16), round((y + height / 2) * 16))
        axes = (max(16, round(0.6 * width * 16)), max(16, round(0.6 * height * 16)))
        cv2.ellipse(box, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, 4)
        # The mirror beyond the picture may show the glottis once more: its folds go too.
        reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (int(0.7 * min(width, 90)) | 1,) * 2)
        box = np.maximum(box, 255 * cv2.dilate(folds, reach))
        return np.asarray(cv2.GaussianBlur(box.astype(np.float32) / 255, (0, 0), max(0.8, grow / 2.5)))
    side = int(2.5 * grow) | 1
    wide = cv2.dilate(folds, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray(cv2.GaussianBlur(wide.astype(np.float32), (0, 0), max(0.8, grow / 2.5)))


def own_tissue(base: View, weight: Mask, spare: Mask, rng: Rng) -> View | None:
    """A view of the same picture, moved so that tissue of its own lies where the weight is.

    Args:
        base: The picture.
        weight: float32 (H, W), what is to be covered.
        spare: float32 (H, W), what may not be used as tissue (the folds).
        rng: Draws where to look.

    Returns:
        The moved view, or None where no place was found.
    """
    height, width = weight.shape
    # What is dark, unlit or outside the picture may not serve either.
    barred = np.maximum(spare, (base.classes == VOID).astype(np.float32))
    for _ in range(_PLACES):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6)
        turn = float(np.radians(rng.normal(0, 25)))
        c, s, mirror = np.cos(turn), np.sin(turn), float(rng.choice((-1.0, 1.0)))
        linear = np.array([[c * mirror, s], [-s * mirror, c]])
        middle = np.array([width / 2, height / 2])
        moved = middle + reach * np.array([np.cos(angle) * width, np.sin(angle) * height])
        matrix = np.column_stack((linear, moved - linear @ middle))
        there = cv2.warpAffine(barred, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=1.0)
        if float((there * weight).max()) > 0.1:  # noqa: PLR2004
            continue
        image = cv2.warpAffine(base.image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        return View(np.asarray(image), unknown_like(base.image), None)
    return None


_PLACES = 8


def fill_in(base: View, weight: Mask, rng: Rng) -> View:
    """Continue the surroundings into a place (Telea 2004) and give it grain: the last resort when no tissue fits it."""
    hole = (weight > 0.02).astype(np.uint8)  # noqa: PLR2004
    hole[base.classes == TUBE] = 1  # its dark end would be drawn out into the shape of a glottis
    filled = cv2.inpaint(base.image, hole, 3, cv2.INPAINT_TELEA)
    grain = smooth_noise(weight.shape, 40, rng) * np.float32(rng.uniform(2, 7)) * weight
    image = np.asarray(cv2.add(filled, cv2.merge((grain, grain, grain)), dtype=cv2.CV_8U))
    nothing = unknown_like(base.image)
    maps = _blend_maps(base, View(image, nothing, None), weight > 0.5)  # noqa: PLR2004
    return View(image, nothing, None, maps)


def _inflate(box: Rect, factor: float) -> Rect:
    x, y, width, height = box
    return x + width * (1 - factor) / 2, y + height * (1 - factor) / 2, width * factor, height * factor


def shows_folds(seen: View, weight: Mask | None = None) -> float:
    """Share of the folds' and glottis' known pixels within a view that a weight lets through."""
    folds = (seen.classes == FOLD) | (seen.classes == GLOTTIS)
    total = int(np.count_nonzero(folds))
    if total == 0 or weight is None:
        return float(total > 0)
    return float(weight[folds].sum()) / total


def unknown_like(image: Image) -> Mask:
    """A class map that knows nothing."""
    return np.full(image.shape[:2], UNKNOWN, np.uint8)
