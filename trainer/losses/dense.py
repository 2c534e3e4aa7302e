"""Losses on maps: a student's small map against a segmentation teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
