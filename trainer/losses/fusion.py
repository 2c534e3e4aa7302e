"""Several teachers at once: their features fused by attention, the fused relation guiding the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from trainer.losses.relation import RelationalDistances, SimilarityPreserving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class AttentionFusion(nn.Module):
    """Fusion of several teachers' features by multi-head attention (Gammulle et al. 2023, arXiv 2308.08731).

    Each teacher's pooled features become a token e[m] = W[m] f[m] (layer-normalised); multi-head attention (Vaswani et
    al. 2017, arXiv 1706.03762) with a learnt query over the tokens, and their mean beside it, gives the fused features
    g, so that each teacher contributes where it knows more. What could be read of the paper does not say what keeps a
    fusion that learns together with the student from a trivial one; here a linear classifier on g learns the true
    labels, and nothing else teaches the fusion:
    L = hard(V g, y) + similarity(u, g) + distances(u, g), the last two (`SimilarityPreserving`, `RelationalDistances`)
    teaching the student's embedding u alone.

    Shapes: student embedding u (N, S), teachers' embeddings f[m] (N, C[m]), labels y -> scalar.

    Args:
        teachers: C[m] of each.
        classes: of the classifier.
        hard: the loss on the true labels.
        width: of the tokens, a multiple of `heads`.
        heads: of the attention.
    """

    def __init__(
        self, teachers: Sequence[int], classes: int, hard: nn.Module, *, width: int = 64, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(c, width), nn.LayerNorm(width)) for c in teachers)
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.classifier = nn.Linear(width, classes)
        self.hard, self.similarity, self.distances = hard, SimilarityPreserving(), RelationalDistances()

    def fuse(self, teachers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The fused features (N, width), and how much each teacher counts (N, teachers), mean over the heads."""
        tokens = torch.stack(
            [layer(its.detach().float()) for layer, its in zip(self.tokens, teachers, strict=True)], dim=1
        )
        fused, weights = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens)
        both: Tensor = fused[:, 0] + tokens.mean(dim=1)
        shares: Tensor = weights[:, 0]
        return both, shares

    def forward(self, student: Tensor, teachers: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The three terms together."""
        fused, _ = self.fuse(teachers)
        guide = functional.normalize(fused.detach(), dim=1)
        own = functional.normalize(student.float(), dim=1)
        known = self.hard(self.classifier(fused), labels)
        loss: Tensor = known + self.similarity(own, guide) + self.distances(own, guide)
        return loss
