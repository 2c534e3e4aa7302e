"""What models said, kept: one file of logits per model, seed and split, and the study that lists them.

Everything that a report computes comes from these files, so that a figure can be computed anew, or otherwise, without
the networks and without reading a split again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.errors import ConfigError, FoldsightError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STUDY = "study.json"
_ARRAYS = ("logits", "labels", "ids", "groups", "sources")


@dataclass(frozen=True)
class SplitAnswers:
    """Answers to all images of a split, by one model.

    Attributes:
        logits: float32 (N, labels).
        labels: what is true: int64 (N,) where labels exclude each other, bool (N, labels) where they do not.
        ids: str (N,), unique within the split; what makes the answers of two models comparable.
        groups: str (N,), patient or recording.
        sources: str (N,).
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | NDArray[np.bool_]
    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]

    def save(self, path: Path) -> None:
        """Write a `.npz`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, **{name: np.asarray(getattr(self, name)) for name in _ARRAYS})  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)

    @staticmethod
    def load(path: Path) -> SplitAnswers:
        """Read what `save` wrote.

        Raises:
            FoldsightError: the file is missing, is something else, or its arrays do not fit each other.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = SplitAnswers(*(np.asarray(file[name]) for name in _ARRAYS))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise FoldsightError(f"{path}: no answers can be read there ({error}); measure again") from error
        wrong = found.fault()
        if wrong:
            raise FoldsightError(f"{path}: {wrong}; measure again")
        return found

    def fault(self) -> str | None:
        """What is wrong with the arrays, if anything is."""
        count = len(self.ids)
        if self.logits.ndim != 2 or any(len(getattr(self, name)) != count for name in _ARRAYS):  # noqa: PLR2004
            return "its arrays have different lengths"
        if not np.isfinite(self.logits).all():
            return "some of its logits are no numbers"
        if len(set(self.ids.tolist())) != count:
            return "two of its images have the same id"
        if (
            self.labels.ndim == 1
            and count
            and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < (self.logits.shape[1])
        ):
            return "some of its labels have no logit"
        if self.labels.ndim > 1 and self.labels.shape != self.logits.shape:
            return "its labels and logits differ in shape"
        return None

    def kept(self, chosen: NDArray[np.bool_]) -> SplitAnswers:
        """The answers to some of the images, (N,)."""
        return SplitAnswers(*(getattr(self, name)[chosen] for name in _ARRAYS))


def join(parts: Sequence[SplitAnswers]) -> SplitAnswers:
    """Answers to several sets of images, or of several models, one after the other."""
    return SplitAnswers(*(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyRow(_Part):
    """A model, trained with one seed or several.

    Attributes:
        name: unique.
        title: how readers know it.
        kind: what it is there for.
        note: what else to say of it, such as the loss.
        precision: of the numbers that it computes with.
        parameters: of the network; None where not counted.
        macs: multiply-adds of one image.
        bytes: of the file.
        answers: by seed and split, a file of `SplitAnswers` relative to the study's folder.
    """

    name: str
    title: str
    kind: Literal["teacher", "assistant", "control", "student"] = "student"
    note: str = ""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    answers: dict[str, dict[str, str]] = Field(min_length=1)


class StudyComparison(_Part):
    """Two rows to be tested against each other, and why."""

    first: str
    second: str
    about: str = ""


class StudyData(_Part):
    """How much of what there is."""

    split: str
    source: str
    label: str
    images: int
    groups: int


class Study(_Part):
    """Rows measured under one protocol.

    Attributes:
        name: of the study.
        about: one or two sentences: what was compared, and on what.
        labels: in the order of the logits.
        finding: the label that is looked for, with two labels; None where there is none.
        exclusive: whether labels exclude each other (softmax) or not (a sigmoid each).
        rows: in the order in which they are shown.
        baseline: the row against which every student is tested (from scratch); None for none.
        teacher: the row whose gap to the baseline is to be recovered; None for none.
        comparisons: what else is tested.
        data: what was learnt from and measured on.
        machine: where it was trained and measured.
        recipe_sha256: hash of the recipe.
        data_sha256: hash of the data.
        remarks: what a reader must know, one sentence each.
    """

    schema_version: Literal[1] = 1
    name: str
    about: str = ""
    labels: list[str] = Field(min_length=1)
    finding: str | None = None
    exclusive: bool = True
    rows: list[StudyRow] = Field(min_length=1)
    baseline: str | None = None
    teacher: str | None = None
    comparisons: list[StudyComparison] = []
    data: list[StudyData] = []
    machine: str = ""
    recipe_sha256: str = ""
    data_sha256: str = ""
    remarks: list[str] = []

    @model_validator(mode="after")
    def _known(self) -> Study:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            msg = f"rows {names} hold a name twice"
            raise ValueError(msg)
        asked = [self.baseline, self.teacher, *(name for c in self.comparisons for name in (c.first, c.second))]
        unknown = [name for name in asked if name is not None and name not in names]
        if unknown:
            msg = f"row {unknown[0]!r} is none of {names}"
            raise ValueError(msg)
        if self.finding is not None and self.finding not in self.labels:
            msg = f"finding {self.finding!r} is none of the labels {self.labels}"
            raise ValueError(msg)
        return self

    def save(self, folder: Path) -> Path:
        """Write `study.json` into a folder; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / STUDY
        part = path.with_name(path.name + ".part")
        part.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(path)
        return path

    def row(self, name: str) -> StudyRow:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


def load_study(path: Path) -> tuple[Study, Path]:
    """Read a study from its file or the folder that holds it.

    Returns:
        The study, and the folder to which its paths relate.

    Raises:
        ConfigError: it is missing, or is no study.
    """
    file = path / STUDY if path.is_dir() else path
    try:
        return Study.model_validate_json(file.read_text(encoding="utf-8")), file.parent
    except OSError as error:
        raise ConfigError(f"{file}: no study there ({error.strerror}); name a study's folder") from error
    except (ValidationError, UnicodeDecodeError) as error:
        said = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        place = ".".join(map(str, said["loc"])) or "study"
        raise ConfigError(f"{file}: {place}: {said['msg']}; write it anew with the command that made it") from error


def load_answers(study: Study, folder: Path) -> dict[str, dict[str, dict[str, SplitAnswers]]]:
    """All answers of a study, checked against each other.

    Returns:
        By split, row and seed. All of a split are of the same images in the same order.

    Raises:
        FoldsightError: a file cannot be read, or two models were asked about different images.
    """
    found: dict[str, dict[str, dict[str, SplitAnswers]]] = {}
    for row in study.rows:
        for seed, files in row.answers.items():
            for split, name in files.items():
                answers = SplitAnswers.load(folder / name)
                if answers.logits.shape[1] != len(study.labels):
                    raise FoldsightError(
                        f"{folder / name}: {answers.logits.shape[1]} logits for {len(study.labels)} labels; "
                        "correct the study's labels, or measure again"
                    )
                found.setdefault(split, {}).setdefault(row.name, {})[seed] = answers
    for split, rows in found.items():
        first = next(answers for seeds in rows.values() for answers in seeds.values())
        order = np.argsort(first.ids)
        for row_name, seeds in rows.items():
            for seed, answers in seeds.items():
                own = np.argsort(answers.ids)
                if not np.array_equal(answers.ids[own], first.ids[order]):
                    raise FoldsightError(
                        f"{folder}: {row_name}, seed {seed} was asked about other images of the {split} split than "
                        "the rest; measure all rows on one manifest"
                    )
                same = np.empty(len(order), np.int64)
                same[order] = own
                seeds[seed] = SplitAnswers(*(getattr(answers, name)[same] for name in _ARRAYS))
                if not np.array_equal(seeds[seed].labels, first.labels):
                    raise FoldsightError(
                        f"{folder}: {row_name}, seed {seed} holds other labels of the {split} split than the rest; "
                        "measure all rows on one manifest"
                    )
    return found
