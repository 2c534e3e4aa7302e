"""A recipe: everything that decides what comes out of a run, as one YAML file. Unknown keys are errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.bundle import InputSpec
from edge.errors import ConfigError
from trainer.data.augment import AugmentSettings  # noqa: TC001  pydantic reads it when it runs
from trainer.data.types import LABELS
from trainer.data.visibility import VisibilitySettings
from trainer.laboratory.terms import Term, refusal

RECIPES = Path(__file__).parent / "recipes"

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


Kind = TypeVar("Kind", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Part):
    """Which images a run learns from.

    Attributes:
        sources: known sets below the data root; null for all that are there, empty for none.
        class_folders: own folders below the data root with one folder per label in each.
        manifest: a manifest CSV below the data root, used as it is in place of all the above.
        visibility: the rule that makes the task's records from masks, and how many rendered frames join them.
        allow_duplicates: train even where the audit finds duplicates across splits.
        hold_out: sources that take no part in training and validation: all their images are for testing.
    """

    sources: list[str] | None = None
    class_folders: list[str] = []
    manifest: str | None = None
    visibility: VisibilitySettings = VisibilitySettings()
    allow_duplicates: bool = False
    hold_out: list[str] = []


class TrainSettings(_Part):
    """How a network is trained.

    Attributes:
        epochs: epochs of `epoch_images` augmented images each; validation follows every one.
        epoch_images: images made per epoch; what does not fill a batch is left out.
        batch: images per step, over all devices together.
        learning_rate: peak of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), reached after the warm-up.
        warmup: share of all steps in which the rate rises linearly; then it falls as a cosine to a hundredth.
        weight_decay: AdamW's; not applied to biases and normalisation.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are what is validated and kept; null trains without.
        smoothing: label smoothing of the hard labels.
        precision: Fabric's word for it; `auto` is bf16-mixed where the processor has it, else 32-true.
    """

    epochs: int = Field(ge=1)
    epoch_images: int = Field(ge=1)
    batch: int = Field(default=32, ge=2)
    learning_rate: Positive = 1e-3
    warmup: Share = 0.1
    weight_decay: Weight = 0.02
    clip: Positive = 5.0
    ema: float | None = Field(default=0.998, gt=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"


class RobustSettings(_Part):
    """Training that does not trust the images' sources (trainer.losses.distrust); all of it is off unless set.

    Attributes:
        group_dro: step of the weights of groups (source and label), by which those count most that fare worst; 0.01 in
            the paper.
        adversary: strength of the reversed gradient of heads that tell the source within a label, after its ramp.
        twins: weight of the margin between twins; it needs `augment.twins`.
        twin_margin: by how much the log-odds of the twin with folds are to exceed the other's.
    """

    group_dro: float = Field(default=0.0, ge=0, le=1)
    adversary: float = Field(default=0.0, ge=0, le=10)
    twins: float = Field(default=0.0, ge=0, le=100)
    twin_margin: float = Field(default=2.0, gt=0, le=100)

    @model_validator(mode="after")
    def _margin_of_twins(self) -> RobustSettings:
        if not self.twins and self.twin_margin != RobustSettings.model_fields["twin_margin"].default:
            msg = f"twin_margin is {self.twin_margin:g}, but twins is 0, so nothing has this margin: set twins as well"
            raise ValueError(msg)
        return self

    @property
    def on(self) -> bool:
        """Whether it does anything."""
        return bool(self.group_dro or self.adversary or self.twins)


class TeacherSettings(_Part):
    """The large network.

    Attributes:
        backbone: timm's name.
        weights: `hub`, `package`, `none`, or the path of a file.
        frozen_stages: how many stages after the stem stay as pretrained (EfficientNets only).
        dropout: share of pooled features dropped in training.
        robust: training that does not trust sources.
        focus: weight of the share of its evidence for the finding that lies outside of the maps' masks.
    """

    backbone: str
    weights: str = "hub"
    frozen_stages: int = Field(default=0, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    train: TrainSettings
    robust: RobustSettings = RobustSettings()
    focus: Weight = 0.0


class StudentSettings(_Part):
    """The small network.

    Attributes:
        model: `simple_resnet`; `micro`, the same with at most 51.8 k parameters; `three_conv`; timm's name of a model;
            or `package.module:Name`.
        widths: channels of each stage of a `simple_resnet`.
        blocks: residual blocks of each of its stages.
        options: of an own module: more for its constructor.
        dropout: share of pooled features dropped in training.
        train: how it is trained.
        robust: training that does not trust sources, from scratch and distilled.
    """

    model: str = "simple_resnet"
    widths: list[int] = Field(default=[16, 32, 64, 128], min_length=1)
    blocks: list[Annotated[int, Field(ge=1)]] = Field(default=[2, 2, 2, 2], min_length=1)
    options: dict[str, Any] = {}
    dropout: float = Field(default=0.1, ge=0, lt=1)
    train: TrainSettings
    robust: RobustSettings = RobustSettings()

    @model_validator(mode="after")
    def _fits(self) -> StudentSettings:
        if self.model != "simple_resnet" and {"widths", "blocks"} & self.model_fields_set:
            fields = StudentSettings.model_fields
            if (self.widths, self.blocks) != (fields["widths"].default, fields["blocks"].default):
                msg = f"widths and blocks are of a simple_resnet: leave them out for {self.model}"
                raise ValueError(msg)
        if self.model == "simple_resnet" and self.options:
            msg = "a simple_resnet has widths and blocks, and no options: leave those out"
            raise ValueError(msg)
        if len(self.widths) != len(self.blocks):
            msg = f"widths {self.widths} and blocks {self.blocks} must have the same length"
            raise ValueError(msg)
        if any(w < 1 or w % 16 for w in self.widths):
            msg = f"widths {self.widths} must be multiples of 16: the quantised kernels want that"
            raise ValueError(msg)
        return self

    @property
    def constructor(self) -> dict[str, Any]:
        """What the model is made with, beside its dropout."""
        return {"widths": self.widths, "blocks": self.blocks} if self.model == "simple_resnet" else self.options


class DistilSettings(_Part):
    """What a student learns from its teacher: loss = soft * KL at `temperature` + hard * cross-entropy + the rest.

    Attributes:
        temperature: of the divergence.
        soft: its weight.
        hard: weight of the true labels.
        also: more terms, of the families that `trainer.laboratory.terms` knows: features, relations, other responses.
        mix: share of images that are blended with another of their batch; only the teacher says what they show.
        focus: weight of the share of the student's evidence for the finding that lies outside of the maps' masks.
    """

    temperature: Positive = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1
    also: list[Term] = []
    mix: float = Field(default=0.0, ge=0, le=1)
    focus: Weight = 0.0

    @model_validator(mode="after")
    def _some(self) -> DistilSettings:
        reason = refusal(self.also, len(LABELS), 1, exclusive=True) if self.also else None
        if reason:
            raise ValueError(reason)
        if self.soft + self.hard <= 0 and not self.also:
            msg = "soft and hard are both 0: there would be nothing to learn"
            raise ValueError(msg)
        if self.mix and (self.also or not self.soft):
            msg = "mix wants soft above 0 and no terms in also: of a blend nothing but the teacher's answer is known"
            raise ValueError(msg)
        return self


class MapTeacherSettings(_Part):
    """The segmentation teacher: a U-Net (Ronneberger et al. 2015) over a timm encoder.

    Attributes:
        encoder: timm's name.
        weights: of the encoder: `hub`, `package`, `none`, or the path of a file.
        side: pixels of the square crops that it learns from.
        train: how.
    """

    encoder: str = "tf_efficientnet_lite0"
    weights: str = "package"
    side: int = Field(default=160, ge=64, le=256)
    train: TrainSettings = TrainSettings(epochs=7, epoch_images=1024, batch=16, learning_rate=8e-4, ema=0.99)


class MapSettings(_Part):
    """A map beside the scores: where, not only whether.

    Attributes:
        labels: what the map shows.
        teacher: the segmentation teacher, whose answers stand in where images have labels but no masks.
        weight: of the map's loss beside the scores'.
        positive: how often a cell that shows a label counts in it, against one that does not.
        smoothing_s: time constant with which the device smooths regions, seconds.
        compare: train the student without the map too, to see whether the map costs accuracy.
    """

    labels: list[str] = Field(default=["folds", "glottis"], min_length=1)
    teacher: MapTeacherSettings = MapTeacherSettings()
    weight: Positive = 1.0
    positive: Positive = 2.0
    smoothing_s: Positive = 0.12
    compare: bool = True


Rung = Literal["static", "percentile", "entropy", "bias", "equalise", "float", "aware"]


class GateSettings(_Part):
    """How far INT8 may be from FP32 on the validation split, both through the device's runtime.

    Attributes:
        accuracy: largest difference of the accuracy; its interval over groups includes 0 or lies within this.
        agreement: least share of images on which both give the same label.
        ece: largest growth of the calibration error, each at its own temperature.
        flips: largest share of images that change sides at the operating threshold, which lies amid what is uncertain.
        signal_db: least signal-to-noise ratio of a layer, in decibels.
        dice: largest loss of a map label's Dice.
    """

    accuracy: Share = 0.003
    agreement: Share = 0.995
    ece: Share = 0.01
    flips: Share = 0.01
    signal_db: float = 10.0
    dice: Share = 0.01


class QuantiseSettings(_Part):
    """INT8, and what is done when plain static quantisation loses something.

    Attributes:
        method: how the activations' ranges are found.
        images: how many training images are looked at for that.
        percentile: of the `percentile` method.
        reduce_range: seven bits for the weights. An x86 processor without VNNI adds products of eight bits in sixteen,
            with saturation, and would answer otherwise than an Arm does; with seven bits nothing can saturate.
        activations: unsigned ones are faster wherever it was measured (docs/quantisation.md).
        ladder: what is tried, in this order, until the gate passes: `static` as `method` says; the other two methods;
            `bias` correction; `equalise` layers; the layers with the worst signal in `float`; quantisation-`aware`
            training under the student's teacher.
        gate: what INT8 must keep.
        float_layers: most layers that may stay in float.
        aware: how the last rung trains, from the weights that are there.
    """

    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    images: int = Field(default=512, ge=8)
    percentile: float = Field(default=99.999, gt=50, le=100)
    reduce_range: bool = False
    activations: Literal["unsigned", "signed"] = "unsigned"
    ladder: list[Rung] = Field(
        default=["static", "percentile", "entropy", "bias", "equalise", "float", "aware"], min_length=1
    )
    gate: GateSettings = GateSettings()
    float_layers: int = Field(default=4, ge=1)
    aware: TrainSettings = TrainSettings(
        epochs=2, epoch_images=4096, batch=32, learning_rate=2e-4, weight_decay=0.0, ema=0.99, precision="32-true"
    )


class DecideSettings(_Part):
    """How the operating point is found on the validation split, and the times that only the device knows.

    Attributes:
        precision: share of correct answers wanted on either side of the uncertain band.
        widest: most that the band may reach from the threshold.
        smoothing_s: see `edge.bundle.DecisionSpec`.
        dwell_s: as above.
        expire_s: as above.
    """

    precision: Share = 0.98
    widest: Share = 0.3
    smoothing_s: Positive = 0.25
    dwell_s: Weight = 0.3
    expire_s: Positive = 1.0


ArtefactKind = Literal["int8", "fp32", "tensorrt-int8", "tensorrt-fp32", "ncnn"]


class BundleSettings(_Part):
    """What the bundle holds, and what its manifest and card say about it.

    Attributes:
        max_bytes: a larger bundle is refused.
        artefacts: forms of the model, the primary one first: for ONNX Runtime, or from which TensorRT builds its engine
            (INT8 as it wants it; FP32, of which it makes half precision). `ncnn` is the form for ncnn, which takes its
            weights from the INT8 graph.
    """

    name: str
    version: str
    licence: str
    research_only: bool
    attributions: list[str] = []
    max_bytes: int = Field(default=1_500_000, ge=1)
    artefacts: list[ArtefactKind] = Field(default=["int8"], min_length=1)

    @model_validator(mode="after")
    def _runs_anywhere(self) -> BundleSettings:
        if self.artefacts[0] not in ("int8", "fp32"):
            msg = f"artefacts {self.artefacts} must begin with int8 or fp32: every device can run these"
            raise ValueError(msg)
        if "ncnn" in self.artefacts and "int8" not in self.artefacts:
            msg = f"artefacts {self.artefacts} hold ncnn without int8, whose weights it takes"
            raise ValueError(msg)
        if len(set(self.artefacts)) != len(self.artefacts):
            msg = f"artefacts {self.artefacts} name one twice"
            raise ValueError(msg)
        return self


class UnseenSettings(_Part):
    """Sources that are left out of training in turn; what models then say of them decides the operating point.

    With it counts what the shipped model says of the other sources' validation images.

    Attributes:
        sources: what is left out; `A+B` are left out together.
        seeds: of each such run.
        teacher_epochs: of these runs' teachers, where that is fewer.
        student_epochs: of their students, likewise.
    """

    sources: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    teacher_epochs: int = Field(default=4, ge=1)
    student_epochs: int = Field(default=6, ge=1)


class EvaluateSettings(_Part):
    """Bootstrap of the intervals; which splits a run reports, and whether it trains the student from scratch too."""

    scratch: bool = True
    splits: list[Literal["train", "val", "test"]] = ["val", "test"]
    repeats: int = Field(default=1000, ge=10)


class Recipe(_Part):
    """The whole recipe."""

    name: str
    about: str = ""
    seed: int = 0
    labels: list[str] = Field(default=["no_folds", "folds"], min_length=2)
    finding: str = "folds"
    input: InputSpec = InputSpec(height=160, width=160)
    data: DataSettings
    augment: AugmentSettings
    teacher: TeacherSettings
    student: StudentSettings
    smaller: StudentSettings | None = None
    """A cheaper student for the bundle, to which a device steps down that cannot keep its budget."""
    distil: DistilSettings = DistilSettings()
    maps: MapSettings | None = None
    quantise: QuantiseSettings = QuantiseSettings()
    decide: DecideSettings = DecideSettings()
    unseen: UnseenSettings | None = None
    evaluate: EvaluateSettings = EvaluateSettings()
    bundle: BundleSettings

    @model_validator(mode="after")
    def _known(self) -> Recipe:
        if tuple(self.labels) != LABELS:
            msg = f"labels {self.labels} must be {list(LABELS)}: the data rules know these two"
            raise ValueError(msg)
        if self.finding not in self.labels:
            msg = f"finding {self.finding!r} is not one of the labels {self.labels}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _nothing_mixed_distrusted(self) -> Recipe:
        for name in ("student", "smaller"):
            network = getattr(self, name)
            if self.distil.mix and network is not None and network.robust.on:
                msg = f"distil.mix blends images, and {name}.robust wants each one's source: set one of them to 0"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _maps_to_focus_on(self) -> Recipe:
        for name in ("teacher", "distil"):
            weight = getattr(self, name).focus
            if weight and self.maps is None:
                msg = f"{name}.focus is {weight:g}, but there are no maps, which say where: add maps, or set it to 0"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _twins_to_tell_apart(self) -> Recipe:
        for name in ("teacher", "student", "smaller"):
            network = getattr(self, name)
            if network is None or not network.robust.twins:
                continue
            where = f"{name}.robust.twins is {network.robust.twins:g}, but "
            if not self.augment.twins:
                msg = where + "augment.twins is 0, so no picture is shown twice: set that above 0, or this to 0"
                raise ValueError(msg)
            if network.train.batch % 2:
                msg = where + f"{name}.train.batch is {network.train.batch}, which parts twins: make it even"
                raise ValueError(msg)
        return self


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: path of a YAML file, or the name of one that ships with Foldsight.

    Raises:
        ConfigError: it cannot be read, is no YAML, or has keys or values that no recipe has; all of them at once.
    """
    return check_recipe(Recipe, *read_recipe(name))


def read_recipe(name: str) -> tuple[object, str]:
    """The content of a recipe's file, given by its path or as one that ships, and what to call it in an error."""
    path = Path(name)
    if not path.exists() and (RECIPES / f"{name}.yaml").exists():
        path = RECIPES / f"{name}.yaml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")), str(path)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ConfigError(
            f"{name}: no recipe there ({error.strerror}); give a YAML file, or one of: {known}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error


def check_recipe(kind: type[Kind], content: object, where: str) -> Kind:
    """Check a recipe's content against its kind; `where` names it in the error."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"])) or "recipe"
            if fault["type"] == "extra_forbidden":
                faults.append(f"{key} is no setting of a recipe: remove it or correct its name")
            elif fault["type"] == "missing":
                faults.append(f"{key} is missing: set it")
            elif fault["loc"]:
                faults.append(f"{key} is {fault['input']!r}, but {fault['msg'].removeprefix('Value error, ')}")
            else:
                faults.append(fault["msg"].removeprefix("Value error, "))
        raise ConfigError(f"{where}: " + "; ".join(faults)) from error


def digest(*parts: Any) -> str:
    """SHA-256 (hex) of settings and of other digests.

    Values that equal their defaults do not count, so that a new setting leaves earlier work valid.
    """
    plain = [
        part.model_dump(mode="json", exclude_defaults=True) if isinstance(part, BaseModel) else part for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
