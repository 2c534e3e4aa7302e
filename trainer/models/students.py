"""Students by name: ours, any of timm's, or a module of one's own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional

from edge.errors import ConfigError
from trainer.models.backbones import create_backbone
from trainer.models.simple_resnet import SimpleResNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

OWN = ("simple_resnet", "micro", "three_conv")
"""Names of our own students; anything else is timm's, or `package.module:Name`."""
MICRO_LIMIT = 51_800
"""Trainable parameters of paper 2's student, which `micro` does not exceed."""
_MICRO = {"widths": (16, 16, 32, 32), "blocks": (1, 2, 1, 1)}


class ThreeConv(nn.Module):
    """Three convolutions and two linear layers (Bandyopadhyay et al. 2021, arXiv 2108.03470).

    64 of 5x5, 64 of 3x3, 128 of 3x3. The paper does not say how the maps shrink, nor the linear widths: here the first
    has stride 2, each is batch-normalised, rectified and pooled 2x2, and 64 units lie between the mean over the map and
    the logits. All of it has fast INT8 kernels.

    Shapes: normalised RGB float (N, 3, H, W), sides at least 16 -> logits (N, classes).

    Args:
        classes: number of logits.
        dropout: share of pooled features dropped in training.
    """

    feature_layers = ("convolutions.0", "convolutions.1", "convolutions.2")

    def __init__(self, classes: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_step(3, 64, 5, 2), _step(64, 64, 3, 1), _step(64, 128, 3, 1))
        self.dropout = nn.Dropout(dropout)
        self.hidden, self.relu = nn.Linear(128, 64), nn.ReLU()
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.convolutions(x)
        pooled = functional.avg_pool2d(x, x.shape[-2:]).flatten(1)
        return self.classifier(self.relu(self.hidden(self.dropout(pooled))))  # type: ignore[no-any-return]


def _step(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def create_student(
    model: str, classes: int, *, dropout: float = 0.0, maps: int = 0, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A student with fresh weights.

    Args:
        model: `simple_resnet`; `micro`, the same with at most `MICRO_LIMIT` parameters; `three_conv`; timm's name of a
            model; or `package.module:Name`, called with `classes`, `dropout` and the options.
        classes: number of logits.
        dropout: share of pooled features dropped in training.
        maps: labels of a map beside the logits, which only `simple_resnet` and `micro` have.
        options: more for its constructor, `widths` and `blocks` of a `simple_resnet` for example.

    Returns:
        A module: normalised RGB float (N, 3, H, W) -> logits (N, classes), with map logits where it has a map.

    Raises:
        ConfigError: there is no such model, or it does not take these options.
    """
    given = dict(options or {})
    if maps and model not in ("simple_resnet", "micro"):
        raise ConfigError(f"{model} has no map: leave maps out of the recipe, or take simple_resnet")
    try:
        if model in ("simple_resnet", "micro"):
            chosen = {**_MICRO, **given} if model == "micro" else given
            return SimpleResNet(classes, dropout=dropout, maps=maps, **chosen)
        if model == "three_conv":
            return ThreeConv(classes, dropout, **given)
        if ":" in model:
            made = _imported(model)(classes=classes, dropout=dropout, **given)
            if not isinstance(made, nn.Module):
                raise ConfigError(f"{model} gives a {type(made).__name__}, no torch module: name a module's class")
            return made
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{model} does not take {given or 'these settings'}: {error}") from error
    if given:
        raise ConfigError(f"{model} is timm's: it takes no options, only a name and dropout")
    return create_backbone(model, classes, "none", dropout=dropout)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be imported ({error}): give package.module:Name of a module's class"
        ) from error
