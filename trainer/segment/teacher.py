"""The segmentation teacher: trained once on every mask there is, then asked where no mask is."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import torch

from edge.errors import FoldsightError
from trainer._torchvision import ensure_torchvision
from trainer.data.augment import AugmentSettings
from trainer.data.dataset import limit_threads
from trainer.data.pack import SIDE, Pack
from trainer.distil import Task
from trainer.losses.pixel import PartialDice, PartialLabels
from trainer.recipe import MapTeacherSettings
from trainer.segment.dataset import MaskSet
from trainer.segment.measures import decided, measure
from trainer.segment.networks import MapTeacher
from trainer.segment.targets import CLASSES, FOLDS, GLOTTIS, NOTHING_KNOWN, OTHER, possible_classes
from trainer.train import BEST, Trained, fit, load_weights, resolve_precision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainer.data.manifest import Record
    from trainer.data.types import Image, Mask
    from trainer.distil import Beside
    from trainer.stages import Machine, Run

SETTINGS = "settings.json"
WEIGHTS = {"vocalfolds": 3.0, "bagls-glottis": 2.0, "bagls": 1.0, "phantom": 1.5, "kvasir-seg": 1.0}
"""How often a source is drawn: by what its masks are worth."""
_HELD = 48  # validation images of a source and label
_KNOWN_SHARE = 0.5  # of an image's pixels, that must be known for it to count as empty
_BATCH = 16


class Segmentation(Task):
    """Learns from masks alone, by cross-entropy plus Dice; `maps` are sets of classes, uint8 (N, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.pixels, self.dice = PartialLabels(), PartialDice((FOLDS, GLOTTIS))

    def forward(
        self, pixels: Tensor, _labels: Tensor, maps: Tensor, _beside: Beside | None = None
    ) -> dict[str, Tensor]:
        """The `loss`, and its terms `pixel` and `dice`."""
        logits = self.model(pixels)
        pixel, dice = self.pixels(logits, maps), self.dice(logits, maps)
        return {"loss": pixel + dice, "pixel": pixel.detach(), "dice": dice.detach()}


class Validation:
    """Dice of folds and glottis on held images, every source counting alike.

    Args:
        pack: The held images.
        records: Those of it to use; of each source and label at most 48 are drawn.
        side: Pixels of the network's input.
        seed: Of the draw.
    """

    def __init__(self, pack: Pack, records: Sequence[Record], side: int, seed: int) -> None:
        cells: dict[tuple[str, str], list[int]] = {}
        for i in np.random.default_rng([seed, 2]).permutation(len(records)):
            cells.setdefault((records[i].source, records[i].label), []).append(pack.index[records[i]])
        self._sources, images, sets = [], [], []
        for (source, _), indices in sorted(cells.items()):
            for index in indices[:_HELD]:
                held = letterboxed_sets(pack, index)
                if _shown(held) or _empty(held):
                    self._sources.append(source)
                    images.append(shrink(np.asarray(pack.images[index]), side))
                    sets.append(cv2.resize(held, (side, side), interpolation=cv2.INTER_NEAREST))
        if not images:
            raise FoldsightError("no validation image has a mask: give some, to see which weights are best")
        self._images, self._sets = np.stack(images), np.stack(sets)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`score` (the mean over sources of the mean Dice, or of the share rightly left empty), `loss`, each Dice."""
        logits = _logits(model, self._images)
        loss = float(PartialLabels()(logits, torch.from_numpy(self._sets)))
        classes = logits.argmax(dim=1).byte().numpy()
        found: dict[str, list[float]] = {}
        empty: dict[str, list[float]] = {}
        for source, sets, answer in zip(self._sources, self._sets, classes, strict=True):
            for number in (FOLDS, GLOTTIS):
                told = decided(sets, number)
                if told is not None and told[0].any():
                    dice = measure(answer == number, *told)["dice"]
                    found.setdefault(f"{source}_{CLASSES[number]}", []).append(dice)
            if _empty(sets):
                empty.setdefault(source, []).append(float(((answer != OTHER) & (sets == 1 << OTHER)).mean()))
        dices = {name: float(np.mean(values)) for name, values in sorted(found.items())}
        wrong = {f"{source}_false": float(np.mean(values)) for source, values in sorted(empty.items())}
        of_source = []
        for source in sorted(set(self._sources)):
            dice_of = [v for name, v in dices.items() if name.startswith(f"{source}_")]
            left_empty = [1 - wrong[name] for name in (f"{source}_false",) if name in wrong]
            if dice_of or left_empty:  # masks that only say where something is not give neither
                of_source.append(np.mean(dice_of or left_empty))
        return {"score": float(np.mean(of_source)), "loss": loss, **dices, **wrong}


def _shown(sets: NDArray[np.uint8]) -> bool:
    """Whether an image shows a class that its mask tells apart."""
    told = [decided(sets, number) for number in (FOLDS, GLOTTIS)]
    return any(one is not None and bool(one[0].any()) for one in told)


def _empty(sets: NDArray[np.uint8]) -> bool:
    """Whether an image is known to show neither folds nor glottis."""
    known = sets[sets != NOTHING_KNOWN]
    return known.size > 0 and bool((known == 1 << OTHER).all()) and known.size > _KNOWN_SHARE * sets.size


def train_map_teacher(run: Run, settings: MapTeacherSettings, folder: Path) -> Trained:
    """Train a run's segmentation teacher on its training split, chosen by its validation split.

    Args:
        run: Its images, cache and machine.
        settings: See there.
        folder: Checkpoints and metrics go here.
    """
    held = Pack.open_or_build(run.split("val"), run.root, run.out / "cache")
    return fit_map_teacher(run.pack, run.pack.records, held, held.records, settings, folder,
                           seed=run.recipe.seed, machine=run.machine)  # fmt: skip


def fit_map_teacher(
    pack: Pack,
    records: Sequence[Record],
    held_pack: Pack,
    held: Sequence[Record],
    settings: MapTeacherSettings,
    folder: Path,
    *,
    seed: int = 0,
    machine: Machine | None = None,
) -> Trained:
    """Train the segmentation teacher, or go on with an interrupted training.

    Args:
        pack: The training images.
        records: Those of it to learn from.
        held_pack: The validation images.
        held: Those of it that choose the epoch.
        settings: See there.
        folder: Checkpoints and metrics go here.
        seed: Of the weights and of all samples.
        machine: Threads, workers and devices.

    Raises:
        FoldsightError: No mask says anything, or the training failed.
    """
    ensure_torchvision()
    from lightning.fabric import Fabric  # noqa: PLC0415  it brings torchmetrics, and that torchvision

    threads, workers = (machine.threads, machine.workers) if machine else (0, 0)
    if threads:
        torch.set_num_threads(threads)
    limit_threads()
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    train = settings.train
    augment = AugmentSettings(side=settings.side, epoch_length=train.epoch_images, source_weights=WEIGHTS)
    data = MaskSet(pack, records, augment, seed)
    validation = Validation(held_pack, held, settings.side, seed)
    torch.manual_seed(seed)
    model = MapTeacher(settings.encoder, settings.weights, settings.side)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
    precision = cast("Any", resolve_precision(train.precision))
    fabric = Fabric(accelerator=machine.accelerator if machine else "cpu", devices=machine.devices if machine else 1,
                    precision=precision)  # fmt: skip
    fabric.launch()
    return fit(fabric, Segmentation(model), data, validation, train, folder, title="segmentation teacher",
               workers=workers, seed=seed)  # fmt: skip


def load_map_teacher(weights: Path) -> MapTeacher:
    """The segmentation teacher as `fit_map_teacher` kept it.

    Args:
        weights: The file, beside its settings; or their folder.
    """
    if weights.is_dir():
        weights = weights / BEST
    path = weights.parent / SETTINGS
    try:
        settings = MapTeacherSettings.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise FoldsightError(f"{path}: these are no settings of a segmentation teacher; train it again") from error
    model = MapTeacher(settings.encoder, "none", settings.side)
    load_weights(model, weights)
    return model


def predict_maps(model: MapTeacher, images: Image, batch: int = _BATCH) -> Image:
    """Ask the teacher where folds and glottis are.

    Args:
        model: In evaluation mode.
        images: uint8 (N, H, W, 3) RGB, square, as packed.
        batch: Images at once.

    Returns:
        uint8 (N, H, W, 2): 255 times the chance of folds and of glottis.
    """
    out = np.empty((*images.shape[:3], 2), np.uint8)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        logits = _logits(model, np.stack([shrink(np.asarray(image), model.side) for image in part]))
        chances = torch.softmax(logits, dim=1)[:, [FOLDS, GLOTTIS]].permute(0, 2, 3, 1).numpy()
        for i, chance in enumerate(chances, start):
            full = cv2.resize(chance, images.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)
            out[i] = np.rint(255 * np.clip(full, 0, 1)).astype(np.uint8)
    return out


def _logits(model: nn.Module, images: Image) -> Tensor:
    """Float32 (N, C, H, W) on the CPU, of uint8 (N, H, W, 3)."""
    device = next(model.parameters()).device
    answers = []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).to(device)
            answers.append(model(pixels.permute(0, 3, 1, 2)).float().cpu())
    return torch.cat(answers)


def shrink(image: Image, side: int) -> Image:
    """A square image as a network of another side sees it, uint8 (side, side, 3)."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))


def letterboxed_sets(pack: Pack, index: int) -> NDArray[np.uint8]:
    """A packed picture's sets of classes; its letterbox bars count for nothing."""
    x, y, width, height = (int(v) for v in pack.rects[index])
    sets: Mask = np.full((SIDE, SIDE), NOTHING_KNOWN, np.uint8)
    sets[y : y + height, x : x + width] = possible_classes(pack[index].classes, pack.records[index])
    return sets
