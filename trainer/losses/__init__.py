"""Losses: each a small module that names its formula, its shapes and its source."""

from trainer.losses.dense import SoftMaps
from trainer.losses.hard import HardLabels
from trainer.losses.response import SoftTargets

__all__ = ["HardLabels", "SoftMaps", "SoftTargets"]
