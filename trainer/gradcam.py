"""Where a network looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), drawn, and measured against masks.

A heat map persuades whoever looks at it. So it is also counted: of the frames with a mask that a network has right, in
how many does most of its map lie on the folds, and in how many at the border, where only the camera is?
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from edge.optics import find_aperture
from edge.preprocess import Preprocessor
from trainer.console import Meter
from trainer.data.manifest import VIBRATION
from trainer.data.types import FOLD, GLOTTIS, LABELS
from trainer.models import last_map, only_logits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edge.bundle import InputSpec
    from edge.geometry import Box
    from trainer.data.manifest import Record
    from trainer.inputs import Inputs

MARGIN = 0.1
"""By which share of the input's side a mask grows before a map is held against it: a map's cell is a fifth of it."""
GLOTTIS_MARGIN = 0.2
"""The same for a mask of the glottis alone: the folds lie around it."""
BORDER = 0.08
"""Width of the border, as a share of the picture's sides."""
MOST = 0.5
"""Share of a map within the mask from which on it counts as being on the folds."""
_BATCH, _ON_SHEET = 16, 8


class GradCam:
    """Maps of what moved a network to an answer.

    Args:
        model: takes pixels uint8 (N, 3, H, W), gives logits (N, C), or these first of several.
        layer: name of the module whose output is weighed; None finds the last one with a spatial extent on which the
            logits depend, which is what the paper takes.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self._model = model.eval()
        self._layer = layer
        self._kept: Tensor | None = None

    @property
    def layer(self) -> str | None:
        """The module's name, once it is known."""
        return self._layer

    def __call__(
        self, pixels: NDArray[np.uint8], targets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maps and logits of a batch.

        Args:
            pixels: uint8 (N, H, W, 3) RGB, model inputs.
            targets: (N,), the label that each map is for.

        Returns:
            Maps float32 (N, H, W), each with its largest value 1 (all 0 where nothing speaks for the label), and logits
            float32 (N, C).
        """
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        if self._layer is None:
            self._layer = last_map(self._model, batch[:1])
        handle = self._model.get_submodule(self._layer).register_forward_hook(self._keep)
        try:
            with torch.enable_grad():
                logits = only_logits(self._model(batch))
                features = self._kept
                if features is None:
                    msg = f"layer {self._layer} took no part in the answer"
                    raise ValueError(msg)
                wanted = logits[torch.arange(len(batch)), torch.from_numpy(np.asarray(targets))]
                (slopes,) = torch.autograd.grad(wanted.sum(), [features])
        finally:
            handle.remove()
            self._kept = None
        with torch.no_grad():
            weights = slopes.mean((2, 3), keepdim=True)
            maps = torch.relu((weights * features).sum(1, keepdim=True))
            maps = functional.interpolate(maps, batch.shape[2:], mode="bilinear", align_corners=False)[:, 0]
            maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
        return maps.float().numpy(), logits.detach().float().numpy()

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._kept = output


@dataclass(frozen=True)
class Place:
    """Where a model input shows what is looked for.

    Attributes:
        mask: bool (H, W), folds and glottis; None where nothing is known of them.
        inner: where in the input the picture lies; the rest is padding.
        margin: share of the input's side by which the mask grows before a map is held against it.
    """

    mask: NDArray[np.bool_] | None
    inner: Box
    margin: float = MARGIN


def place_in_input(record: Record, root: Path, spec: InputSpec) -> Place:
    """Bring a record's mask into the model's input by the device's own geometry."""
    image = np.ascontiguousarray(record.read_image(root))
    aperture = find_aperture(image)
    box = None if aperture is None else aperture.box
    preprocess = Preprocessor(spec)
    preprocess(image, box)
    inner = preprocess.inner
    classes = None if record.mask in ("", VIBRATION) or record.label != LABELS[1] else record.read_mask(root)
    if classes is None:
        return Place(None, inner)
    if box is not None:
        classes = classes[box.y : box.y + box.height, box.x : box.x + box.width]
    here = np.isin(classes, (FOLD, GLOTTIS)).astype(np.float32)
    fitted = cv2.resize(here, (inner.width, inner.height), interpolation=cv2.INTER_AREA)
    mask = np.zeros((spec.height, spec.width), np.bool_)
    mask[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width] = fitted >= 0.5  # noqa: PLR2004
    alone = record.mask.endswith("#glottis")
    return Place(mask if mask.any() else None, inner, GLOTTIS_MARGIN if alone else MARGIN)


@dataclass(frozen=True)
class Focus:
    """How a map lies to a mask; all are shares.

    Attributes:
        inside: of the map within the grown mask.
        chance: of the picture that the grown mask covers: what a map without any idea would have inside.
        peak: whether the map's highest point lies in the grown mask.
        border: of the map at the picture's border, outside the grown mask.
    """

    inside: float
    chance: float
    peak: bool
    border: float


def focus(heat: NDArray[np.float32], place: Place) -> Focus | None:
    """Hold a map (H, W) against a mask; None without a mask, or where the map is empty."""
    if place.mask is None:
        return None
    inner = place.inner
    rows, columns = slice(inner.y, inner.y + inner.height), slice(inner.x, inner.x + inner.width)
    seen, mask = heat[rows, columns].astype(np.float64), place.mask[rows, columns]
    total = float(seen.sum())
    if total <= 0:
        return None
    reach = 2 * round(place.margin * max(heat.shape)) + 1
    grown = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0
    edge = np.ones_like(grown)
    dy, dx = max(1, round(BORDER * seen.shape[0])), max(1, round(BORDER * seen.shape[1]))
    edge[dy:-dy, dx:-dx] = False
    highest = np.unravel_index(int(seen.argmax()), seen.shape)
    return Focus(
        inside=float(seen[grown].sum() / total),
        chance=float(grown.mean()),
        peak=bool(grown[highest]),
        border=float(seen[edge & ~grown].sum() / total),
    )


@dataclass(frozen=True)
class Looks:
    """What a network looked at in each of N images.

    Attributes:
        maps: float16 (N, H, W), for the label that it answered.
        said: (N,), that label.
        scores: (N,), its softmax probability.
        layer: where the maps come from.
    """

    maps: NDArray[np.float16]
    said: NDArray[np.int64]
    scores: NDArray[np.float64]
    layer: str


def look(model: nn.Module, inputs: Inputs, title: str, layer: str | None = None) -> Looks:
    """Grad-CAM of a network's own answers to all inputs."""
    cam = GradCam(model, layer)
    shape = inputs.images.shape[:3]
    maps, said, scores = np.zeros(shape, np.float16), np.zeros(shape[0], np.int64), np.zeros(shape[0])
    with Meter(f"where {title} looks", shape[0]) as meter:
        for start in range(0, shape[0], _BATCH):
            part = slice(start, min(start + _BATCH, shape[0]))
            pixels = np.asarray(inputs.images[part])
            with torch.no_grad():
                logits = only_logits(model.eval()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())))
            said[part] = logits.argmax(1).numpy()
            scores[part] = logits.softmax(1).amax(1).numpy()
            maps[part] = cam(pixels, said[part])[0]
            meter.advance(part.stop - part.start)
    return Looks(maps, said, scores, cam.layer or "")


def focus_by_source(looks: Looks, inputs: Inputs, places: Sequence[Place]) -> dict[str, dict[str, Any]]:
    """Of the frames with a mask that a network has right, where it looked, source by source.

    Returns:
        For JSON, by source and under `all`: `images` and `groups` that count, `on_folds` (share of them with most of
        the map inside the grown mask), `peak` (with its highest point inside), and the means of `inside`, `chance` and
        `border`.
    """
    found: dict[str, list[Focus]] = {}
    groups: dict[str, set[str]] = {}
    for index, place in enumerate(places):
        if looks.said[index] != inputs.labels[index]:
            continue
        measured = focus(looks.maps[index].astype(np.float32), place)
        if measured is None:
            continue
        for source in ("all", inputs.records[index].source):
            found.setdefault(source, []).append(measured)
            groups.setdefault(source, set()).add(inputs.records[index].group)
    return {
        source: {
            "images": len(rows),
            "groups": len(groups[source]),
            "on_folds": float(np.mean([row.inside >= MOST for row in rows])),
            "peak": float(np.mean([row.peak for row in rows])),
            **{name: float(np.mean([asdict(row)[name] for row in rows])) for name in ("inside", "chance", "border")},
        }
        for source, rows in sorted(found.items())
    }


# --- pictures ---

_RIGHT, _WRONG, _OUTLINE = (76, 153, 0), (40, 40, 214), (255, 255, 255)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.floating[Any]], side: int = 160) -> NDArray[np.uint8]:
    """A map over a model input uint8 (H, W, 3) RGB, as uint8 (side, side, 3) BGR; cold parts stay as they are."""
    picture = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (side, side), interpolation=cv2.INTER_LINEAR)
    warmth = cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * np.clip(warmth, 0, 1)).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = (0.75 * np.clip(warmth, 0, 1) ** 0.8)[..., None]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    calm = 0.35 * picture + 0.65 * grey
    return np.asarray(np.clip(calm * (1 - share) + colours * share, 0, 255), np.uint8)


def plain(image: NDArray[np.uint8], place: Place | None = None, side: int = 160) -> NDArray[np.uint8]:
    """A model input as it is, with the outline of its mask where it has one, uint8 (side, side, 3) BGR."""
    picture = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (side, side), interpolation=cv2.INTER_LINEAR)
    if place is not None and place.mask is not None:
        mask = cv2.resize(place.mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, _OUTLINE, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def draw_sheet(
    inputs: Inputs,
    chosen: Sequence[int],
    looks: Mapping[str, Looks],
    places: Sequence[Place],
    titles: Mapping[str, str],
) -> NDArray[np.uint8]:
    """A row per image: itself with its mask, then each network's map; green where it is right, red where it is wrong.

    Args:
        inputs: all images.
        chosen: which of them, from top to bottom.
        looks: by row.
        places: of all images.
        titles: of the rows.

    Returns:
        uint8 (H, W, 3) BGR.
    """
    side, gap, top = 160, 6, 26
    columns = 1 + len(looks)
    sheet = np.full((top + len(chosen) * (side + gap + 16), columns * (side + gap) + gap, 3), 255, np.uint8)

    def write(text: str, x: int, y: int, colour: tuple[int, int, int] = (50, 50, 50)) -> None:
        cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

    for column, title in enumerate(["frame and mask", *(titles.get(row, row) for row in looks)]):
        write(title, gap + column * (side + gap), 17)
    for line, index in enumerate(chosen):
        y = top + line * (side + gap + 16)
        tiles = [plain(inputs.images[index], places[index], side)]
        write(LABELS[int(inputs.labels[index])], gap, y + side + 13)
        for column, seen in enumerate(looks.values(), start=1):
            tiles.append(overlay(inputs.images[index], seen.maps[index], side))
            right = seen.said[index] == inputs.labels[index]
            said = f"{LABELS[int(seen.said[index])]} {100 * seen.scores[index]:.0f} %"
            write(said, gap + column * (side + gap), y + side + 13, _RIGHT if right else _WRONG)
        for column, tile in enumerate(tiles):
            x = gap + column * (side + gap)
            sheet[y : y + side, x : x + side] = tile
    return sheet


def choose_frames(
    inputs: Inputs, looks: Looks, source: str, *, right: bool, count: int = 6, label: int | None = None
) -> list[int]:
    """Frames of a source for a sheet, spread over its groups and scores: not the prettiest ones.

    Args:
        inputs: all images.
        looks: of the network whose answers decide.
        source: which source.
        right: those that it has right, or those that it has wrong.
        count: how many at most.
        label: of one label only.
    """
    fits = (looks.said == inputs.labels) == right
    fits &= inputs.sources == source
    if label is not None:
        fits &= inputs.labels == label
    by_group: dict[str, list[int]] = {}
    for index in np.flatnonzero(fits)[np.argsort(looks.scores[fits], kind="stable")].tolist():
        by_group.setdefault(inputs.records[index].group, []).append(index)
    names = sorted(by_group)
    if not names:
        return []
    chosen: list[int] = []
    turn = 0
    while len(chosen) < min(count, int(fits.sum())):
        rest = [index for index in by_group[names[turn % len(names)]] if index not in chosen]
        if rest:
            chosen.append(rest[(turn * 7919) % len(rest)])
        turn += 1
    return chosen


def draw_sheets(folder: Path, inputs: Inputs, looks: Mapping[str, Looks], places: Sequence[Place]) -> list[Path]:
    """A sheet of right frames and one of wrong ones for every source, as the last of the networks answers.

    Returns:
        The files; none for a source without such frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judge = list(looks.values())[-1]
    written = []
    for source in sorted(set(inputs.sources.tolist())):
        for right in (True, False):
            chosen = choose_frames(inputs, judge, source, right=right, count=_ON_SHEET)
            if chosen:
                path = folder / f"{source}-{'right' if right else 'wrong'}.jpg"
                sheet = draw_sheet(inputs, chosen, looks, places, {})
                cv2.imwrite(str(path), sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])
                written.append(path)
    return written
