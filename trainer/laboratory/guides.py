"""A recipe's terms as modules: which loss looks at which part of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from trainer.distil import Also, Guide
from trainer.laboratory.terms import (
    Binary,
    Correlated,
    Decoupled,
    Divergence,
    Features,
    Fusion,
    Logits,
    Relational,
    Relations,
)
from trainer.losses import (
    AttentionFusion,
    AttentionTransfer,
    BernoulliTargets,
    CorrelatedTargets,
    DecoupledTargets,
    Hint,
    LayerError,
    LogitError,
    MapDivergence,
    Regressed,
    RelationalAngles,
    RelationalDistances,
    SimilarityPreserving,
    SoftBinary,
    SoftTargets,
    Wasserstein,
)
from trainer.losses.feature import strength
from trainer.models import Probe, feature_layers, feature_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainer.distil import Answer
    from trainer.laboratory.terms import AnyTerm
    from trainer.models import PixelModel


def make_guide(
    term: AnyTerm, student: Sequence[int], teachers: Sequence[Sequence[int]], classes: int, hard: nn.Module, *,
    exclusive: bool,
) -> Guide:  # fmt: skip
    """The module of a term.

    Args:
        term: see `trainer.laboratory.terms`; one that `refusal` has nothing against.
        student: channels of the student's levels, from shallow to deep.
        teachers: those of each teacher.
        classes: of the task.
        hard: loss on the true labels, for what learns from them beside the student.
        exclusive: whether classes exclude each other.
    """
    if isinstance(term, Features):
        return LevelGuide(term, student, teachers)
    if isinstance(term, Fusion):
        pooled_sizes = [levels[-1] for levels in teachers]
        return FusionGuide(AttentionFusion(pooled_sizes, classes, hard, width=term.width, heads=term.heads))
    if isinstance(term, Relational):
        return RelationalGuide(term.distances, term.angles)
    if isinstance(term, Relations):
        return SimilarityGuide()
    return ResponseGuide(_response(term, exclusive=exclusive), labels=isinstance(term, Decoupled))


def make_guides(
    terms: Sequence[AnyTerm], student: Sequence[int], teachers: Sequence[Sequence[int]], classes: int,
    hard: nn.Module, *, exclusive: bool,
) -> dict[str, tuple[float, Guide]]:  # fmt: skip
    """All terms of a student by name, each with its weight; see `make_guide`."""
    guides: dict[str, tuple[float, Guide]] = {}
    for term in terms:
        name = term.loss if term.loss not in guides else f"{term.loss}-{len(guides)}"
        guides[name] = term.weight, make_guide(term, student, teachers, classes, hard, exclusive=exclusive)
    return guides


def make_also(
    terms: Sequence[AnyTerm], student: PixelModel, teacher: PixelModel, pixels: Tensor, classes: int, hard: nn.Module
) -> Also:
    """More terms for a student that asks its one teacher in every step.

    Args:
        terms: what it is to learn beside the divergence; classes exclude each other.
        student: the student.
        teacher: the trained teacher.
        pixels: uint8 (N, 3, H, W), from which the strength of the teacher's levels is measured.
        classes: of the task.
        hard: loss on the true labels.
    """
    probes, channels = [], []
    for network in (student, teacher):
        layers = feature_layers(network.body, "body.")
        probes.append(Probe(network, layers))
        channels.append([shape[0] for shape in feature_shapes(network, layers, pixels.shape[-1])])
    with torch.no_grad(), probes[1]:
        teacher.eval()(pixels)
    units = [strength(level) for level in probes[1].features]
    guides = make_guides(terms, channels[0], [channels[1]], classes, hard, exclusive=True)
    return Also(guides, probes[0], probes[1], units)


def _response(term: Divergence | Binary | Logits | Decoupled | Correlated, *, exclusive: bool) -> nn.Module:
    if isinstance(term, Divergence):
        return SoftTargets(term.temperature) if exclusive else BernoulliTargets(term.temperature)
    if isinstance(term, Binary):
        return SoftBinary(term.temperature, exclusive=exclusive)
    if isinstance(term, Logits):
        return LogitError(2 if term.loss == "squared" else 1, exclusive=exclusive)
    if isinstance(term, Decoupled):
        return DecoupledTargets(term.temperature, term.target, term.others)
    return CorrelatedTargets(term.temperature, term.between_classes, term.between_images)


class ResponseGuide(Guide):
    """On the logits; those of several teachers are averaged."""

    def __init__(self, loss: nn.Module, *, labels: bool) -> None:
        super().__init__()
        self.loss, self.labels = loss, labels

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:
        """The loss."""
        teacher = torch.stack([answer.logits.float() for answer in its]).mean(dim=0)
        more = (labels,) if self.labels else ()
        return self.loss(own.logits, teacher, *more)  # type: ignore[no-any-return]


class LevelGuide(Guide):
    """On the maps: each level with its like, counted from the deepest; the mean over levels and teachers."""

    def __init__(self, term: Features, student: Sequence[int], teachers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        count = 1 if term.levels == "last" else min(len(student), *(len(levels) for levels in teachers))
        self.count = count
        self.losses = nn.ModuleList(
            _level(term, own, its)
            for levels in teachers
            for own, its in zip(student[-count:], levels[-count:], strict=True)
        )

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:  # noqa: ARG002
        """The mean."""
        mine = list(own.features[-self.count :]) * len(its)
        theirs = [level for answer in its for level in answer.features[-self.count :]]
        found = [loss(a, b) for loss, a, b in zip(self.losses, mine, theirs, strict=True)]
        return torch.stack(found).mean()


def _level(term: Features, student: int, teacher: int) -> nn.Module:
    if term.loss == "attention":
        return AttentionTransfer()
    distances = {"fitnets": Hint, "wasserstein": Wasserstein, "l1": LayerError}
    distance = MapDivergence(term.temperature) if term.loss == "map_kl" else distances[term.loss]()
    return Regressed(distance, student, teacher)


class SimilarityGuide(Guide):
    """Similarities within the batch, of the last level; the mean over teachers."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = SimilarityPreserving()

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:  # noqa: ARG002
        """The mean."""
        return torch.stack([self.loss(own.features[-1], answer.features[-1]) for answer in its]).mean()


class RelationalGuide(Guide):
    """Distances and angles within the batch, of the last level's mean over the map; the mean over teachers."""

    def __init__(self, distances: float, angles: float) -> None:
        super().__init__()
        self.weights = distances, angles
        self.losses = nn.ModuleList((RelationalDistances(), RelationalAngles()))

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:  # noqa: ARG002
        """The mean."""
        mine = pooled(own.features[-1])
        found = [
            weight * loss(mine, pooled(answer.features[-1]))
            for answer in its
            for weight, loss in zip(self.weights, self.losses, strict=True)
            if weight
        ]
        return torch.stack(found).sum() / len(its)


class FusionGuide(Guide):
    """The teachers' last levels fused, of their mean over the map."""

    def __init__(self, fusion: AttentionFusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:
        """The fusion's loss."""
        loss: Tensor = self.fusion(pooled(own.features[-1]), [pooled(answer.features[-1]) for answer in its], labels)
        return loss


def pooled(features: Tensor) -> Tensor:
    """The mean over the map, (N, C, h, w) -> (N, C)."""
    return features.float().mean(dim=(2, 3))
