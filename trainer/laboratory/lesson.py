"""What all networks of a comparison learn from, on disk: samples drawn once, and each teacher's answers to them.

A student's epoch then needs neither the augmentation nor a teacher. The arrays are memory-mapped: they may be larger
than the memory, and several processes share them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from edge.errors import FoldsightError
from trainer.console import Meter
from trainer.losses.feature import strength
from trainer.recipe import digest
from trainer.train import channels_last

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainer.laboratory.data import LaboratoryData
    from trainer.models import Probe

_BATCH = 32
DONE = "done.json"


class Lesson:
    """The samples.

    Args:
        folder: holds them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        told = json.loads((folder / DONE).read_text(encoding="utf-8"))
        self.images, self.variants, self.largest = int(told["images"]), int(told["variants"]), int(told["largest"])

    def __len__(self) -> int:
        return self.images * self.variants

    def pixels(self, side: int) -> NDArray[np.uint8]:
        """uint8 (samples, side, side, 3) RGB, memory-mapped."""
        return np.load(self.folder / f"pixels-{side}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def labels(self) -> NDArray[Any]:
        """int64 (samples,), or float32 (samples, labels)."""
        return np.load(self.folder / "labels.npy")  # type: ignore[no-any-return]

    @staticmethod
    def key(data: LaboratoryData, sides: Sequence[int]) -> str:
        """Hash of all that the samples depend on."""
        recipe = data.recipe
        return digest("lesson", 1, data.key, recipe.seed, recipe.augment, recipe.balance, recipe.lesson.images,
                      recipe.lesson.variants, sorted(set(sides)))  # fmt: skip

    @classmethod
    def open_or_draw(cls, data: LaboratoryData, sides: Sequence[int]) -> Lesson:
        """Open the samples of a recipe, or draw them.

        They are drawn at the largest side and shrunk to the others by area, so that networks of unlike inputs see the
        same.
        """
        folder = data.out / f"lesson-{cls.key(data, sides)[:10]}"
        if not (folder / DONE).exists():
            data.out.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=data.out, prefix=".part-lesson-"))
            try:
                _draw(data, sorted(set(sides)), part)
                if folder.exists():
                    shutil.rmtree(folder)
                part.chmod(0o755)
                part.replace(folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
        return cls(folder)


def _draw(data: LaboratoryData, sides: Sequence[int], folder: Path) -> None:
    images, variants = data.recipe.lesson.images, data.recipe.lesson.variants
    count, largest = images * variants, sides[-1]
    require_room(folder, sum(3 * side * side for side in sides) * count)
    stream: Any = data.stream(largest)
    arrays = {side: np.lib.format.open_memmap(folder / f"pixels-{side}.npy", "w+", np.uint8, (count, side, side, 3))
              for side in sides}  # fmt: skip
    labels = []
    with Meter("drawing the lesson", count) as meter:
        for variant in range(variants):
            stream.set_epoch(variant)
            for index in range(images):
                pixels, label, *_ = stream[index]
                image = np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0))
                for side, array in arrays.items():
                    small = image if side == largest else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
                    array[variant * images + index] = small
                labels.append(np.asarray(label))
                meter.advance(1)
    for array in arrays.values():
        array.flush()
    np.save(folder / "labels.npy", np.stack(labels))
    told = {"images": images, "variants": variants, "largest": largest}
    (folder / DONE).write_text(json.dumps(told) + "\n", encoding="utf-8")


def require_room(folder: Path, size: int) -> None:
    """Refuse to begin what the disk cannot hold: a mapped file that finds it full ends the process without a word.

    Raises:
        FoldsightError: there is less room than `size` bytes.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise FoldsightError(
            f"{folder.parent}: {size / 1e6:.0f} MB are needed there and {free / 1e6:.0f} MB are free; make room, "
            "choose another folder with --out, or take fewer images, variants or a smaller side"
        )


class Answers:
    """A teacher's answers to a lesson.

    Logits are float32; maps are float16 in units of each level's root mean square over the lesson's first images, so
    that the losses on all levels and teachers are of one size.

    Args:
        folder: holds them.
        features: whether the maps are wanted.
    """

    def __init__(self, folder: Path, *, features: bool) -> None:
        told = json.loads((folder / DONE).read_text(encoding="utf-8"))
        self.logits: NDArray[np.float32] = np.load(folder / "logits.npy", mmap_mode="r")
        self.levels: list[NDArray[np.float16]] = [
            np.load(folder / f"level-{i}.npy", mmap_mode="r") for i in range(len(told["units"]) if features else 0)
        ]
        self.units: list[float] = told["units"]

    def of(self, place: int, name: str) -> dict[str, Tensor]:
        """The answers to one sample, under the names that `trainer.distil.Taught` looks for."""
        found = {f"{name}/logits": torch.from_numpy(self.logits[place].copy())}
        for index, level in enumerate(self.levels):
            found[f"{name}/{index}"] = torch.from_numpy(level[place].copy())
        return found

    @property
    def channels(self) -> list[int]:
        """Of each level."""
        return [level.shape[1] for level in self.levels]


def write_answers(
    network: nn.Module, probe: Probe, pixels: NDArray[np.uint8], folder: Path, *, most: int, features: bool,
    device: torch.device, title: str,
) -> None:  # fmt: skip
    """Ask a teacher about all samples of a lesson, once.

    Args:
        network: takes uint8 (N, 3, side, side).
        probe: takes its maps.
        pixels: uint8 (samples, side, side, 3).
        folder: holds the answers from then on.
        most: largest side of a map that is kept.
        features: whether to keep the maps at all.
        device: where the network computes.
        title: what the teacher is called.
    """
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-answers-"))
    asker = Asker({title: (network, probe)}, {}, most=most, features=features, device=device)
    arrays: dict[str, Any] = {}
    try:
        with Meter(f"asking {title}", len(pixels)) as meter:
            for start in range(0, len(pixels), _BATCH):
                batch = torch.from_numpy(np.array(pixels[start : start + _BATCH])).permute(0, 3, 1, 2)
                found = asker(batch)
                for name, values in found.items():
                    key = name.partition("/")[2]
                    if key not in arrays:
                        file = part / (f"{key}.npy" if key == "logits" else f"level-{key}.npy")
                        kind = np.float32 if key == "logits" else np.float16
                        shape = (len(pixels), *values.shape[1:])
                        require_room(part, int(np.prod(shape)) * np.dtype(kind).itemsize)
                        arrays[key] = np.lib.format.open_memmap(file, "w+", kind, shape)
                    arrays[key][start : start + len(values)] = values.cpu().numpy()
                meter.advance(len(batch))
        for array in arrays.values():
            array.flush()
        units = asker.units.get(title, [])
        (part / DONE).write_text(json.dumps({"units": units}) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.chmod(0o755)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


class Asker:
    """Teachers that answer when asked: what `Answers` keeps, computed anew from the pixels.

    Args:
        teachers: by name, the network and the probe of its maps.
        units: of each teacher's levels; those of the first batch where they are not given.
        most: largest side of a map.
        features: whether the maps are wanted.
        device: where the networks compute.
    """

    def __init__(
        self, teachers: Mapping[str, tuple[nn.Module, Probe]], units: Mapping[str, list[float]], *, most: int,
        features: bool, device: torch.device,
    ) -> None:  # fmt: skip
        self._teachers = {name: (channels_last(network.eval().to(device)), probe)
                          for name, (network, probe) in teachers.items()}  # fmt: skip
        self.units, self._most, self._features, self._device = dict(units), most, features, device

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 (N, 3, side, side) -> logits float32 and maps float16 by name."""
        found = {}
        batch = pixels.to(self._device).contiguous(memory_format=torch.channels_last)
        for name, (network, probe) in self._teachers.items():
            # Not in the student's mixed precision: the answers are the same as when they are computed once.
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False), probe:
                logits = network(batch)
            found[f"{name}/logits"] = logits.float()
            levels = [self._shrunk(level) for level in probe.features] if self._features else []
            units = self.units.setdefault(name, [strength(level) for level in levels])
            found |= {f"{name}/{i}": (level / unit).half()
                      for i, (level, unit) in enumerate(zip(levels, units, strict=True))}  # fmt: skip
        return found

    def _shrunk(self, level: Tensor) -> Tensor:
        height, width = level.shape[2:]
        if max(height, width) <= self._most:
            return level.float()
        size = min(height, self._most), min(width, self._most)
        return torch.nn.functional.adaptive_avg_pool2d(level.float(), size)


class LessonSet(Dataset[Any]):
    """A lesson as `trainer.train.fit` draws from it, with teachers' answers.

    Epoch e shows variant e modulo the number of variants, in an order of its own.

    Args:
        lesson: the samples.
        side: of the pictures.
        answers: by teacher.
        seed: of the order.
    """

    def __init__(self, lesson: Lesson, side: int, answers: Mapping[str, Answers], seed: int) -> None:
        self._lesson, self._pixels, self._labels = lesson, lesson.pixels(side), lesson.labels
        self._answers, self._seed = dict(answers), seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._lesson.images

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self._epoch[0] = epoch

    def __getitem__(self, i: int) -> tuple[Tensor, Any, int, Any]:
        """Pixels, label, place in the lesson, and the teachers' answers by name, or no maps without teachers."""
        epoch = int(self._epoch[0])
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, 6, epoch]).permutation(self._lesson.images)
        place = epoch % self._lesson.variants * self._lesson.images + int(self._order[1][i])
        pixels = torch.from_numpy(np.array(self._pixels[place])).permute(2, 0, 1)
        label = self._labels[place]
        more: Any = torch.zeros(0, 0, 0)
        if self._answers:
            more = {}
            for name, answers in self._answers.items():
                more |= answers.of(place, name)
        return pixels, torch.from_numpy(np.asarray(label)) if label.ndim else int(label), place, more
