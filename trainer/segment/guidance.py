"""What passes from teacher to student, and how far apart they are: the pathways of paper 4."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from trainer.losses.maps import (
    AbsoluteError,
    CrossEntropyOfChances,
    Divergence,
    SquaredError,
    SquaredErrorOfChances,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainer.segment.recipe import Row

OUTPUTS = {
    "mse": SquaredErrorOfChances,
    "kl": Divergence,
    "bce": CrossEntropyOfChances,
    "l1": AbsoluteError,
    "squared": SquaredError,
}
FEATURES = {"mse": SquaredError, "kl": Divergence, "l1": AbsoluteError}


class Answer(NamedTuple):
    """What a network says about a batch.

    Attributes:
        logits: (N, classes, H, W).
        features: of the encoder's levels from half size down, (N, C[i], H / 2^(i + 1), W / 2^(i + 1)); the last is the
            encoder's output. A pathway that needs none may be given none.
    """

    logits: Tensor
    features: Sequence[Tensor]


class Guidance(nn.Module):
    """The distance between a student's answer and its teacher's along one pathway.

    Without a regressor the teacher's channels are averaged in equal groups to the student's number: the paper does not
    say how it compares unlike numbers. The regressor is two convolutions, 3x3 and 1x1, with a ReLU between them, and
    learns with the student; it is no part of what is kept.

    Args:
        row: pathway and loss.
        student: channels of the student's levels from half size down.
        teacher: channels of the teacher's.
    """

    def __init__(self, row: Row, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        self.pathway = row.pathway
        self.output, self.feature = OUTPUTS[row.loss](), FEATURES.get(row.loss, SquaredError)()
        self.regressor: nn.Module | None = None
        if row.pathway in ("regressor", "both"):
            self.regressor = nn.Sequential(
                nn.Conv2d(student[-1], teacher[-1], 3, padding=1), nn.ReLU(inplace=True),
                nn.Conv2d(teacher[-1], teacher[-1], 1),
            )  # fmt: skip

    def forward(self, student: Answer, teacher: Answer) -> Tensor:
        """The distance; of `both` the mean of the two, of `all` the mean over the levels."""
        if self.pathway == "logits":
            return self.output(student.logits, teacher.logits)  # type: ignore[no-any-return]
        if self.pathway == "all":
            levels = zip(student.features, teacher.features, strict=True)
            return torch.stack([self.feature(own, grouped(its, own.shape[1])) for own, its in levels]).mean()
        own, its = student.features[-1], teacher.features[-1]
        if self.regressor is None:
            return self.feature(own, grouped(its, own.shape[1]))  # type: ignore[no-any-return]
        hidden: Tensor = self.feature(self.regressor(own), its)
        return hidden if self.pathway == "regressor" else (hidden + self.output(student.logits, teacher.logits)) / 2


def grouped(features: Tensor, channels: int) -> Tensor:
    """Average channels in equal neighbouring groups: (N, C, H, W) -> (N, channels, H, W)."""
    count, _, height, width = features.shape
    flat = features.float().flatten(2).transpose(1, 2)
    return functional.adaptive_avg_pool1d(flat, channels).transpose(1, 2).reshape(count, channels, height, width)


def levels_of(row: Row) -> slice:
    """Which of the teacher's levels a pathway needs."""
    return {"logits": slice(0), "all": slice(None)}.get(row.pathway, slice(-1, None))
