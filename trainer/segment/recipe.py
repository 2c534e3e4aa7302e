"""The recipe of a segmentation study: teachers, students, the grid of paper 4 and the protocols, as one YAML file."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.data.augment import AugmentSettings
from trainer.recipe import Positive, QuantiseSettings, check_recipe, read_recipe

Protocol = Literal["recordings", "leave_one_sequence_out", "leave_one_patient_out", "random_frames"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(_Part):
    """How a network is trained.

    Attributes:
        images: augmented images per epoch.
        epochs: at most.
        patience: epochs without a lower validation loss (soft Dice) after which training ends.
        batch: images per step.
        learning_rate: Adam's at its peak, from which it falls as a cosine.
        fixed: draw the images once and see them in every epoch, in another order: a teacher then answers only once.
    """

    images: int = Field(ge=1)
    epochs: int = Field(ge=1)
    patience: int = Field(ge=1)
    batch: int = Field(default=16, ge=2)
    learning_rate: Positive = 1e-3
    fixed: bool = False


class Teacher(_Part):
    """A U-Net over a timm encoder.

    Attributes:
        encoder: timm's name.
        weights: of the encoder: `hub`, `package`, `none`, or the path of a file.
        budget: how it is trained.
    """

    encoder: str = "tf_efficientnet_lite0"
    weights: str = "package"
    budget: Budget


class Student(_Part):
    """A U-Net of plain convolutions.

    Attributes:
        widths: channels of the levels from full size down.
        up: channels of the way up, from deep to shallow.
        budget: how it is trained.
    """

    widths: list[int] = [8, 8, 16, 16, 24, 32]
    up: list[int] = [16, 16, 16, 8, 8]
    budget: Budget


class Row(_Part):
    """One student of the grid.

    Attributes:
        pathway: what the teacher passes on: nothing (`alone`), its output (`logits`), its encoder's output (`hidden`),
            the same through two convolutions and a ReLU (`regressor`), the features of every level (`all`), or its
            output and its encoder's output at once (`both`).
        loss: `mse` of chances or features, `kl`, `bce` of chances, `l1`, or `squared`, the squared error of logits.
        teacher: trained with the `usual` or with `weak` augmentation.
    """

    pathway: Literal["alone", "logits", "hidden", "regressor", "all", "both"]
    loss: Literal["none", "mse", "kl", "bce", "l1", "squared"] = "none"
    teacher: Literal["none", "usual", "weak"] = "none"

    @property
    def name(self) -> str:
        """Such as `logits-kl-weak`."""
        return self.pathway if self.pathway == "alone" else f"{self.pathway}-{self.loss}-{self.teacher}"

    @model_validator(mode="after")
    def _fits(self) -> Row:
        taught = self.pathway != "alone"
        if taught != (self.loss != "none") or taught != (self.teacher != "none"):
            msg = "a student that is taught needs a loss and a teacher, one that learns alone has neither"
            raise ValueError(msg)
        if self.loss in ("bce", "squared") and self.pathway != "logits":
            msg = f"loss {self.loss} compares outputs: it goes with the pathway logits, not with {self.pathway}"
            raise ValueError(msg)
        return self


class Published(_Part):
    """What others report, to stand beside our figures as theirs; percent.

    Attributes:
        teacher: the teacher's Dice.
        rows: by name of the row.
        random_frames: mean IoU of the split by frame.
        source: where that is published.
    """

    teacher: float | None = None
    rows: dict[str, float] = {}
    random_frames: float | None = None
    source: str = ""


class SegmentRecipe(_Part):
    """The whole study.

    Attributes:
        name: of the study.
        about: what differs from the paper.
        seed: of folds, weights and samples.
        sources: sets with masks, folders below the data root.
        side: pixels of the networks' square input.
        class_weights: weight of pixels known to be other, folds, glottis in the cross-entropy.
        augment: the usual augmentation, of students and teachers; the weak one is `trainer.segment.dataset.WEAK`. Its
            side, length and source weights are not used.
        folds: of the grid, by group.
        teacher: see there.
        student: see there.
        grid: the students.
        protocols: further splits on which teacher, student alone and the best distilled student are measured.
        quantise: how the students become INT8.
        published: see there.
    """

    kind: Literal["segmentation"]
    name: str
    about: str = ""
    seed: int = 0
    sources: list[str] = Field(min_length=1)
    side: int = Field(default=96, ge=32, le=256, multiple_of=32)
    class_weights: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    augment: AugmentSettings = AugmentSettings()
    folds: int = Field(default=3, ge=2)
    teacher: Teacher
    student: Student
    grid: list[Row] = Field(min_length=1)
    protocols: list[Protocol] = []
    quantise: QuantiseSettings = QuantiseSettings()
    published: Published = Published()

    @model_validator(mode="after")
    def _known(self) -> SegmentRecipe:
        names = sorted(row.name for row in self.grid)
        twice = sorted({a for a, b in pairwise(names) if a == b})
        if twice:
            msg = f"the grid holds {', '.join(twice)} twice"
            raise ValueError(msg)
        if "alone" not in names:
            msg = "the grid needs the pathway alone: the student that all others are compared with"
            raise ValueError(msg)
        return self


def load_segment_recipe(name: str) -> SegmentRecipe:
    """Read a study's recipe.

    Args:
        name: path of a YAML file, or the name of one that ships with Foldsight.

    Raises:
        ConfigError: it cannot be read, is no YAML, or has keys or values that no such recipe has; all of them at once.
    """
    return check_recipe(SegmentRecipe, *read_recipe(name))
