"""A comparison's images: imported, split by group, checked, and as the device sees them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edge import optics, preprocess
from edge.bundle import InputSpec
from edge.errors import ConfigError
from trainer.console import Meter, say
from trainer.data.labelled import (
    FolderSettings,
    LabelledSet,
    TableSettings,
    check_labelled,
    import_folders,
    import_table,
    split_labelled,
    targets,
)
from trainer.data.manifest import Record, data_hash, read_manifest
from trainer.data.pack import Pack, code_hash
from trainer.inputs import prepare_inputs
from trainer.laboratory.recipe import VisibilityTask
from trainer.metrics import many_class_figures, mean_over_sources, multi_label_figures
from trainer.recipe import digest
from trainer.stages import import_data, stamp
from trainer.validate import predict

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn
    from torch.utils.data import Dataset

    from trainer.inputs import Inputs
    from trainer.laboratory.recipe import LaboratoryRecipe

_VERSION = 1


class LaboratoryData:
    """The images of a recipe below a data root; what is made of them is kept in a folder.

    Args:
        recipe: see there.
        root: the data root.
        out: the study's folder.
        manifest: records and splits of another run, in place of the task's own: those that a given teacher learnt by.
    """

    def __init__(self, recipe: LaboratoryRecipe, root: Path, out: Path, manifest: Path | None = None) -> None:
        self.recipe, self.root, self.out, self.manifest = recipe, root, out, manifest
        if manifest is not None and not isinstance(recipe.task, VisibilityTask):
            raise ConfigError(f"{manifest}: a manifest is of folds visible or not, and the task is {recipe.task.kind}")

    @functools.cached_property
    def key(self) -> str:
        """Hash of the task and of what files are there."""
        own = [] if self.manifest is None else [hashlib.sha256(self.manifest.read_bytes()).hexdigest()]
        return digest("laboratory-data", _VERSION, self.recipe.task, self.recipe.seed, stamp(self.root), *own)

    @functools.cached_property
    def records(self) -> list[Record]:
        """All records with their splits, checked before they are used.

        Raises:
            DataError: naming what is wrong with them.
        """
        path = self.out / f"data-{self.key[:10]}.json"
        if not path.exists():
            records, notes = self._import()
            for note in notes:
                say(f"data: {note}")
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps([dataclasses.asdict(record) for record in records]), encoding="utf-8")
            part.replace(path)
        return [Record(**row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def _import(self) -> tuple[list[Record], list[str]]:
        from trainer.data.audit import audit, require_clean  # noqa: PLC0415
        from trainer.data.scenes import import_scenes  # noqa: PLC0415
        from trainer.data.splits import leave_out, merge_near_groups  # noqa: PLC0415

        task, seed = self.recipe.task, self.recipe.seed
        if isinstance(task, VisibilityTask):
            if self.manifest is not None:
                records, notes = read_manifest(self.manifest), list[str]()
            else:
                records, notes = import_data(task.data, seed, self.root)
            records = leave_out(records, task.data.hold_out)
            say("data: looking for duplicates across splits")
            require_clean(audit(records, self.root), allow=task.data.allow_duplicates)
            return records, notes
        if isinstance(task, FolderSettings):
            records, notes = import_folders(self.root, task)
        elif isinstance(task, TableSettings):
            records, notes = import_table(self.root, task)
        else:
            records, notes = import_scenes(self.root, task, seed)
        say("data: looking for near-duplicates, which must not be split")
        records, joined = merge_near_groups(records, self.root)
        if joined:
            notes.append(f"{joined} groups joined to others because they hold near-duplicate images")
        records = split_labelled(records, seed)
        check_labelled(records, self.recipe.labels, exclusive=self.recipe.exclusive)
        return records, notes

    @functools.cached_property
    def sha256(self) -> str:
        """Hash over all records and the bytes of every file that they name."""
        return data_hash(self.records, self.root)

    def split(self, name: str) -> list[Record]:
        """The records of a split."""
        return [record for record in self.records if record.split == name]

    @functools.cached_property
    def pack(self) -> Pack:
        """The training split, decoded once."""
        train = self.split("train")
        with Meter("decoding the training images", len(train)) as meter:
            before = 0

            def progress(now: int, _: int) -> None:
                nonlocal before
                meter.advance(now - before)
                before = now

            return Pack.open_or_build(train, self.root, self.out / "cache", progress=progress)

    def stream(self, side: int) -> Dataset[Any]:
        """Augmented training samples of this side, an epoch of the lesson's images."""
        recipe = self.recipe
        settings = recipe.augment.model_copy(update={"epoch_length": recipe.lesson.images, "side": side})
        if isinstance(recipe.task, VisibilityTask):
            from trainer.data.dataset import TrainSet  # noqa: PLC0415

            return TrainSet(self.pack, self.pack.records, settings, recipe.seed)
        return LabelledSet(self.pack, self.pack.records, recipe.labels, exclusive=recipe.exclusive,
                           settings=settings, seed=recipe.seed, balance=recipe.balance)  # fmt: skip

    def held(self, split: str, side: int) -> Inputs:
        """A split as the device would see it, prepared once. Its labels are those of `truth`, not of the inputs."""
        records = self.split(split)
        spec = InputSpec(height=side, width=side, interpolation="linear-area")
        device = code_hash(Path(optics.__file__).parent, Path(preprocess.__file__))
        key = digest("laboratory-inputs", _VERSION, data_hash(records, self.root), spec, device)[:16]
        names = sorted({record.label for record in records})
        return prepare_inputs(records, self.root, spec, self.out / "cache" / f"inputs-{split}-{key}", names)

    def truth(self, split: str) -> NDArray[Any]:
        """What is true of each image of a split: int64 (N,), or bool (N, labels)."""
        return targets(self.split(split), self.recipe.labels, exclusive=self.recipe.exclusive)

    def validation(self, side: int) -> Callable[[nn.Module], dict[str, float]]:
        """What chooses the epoch, on the validation split.

        `score` is the balanced accuracy, over sources where the task has rules for them, and of labels that do not
        exclude each other the mean area under their ROC curves; `loss` is the cross-entropy.
        """
        inputs, truth, recipe = self.held("val", side), self.truth("val"), self.recipe

        def validate(model: nn.Module) -> dict[str, float]:
            logits = predict(model, inputs)
            return {"score": self._score(logits, truth, inputs), "loss": _loss(logits, truth, recipe.exclusive)}

        return validate

    def _score(self, logits: torch.Tensor, truth: NDArray[Any], inputs: Inputs) -> float:
        if not self.recipe.exclusive:
            scores = logits.sigmoid().double().numpy()
            return float(multi_label_figures(truth, scores, np.ones((1, len(truth))))["macro_auc"][0])
        scores = logits.softmax(dim=1).double().numpy()
        if isinstance(self.recipe.task, VisibilityTask):
            return mean_over_sources(truth == 1, scores[:, 1], inputs.sources)["score"]
        return float(many_class_figures(truth, scores, np.ones((1, len(truth))))["balanced_accuracy"][0])


def _loss(logits: torch.Tensor, truth: NDArray[Any], exclusive: bool) -> float:
    wanted = torch.from_numpy(truth)
    if exclusive:
        return float(torch.nn.functional.cross_entropy(logits, wanted))
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted.float()))
