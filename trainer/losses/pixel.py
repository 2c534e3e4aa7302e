"""Losses on the masks' own labels, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class PartialLabels(nn.Module):
    """Cross-entropy of pixels of which a set of possible classes is known, mean over the pixels that tell anything.

    L = -1/M sum_p log sum_{c in S[p]} softmax(z[p])[c], over the M pixels whose set S is not that of all classes. Where
    S has one member this is the plain pixel cross-entropy; a larger set is the likelihood of a partial label (Jin &
    Ghahramani 2002, Learning with Multiple Labels).

    Shapes: logits z (N, C, H, W), sets S uint8 (N, H, W), bit c for class c -> scalar; 0 where no pixel tells anything.
    """

    def forward(self, logits: Tensor, sets: Tensor) -> Tensor:
        """The mean over all pixels that tell anything."""
        chances = torch.log_softmax(logits.float(), dim=1)
        bits = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
        inside = (sets.unsqueeze(1).int() >> bits) & 1 == 1
        tells = ~inside.all(dim=1) & inside.any(dim=1)
        likely = torch.logsumexp(chances.masked_fill(~inside, -torch.inf), dim=1)
        return -torch.where(tells, likely, 0).sum() / tells.sum().clamp(min=1)
