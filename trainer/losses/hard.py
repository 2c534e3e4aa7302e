"""Losses on the true labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class HardLabels(nn.Module):
    """Cross-entropy with the true labels, mean over the batch.

    L = -1/N sum_n sum_c q[n, c] log softmax(z[n])[c], where q = (1 - s) onehot(y[n]) + s / C; label smoothing s after
    Szegedy et al. 2016 (arXiv 1512.00567), zero for the plain loss.

    Shapes: logits z (N, C), labels y int64 (N,) -> scalar.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of every image, (N,)."""
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing, reduction="none")


class HardSets(nn.Module):
    """Binary cross-entropy of labels that do not exclude each other, mean over batch and labels.

    L = -1/(N C) sum_nc q log s(z) + (1 - q) log(1 - s(z)), where q = (1 - e) y + e / 2 with smoothing e, and s is the
    logistic function.

    Shapes: logits z (N, C), labels y float (N, C) of 0 and 1 -> scalar.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean binary cross-entropy."""
        wanted = labels.float() * (1 - self.smoothing) + self.smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits.float(), wanted)
