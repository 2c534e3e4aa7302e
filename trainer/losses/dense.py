"""Losses on maps: a student's small map, and what speaks for its answer where, against a segmentation teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class SoftMaps(nn.Module):
    """Binary cross-entropy of every cell and label with a soft target (the BCE pathway of Owen et al. in paper 4).

    L = -1/(N L h w) sum w (q log s(z) + (1 - q) log(1 - s(z))), where s is the logistic function and w = 1 + (p - 1) q:
    cells that show a label are rare, and count p times. Labels need not exclude each other.

    Shapes: logits z (N, L, h, w), targets q (N, L, h, w) in 0..1 -> scalar.
    """

    def __init__(self, positive: float = 1.0) -> None:
        super().__init__()
        self.positive = positive

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over all cells."""
        weight = 1 + (self.positive - 1) * targets
        return functional.binary_cross_entropy_with_logits(logits.float(), targets, weight)


class StrayActivation(nn.Module):
    """How much of what speaks for a label lies where it is not shown (right for the right reasons, Ross et al. 2017).

    What speaks for label f at place p is the class activation map (Zhou et al. 2016, arXiv 1512.04150) of a network
    that averages its last features x and weighs them: e[p] = relu((w[f] - mean over the other labels of w) x[p]).
    L = mean over images of 1 - sum_p e[p] m[p] / sum_p e[p], where m is the share of p that the grown mask covers.
    Penalised as by Ross et al. (arXiv 1703.03717), but on this map in place of the input's gradient.

    Shapes: features x (N, C, h, w), weights w (K, C), masks (N, L, H, W) in 0..1, of the images that show the label
    -> scalar; 0 of no image.

    Args:
        label: f.
        grow: by which share of its width the mask grows.
    """

    def __init__(self, label: int, grow: float = 0.05) -> None:
        super().__init__()
        self.label, self.grow = label, grow

    def forward(self, features: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
        """The mean over the images whose mask shows something."""
        masks = masks.amax(1, keepdim=True)
        told = masks.amax((1, 2, 3)) >= _SHOWN
        if not bool(told.any()):
            return 0 * features.sum()  # a zero that still has a gradient
        others = torch.cat([weights[: self.label], weights[self.label + 1 :]]).mean(0)
        direction = (weights[self.label] - others).float()
        activation = torch.relu(torch.einsum("nchw,c->nhw", features[told].float(), direction))
        reach = round(self.grow * masks.shape[-1])
        grown = functional.max_pool2d(masks[told], 2 * reach + 1, 1, reach)
        inside = functional.adaptive_avg_pool2d(grown, (activation.shape[1], activation.shape[2]))[:, 0]
        total = activation.sum((1, 2))
        return (1 - (activation * inside).sum((1, 2)) / total.clamp_min(_TINY)).mean()


_SHOWN = 0.5  # a mask that nowhere reaches this shows nothing
_TINY = 1e-6
