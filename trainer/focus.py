"""Training that looks where the finding is: `trainer.losses.StrayActivation`, joined as a recipe's `focus` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edge.errors import ConfigError
from trainer.losses import StrayActivation
from trainer.models import Probe, feature_shapes, last_linear, last_map

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class Focus:
    """What a task learns beside its own loss, so that a network's evidence for the finding lies on the finding.

    Args:
        network: takes uint8 pixels; averages its last map and weighs the averages in a linear layer, as most do.
        finding: the label's index.
        weight: of the term.
        side: pixels of its input.

    Raises:
        ConfigError: it does not end so.
    """

    def __init__(self, network: nn.Module, finding: int, weight: float, side: int) -> None:
        self.weight, self._loss, classifier = weight, StrayActivation(finding), last_linear(network)
        training = network.training
        try:
            layer = last_map(network.eval(), torch.zeros(1, 3, side, side, dtype=torch.uint8))
            channels = feature_shapes(network, [layer], side)[0][0]
        except ValueError as error:
            raise ConfigError(f"focus: {error}; set it to 0") from error
        finally:
            network.train(training)
        if classifier is None or classifier.in_features != channels:
            raise ConfigError(
                f"the network's last map, {layer}, has {channels} channels, which no linear layer weighs, so nothing "
                "tells what speaks for an answer where: set focus to 0"
            )
        self._classifier, self._probe = classifier, Probe(network, [layer])

    def watch(self) -> AbstractContextManager[object]:
        """Within this the network must answer, so that its last map is seen."""
        return self._probe

    def __call__(self, labels: Tensor, maps: Tensor, counts: Tensor | None = None) -> Tensor:
        """The term before weighting, of the batch that was just seen.

        Args:
            labels: int64 (N,).
            maps: float32 (N, labels of the map, h, w), where the finding is shown.
            counts: bool (N,), which images count; None for all.
        """
        shown = labels == self._loss.label if counts is None else (labels == self._loss.label) & counts
        loss: Tensor = self._loss(self._probe.features[0][shown], self._classifier.weight, maps[shown])
        return loss
