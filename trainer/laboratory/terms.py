"""What a recipe may ask a student to learn from its teachers, and what of that carries no information."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Sequence

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


_TWO = 2


class _Term(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Positive = 1.0

    def fault(self, classes: int, teachers: int, *, exclusive: bool) -> str | None:  # noqa: ARG002
        """Why it teaches nothing here; None where it does. See `refusal`."""
        return None


class Divergence(_Term):
    """`kl`: divergence of the softened answers; of labels that do not exclude each other, of each by itself."""

    loss: Literal["kl"]
    temperature: Positive = 4.0


class Binary(_Term):
    """`bce`: binary cross-entropy with the softened answers."""

    loss: Literal["bce"]
    temperature: Positive = 4.0


class Logits(_Term):
    """`squared` or `absolute` error of the logits."""

    loss: Literal["squared", "absolute"]


class Decoupled(_Term):
    """`dkd`: target and other classes apart."""

    loss: Literal["dkd"]
    temperature: Positive = 4.0
    target: Weight = 1.0
    others: Weight = 8.0

    def fault(self, classes: int, teachers: int, *, exclusive: bool) -> str | None:  # noqa: ARG002
        """See `refusal`."""
        if not exclusive:
            return _softmax(self.loss)
        if not self.target + self.others:
            return "dkd with neither target nor others teaches nothing: give one of them a weight"
        if classes == _TWO and self.others:
            return (
                "dkd has nothing to say about the other classes where there are only two: that term is exactly zero. "
                "Take kl, or set others to 0"
            )
        return None


class Correlated(_Term):
    """`dist`: correlation between classes and between images."""

    loss: Literal["dist"]
    temperature: Positive = 1.0
    between_classes: Weight = 1.0
    between_images: Weight = 1.0

    def fault(self, classes: int, teachers: int, *, exclusive: bool) -> str | None:  # noqa: ARG002
        """See `refusal`."""
        if not exclusive:
            return _softmax(self.loss)
        if not self.between_classes + self.between_images:
            return "dist with neither between_classes nor between_images teaches nothing: give one of them a weight"
        if classes == _TWO and self.between_classes:
            return (
                "dist finds the correlation between two classes always +1 or -1, without any information. Take kl, or "
                "set between_classes to 0"
            )
        return None


class Features(_Term):
    """`fitnets`, `map_kl`, `wasserstein`, `l1` on maps through a regressor; `attention` without one.

    Attributes:
        levels: the deepest one, or all: each with its like, counted from the deepest.
        temperature: of `map_kl`.
    """

    loss: Literal["fitnets", "attention", "map_kl", "wasserstein", "l1"]
    levels: Literal["last", "all"] = "all"
    temperature: Positive = 1.0


class Relations(_Term):
    """`similarity`: which images of a batch excite the last level alike."""

    loss: Literal["similarity"]


class Relational(_Term):
    """`rkd`: distances and angles between the images of a batch, of the last level's mean."""

    loss: Literal["rkd"]
    distances: Weight = 1.0
    angles: Weight = 2.0

    def fault(self, classes: int, teachers: int, *, exclusive: bool) -> str | None:  # noqa: ARG002
        """See `refusal`."""
        if not self.distances + self.angles:
            return "rkd with neither distances nor angles teaches nothing: give one of them a weight"
        return None


class Fusion(_Term):
    """`fusion`: several teachers' last levels joined by multi-head attention, whose relations the student follows."""

    loss: Literal["fusion"]
    width: int = Field(default=64, ge=4)
    heads: int = Field(default=4, ge=1)

    def fault(self, classes: int, teachers: int, *, exclusive: bool) -> str | None:  # noqa: ARG002
        """See `refusal`."""
        if teachers < _TWO:
            return "fusion joins several teachers: name two or more in taught_by"
        if self.width % self.heads:
            return f"fusion of width {self.width} cannot be shared among {self.heads} heads: take a multiple of them"
        return None


AnyTerm = Divergence | Binary | Logits | Decoupled | Correlated | Features | Relations | Relational | Fusion
Term = Annotated[AnyTerm, Field(discriminator="loss")]


def _softmax(loss: str) -> str:
    return (
        f"{loss} softens by a softmax over classes, and these labels do not exclude each other: take kl or bce, which "
        "treat each label by itself"
    )


def refusal(terms: Sequence[AnyTerm], classes: int, teachers: int, *, exclusive: bool) -> str | None:
    """Why a student cannot learn from these terms; None where it can.

    Args:
        terms: what it is asked to learn from.
        classes: of the task.
        teachers: how many it has.
        exclusive: whether the classes exclude each other.
    """
    if bool(terms) != bool(teachers):
        return "a student that is taught needs both taught_by and terms, one that learns alone has neither"
    faults = (term.fault(classes, teachers, exclusive=exclusive) for term in terms)
    return next((fault for fault in faults if fault), None)


def needs_features(terms: Sequence[AnyTerm]) -> bool:
    """Whether any of them looks at maps."""
    return any(isinstance(term, Features | Relations | Relational | Fusion) for term in terms)
