"""Losses: each a small module that names its formula, its shapes and its source."""

from trainer.losses.dense import SoftMaps, StrayActivation
from trainer.losses.distrust import GroupRobust, SourceAdversary, TwinMargin
from trainer.losses.feature import AttentionTransfer, Hint, LayerError, MapDivergence, Regressed, Wasserstein
from trainer.losses.fusion import AttentionFusion
from trainer.losses.hard import HardLabels, HardSets
from trainer.losses.relation import RelationalAngles, RelationalDistances, SimilarityPreserving
from trainer.losses.response import (
    BernoulliTargets,
    CorrelatedTargets,
    DecoupledTargets,
    LogitError,
    SoftBinary,
    SoftTargets,
)

__all__ = [
    "AttentionFusion",
    "AttentionTransfer",
    "BernoulliTargets",
    "CorrelatedTargets",
    "DecoupledTargets",
    "GroupRobust",
    "HardLabels",
    "HardSets",
    "Hint",
    "LayerError",
    "LogitError",
    "MapDivergence",
    "Regressed",
    "RelationalAngles",
    "RelationalDistances",
    "SimilarityPreserving",
    "SoftBinary",
    "SoftMaps",
    "SoftTargets",
    "SourceAdversary",
    "StrayActivation",
    "TwinMargin",
    "Wasserstein",
]
