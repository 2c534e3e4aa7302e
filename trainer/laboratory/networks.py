"""A recipe's networks, made and taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from trainer.models import (
    OWN,
    PixelModel,
    Renormalised,
    count_parameters,
    create_backbone,
    create_student,
    early_stages,
    feature_layers,
    feature_shapes,
    own_normalisation,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.laboratory.recipe import Network


class Size(NamedTuple):
    """What a network costs: weights, and multiply-adds of one image."""

    parameters: int
    macs: int


def create_network(settings: Network, classes: int, *, pretrained: bool = True) -> PixelModel:
    """A network of a recipe, with the device's input: uint8 (N, 3, H, W) -> logits (N, classes).

    Args:
        settings: see there.
        classes: number of logits.
        pretrained: whether to load its pretrained weights; without them where trained ones follow.
    """
    if settings.model in OWN or ":" in settings.model:
        return PixelModel(create_student(settings.model, classes, dropout=settings.dropout, options=settings.options))
    weights = settings.weights if pretrained else "none"
    body = create_backbone(settings.model, classes, weights, dropout=settings.dropout)
    frozen = early_stages(body, settings.frozen_stages)
    normalisation = own_normalisation(body, settings.weights)
    if normalisation is not None:
        body, frozen = Renormalised(body, *normalisation), [f"body.{name}" for name in frozen]
    return PixelModel(body, frozen)


def layers_of(settings: Network, network: PixelModel) -> list[str]:
    """Names of the modules of a network whose maps distillation looks at."""
    inner = isinstance(network.body, Renormalised)
    prefix = "body.body." if inner else "body."
    if settings.layers:
        return [prefix + name for name in settings.layers]
    return feature_layers(network.body.body if isinstance(network.body, Renormalised) else network.body, prefix)


def channels_of(network: PixelModel, layers: Sequence[str], side: int) -> list[int]:
    """Channels of the layers' maps."""
    return [shape[0] for shape in feature_shapes(network, layers, side)]


def size_of(network: PixelModel, side: int) -> Size:
    """What a network costs at this side."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  slow to import

    training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    network.train(training)
    return Size(count_parameters(network), int(counter.get_total_flops()) // 2)
