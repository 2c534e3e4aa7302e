"""Networks, and the wrapper that gives each of them the device's input: uint8 RGB, normalised inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.models.backbones import Renormalised, create_backbone, early_stages, own_normalisation
from trainer.models.features import (
    Pooled,
    Probe,
    feature_layers,
    feature_shapes,
    last_linear,
    last_map,
    only_logits,
)
from trainer.models.simple_resnet import MAP_STRIDE, SimpleResNet
from trainer.models.students import OWN, ThreeConv, create_student

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "MAP_STRIDE",
    "MEAN",
    "OWN",
    "SCALE",
    "PixelModel",
    "Pooled",
    "Probe",
    "Renormalised",
    "SimpleResNet",
    "ThreeConv",
    "count_parameters",
    "create_backbone",
    "create_student",
    "early_stages",
    "feature_layers",
    "feature_shapes",
    "last_linear",
    "last_map",
    "only_logits",
    "own_normalisation",
]

MEAN, SCALE = 127, 128
"""Normalisation is (x - MEAN) / SCALE: exact in floating point, and the INT8 graph's own input scale and zero point."""


class PixelModel(nn.Module):
    """Takes pixels as they are.

    Shapes: uint8 (N, 3, H, W) RGB -> what the body answers: logits (N, classes), maybe with maps.

    Args:
        body: takes normalised RGB float (N, 3, H, W).
        frozen: names of modules of the body that keep their weights and batch statistics.
    """

    def __init__(self, body: nn.Module, frozen: Sequence[str] = ()) -> None:
        super().__init__()
        self.body = body
        self._frozen = tuple(frozen)
        for name in self._frozen:
            body.get_submodule(name).requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> PixelModel:
        """As torch does it, but frozen parts stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self

    def forward(self, pixels: Tensor) -> Any:
        """Normalise, then run the network."""
        return self.body((pixels.float() - MEAN) / SCALE)


def count_parameters(module: nn.Module) -> int:
    """Number of weights that a file of the model holds (batch statistics not counted: they fold away)."""
    return sum(p.numel() for p in module.parameters())
