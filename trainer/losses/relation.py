"""Losses on the relations between the images of a batch: neither channels nor sizes need to agree.

No gradient reaches the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-8


class RelationalDistances(nn.Module):
    """RKD, distances (Park et al. 2019, arXiv 1904.05068).

    L = 1 / (N (N - 1)) sum_{i != j} h(d(z)[i, j], d(t)[i, j]), where d(f)[i, j] = ||f[i] - f[j]|| over the mean of
    these over all pairs, and h is Huber's loss with its bend at 1.

    Shapes: student embeddings z (N, S), teacher embeddings t (N, T) -> scalar; 0 for a single image.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over pairs."""
        if len(student) < 2:  # noqa: PLR2004
            return student.sum() * 0
        return functional.smooth_l1_loss(_distances(student), _distances(teacher.detach()))


class RelationalAngles(nn.Module):
    """RKD, angles (Park et al. 2019, arXiv 1904.05068).

    L = mean over i, j, k of h(a(z)[i, j, k], a(t)[i, j, k]), where a(f)[i, j, k] is the cosine between f[i] - f[j] and
    f[k] - f[j], 0 where two of them are the same image, and h is Huber's loss with its bend at 1.

    Shapes: student embeddings z (N, S), teacher embeddings t (N, T) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over triples."""
        return functional.smooth_l1_loss(_angles(student), _angles(teacher.detach()))


class SimilarityPreserving(nn.Module):
    """Which images of a batch excite a layer alike (Tung & Mori 2019, arXiv 1907.09682).

    L = 1 / N^2 || G(z) - G(t) ||_F^2, where G(f) is f f^T with the features of each image flattened, its rows divided
    by their Euclidean norm.

    Shapes: student z (N, ...), teacher t (N, ...) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all pairs."""
        return functional.mse_loss(_similarity(student), _similarity(teacher.detach()))


def _similarity(features: Tensor) -> Tensor:
    flat = features.float().flatten(1)
    return functional.normalize(flat @ flat.T, dim=1, eps=_TINY)


def _distances(embeddings: Tensor) -> Tensor:
    """Distances of all pairs (N (N - 1),) over their mean."""
    e = embeddings.float()
    squares = e.pow(2).sum(dim=1)
    apart = (squares[:, None] + squares[None] - 2 * e @ e.T).clamp(min=1e-12).sqrt()
    pairs = apart[~torch.eye(len(e), dtype=torch.bool, device=e.device)]
    return pairs / pairs.mean().clamp(min=_TINY)


def _angles(embeddings: Tensor) -> Tensor:
    """Cosines (N, N, N): at j between i and k."""
    e = embeddings.float()
    arms = functional.normalize(e[None] - e[:, None], dim=2, eps=_TINY)  # [j, i]
    return arms @ arms.transpose(1, 2)
