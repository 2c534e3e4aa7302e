"""Losses on a teacher's feature maps, level by level.

Maps of unlike size are pooled to the smaller one, height and width each by itself; unlike channels go through a
regressor that learns with the student and is no part of what is kept, or are compared by what does not depend on them.
No gradient reaches the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from trainer.losses.maps import AbsoluteError, Divergence, SquaredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_TINY = 1e-8


class Regressor(nn.Module):
    """A 1x1 convolution from the student's channels to the teacher's (Romero et al. 2015, arXiv 1412.6550).

    Shapes: (N, student, H, W) -> (N, teacher, H, W).
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(student, teacher, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The student's features in the teacher's channels."""
        return self.map(features.float())  # type: ignore[no-any-return]


class Regressed(nn.Module):
    """A distance between maps, after a regressor: one of `Hint`, `MapDivergence`, `Wasserstein`, `LayerError`.

    Shapes: student (N, S, h, w), teacher (N, T, h', w') -> scalar.
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], student: int, teacher: int) -> None:
        super().__init__()
        self.distance, self.regressor = distance, Regressor(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of the regressed maps."""
        own, its = same_size(student, teacher.detach())
        return self.distance(self.regressor(own), its)


Hint = SquaredError
"""FitNets (Romero et al. 2015, arXiv 1412.6550): squared error of regressed maps."""
MapDivergence = Divergence
"""KL between maps (Bandyopadhyay et al. 2021, arXiv 2108.03470, which does not say over what): over the channels, place
by place."""
LayerError = AbsoluteError
"""L1 norm between layers (Vaze et al., in paper 4); over all levels, their mean."""


class Wasserstein(nn.Module):
    """Wasserstein distance between feature maps (Bandyopadhyay et al. 2021, arXiv 2108.03470).

    The paper does not say between which measures. Here, of each channel, between how strong it is over all places of
    the map: in one dimension the best transport pairs the sorted values (Villani 2003, Topics in Optimal
    Transportation).
    L = 1 / (N C) sum_nc 1 / P sum_p |sort(z[n, c])[p] - sort(t[n, c])[p]|: what is shown counts, not where.

    Shapes: student z (N, C, H, W), teacher t (N, C, H, W) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over images and channels."""
        z = student.float().flatten(2).sort(dim=2).values
        t = teacher.detach().float().flatten(2).sort(dim=2).values
        return (z - t).abs().mean()


class AttentionTransfer(nn.Module):
    """Where a layer is strong, whatever its channels (Zagoruyko & Komodakis 2017, arXiv 1612.03928).

    L = 1 / N sum_n || a(z[n]) / ||a(z[n])|| - a(t[n]) / ||a(t[n])|| ||^2 with a(f) = sum_c f[c]^2, flattened.

    Shapes: student z (N, S, h, w), teacher t (N, T, h', w') -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The batch mean."""
        own, its = same_size(student, teacher.detach())
        return (_attention(own) - _attention(its)).pow(2).sum(dim=1).mean()


def _attention(features: Tensor) -> Tensor:
    power = features.float().pow(2).sum(dim=1).flatten(1)
    return functional.normalize(power, dim=1, eps=_TINY)


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pool two maps (N, C, h, w), (N, D, h', w') to the smaller height and the smaller width of both."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])

    def pooled(features: Tensor) -> Tensor:
        same = tuple(features.shape[2:]) == size
        return features if same else functional.adaptive_avg_pool2d(features.float(), size)

    return pooled(first), pooled(second)


def strength(features: Tensor) -> float:
    """Root mean square of a map: divided by it, the losses of all levels and teachers are of one size."""
    return float(features.detach().double().pow(2).mean().clamp(min=torch.finfo(torch.float32).tiny).sqrt())
