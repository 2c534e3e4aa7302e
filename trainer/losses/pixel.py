"""Losses on the masks' own labels, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class PartialLabels(nn.Module):
    """Cross-entropy of pixels of which a set of possible classes is known, mean over the pixels that tell anything.

    L = -sum_p w[p] log sum_{c in S[p]} softmax(z[p])[c] / sum_p w[p], over the pixels whose set S is not that of all
    classes. Where S has one member this is the plain pixel cross-entropy; a larger set is the likelihood of a partial
    label (Jin & Ghahramani 2002, Learning with Multiple Labels).

    Shapes: logits z (N, C, H, W), sets S uint8 (N, H, W), bit c for class c -> scalar; 0 where no pixel tells anything.

    Args:
        weights: w of a pixel whose set is {c}, per class; 1 for larger sets, and without weights.
    """

    def __init__(self, weights: Sequence[float] = ()) -> None:
        super().__init__()
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, sets: Tensor) -> Tensor:
        """The mean over all pixels that tell anything."""
        chances = torch.log_softmax(logits.float(), dim=1)
        bits = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        inside = (sets.unsqueeze(1).int() >> bits) & 1 == 1
        tells = ~inside.all(dim=1) & inside.any(dim=1)
        likely = torch.logsumexp(chances.masked_fill(~inside, -torch.inf), dim=1)
        weight = tells.float()
        for number, value in enumerate(self.weights):
            weight = torch.where(sets == 1 << number, value, weight)
        return -(torch.where(tells, likely, 0) * weight).sum() / weight.sum().clamp(min=1)


class PartialDice(nn.Module):
    """Soft Dice loss of the small classes (Milletari et al. 2016, arXiv 1606.04797) over a batch, their mean.

    L = mean_c 1 - (2 sum_p s[p, c] y[p, c] + 1) / (sum_p s[p, c] + y[p, c] + 1), where s = softmax(z), y says that the
    pixel's set is {c}, and p runs over the pixels whose set says whether c is there: those of {c}, and those without c.
    A rare class weighs as much as a common one, which the cross-entropy does not grant it.

    Shapes: logits z (N, C, H, W), sets S uint8 (N, H, W), bit c for class c -> scalar.

    Args:
        classes: those that count, all but the background.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = tuple(classes)

    def forward(self, logits: Tensor, sets: Tensor) -> Tensor:
        """The mean over the classes."""
        chances = torch.softmax(logits.float(), dim=1)
        losses = []
        for number in self.classes:
            bit = 1 << number
            truth = (sets == bit).float()
            told = truth + (sets & bit == 0).float()
            found = chances[:, number] * told
            losses.append(1 - (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1))
        return torch.stack(losses).mean()
