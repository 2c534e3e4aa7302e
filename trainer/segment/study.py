"""A segmentation study: the grid of paper 4 and the protocols, network by network; what is done is not done again."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional

from edge.errors import ConfigError, FoldsightError
from edge.runtime import OnnxRuntime
from trainer.console import Meter, say
from trainer.data.dataset import limit_threads
from trainer.data.importers import import_sources
from trainer.data.manifest import Record, data_hash
from trainer.data.pack import Pack
from trainer.losses.pixel import PartialDice, PartialLabels
from trainer.models import count_parameters
from trainer.recipe import digest
from trainer.segment.check import check_masks
from trainer.segment.dataset import WEAK, MaskSet
from trainer.segment.folds import Fold, folds_of
from trainer.segment.guidance import Answer, Guidance, levels_of
from trainer.segment.measures import decided, measure
from trainer.segment.networks import MapStudent, MapTeacher
from trainer.segment.optimise import Stream, optimise
from trainer.segment.targets import CLASSES, FOLDS, GLOTTIS
from trainer.segment.teacher import letterboxed_sets, shrink
from trainer.train import channels_last, resolve_precision, save_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainer.segment.optimise import Batch
    from trainer.segment.recipe import Budget, Row, SegmentRecipe
    from trainer.stages import Machine

    Predict = Callable[[NDArray[np.uint8]], Tensor]
    """uint8 (N, H, W, 3) RGB -> logits (N, classes, H, W)."""

GRID = "recordings"
_BATCH = 16


@dataclass(frozen=True)
class Cell:
    """One network of one fold.

    Attributes:
        protocol: Whose fold it is.
        fold: See there.
        row: The student; None for a teacher.
        weak: Of a teacher: trained with weak augmentation.
        int8: The student, quantised.
    """

    protocol: str
    fold: Fold
    row: Row | None = None
    weak: bool = False
    int8: bool = False

    @property
    def name(self) -> str:
        """The row's name in tables."""
        if self.row is None:
            return "teacher-weak" if self.weak else "teacher-usual"
        return self.row.name + (" INT8" if self.int8 else "")


class _Lesson(NamedTuple):
    """What students of a fold learn from: the images, and each teacher's answers to them."""

    stream: Stream
    answers: dict[bool, Answer]


class Study:
    """A recipe on a data root, in a folder.

    Args:
        recipe: See there.
        root: The data root.
        out: Folder of the study.
        machine: Threads and devices.
    """

    def __init__(self, recipe: SegmentRecipe, root: Path, out: Path, machine: Machine) -> None:
        self.recipe, self.root, self.out = recipe, root, out
        if machine.threads:
            torch.set_num_threads(machine.threads)
        limit_threads()
        cuda = machine.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        self._device = torch.device("cuda" if cuda else "cpu")
        self._half = resolve_precision("auto") == "bf16-mixed"
        self._lessons: tuple[Fold | None, _Lesson | None] = (None, None)

    # --- data ---

    @functools.cached_property
    def records(self) -> list[Record]:
        """Every image with its mask, checked."""
        records, _ = import_sources(self.root, self.recipe.sources)
        with Meter("checking images and masks", len(records)) as meter:
            check_masks(records, self.root, meter.advance)
        return records

    @functools.cached_property
    def pack(self) -> Pack:
        """The images, decoded once."""
        return Pack.open_or_build(self.records, self.root, self.out / "cache")

    @functools.cached_property
    def _data_key(self) -> str:
        return digest("segment-data", 1, data_hash(self.records, self.root))

    @functools.cached_property
    def _held(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """All images as the networks see them when they are measured, and their sets of classes as packed."""
        side = self.recipe.side
        images = np.stack([shrink(np.asarray(image), side) for image in self.pack.images])
        return images, np.stack([letterboxed_sets(self.pack, i) for i in range(len(self.pack))])

    # --- what is to be done ---

    def folds(self, protocol: str) -> list[Fold]:
        """The folds of a protocol."""
        return folds_of(protocol, self.records, self.recipe.folds, self.recipe.seed)

    def grid_cells(self) -> list[Cell]:
        """Both teachers and every student, fold by fold."""
        cells = []
        for fold in self.folds(GRID):
            weak = any(row.teacher == "weak" for row in self.recipe.grid)
            cells += [Cell(GRID, fold)] + [Cell(GRID, fold, weak=True)] * weak
            cells += [Cell(GRID, fold, row) for row in self.recipe.grid]
        return cells

    def protocol_cells(self, best: Row) -> list[Cell]:
        """Best student, its INT8, its teacher, and the student alone, on all protocols; first the grid's INT8."""
        alone = next(row for row in self.recipe.grid if row.pathway == "alone")
        cells = [Cell(GRID, fold, row, int8=True) for fold in self.folds(GRID) for row in (alone, best)]
        for protocol in self.recipe.protocols:
            for fold in self.folds(protocol):
                cells += [Cell(protocol, fold, weak=best.teacher == "weak")]
                cells += [
                    Cell(protocol, fold, best),
                    Cell(protocol, fold, best, int8=True),
                    Cell(protocol, fold, alone),
                ]
        return cells

    def done(self, cell: Cell) -> bool:
        """Whether a network is trained and measured."""
        return self._path(cell).exists()

    def grid_folds(self) -> list[Fold]:
        """The grid's folds whose every network is done."""
        missing = {cell.fold.name for cell in self.grid_cells() if not self.done(cell)}
        return [fold for fold in self.folds(GRID) if fold.name not in missing]

    def best(self) -> Row:
        """The taught student with the highest mean validation Dice over the grid's folds that are done.

        Raises:
            FoldsightError: None is done yet.
        """
        rows = [row for row in self.recipe.grid if row.pathway != "alone"]
        if not rows:
            return self.recipe.grid[0]
        folds = self.grid_folds()
        if not folds:
            raise FoldsightError(f"{self.out}: no fold of the grid is done yet; run the study, or name a --student")
        dice = {row.name: np.mean([self.result(Cell(GRID, fold, row))["val_dice"] for fold in folds]) for row in rows}
        return max(rows, key=lambda row: float(dice[row.name]))

    def named(self, name: str) -> Row:
        """A student of the grid by its name.

        Raises:
            ConfigError: The grid has none of that name, or it is the one that learns alone.
        """
        found = {row.name: row for row in self.recipe.grid if row.pathway != "alone"}
        if name not in found:
            raise ConfigError(f"the grid has no taught student {name!r}: give one of {', '.join(found)}")
        return found[name]

    def run(self, student: Row | None = None) -> Row:
        """Do the grid, choose the best student by validation, do the protocols; returns the best.

        Args:
            student: Leave the grid out, and do the protocols with this one.
        """
        grid = [] if student else self.grid_cells()
        guess = student or next((row for row in self.recipe.grid if row.pathway != "alone"), self.recipe.grid[0])
        more = [cell for cell in self.protocol_cells(guess) if cell.protocol != GRID]
        total = sum(self._images(cell) for cell in (*grid, *more))
        done = sum(self._images(cell) for cell in grid if self.done(cell))
        with Meter("segmentation study", total, done=done) as meter:
            for cell in grid:
                self._do(cell, meter)
            best = student or self.best()
            say(f"{'student' if student else 'best student by validation'}: {best.name}")
            for cell in self.protocol_cells(best):
                if cell.protocol != GRID or not student:
                    self._do(cell, meter)
        return best

    def result(self, cell: Cell) -> dict[str, Any]:
        """What was measured of a network."""
        found: dict[str, Any] = json.loads(self._path(cell).read_text(encoding="utf-8"))
        return found

    def classes(self, cell: Cell, places: Sequence[int]) -> NDArray[np.uint8]:
        """What a network that is done calls every pixel of some images, uint8 (N, 256, 256), places in `CLASSES`."""
        if cell.int8:
            predict = self._quantised(cell)
        else:
            model = self._new_teacher(pretrained=False) if cell.row is None else self._new_student()
            model.load_state_dict(torch.load(self._path(cell).with_suffix(".pt"), weights_only=True)["model"])
            predict = functools.partial(self._logits, model.eval())
        return np.concatenate([found for _, found in self._classes(predict, places)])

    def sets(self, place: int) -> NDArray[np.uint8]:
        """What an image's mask says, uint8 (256, 256): the set of classes that each pixel may be."""
        found: NDArray[np.uint8] = self._held[1][place]
        return found

    def parameters(self) -> tuple[int, int]:
        """Weights of teacher and student."""
        return count_parameters(self._new_teacher(pretrained=False)), count_parameters(self._new_student())

    def _images(self, cell: Cell) -> int:
        """Images that a network learns from, a teacher's counting by what they cost."""
        if cell.int8:
            return 0
        if cell.row is not None:
            return self._size(self.recipe.student.budget)
        return 6 * self._size(self.recipe.teacher.budget)

    @staticmethod
    def _size(budget: Budget) -> int:
        return budget.images // budget.batch * budget.batch * budget.epochs

    # --- one network ---

    def _key(self, cell: Cell) -> str:
        recipe = self.recipe
        parts = [recipe.seed, recipe.side, list(recipe.class_weights), recipe.augment, self._data_key]
        parts += [cell.fold.train, cell.fold.val]
        if cell.row is None:
            return digest("segment-teacher", 2, *parts, recipe.teacher, cell.weak)
        parts += [recipe.student, cell.row.model_dump()]
        if cell.row.pathway != "alone":
            parts += [recipe.teacher]
        return digest("segment-student", 2, *parts, *([recipe.quantise, "int8"] if cell.int8 else []))

    def _path(self, cell: Cell) -> Path:
        name = f"{cell.protocol}-{cell.fold.name}-{cell.name}".replace("/", "-").replace(" ", "-")
        return self.out / "networks" / f"{name}-{self._key(cell)[:10]}.json"

    def _do(self, cell: Cell, meter: Meter) -> None:
        path = self._path(cell)
        if path.exists():
            if cell.protocol != GRID:
                meter.advance(self._images(cell))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        weight = 6 if cell.row is None else 1
        predict, told = self._train(cell, path, lambda count, note: meter.advance(weight * count, note))
        told |= {"protocol": cell.protocol, "fold": cell.fold.name, "name": cell.name}
        told["val_dice"] = _mean_dice(self._measure(predict, cell.fold.val))
        told["test"] = self._measure(predict, cell.fold.test)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(told) + "\n", encoding="utf-8")
        part.replace(path)

    def _train(self, cell: Cell, path: Path, advance: Callable[[int, str], None]) -> tuple[Predict, dict[str, Any]]:
        recipe = self.recipe
        title = f"{cell.protocol} {cell.fold.name} {cell.name}"
        if cell.int8:
            return self._quantised(cell), {}
        torch.manual_seed(recipe.seed)
        model: MapTeacher | MapStudent
        helpers: nn.Module | None = None
        if cell.row is None:
            model, budget = self._new_teacher(), recipe.teacher.budget
            stream = Stream(self._samples(cell.fold, budget, weak=cell.weak), budget, recipe.seed)
            lose = self._by_masks(model)
        else:
            model, budget = self._new_student(), recipe.student.budget
            stream = self._lesson(cell.fold).stream
            lose, helpers = self._taught(model, cell.row, cell.fold)
        validate = functools.partial(self._validation_loss, model, cell.fold)
        found = optimise(model, helpers, stream, lose, validate, budget, title=title, advance=advance)
        save_atomically(path.with_suffix(".pt"), {"model": model.state_dict()})
        told = {"epoch": found.epoch, "epochs": found.epochs, "val_loss": found.loss}
        return functools.partial(self._logits, model), told

    def _by_masks(self, teacher: MapTeacher) -> Callable[[Batch], Tensor]:
        """The loss of a teacher: pixel cross-entropy and Dice."""
        pixel, dice = PartialLabels(self.recipe.class_weights), PartialDice((FOLDS, GLOTTIS))

        def lose(batch: Batch) -> Tensor:
            with self._autocast():
                logits = teacher(self._to(batch.pixels))
            sets = self._to(batch.sets)
            found: Tensor = pixel(logits, sets) + dice(logits, sets)
            return found

        return lose

    def _taught(self, model: MapStudent, row: Row, fold: Fold) -> tuple[Callable[[Batch], Tensor], nn.Module | None]:
        """The loss of a student: L = 0.5 distillation + 0.5 pixel cross-entropy; of one alone the latter."""
        pixel = PartialLabels(self.recipe.class_weights)
        if row.pathway == "alone":
            return lambda batch: pixel(model(self._to(batch.pixels)), self._to(batch.sets)), None
        answer_to = self._teacher_answers(fold, row)
        guidance = channels_last(Guidance(row, model.channels, self._teacher_channels).to(self._device))

        def lose(batch: Batch) -> Tensor:
            own = Answer(*model.answer(self._to(batch.pixels)))
            found: Tensor = 0.5 * guidance(own, answer_to(batch)) + 0.5 * pixel(own.logits, self._to(batch.sets))
            return found

        return lose, guidance

    @functools.cached_property
    def _teacher_channels(self) -> list[int]:
        return self._new_teacher(pretrained=False).channels

    def _samples(self, fold: Fold, budget: Budget, *, weak: bool) -> MaskSet:
        changes: dict[str, Any] = {"side": self.recipe.side, "epoch_length": budget.images, "source_weights": {}}
        settings = self.recipe.augment.model_copy(update={**changes, **(WEAK if weak else {})})
        return MaskSet(self.pack, [self.pack.records[i] for i in fold.train], settings, self.recipe.seed)

    def _lesson(self, fold: Fold) -> _Lesson:
        """A fold's images for students, kept while the fold lasts."""
        if self._lessons[0] != fold or self._lessons[1] is None:
            budget = self.recipe.student.budget
            stream = Stream(self._samples(fold, budget, weak=False), budget, self.recipe.seed)
            self._lessons = fold, _Lesson(stream, {})
        lesson = self._lessons[1]
        if lesson is None:
            raise AssertionError
        return lesson

    def _teacher_answers(self, fold: Fold, row: Row) -> Callable[[Batch], Answer]:
        """The teacher's answers to batches of a fold's lesson: looked up where the images are fixed, else computed."""
        lesson, weak = self._lesson(fold), row.teacher == "weak"
        if lesson.stream.fixed is None:
            teacher = self._trained_teacher(fold, weak=weak)
            units: list[float] = []

            def ask(batch: Batch) -> Answer:
                answer = self._ask(teacher, batch.pixels)
                units[len(units) :] = (
                    [] if units else [_strength(level) for level in answer.features]
                )  # the first batch's
                levels = [level / unit for level, unit in zip(answer.features, units, strict=True)]
                return Answer(answer.logits, levels[levels_of(row)])

            return ask
        if weak not in lesson.answers:
            teacher = self._trained_teacher(fold, weak=weak)
            pixels = lesson.stream.fixed.pixels
            parts = [self._ask(teacher, pixels[i : i + _BATCH]) for i in range(0, len(pixels), _BATCH)]
            logits = torch.cat([part.logits.half().cpu() for part in parts])
            levels = [torch.cat(level) for level in zip(*(part.features for part in parts), strict=True)]
            # All levels in units of each one's root mean square: their losses are then of one size.
            lesson.answers[weak] = Answer(logits, [(level / _strength(level)).half().cpu() for level in levels])
        known = lesson.answers[weak]

        def look_up(batch: Batch) -> Answer:
            own = [self._to(level[batch.places]).float() for level in known.features[levels_of(row)]]
            return Answer(self._to(known.logits[batch.places]).float(), own)

        return look_up

    def _ask(self, teacher: MapTeacher, pixels: Tensor) -> Answer:
        with torch.no_grad(), self._autocast():
            logits, features = teacher.answer(self._to(pixels))
        return Answer(logits.float(), [level.float() for level in features])

    def _trained_teacher(self, fold: Fold, *, weak: bool) -> MapTeacher:
        """The teacher of a fold, whichever protocol trained it."""
        model = self._new_teacher(pretrained=False)
        protocol = next(p for p in (GRID, *self.recipe.protocols) if fold in self.folds(p))
        state = torch.load(self._path(Cell(protocol, fold, weak=weak)).with_suffix(".pt"), weights_only=True)
        model.load_state_dict(state["model"])
        model.eval()
        return model

    def _quantised(self, cell: Cell) -> Predict:
        """The student as the device would run it: INT8, in the device's own runtime."""
        from trainer.onnx_export import export_body  # noqa: PLC0415
        from trainer.quantise import quantise  # noqa: PLC0415

        side = self.recipe.side
        model = self._new_student().cpu()
        trained = Cell(cell.protocol, cell.fold, cell.row)
        model.load_state_dict(torch.load(self._path(trained).with_suffix(".pt"), weights_only=True)["model"])
        chosen = cell.fold.train[:: max(1, len(cell.fold.train) // self.recipe.quantise.images)]
        graph = quantise(export_body(model.body.eval(), side, side), self._held[0][list(chosen)], self.recipe.quantise)
        runtime = OnnxRuntime(graph.SerializeToString(), where=cell.name, shape=(1, side, side, 3))
        return lambda images: torch.stack([torch.from_numpy(runtime.infer(image[None]).copy()) for image in images])

    def _new_teacher(self, *, pretrained: bool = True) -> MapTeacher:
        settings = self.recipe.teacher
        model = MapTeacher(settings.encoder, settings.weights if pretrained else "none", self.recipe.side)
        channels_last(model.to(self._device))
        return model

    def _new_student(self) -> MapStudent:
        torch.manual_seed(self.recipe.seed)
        model = MapStudent(self.recipe.student.widths, self.recipe.student.up)
        channels_last(model.to(self._device))
        return model

    # --- measuring ---

    def _validation_loss(self, model: nn.Module, fold: Fold) -> float:
        """Soft Dice: a cross-entropy would punish being sure, and choose networks that have hardly learnt."""
        images, sets = (array[list(fold.val)] for array in self._held)
        side = self.recipe.side
        small = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_NEAREST) for one in sets])
        return float(PartialDice((FOLDS, GLOTTIS))(self._logits(model, images), torch.from_numpy(small)))

    def _logits(self, model: nn.Module, images: NDArray[np.uint8]) -> Tensor:
        """Float32 logits on the CPU; half precision only where the network was trained in it."""
        answers = []
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).permute(0, 3, 1, 2)
            with torch.inference_mode():
                answers.append(model(self._to(pixels)).float().cpu())
        return torch.cat(answers)

    def _measure(self, predict: Predict, places: Sequence[int]) -> list[dict[str, Any]]:
        """Each image's measures per class, at the packed size."""
        sets = self._held[1]
        found = []
        for batch, answers in self._classes(predict, places):
            for i, answer in zip(batch, answers, strict=True):
                record = self.pack.records[i]
                classes: dict[str, dict[str, float]] = {}
                for number, name in enumerate(CLASSES):
                    told = decided(sets[i], number)
                    if told is None:
                        continue
                    truth, known = told
                    seen = answer == number
                    classes[name] = {
                        "intersection": int((seen & truth).sum()), "union": int(((seen | truth) & known).sum())
                    }  # fmt: skip
                    if number and truth.any():
                        classes[name] |= measure(seen, truth, known)
                found.append({"image": record.path, "group": record.group, "source": record.source, "classes": classes})
        return found

    def _classes(self, predict: Predict, places: Sequence[int]) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        """Batches of images with the class of each pixel, at the packed size."""
        images, sets = self._held
        for start in range(0, len(places), _BATCH):
            batch = list(places[start : start + _BATCH])
            logits = predict(images[batch])
            full = functional.interpolate(logits, size=sets.shape[1:], mode="bilinear", align_corners=False)
            yield batch, full.argmax(dim=1).byte().numpy()

    def _to(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:  # noqa: PLR2004
            return tensor.to(self._device).contiguous(memory_format=torch.channels_last)
        return tensor.to(self._device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)


def _strength(features: Tensor) -> float:
    """Root mean square, so that a feature loss does not depend on the teacher's scale."""
    return max(1e-6, float(features.float().square().mean().sqrt()))


def _mean_dice(found: Sequence[dict[str, Any]]) -> float:
    """The mean Dice of every source and class, alike."""
    cells: dict[tuple[str, str], list[float]] = {}
    for image in found:
        for name, values in image["classes"].items():
            if "dice" in values:
                cells.setdefault((image["source"], name), []).append(values["dice"])
    return float(np.mean([np.mean(values) for values in cells.values()])) if cells else 0.0
