"""The recipe of a comparison: a task, teachers and assistants, students, and the rows, as one YAML file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.data.augment import AugmentSettings
from trainer.data.labelled import Balance, FolderSettings, TableSettings
from trainer.data.scenes import LABELS as SCENES
from trainer.data.scenes import SceneSettings
from trainer.data.types import LABELS
from trainer.laboratory.terms import Term, needs_features, refusal
from trainer.recipe import (
    DataSettings,
    Positive,
    Share,
    TrainSettings,
    Weight,
    check_recipe,
    read_recipe,
)

Side = Annotated[int, Field(ge=32, le=256, multiple_of=16)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VisibilityTask(_Part):
    """Folds visible or not, by the rules and splits of the bundle's recipe."""

    kind: Literal["visibility"]
    data: DataSettings = DataSettings()


Task = Annotated[VisibilityTask | FolderSettings | TableSettings | SceneSettings, Field(discriminator="kind")]


class Schedule(_Part):
    """How a network is trained; the images per epoch are the lesson's. See `trainer.recipe.TrainSettings`."""

    epochs: int = Field(ge=1)
    batch: int = Field(default=64, ge=2)
    learning_rate: Positive = 2e-3
    warmup: Share = 0.05
    weight_decay: Weight = 0.02
    clip: Positive = 5.0
    ema: float | None = Field(default=0.99, gt=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"

    def settings(self, images: int, *, longer: float = 1.0, smoothing: float | None = None) -> TrainSettings:
        """The loop's settings for a lesson of so many images per epoch."""
        content = self.model_dump() | {"epoch_images": images, "epochs": max(1, round(self.epochs * longer))}
        return TrainSettings.model_validate(content | ({} if smoothing is None else {"smoothing": smoothing}))


class Lesson(_Part):
    """What all networks learn from: drawn once, seen in every epoch in another order; a teacher answers it once.

    Attributes:
        images: per epoch.
        variants: how many such sets are drawn; epoch e sees set e modulo this.
        feature_side: teachers' maps are pooled to at most this side before they are kept.
    """

    images: int = Field(ge=2)
    variants: int = Field(default=4, ge=1)
    feature_side: int = Field(default=6, ge=1)


class Network(_Part):
    """A network.

    Attributes:
        model: `simple_resnet`, `micro`, `three_conv`, timm's name, or `package.module:Name`.
        options: of ours and of own modules: `widths` and `blocks`, for example.
        weights: of timm's: `hub`, `package`, `none`, or the path of a file.
        frozen_stages: how many stages after the stem stay as pretrained (EfficientNets only).
        dropout: share of pooled features dropped in training.
        side: pixels of its square input; the recipe's where it says none.
        layers: modules whose maps distillation looks at, from shallow to deep; found where none are named.
        train: how.
    """

    model: str
    options: dict[str, Any] = {}
    weights: str = "none"
    frozen_stages: int = Field(default=0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    side: Side | None = None
    layers: list[str] = []
    train: Schedule


class Teaching(_Part):
    """What a network learns from: loss = hard * (its loss on the true labels) + sum of weight * term.

    Attributes:
        taught_by: names of teachers or assistants; their logits are averaged, their features each count.
        terms: what it learns from them.
        hard: weight of the true labels.
    """

    taught_by: list[str] = []
    terms: list[Term] = []
    hard: Weight = 1.0


class Teacher(Network, Teaching):
    """A teacher, or an assistant if it is taught itself; by those before it: chains may have any length."""


class Row(Teaching):
    """A student of the comparison.

    Attributes:
        title: how readers know it.
        student: its network: a name among the students; the first where it says none.
        family: what kind of row.
        longer: its epochs, as a multiple of its network's.
        smoothing: of the hard labels, in place of its network's.
    """

    title: str = ""
    student: str | None = None
    family: Literal["control", "response", "feature", "relation", "combined", "assistant", "fusion"] = "response"
    longer: Positive = 1.0
    smoothing: float | None = Field(default=None, ge=0, lt=1)


class LaboratoryRecipe(_Part):
    """The whole comparison.

    Attributes:
        name: of the study.
        about: what was compared on what, and what differs from the paper.
        remarks: what a reader must know, one sentence each.
        seed: of data, lesson, teachers.
        seeds: of the students: weights, order, dropout.
        task: what is to be told.
        balance: how classes of unlike size are drawn; `visibility` always draws both alike.
        side: pixels of the students' square input.
        augment: see `AugmentSettings`; its side and length are set by the others.
        lesson: see there.
        teachers: by name.
        ensembles: by name several teachers whose logits are averaged; taught_by may name them too.
        reference: the teacher or ensemble whose gap is to be recovered; the first teacher where it says none.
        students: networks of the rows, by name.
        rows: by name; the first is the baseline, from scratch.
    """

    kind: Literal["comparison"]
    name: str
    about: str = ""
    remarks: list[str] = []
    seed: int = 0
    seeds: list[int] = Field(default=[1, 2, 3], min_length=1)
    task: Task
    balance: Balance = "natural"
    side: Side = 96
    augment: AugmentSettings = AugmentSettings()
    lesson: Lesson
    teachers: dict[str, Teacher] = Field(min_length=1)
    ensembles: dict[str, list[str]] = {}
    reference: str | None = None
    students: dict[str, Network] = Field(min_length=1)
    rows: dict[str, Row] = Field(min_length=1)

    @property
    def labels(self) -> list[str]:
        """In the order of the logits."""
        if isinstance(self.task, VisibilityTask):
            return list(LABELS)
        return list(SCENES) if isinstance(self.task, SceneSettings) else list(self.task.labels)

    @property
    def exclusive(self) -> bool:
        """Whether labels exclude each other."""
        return not isinstance(self.task, TableSettings) or self.task.exclusive

    def network(self, name: str) -> Network:
        """The network of a teacher or row."""
        if name in self.teachers:
            return self.teachers[name]
        row = self.rows[name]
        return self.students[row.student or next(iter(self.students))]

    def teaching(self, name: str) -> Teacher | Row:
        """What a teacher or row learns from."""
        return self.teachers.get(name) or self.rows[name]

    def teachers_of(self, name: str) -> list[str]:
        """The teachers of a teacher or row, ensembles taken apart."""
        named = self.teaching(name).taught_by
        return list(dict.fromkeys(one for entry in named for one in self.ensembles.get(entry, [entry])))

    def side_of(self, name: str) -> int:
        """Pixels of the square input of a teacher or row."""
        return self.network(name).side or self.side

    @model_validator(mode="after")
    def _known(self) -> LaboratoryRecipe:
        faults = self._naming_faults()
        before: list[str] = []
        for name, teacher in self.teachers.items():
            faults += self._faults(f"teachers.{name}", teacher, before)
            before.append(name)
        for name, row in self.rows.items():
            if row.student is not None and row.student not in self.students:
                faults.append(
                    f"rows.{name}.student is {row.student!r}, but the students are {', '.join(self.students)}"
                )
            faults += self._faults(f"rows.{name}", row, before)
        first = next(iter(self.rows.values()))
        if first.taught_by:
            faults.append("the first row is the baseline, from scratch: it cannot be taught")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _naming_faults(self) -> list[str]:
        faults = []
        names = [*self.teachers, *self.ensembles, *self.rows]
        both = sorted({name for name in names if names.count(name) > 1})
        if both:
            faults.append(f"{', '.join(both)} is the name of several among teachers, ensembles and rows: rename one")
        for name, members in self.ensembles.items():
            unknown = [member for member in members if member not in self.teachers]
            if unknown or len(set(members)) < 2:  # noqa: PLR2004
                known = ", ".join(self.teachers)
                faults.append(f"ensembles.{name} needs two or more of the teachers {known}, and has {members}")
        if self.reference not in (None, *self.teachers, *self.ensembles):
            faults.append(f"reference is {self.reference!r}, which is neither a teacher nor an ensemble")
        if len(set(self.seeds)) != len(self.seeds):
            faults.append(f"seeds {self.seeds} hold one twice")
        return faults

    def _faults(self, where: str, teaching: Teaching, before: list[str]) -> list[str]:
        own = [one for name in teaching.taught_by for one in self.ensembles.get(name, [name])]
        unknown = [name for name in own if name not in before]
        if unknown:
            known = ", ".join(before) or "none"
            return [f"{where}.taught_by names {', '.join(unknown)}, but the teachers before it are {known}"]
        reason = refusal(teaching.terms, len(self.labels), len(set(own)), exclusive=self.exclusive)
        if reason is None and not teaching.terms and not teaching.hard:
            reason = "it learns neither from labels nor from a teacher: set hard"
        return [f"{where}: {reason}"] if reason else []

    def answers_of(self, name: str) -> bool:
        """Whether any pupil of a teacher looks at its maps, not only at its logits."""
        pupils = [*self.teachers, *self.rows]
        return any(name in self.teachers_of(pupil) and needs_features(self.teaching(pupil).terms) for pupil in pupils)


def load_laboratory_recipe(name: str) -> LaboratoryRecipe:
    """Read a comparison's recipe.

    Args:
        name: path of a YAML file, or the name of one that ships with Foldsight.

    Raises:
        ConfigError: it cannot be read, is no YAML, or has keys or values that no such recipe has; all of them at once.
    """
    return check_recipe(LaboratoryRecipe, *read_recipe(name))
