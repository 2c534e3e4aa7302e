"""A recipe's stages, each in a folder named by the hash of what it depends on: what is done is not done again."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edge import optics, preprocess
from edge.bundle import InputSpec
from edge.errors import ConfigError, FoldsightError
from trainer.console import Meter, say
from trainer.data.manifest import Record, data_hash, read_manifest, write_manifest
from trainer.data.pack import code_hash
from trainer.evaluate import TITLES
from trainer.processes import in_turn, is_first, wait_for
from trainer.recipe import Recipe, check_recipe, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import onnx
    from torch import nn

    from edge.bundle import DecisionSpec, MapSpec
    from trainer.answers import SplitAnswers
    from trainer.data.pack import Pack
    from trainer.distil import Also, Task
    from trainer.evaluate import Answers, Judging
    from trainer.inputs import Inputs
    from trainer.models import PixelModel
    from trainer.recipe import DataSettings, MapSettings, RobustSettings, StudentSettings, TrainSettings

_QUANTISED = {"int8": "distilled", "smaller": "smaller"}  # rows of INT8 models, and whose they are
_TOGETHER = ("teacher", "scratch", "distil")  # stages that several processes train together
DONE, RECIPE, MAPS_FILE = "done.json", "recipe.json", "maps.npy"


@dataclass(frozen=True)
class Machine:
    """What a run may use; none of it decides what comes out, but for rounding.

    Attributes:
        threads: of torch; 0 leaves it to torch.
        workers: processes that prepare images; 0 does it in between the steps.
        accelerator: Fabric's word: `auto`, `cpu`, `cuda`.
        devices: Fabric's number of devices.
    """

    threads: int = 0
    workers: int = 0
    accelerator: str = "auto"
    devices: int = 1


class Run:
    """One recipe on one data root, in one folder."""

    def __init__(self, recipe: Recipe, root: Path, out: Path, machine: Machine | None = None) -> None:
        self.recipe, self.root, self.out = recipe, root, out
        self.machine = machine or Machine()
        out.mkdir(parents=True, exist_ok=True)

    # --- data ---

    @functools.cached_property
    def data_key(self) -> str:
        """Hash of the data settings and of what files are there."""
        return digest("data", 1, self.recipe.data, self.recipe.seed, stamp(self.root))

    @functools.cached_property
    def records(self) -> list[Record]:
        """The records, imported, made into the task and split; audited before they are used."""
        from trainer.data.splits import leave_out  # noqa: PLC0415

        folder = self._folder("data", self.data_key)

        def work() -> dict[str, Any]:
            records, notes = import_records(self.recipe, self.root)
            records = leave_out(records, self.recipe.data.hold_out)
            for note in notes:
                say(f"data: {note}")
            self._audit(records)
            write_manifest(folder / "manifest.csv", records)
            return {"records": len(records), "data_sha256": data_hash(records, self.root), "notes": notes}

        self._once("data", folder, work)
        return read_manifest(folder / "manifest.csv")

    @property
    def data_sha256(self) -> str:
        """Hash over all rows and the bytes of every file that they name."""
        _ = self.records
        done: dict[str, Any] = json.loads((self._folder("data", self.data_key) / DONE).read_text(encoding="utf-8"))
        return str(done["data_sha256"])

    def _audit(self, records: list[Record]) -> None:
        from trainer.data.audit import audit, require_clean  # noqa: PLC0415

        say("data: looking for duplicates across splits")
        require_clean(audit(records, self.root), allow=self.recipe.data.allow_duplicates)

    def split(self, name: str) -> list[Record]:
        """The records of a split.

        Raises:
            FoldsightError: there are none.
        """
        found = [record for record in self.records if record.split == name]
        if not found:
            raise FoldsightError(f"{self.root}: no image is in the {name} split; add some, or correct the manifest")
        return found

    @functools.cached_property
    def pack(self) -> Pack:
        """The training split, decoded once."""
        from trainer.data.pack import Pack  # noqa: PLC0415

        train = self.split("train")
        with Meter("decoding the training images", len(train)) as meter:
            done = 0

            def progress(now: int, _: int) -> None:
                nonlocal done
                meter.advance(now - done)
                done = now

            return Pack.open_or_build(train, self.root, self.out / "cache", progress=progress)

    def inputs(self, split: str) -> Inputs:
        """A split as the device would see it, prepared once."""
        return self.prepared(self.split(split), split)

    def prepared(self, records: Sequence[Record], name: str) -> Inputs:
        """Some images as the device would see them, prepared once; `name` is what the cache calls them."""
        from trainer.inputs import prepare_inputs  # noqa: PLC0415

        device = code_hash(Path(optics.__file__).parent, Path(preprocess.__file__))
        key = digest("inputs", 1, data_hash(records, self.root), self.recipe.input, device)[:16]
        cache = self.out / "cache" / f"inputs-{name}-{key}"
        return prepare_inputs(records, self.root, self.recipe.input, cache, self.recipe.labels)

    # --- networks ---

    @property
    def _learnt_input(self) -> InputSpec:
        """What networks learn of the input: not how a device shrinks a frame, as the pictures are not made so."""
        return self.recipe.input.model_copy(update={"interpolation": InputSpec.model_fields["interpolation"].default})

    @functools.cached_property
    def teacher_key(self) -> str:
        """Hash of all that the teacher depends on."""
        where = [self.maps_key] if self.recipe.teacher.focus else []
        return digest("teacher", 1, self.data_key, self.recipe.seed, self._learnt_input,
                      self.recipe.augment, self.recipe.teacher, *where)  # fmt: skip

    @functools.cached_property
    def scratch_key(self) -> str:
        """Hash of all that the student from scratch depends on."""
        return digest("scratch", 1, self.data_key, self.recipe.seed, self._learnt_input,
                      self.recipe.augment, self.recipe.student)  # fmt: skip

    def distil_key(self, row: str = "distilled") -> str:
        """Hash of all that a distilled student depends on: `distilled`, the same without its map, or the `smaller`."""
        student = self.recipe.smaller if row == "smaller" else self.recipe.student
        parts = ["distil", 1, self.teacher_key, student, self.recipe.distil]
        maps = self._maps(row)
        if maps is not None:
            parts += [maps.labels, maps.weight, maps.positive, self.maps_key]
        return digest(*parts)

    @functools.cached_property
    def maps_key(self) -> str:
        """Hash of all that the soft masks depend on."""
        maps = self.recipe.maps
        return "" if maps is None else digest("maps", 1, self.data_key, self.recipe.seed, maps.labels, maps.teacher)

    def _maps(self, row: str) -> MapSettings | None:
        """The map of a row's student; None for none."""
        return self.recipe.maps if row in ("distilled", "int8", "smaller") else None

    @property
    def students(self) -> list[str]:
        """Rows of all students that are distilled."""
        recipe = self.recipe
        compared = ["no_map"] if recipe.maps is not None and recipe.maps.compare else []
        return [*compared, "distilled", *(["smaller"] if recipe.smaller is not None else [])]

    def teacher(self) -> Path:
        """Train the teacher; returns its folder."""
        from trainer.distil import Supervised  # noqa: PLC0415
        from trainer.losses import HardLabels  # noqa: PLC0415

        settings, robust = self.recipe.teacher.train, self.recipe.teacher.robust
        folder = self._folder("teacher", self.teacher_key)
        if self.recipe.teacher.focus:
            self.soft_masks()

        def work() -> dict[str, Any]:
            self._require_sources()
            task, focus = Supervised(self.new_teacher(), HardLabels(settings.smoothing)), self.recipe.teacher.focus
            self._focus(task, focus)
            return self._fit(task, settings, folder, "teacher", maps=bool(focus), robust=robust)

        return self._once("teacher", folder, work)

    def scratch(self) -> Path:
        """Train the student from the labels alone; returns its folder."""
        from trainer.distil import Supervised  # noqa: PLC0415
        from trainer.losses import HardLabels  # noqa: PLC0415

        settings, robust = self.recipe.student.train, self.recipe.student.robust
        folder = self._folder("scratch", self.scratch_key)

        def work() -> dict[str, Any]:
            self._require_sources()
            task = Supervised(self.new_student("scratch"), HardLabels(settings.smoothing))
            return self._fit(task, settings, folder, "student from scratch", robust=robust)

        return self._once("scratch", folder, work)

    def distil(self, row: str = "distilled") -> Path:
        """Train a student (one of `students`) under the teacher; returns its folder."""
        self.teacher()
        if self._maps(row) is not None:
            self.soft_masks()
        chosen = self._student_settings(row)
        folder = self._folder("distil", self.distil_key(row))

        def work() -> dict[str, Any]:
            student = self.new_student(row)
            return self.learn(row, student, chosen.train, folder, TITLES[row], robust=chosen.robust)

        return self._once("distil", folder, work)

    def learn(
        self, row: str, student: nn.Module, settings: TrainSettings, folder: Path, title: str,
        *, robust: RobustSettings | None = None, focus: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Train a row's student, wherever its weights begin, under the teacher; returns what it came to.

        Without `focus` where nothing tells its last map, as of a quantised graph.
        """
        from trainer.distil import Distillation  # noqa: PLC0415
        from trainer.losses import HardLabels, SoftMaps, SoftTargets  # noqa: PLC0415
        from trainer.train import BEST, load_weights  # noqa: PLC0415

        maps, distil = self._maps(row), self.recipe.distil
        teacher = self.new_teacher()
        load_weights(teacher, self.teacher() / BEST)
        task = Distillation(
            student, teacher,
            soft=SoftTargets(distil.temperature), hard=HardLabels(settings.smoothing),
            soft_weight=distil.soft, hard_weight=distil.hard,
            dense=None if maps is None else SoftMaps(maps.positive),
            map_weight=0.0 if maps is None else maps.weight,
            also=self._also(student, teacher, settings) if distil.also else None, mix=distil.mix,
        )  # fmt: skip
        if focus and maps is not None:
            self._focus(task, distil.focus)
        return self._fit(task, settings, folder, title, maps=maps is not None, robust=robust)

    def _focus(self, task: Task, weight: float) -> None:
        """Have a task's model look where the finding is, if the recipe wants that."""
        from trainer.focus import Focus  # noqa: PLC0415

        if weight:
            finding = self.recipe.labels.index(self.recipe.finding)
            task.focus = Focus(task.model, finding, weight, self.recipe.input.height)

    def _require_sources(self) -> None:
        """Refuse a network that is to distrust its sources where there is one alone, before any is trained."""
        from trainer.distrust import require_sources  # noqa: PLC0415

        for network in (self.recipe.teacher, self.recipe.student, self.recipe.smaller):
            if network is not None and network.robust.on:
                require_sources(network.robust, [record.source for record in self.split("train")])

    def _also(self, student: nn.Module, teacher: nn.Module, settings: TrainSettings) -> Also:
        """The recipe's further terms of distillation."""
        import torch  # noqa: PLC0415

        from trainer.laboratory.guides import make_also  # noqa: PLC0415
        from trainer.losses import HardLabels  # noqa: PLC0415

        some = torch.from_numpy(np.array(self.inputs("val").images[:32])).permute(0, 3, 1, 2)
        return make_also(self.recipe.distil.also, cast("PixelModel", student), cast("PixelModel", teacher), some,
                         len(self.recipe.labels), HardLabels(settings.smoothing))  # fmt: skip

    def soft_masks(self) -> Path:
        """Train the segmentation teacher and ask it about the training images; returns the array file."""
        from trainer.data.maps import build_maps  # noqa: PLC0415
        from trainer.segment import load_map_teacher, predict_maps, train_map_teacher  # noqa: PLC0415

        maps = self.recipe.maps
        if maps is None:
            raise ConfigError(f"recipe {self.recipe.name} has no maps: there are no soft masks to make")
        folder = self._folder("maps", self.maps_key)

        def work() -> dict[str, Any]:
            trained = train_map_teacher(self, maps.teacher, folder / "teacher")
            model = load_map_teacher(trained.weights)
            shown = sum(record.label == self.recipe.finding for record in self.pack.records)
            with Meter("asking the segmentation teacher", shown) as meter:
                done = 0

                def progress(now: int, _: int) -> None:
                    nonlocal done
                    meter.advance(now - done)
                    done = now

                build_maps(self.pack, lambda images: predict_maps(model, images), maps.labels, folder / MAPS_FILE,
                           progress=progress)  # fmt: skip
            return {"metrics": trained.metrics}

        return self._once("maps", folder, work) / MAPS_FILE

    def _student_settings(self, row: str) -> StudentSettings:
        chosen = self.recipe.smaller if row == "smaller" else self.recipe.student
        if chosen is None:
            raise ConfigError(f"recipe {self.recipe.name} has no smaller student")
        return chosen

    def new_teacher(self) -> nn.Module:
        """The teacher before training."""
        from trainer.models import PixelModel, create_backbone, early_stages  # noqa: PLC0415

        teacher = self.recipe.teacher
        body = create_backbone(teacher.backbone, len(self.recipe.labels), teacher.weights, dropout=teacher.dropout)
        return PixelModel(body, early_stages(body, teacher.frozen_stages))

    def new_student(self, row: str = "distilled") -> nn.Module:
        """The student of a row before training; the same weights whenever it is made."""
        import torch  # noqa: PLC0415

        from trainer.models import PixelModel, create_student  # noqa: PLC0415

        torch.manual_seed(self.recipe.seed)
        student, maps = self._student_settings(row), self._maps(row)
        count = 0 if maps is None else len(maps.labels)
        return PixelModel(
            create_student(student.model, len(self.recipe.labels), dropout=student.dropout, maps=count,
                           options=student.constructor)
        )  # fmt: skip

    def _fit(
        self, task: Task, settings: TrainSettings, folder: Path, title: str, *, maps: bool = False,
        robust: RobustSettings | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        import torch  # noqa: PLC0415

        from trainer._torchvision import ensure_torchvision  # noqa: PLC0415

        ensure_torchvision()
        from lightning.fabric import Fabric  # noqa: PLC0415  it brings torchmetrics, and that torchvision

        from trainer.data.dataset import TrainSet, limit_threads  # noqa: PLC0415
        from trainer.distrust import Distrust  # noqa: PLC0415
        from trainer.models import MAP_STRIDE  # noqa: PLC0415
        from trainer.train import fit, resolve_precision  # noqa: PLC0415
        from trainer.validate import Validation  # noqa: PLC0415

        machine, recipe = self.machine, self.recipe
        if machine.threads:
            torch.set_num_threads(machine.threads)
        limit_threads()
        precision = resolve_precision(settings.precision)
        for name in ("lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)  # what it would tell is said below
        fabric = Fabric(accelerator=machine.accelerator, devices=machine.devices, precision=cast("Any", precision))
        fabric.launch()
        augment = recipe.augment.model_copy(update={"epoch_length": settings.epoch_images, "side": recipe.input.height})
        with in_turn(self.out):
            pack, held = self.pack, self.inputs("val")
        pack = pack.with_maps(self.soft_masks()) if maps else pack
        data = TrainSet(pack, pack.records, augment, recipe.seed, stride=MAP_STRIDE)
        finding = recipe.labels.index(recipe.finding)
        if robust is not None and robust.on:
            task.distrust = Distrust(robust, data.origins, data.cells, task.model, finding,
                                     twins=data.shows_twins, seed=recipe.seed)  # fmt: skip
        validation = Validation(held, finding)
        say(f"{title}: {settings.epochs} epochs of {settings.epoch_images} images, precision {precision}")
        began = time.monotonic()
        trained = fit(fabric, task, data, validation, settings, folder, title=title, workers=machine.workers,
                      seed=recipe.seed)  # fmt: skip
        return {"epoch": trained.epoch, "metrics": trained.metrics, "seconds": round(time.monotonic() - began)}

    # --- what ships ---

    def body(self, name: str) -> onnx.ModelProto:
        """A trained network (a row of `TITLES` that is not INT8) as an ONNX graph without its normalisation."""
        import onnx  # noqa: PLC0415

        from trainer.models import PixelModel  # noqa: PLC0415
        from trainer.onnx_export import export_body  # noqa: PLC0415
        from trainer.train import BEST, load_weights  # noqa: PLC0415

        folder = {"teacher": self.teacher, "scratch": self.scratch}.get(name, lambda: self.distil(name))()
        path = folder / "body.onnx"
        if not path.exists():
            model = self.new_teacher() if name == "teacher" else self.new_student(name)
            load_weights(model, folder / BEST)
            if not isinstance(model, PixelModel):
                raise TypeError(name)
            _write(path, export_body(model.body, self.recipe.input.height, self.recipe.input.width).SerializeToString())
        return onnx.load_model(path)

    def quantise(self, row: str = "distilled") -> Path:
        """Quantise a distilled student by the recipe's ladder; returns the folder with `int8.onnx`, `ladder.json`."""
        from trainer.quantise.stage import quantise_row, write_results  # noqa: PLC0415

        folder = self._folder("quantise", self.quantise_key(row))

        def work() -> dict[str, Any]:
            return write_results(quantise_row(self, row, folder), folder)

        return self._once("quantise", folder, work)

    def quantise_key(self, row: str = "distilled") -> str:
        """Hash of all that an INT8 model depends on."""
        recipe = self.recipe
        engine = ["tensorrt"] if "tensorrt-int8" in recipe.bundle.artefacts else []
        return digest("quantise", 2, self.distil_key(row), recipe.input, recipe.quantise, recipe.decide, *engine)

    def calibration(self) -> Inputs:
        """Training images as the device would see them, from every source and label, for the ranges of activations."""
        from trainer.inputs import prepare_inputs  # noqa: PLC0415

        recipe = self.recipe
        chosen = _spread(self.split("train"), recipe.quantise.images, recipe.seed)
        device = code_hash(Path(optics.__file__).parent, Path(preprocess.__file__))
        key = digest("calibration", 1, data_hash(chosen, self.root), recipe.input, device)[:16]
        return prepare_inputs(chosen, self.root, recipe.input, self.out / "cache" / f"calibration-{key}", recipe.labels)

    @property
    def rows(self) -> list[str]:
        """Rows of the evaluation."""
        smaller = ["smaller"] if self.recipe.smaller is not None else []
        scratch = ["scratch"] if self.recipe.evaluate.scratch else []
        return ["teacher", *scratch, *(row for row in self.students if row != "smaller"), "int8", *smaller]

    def models(self, names: Sequence[str] | None = None) -> dict[str, bytes]:
        """ONNX files by row name, each with the device's input; all rows where none are named."""
        from trainer.onnx_export import with_image_input  # noqa: PLC0415

        found = {}
        for name in self.rows if names is None else names:
            if name in _QUANTISED:
                found[name] = (self.quantise(_QUANTISED[name]) / "int8.onnx").read_bytes()
            else:
                found[name] = with_image_input(self.body(name)).SerializeToString()
        return found

    def evaluate(self) -> dict[str, Any]:
        """Choose the operating point on the validation split, then evaluate all rows on every split of the recipe.

        Returns:
            The report; it lies in the stage's folder as JSON and Markdown too.
        """
        from edge.bundle import DecisionSpec  # noqa: PLC0415
        from trainer.evaluate import Judging, answers_file, evaluate_split, kept_answers, run_model  # noqa: PLC0415
        from trainer.export import choose_decision  # noqa: PLC0415
        from trainer.ledger import note_reading  # noqa: PLC0415
        from trainer.maps import map_figures, map_truth  # noqa: PLC0415
        from trainer.onnx_export import MAPS  # noqa: PLC0415
        from trainer.report import markdown  # noqa: PLC0415

        recipe = self.recipe
        folder = self.report_folder

        def work() -> dict[str, Any]:
            models = self.models()
            plain = Judging(recipe.labels, recipe.finding)
            count = len(recipe.labels)

            def ask(row: str, split: str) -> Answers:
                maps = MAPS if self._maps(row) else None
                return run_model(models[row], self.inputs(split), title=f"{row} on {split}", labels=count, maps=maps)

            val = self.inputs("val")
            first = ask("int8", "val")
            known = choose_decision(first.logits, val, plain, recipe.decide)
            decision, elsewhere = self._unseen(known, kept_answers(first.logits, val))
            judging = Judging(recipe.labels, recipe.finding, decision)
            report: dict[str, Any] = {"decision": decision.model_dump(), "splits": {}, **elsewhere}
            spec = self._choose_maps(first, judging)
            if spec is not None:
                report["maps"] = spec.model_dump()
            if "smaller" in models:
                second = ask("smaller", "val")
                own = choose_decision(second.logits, val, plain, recipe.decide)
                # As much surer or less sure on what is known as the primary one is: the manifest has one temperature.
                own = decision.model_copy(
                    update={"temperature": own.temperature * decision.temperature / known.temperature}
                )
                own_maps = self._choose_maps(second, Judging(recipe.labels, recipe.finding, own))
                report["smaller"] = {"temperature": own.temperature,
                                     "map_temperature": None if own_maps is None else own_maps.temperature}  # fmt: skip
            for split in recipe.evaluate.splits:
                inputs = self.inputs(split)
                say(f"reading the {split} split: {len(inputs.labels)} images")
                if split == "test":
                    note_reading(self.out, "evaluation of the run", self.evaluate_key, len(inputs.labels))
                answers = {row: ask(row, split) for row in models}
                for row, answer in answers.items():
                    kept_answers(answer.logits, inputs).save(folder / answers_file(row, split))
                part = report["splits"][split] = evaluate_split(
                    {row: answer.logits for row, answer in answers.items()},
                    inputs, judging, repeats=recipe.evaluate.repeats, seed=recipe.seed,
                )  # fmt: skip
                if spec is not None:
                    truth = map_truth(inputs.records, self.root, recipe.input, spec.labels)
                    part["maps"] = {row: map_figures(answer.maps, truth, spec, inputs.sources)
                                    for row, answer in answers.items() if answer.maps is not None}  # fmt: skip
            _write(folder / "report.json", (json.dumps(report, indent=1) + "\n").encode())
            _write(folder / "report.md", markdown(report, judging).encode())
            return {"decision": DecisionSpec.model_validate(report["decision"]).model_dump()}

        self._once("evaluate", folder, work)
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return report

    def _unseen(self, known: DecisionSpec, val: SplitAnswers) -> tuple[DecisionSpec, dict[str, Any]]:
        """The operating point over sources left out of training, and what is to be told of them; else the known one.

        A source that is never left out takes part with what the shipped model says of its validation images.
        """
        settings = self.recipe.unseen
        if settings is None:
            return known, {}
        from trainer.evaluate import Judging  # noqa: PLC0415
        from trainer.unseen import Held, leave_out, measure, operating_point  # noqa: PLC0415

        recipe, rows = self.recipe, ("teacher", "int8")
        answers = {
            source: {
                str(seed): leave_out(recipe, self.root, self.out / "unseen", self.machine, Held(source, seed), rows)
                for seed in settings.seeds
            }
            for source in settings.sources
        }
        judging = Judging(recipe.labels, recipe.finding)
        spared = {record.name() for record in self.split("test")}
        shipped = [found["int8"] for seeds in answers.values() for found in seeds.values()]
        report = measure(answers, judging, recipe.decide, repeats=recipe.evaluate.repeats, spared=spared)
        away = {part for source in settings.sources for part in source.split("+")}
        at_home = val.kept(~np.isin(val.sources, sorted(away)))
        return operating_point([*shipped, at_home], judging, recipe.decide, spared), {"unseen": report}

    def _choose_maps(self, answers: Answers, judging: Judging) -> MapSpec | None:
        """How the device reads the maps, from the validation split; None without maps."""
        from trainer.evaluate import finding_scores  # noqa: PLC0415
        from trainer.maps import choose_maps, map_truth  # noqa: PLC0415

        settings, val, decision = self.recipe.maps, self.inputs("val"), judging.decision
        if settings is None or answers.maps is None or decision is None:
            return None
        truth = map_truth(val.records, self.root, self.recipe.input, settings.labels)
        scores = finding_scores(answers.logits, judging, decision.temperature) - decision.threshold
        return choose_maps(answers.maps, truth, scores, (val.labels == judging.index) & val.fit, settings)

    @functools.cached_property
    def evaluate_key(self) -> str:
        """Hash of all that the evaluation depends on."""
        keys = [self.quantise_key(), *([self.scratch_key] if self.recipe.evaluate.scratch else [])]
        if self.recipe.maps is not None:
            keys += [self.distil_key("no_map")] if self.recipe.maps.compare else []
        if self.recipe.smaller is not None:
            keys.append(self.quantise_key("smaller"))
        keys += [self.recipe.unseen.model_dump_json()] if self.recipe.unseen is not None else []
        return digest("evaluate", 2, *keys, self.recipe.decide, self.recipe.evaluate)

    def bundle(self) -> Path:
        """Write the bundle; returns its path. The FP32 model lies beside it, in a bundle of its own."""
        from edge.bundle import DecisionSpec, MapSpec  # noqa: PLC0415
        from trainer.evaluate import Judging  # noqa: PLC0415
        from trainer.export import Shipped, build_bundle  # noqa: PLC0415
        from trainer.quantise.stage import primary_artefacts  # noqa: PLC0415

        recipe = self.recipe
        folder = self._folder("bundle", digest("bundle", 1, self.evaluate_key, recipe.bundle, recipe.about))
        name = f"{recipe.bundle.name}-{recipe.bundle.version}"

        def work() -> dict[str, Any]:
            report = self.evaluate()
            decision = DecisionSpec.model_validate(report["decision"])
            maps = MapSpec.model_validate(report["maps"]) if "maps" in report else None
            shipped = primary_artefacts(self)
            if recipe.smaller is not None:
                shipped.append(Shipped("smaller", "int8", "onnxruntime", self._like_the_primary(report)))
            wide = [Shipped("primary", "fp32", "onnxruntime", self.models(("distilled",))["distilled"])]
            sizes = {}
            for models, suffix in ((shipped, ""), (wide, "-fp32")):
                shown = recipe
                if models is wide:  # it is for comparison, not for the device: no limit
                    shown = recipe.model_copy(
                        update={"bundle": recipe.bundle.model_copy(update={"max_bytes": 1 << 30})}
                    )
                path = folder / f"{name}{suffix}.zip"
                build_bundle(
                    path, recipe=shown, models=models, decision=decision, maps=maps, report=report,
                    judging=Judging(recipe.labels, recipe.finding, decision), recipe_sha256=digest(recipe),
                    data_sha256=self.data_sha256, licences=_licences(self.records), facts=self._facts(),
                )  # fmt: skip
                sizes[path.name] = path.stat().st_size
            return {"bundles": sizes}

        return self._once("bundle", folder, work) / f"{name}.zip"

    def _like_the_primary(self, report: Mapping[str, Any]) -> bytes:
        """The smaller INT8 model with outputs scaled to the primary one's temperatures, which the manifest holds."""
        import onnx  # noqa: PLC0415

        from trainer.onnx_export import LOGITS, MAPS, scale_output  # noqa: PLC0415

        model = onnx.load_from_string(self.models(("smaller",))["smaller"])
        own = report["smaller"]
        model = scale_output(model, LOGITS, report["decision"]["temperature"] / own["temperature"])
        if "maps" in report:
            model = scale_output(model, MAPS, report["maps"]["temperature"] / own["map_temperature"])
        return bytes(model.SerializeToString())

    def _facts(self) -> dict[str, Any]:
        from trainer.models import count_parameters  # noqa: PLC0415

        recipe = self.recipe
        student = recipe.student
        rows = Counter((r.split, r.source, r.label) for r in self.records)
        groups = {cell: len({r.group for r in self.records if (r.split, r.source, r.label) == cell}) for cell in rows}
        order = {"train": 0, "val": 1, "test": 2}
        return {
            "about": recipe.about,
            "student": ", ".join([student.model, *(f"{k} {v}" for k, v in student.constructor.items())]),
            "parameters": count_parameters(self.new_student()),
            "teacher": f"{recipe.teacher.backbone}, distilled at temperature {recipe.distil.temperature}",
            "data": [
                {"split": cell[0], "source": cell[1], "label": cell[2], "images": rows[cell], "groups": groups[cell]}
                for cell in sorted(rows, key=lambda c: (order[c[0]], c[1], c[2]))
            ],
        }

    # --- housekeeping ---

    def remember(self) -> None:
        """Keep the recipe in the run's folder, so that it can be evaluated by its name alone."""
        _write(self.out / RECIPE, (self.recipe.model_dump_json(indent=1) + "\n").encode())

    def finished(self) -> list[str]:
        """Rows of an evaluation whose networks are ready."""
        folders = {"teacher": ("teacher", self.teacher_key), "scratch": ("scratch", self.scratch_key)}
        folders |= {row: ("distil", self.distil_key(row)) for row in self.students}
        folders |= {row: ("quantise", self.quantise_key(of)) for row, of in _QUANTISED.items() if of in self.students}
        return [row for row in self.rows if (self._folder(*folders[row]) / DONE).exists()]

    @property
    def report_folder(self) -> Path:
        """Where the evaluation lies."""
        return self._folder("evaluate", self.evaluate_key)

    def _folder(self, stage: str, key: str) -> Path:
        return self.out / f"{stage}-{key[:10]}"

    def _once(self, stage: str, folder: Path, work: Callable[[], Mapping[str, Any]]) -> Path:
        """Do a stage unless its folder says that it is done.

        Of several processes all train together; what else there is the first one does, and the others wait for it.
        """
        if (folder / DONE).exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if not is_first():
            if stage in _TOGETHER:
                work()
            wait_for(folder / DONE)
            return folder
        with locked(folder):
            if not (folder / DONE).exists():
                result = work()
                part = folder / (DONE + ".part")
                part.write_text(json.dumps({"stage": stage, **result}, indent=1) + "\n", encoding="utf-8")
                part.replace(folder / DONE)
        return folder


def import_records(recipe: Recipe, root: Path) -> tuple[list[Record], list[str]]:
    """Import a recipe's images, make them into the task, split them.

    Returns:
        The records, and notes about what was left out.
    """
    return import_data(recipe.data, recipe.seed, root)


def import_data(data: DataSettings, seed: int, root: Path) -> tuple[list[Record], list[str]]:
    """As `import_records`, by the data settings alone."""
    from trainer.data.build import build_records  # noqa: PLC0415
    from trainer.data.importers import import_class_folders  # noqa: PLC0415
    from trainer.data.splits import split_by_group  # noqa: PLC0415

    if data.manifest:
        return read_manifest(root / data.manifest), []
    own = [record for folder in data.class_folders for record in import_class_folders(root, folder)]
    if data.sources == []:
        return split_by_group(own, seed), []
    return build_records(root, data.visibility, seed, data.sources, own)


def recall_run(out: Path, root: Path) -> Run:
    """A run from its folder.

    Raises:
        ConfigError: no recipe lies there.
    """
    path = out / RECIPE
    if not path.exists():
        raise ConfigError(f"{out} is no run's folder (it holds no {RECIPE}): give one, or a bundle (.zip)")
    return Run(check_recipe(Recipe, json.loads(path.read_text(encoding="utf-8")), str(path)), root, out)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep two runs from working in one folder; the system lets go when the process ends, however it does."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FoldsightError(f"{folder}: another run is at work on this stage; wait for it, or end it") from error
        yield


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def _licences(records: Sequence[Record]) -> list[str]:
    """One line per source."""
    return [f"{source}: {licence}" for source, licence in sorted({(r.source, r.licence) for r in records})]


def _spread(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """At most `count` records, drawn in turn from every source and label."""
    rng = np.random.default_rng(seed)
    pools: dict[tuple[str, str], list[Record]] = {}
    for i in rng.permutation(len(records)):
        pools.setdefault((records[i].source, records[i].label), []).append(records[i])
    drawn: list[Record] = []
    while len(drawn) < min(count, len(records)):
        for cell in sorted(pools):
            if pools[cell] and len(drawn) < count:
                drawn.append(pools[cell].pop())
    return drawn


def stamp(root: Path) -> str:
    """Hash of the names and sizes of all files below a folder: quick, and the same for a copy of it."""
    if not root.is_dir():
        raise FoldsightError(f"{root}: no such folder; give the folder that holds the images with --data")
    found = []
    for folder, _, files in os.walk(root):
        base = Path(folder)
        found += [f"{(base / name).relative_to(root).as_posix()} {(base / name).stat().st_size}" for name in files]
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
