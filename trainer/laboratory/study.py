"""A comparison, network by network: each in a folder named by what it depends on; what is done is not done again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from edge.errors import ConfigError, FoldsightError
from trainer.answers import SplitAnswers, Study, StudyData, StudyRow
from trainer.console import say
from trainer.data.dataset import limit_threads
from trainer.distil import Taught
from trainer.laboratory.data import LaboratoryData
from trainer.laboratory.guides import make_guides
from trainer.laboratory.lesson import DONE, Answers, Lesson, LessonSet, write_answers
from trainer.laboratory.networks import channels_of, create_network, layers_of, size_of
from trainer.laboratory.recipe import Row
from trainer.laboratory.terms import needs_features
from trainer.losses import HardLabels, HardSets
from trainer.models import Probe
from trainer.processes import in_turn, is_first, wait_for
from trainer.recipe import digest
from trainer.stages import locked
from trainer.train import BEST, fit, load_weights, resolve_precision
from trainer.validate import predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from trainer.laboratory.networks import Size
    from trainer.laboratory.recipe import LaboratoryRecipe
    from trainer.models import PixelModel
    from trainer.recipe import TrainSettings
    from trainer.stages import Machine

SPLITS = ("val", "test")


class Job(NamedTuple):
    """A network to be trained."""

    name: str
    seed: int


class Laboratory:
    """A recipe on a data root, in a folder.

    Args:
        recipe: see there.
        root: the data root.
        out: folder of the study.
        machine: threads and devices.
        given: trained weights of teachers, by name: files that `trainer.train.fit` kept, of another run for example.
        manifest: of that run; see `LaboratoryData`.

    Raises:
        ConfigError: weights are given of what is no teacher, or are not there.
    """

    def __init__(
        self,
        recipe: LaboratoryRecipe,
        root: Path,
        out: Path,
        machine: Machine,
        given: Mapping[str, Path] | None = None,
        manifest: Path | None = None,
    ) -> None:
        self.recipe, self.out, self.machine = recipe, out, machine
        self.data = LaboratoryData(recipe, root, out, manifest)
        self.given = dict(given or {})
        for name, path in self.given.items():
            if name not in recipe.teachers:
                raise ConfigError(f"{name} is no teacher of the recipe: they are {', '.join(recipe.teachers)}")
            if not path.is_file():
                raise ConfigError(f"{path}: no weights there for {name}; give the best.pt of a run")
        if machine.threads:
            torch.set_num_threads(machine.threads)
        limit_threads()

    # --- what is to be done ---

    @property
    def jobs(self) -> list[Job]:
        """Teachers, then all rows of the first seed, of the second, and so on: a study cut short is fair to all."""
        teachers = [Job(name, self.recipe.seed) for name in self.recipe.teachers]
        return teachers + [Job(name, seed) for seed in self.recipe.seeds for name in self.recipe.rows]

    def run(self) -> Study:
        """Do what is not done yet, then read the test split; returns the study."""
        jobs = self.jobs
        costs = [self._cost(job) for job in jobs]
        spent, since = 0.0, time.monotonic()
        for number, job in enumerate(jobs):
            if self.done(job):
                costs[number] = 0
                continue
            left = ""
            if spent:
                minutes = (time.monotonic() - since) / spent * sum(costs[number:]) / 60
                left = f", about {minutes:.0f} min left"
            say(f"{self.recipe.name}: network {number + 1} of {len(jobs)}{left}: {job.name}, seed {job.seed}")
            self.train(job)
            spent, costs[number] = spent + costs[number], 0
        if not is_first():
            raise SystemExit(0)  # the first process of the run says what came out
        return self.read("test")

    def score(self, row: str) -> float:
        """Train a row and what it depends on; its validation score, mean over the recipe's seeds."""
        scores = []
        for job in [*self._before(row), *(Job(row, seed) for seed in self.recipe.seeds)]:
            folder = self.train(job)
            if job.name == row:
                told = json.loads((folder / DONE).read_text(encoding="utf-8"))
                scores.append(float(told["metrics"]["score"]))
        return float(np.mean(scores))

    def _before(self, name: str) -> list[Job]:
        """The teachers that must be trained before a network, in order."""
        found: dict[str, None] = {}
        for teacher in self.recipe.teachers_of(name):
            found |= dict.fromkeys(job.name for job in self._before(teacher)) | {teacher: None}
        return [Job(teacher, self.recipe.seed) for teacher in found]

    def done(self, job: Job) -> bool:
        """Whether a network is trained."""
        return (self.folder(job) / DONE).exists()

    def _cost(self, job: Job) -> float:
        """What a training costs, in multiply-adds, roughly."""
        epochs = self._schedule(job).epochs
        asked = self.lesson_size / self.recipe.lesson.images / 3 if job.name in self.recipe.teachers else 0
        return self.size(job.name).macs * (epochs + asked)

    @property
    def lesson_size(self) -> int:
        """Samples of the lesson."""
        return self.recipe.lesson.images * self.recipe.lesson.variants

    @functools.lru_cache(maxsize=64)  # noqa: B019  a study lives as long as its process
    def size(self, name: str) -> Size:
        """What a network costs."""
        settings = self.recipe.network(name)
        return size_of(create_network(settings, len(self.recipe.labels), pretrained=False), self.recipe.side_of(name))

    # --- keys and folders ---

    @functools.cached_property
    def _sides(self) -> list[int]:
        return sorted({self.recipe.side_of(name) for name in (*self.recipe.teachers, *self.recipe.rows)})

    @functools.cached_property
    def lesson(self) -> Lesson:
        """The samples, drawn once."""
        return Lesson.open_or_draw(self.data, self._sides)

    def key(self, job: Job) -> str:
        """Hash of all that a network depends on, other networks included."""
        recipe, teaching = self.recipe, self.recipe.teaching(job.name)
        taught_by = [self.key(Job(name, recipe.seed)) for name in recipe.teachers_of(job.name)]
        if job.name in self.given:
            weights = hashlib.sha256(self.given[job.name].read_bytes()).hexdigest()
            return digest("laboratory-given", 1, recipe.network(job.name), recipe.labels, weights)
        return digest(
            "laboratory-network", 1, Lesson.key(self.data, self._sides), recipe.network(job.name).model_dump(
                mode="json", exclude_defaults=True, include=set(_NETWORK)
            ),
            [term.model_dump(mode="json") for term in teaching.terms], teaching.hard, taught_by,
            recipe.lesson.feature_side if needs_features(teaching.terms) else None, recipe.side_of(job.name),
            *([teaching.longer, teaching.smoothing] if isinstance(teaching, Row) else []), job.seed,
        )  # fmt: skip

    def folder(self, job: Job) -> Path:
        """Where a network lies."""
        return self.out / "networks" / f"{job.name}-seed{job.seed}-{self.key(job)[:10]}"

    def _schedule(self, job: Job) -> TrainSettings:
        recipe, teaching = self.recipe, self.recipe.teaching(job.name)
        schedule = recipe.network(job.name).train
        if isinstance(teaching, Row):
            return schedule.settings(recipe.lesson.images, longer=teaching.longer, smoothing=teaching.smoothing)
        return schedule.settings(recipe.lesson.images)

    # --- one network ---

    def train(self, job: Job) -> Path:
        """Train a network, or go on with an interrupted training; returns its folder."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        if not is_first():
            if job.name not in self.given:
                self._fit(job, folder)
            wait_for(folder / DONE)
            return folder
        with locked(folder):
            if not self.done(job):
                began = time.monotonic()
                told = self._fit(job, folder)
                told["seconds"] = round(time.monotonic() - began)
                part = folder / (DONE + ".part")
                part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
                part.replace(folder / DONE)
        return folder

    def _fit(self, job: Job, folder: Path) -> dict[str, Any]:
        side = self.recipe.side_of(job.name)
        if job.name in self.given:
            return {"metrics": self.data.validation(side)(self.trained(job)), "given": True}
        settings = self._schedule(job)
        with in_turn(self.out):
            validate = self.data.validation(side)
            answers = {name: self.answers(name) for name in self.recipe.teachers_of(job.name)}
            data = LessonSet(self.lesson, side, answers, job.seed)
        task = self.task(job, settings.smoothing)
        title = job.name if job.name in self.recipe.teachers else f"{job.name}, seed {job.seed}"
        trained = fit(self._fabric(settings), task, data, validate, settings, folder, title=title, seed=job.seed,
                      workers=self.machine.workers)  # fmt: skip
        return {"epoch": trained.epoch, "epochs": settings.epochs, "metrics": trained.metrics}

    def task(self, job: Job, smoothing: float, ask: Any = None) -> Taught:
        """A network with what it learns; `ask` stands in for answers that come with the data."""
        recipe, teaching = self.recipe, self.recipe.teaching(job.name)
        settings, classes = recipe.network(job.name), len(recipe.labels)
        torch.manual_seed(job.seed)  # the same first weights in every row
        model = create_network(settings, classes)
        hard = HardLabels(smoothing) if recipe.exclusive else HardSets(smoothing)
        probe, own = None, []
        if needs_features(teaching.terms):
            layers = layers_of(settings, model)
            probe, own = Probe(model, layers), channels_of(model, layers, recipe.side_of(job.name))
        teachers = recipe.teachers_of(job.name)
        its = [self._channels(name) if needs_features(teaching.terms) else [] for name in teachers]
        guides = make_guides(teaching.terms, own, its, classes, hard, exclusive=recipe.exclusive)
        return Taught(model, hard, teaching.hard, guides, teachers, probe, ask)

    def _channels(self, name: str) -> list[int]:
        settings = self.recipe.network(name)
        network = create_network(settings, len(self.recipe.labels), pretrained=False)
        return channels_of(network, layers_of(settings, network), self.recipe.side_of(name))

    def trained(self, job: Job) -> PixelModel:
        """A network that is trained.

        Raises:
            ConfigError: given weights do not fit the network: of another size, or of a teacher with other classes.
        """
        network = create_network(self.recipe.network(job.name), len(self.recipe.labels), pretrained=False)
        path = self.given.get(job.name, self.folder(job) / BEST)
        try:
            load_weights(network, path)
        except (RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ConfigError(
                f"{path} does not fit {job.name} with its {len(self.recipe.labels)} classes ({reason}): give weights "
                "of the same network and task"
            ) from error
        return network

    def answers(self, name: str) -> Answers:
        """A teacher's answers to the lesson, asked for once."""
        job, lesson = Job(name, self.recipe.seed), self.lesson
        features = self.recipe.answers_of(name)
        stamp = digest(lesson.folder.name, self.recipe.lesson.feature_side, features)[:10]
        folder = self.folder(job) / f"answers-{stamp}"
        if not (folder / DONE).exists():
            network, probe = self.teacher(name)
            write_answers(
                network, probe, lesson.pixels(self.recipe.side_of(name)), folder, features=features,
                most=self.recipe.lesson.feature_side, device=self.device, title=name,
            )  # fmt: skip
        return Answers(folder, features=features)

    def teacher(self, name: str) -> tuple[nn.Module, Probe]:
        """A trained teacher, and the probe of its maps."""
        network = self.trained(Job(name, self.recipe.seed))
        layers = layers_of(self.recipe.network(name), network) if self.recipe.answers_of(name) else []
        return network, Probe(network, layers)

    @property
    def device(self) -> torch.device:
        """Where networks answer."""
        cuda = self.machine.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        return torch.device("cuda" if cuda else "cpu")

    def _fabric(self, settings: TrainSettings) -> Any:
        from trainer._torchvision import ensure_torchvision  # noqa: PLC0415

        ensure_torchvision()
        from lightning.fabric import Fabric  # noqa: PLC0415  it brings torchmetrics, and that torchvision

        for name in ("lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)  # what it would tell is said already
        precision = cast("Any", resolve_precision(settings.precision))
        fabric = Fabric(accelerator=self.machine.accelerator, devices=self.machine.devices, precision=precision)
        fabric.launch()
        return fabric

    # --- what came out ---

    def read(self, split: str) -> Study:
        """Let all networks that are done answer the validation split, and the test split if asked; keeps the study."""
        from trainer.ledger import note_reading  # noqa: PLC0415

        jobs = [job for job in self.jobs if self.done(job)]
        if not jobs:
            raise FoldsightError(f"{self.out}: no network is trained yet; run the comparison first")
        wanted = SPLITS if split == "test" else SPLITS[:1]
        unread = [job for job in jobs if not (self.folder(job) / "test.npz").exists()]
        if split == "test" and unread:
            models = digest(*(self.key(job) for job in jobs))
            note_reading(self.out, "compare", models, len(self.data.split("test")))
        for job in jobs:
            network = None
            for part in wanted:
                path = self.folder(job) / f"{part}.npz"
                if not path.exists():
                    network = network or self.trained(job).to(self.device)
                    self._answer(network, part, self.recipe.side_of(job.name)).save(path)
        for name, members in self.recipe.ensembles.items():
            trained = [Job(member, self.recipe.seed) for member in members]
            if all(job in jobs for job in trained):
                for part in wanted:
                    each = [SplitAnswers.load(self.folder(job) / f"{part}.npz") for job in trained]
                    logits = np.mean([answers.logits for answers in each], axis=0).astype(np.float32)
                    self._ensemble(name, part).parent.mkdir(parents=True, exist_ok=True)
                    dataclasses.replace(each[0], logits=logits).save(self._ensemble(name, part))
        return self._study(jobs, wanted)

    def _ensemble(self, name: str, split: str) -> Path:
        keys = digest(*(self.key(Job(member, self.recipe.seed)) for member in self.recipe.ensembles[name]))
        return self.out / "networks" / f"{name}-{keys[:10]}" / f"{split}.npz"

    def _answer(self, network: nn.Module, split: str, side: int) -> SplitAnswers:
        inputs = self.data.held(split, side)
        logits = predict(network, inputs).numpy()
        ids = np.array([record.name() for record in inputs.records])
        return SplitAnswers(logits, self.data.truth(split), ids, inputs.groups, inputs.sources)

    def _study(self, jobs: Sequence[Job], splits: Sequence[str]) -> Study:
        recipe = self.recipe
        rows = []
        for name in (*recipe.teachers, *recipe.rows):
            own = [job for job in jobs if job.name == name]
            if own:
                size, teaching = self.size(name), recipe.teaching(name)
                files = {str(job.seed): {s: str((self.folder(job) / f"{s}.npz").relative_to(self.out)) for s in splits}
                         for job in own}  # fmt: skip
                rows.append(StudyRow(
                    name=name, title=(teaching.title if isinstance(teaching, Row) else "") or name.replace("-", " "),
                    kind=self._kind(name), note=self._note(name), parameters=size.parameters, macs=size.macs,
                    answers=files,
                ))  # fmt: skip
        for name, members in reversed(recipe.ensembles.items()):
            if all(any(job.name == member for job in jobs) for member in members):
                sizes = [self.size(member) for member in members]
                own_files = {s: str(self._ensemble(name, s).relative_to(self.out)) for s in splits}
                rows.insert(0, StudyRow(
                    name=name, title=name.replace("-", " "), kind="teacher", note=f"mean of {', '.join(members)}",
                    parameters=sum(s.parameters for s in sizes), macs=sum(s.macs for s in sizes),
                    answers={str(recipe.seed): own_files},
                ))  # fmt: skip
        shown = {row.name for row in rows}
        baseline, teacher = next(iter(recipe.rows)), recipe.reference or next(iter(recipe.teachers))
        two = recipe.exclusive and len(recipe.labels) == 2  # noqa: PLR2004
        study = Study(
            name=recipe.name,
            about=recipe.about,
            labels=recipe.labels,
            finding=recipe.labels[1] if two else None,
            exclusive=recipe.exclusive,
            rows=rows,
            baseline=baseline if baseline in shown else None,
            teacher=teacher if teacher in shown else None,
            data=self._table(),
            machine=machine_name(self.machine.threads),
            recipe_sha256=digest(recipe),
            data_sha256=self.data.sha256,
            remarks=recipe.remarks,
        )
        study.save(self.out)
        return study

    def _kind(self, name: str) -> Any:
        teaching = self.recipe.teaching(name)
        if isinstance(teaching, Row):
            return "control" if teaching.family == "control" else "student"
        return "assistant" if teaching.taught_by else "teacher"

    def _note(self, name: str) -> str:
        """What a row learnt from, in words."""
        recipe, teaching = self.recipe, self.recipe.teaching(name)
        said = [f"{recipe.network(name).model} at {recipe.side_of(name)} px"]
        if isinstance(teaching, Row):
            said.append(teaching.family)
            said += [f"{teaching.longer:g} times the epochs"] if teaching.longer != 1 else []
            said += [f"label smoothing {teaching.smoothing:g}"] if teaching.smoothing else []
        for term in teaching.terms:
            options = {k: v for k, v in term.model_dump(exclude_defaults=True).items() if k not in ("loss", "weight")}
            told = "".join(f", {k} {v}" for k, v in options.items())
            said.append(f"{term.weight:g} {term.loss}{told}")
        if teaching.taught_by:
            said.append(f"{teaching.hard:g} true labels; taught by {', '.join(teaching.taught_by)}")
        if name in self.given:
            said.append("weights of another run")
        return "; ".join(said)

    def _table(self) -> list[StudyData]:
        cells: Counter[tuple[str, str, str]] = Counter()
        groups: dict[tuple[str, str, str], set[str]] = {}
        for record in self.data.records:
            for label in record.label.split("|"):
                cell = record.split, record.source, label or "none"
                cells[cell] += 1
                groups.setdefault(cell, set()).add(record.group)
        order = {"train": 0, "val": 1, "test": 2}
        return [StudyData(split=c[0], source=c[1], label=c[2], images=cells[c], groups=len(groups[c]))
                for c in sorted(cells, key=lambda c: (order[c[0]], c[1], c[2]))]  # fmt: skip


_NETWORK = ("model", "options", "weights", "frozen_stages", "dropout", "layers", "train")


def machine_name(threads: int) -> str:
    """What a figure was computed on, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cores = os.cpu_count() or 1
    return (
        f"{platform.machine()}, {cores} cores, {threads or torch.get_num_threads()} threads, torch {torch.__version__}"
    )
