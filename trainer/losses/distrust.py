"""Losses that do not trust where a picture comes from: worst groups first, sources that cannot be told, twins apart.

All are right in several processes: sums over the batch are sums over all of it, and what each process returns has the
whole batch's loss as its mean over the processes, as gradients are averaged.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from trainer.processes import together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_STEEPNESS = 10.0  # of the ramp, as in the paper
_PAIR = 2


class GroupRobust(nn.Module):
    """Group DRO, online (Sagawa et al. 2020, arXiv 1911.08731, algorithm 1): the groups that fare worst count most.

    l[g] = mean loss of the batch's images of group g. First w[g] <- w[g] exp(eta l[g]), by which the groups of the
    batch share anew what weight they had together: of a group that is not in the batch nothing is learnt, so its weight
    stays (the paper draws one group per step, each as often). Then L = sum_g w[g] l[g] over the batch's groups. The
    weights begin alike, sum to 1, carry no gradient, and are kept as logarithms, so that none ever vanishes for good.

    Shapes: losses (N,), groups int64 (N,), -1 for none -> scalar.

    Args:
        groups: how many there are.
        step: eta.
    """

    logs: Tensor

    def __init__(self, groups: int, step: float) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("logs", torch.full((groups,), -math.log(groups)))  # in the checkpoint

    @property
    def weights(self) -> Tensor:
        """The groups' weights w, float32 (G,)."""
        return self.logs.exp()

    def forward(self, losses: Tensor, groups: Tensor) -> Tensor:
        """The weighted sum of the groups' means; in training the weights take their step before."""
        member = (groups[:, None] == torch.arange(len(self.logs), device=groups.device)).float()
        sums = (member * losses.float()[:, None]).sum(0)  # no product of matrices, which mixed precision would round
        (whole, counts), processes = together(torch.stack((sums.detach(), member.sum(0))))
        there = counts > 0
        if self.training:
            self._share(torch.where(there, whole / counts.clamp(min=1), 0.0), there)
        loss: Tensor = processes * (self.weights * sums / counts.clamp(min=1)).sum()
        return loss

    @torch.no_grad()
    def _share(self, means: Tensor, there: Tensor) -> None:
        if not bool(there.any()) or not bool(torch.isfinite(means).all()):
            return  # a loss that is no number ends the training: the weights stay as they were
        grown = self.logs + self.step * means
        before, after = (values[there].logsumexp(0) for values in (self.logs, grown))
        shared = torch.where(there, grown - after + before, self.logs)
        self.logs.copy_(shared - shared.logsumexp(0))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(features: Tensor, strength: float) -> Tensor:
    """The features as they are, whose gradient is multiplied by -strength on its way back (Ganin et al. 2016)."""
    found: Tensor = _Reverse.apply(features, strength)  # type: ignore[no-untyped-call]
    return found


def ramp(progress: float) -> float:
    """How much of its strength an adversary has (Ganin et al. 2016, section 5.2.2): 2 / (1 + exp(-10 p)) - 1.

    Args:
        progress: p, the share of the training that is done: 0 at the begin, 1 at the end.
    """
    return 2 / (1 + math.exp(-_STEEPNESS * progress)) - 1


class SourceAdversary(nn.Module):
    """Heads that tell the source from the features, which learn not to tell it: DANN within each label.

    After Ganin et al. 2016 (JMLR 17, arXiv 1505.07818), conditional on the label as Li et al. 2018 (ECCV, "Conditional
    Invariant Adversarial Networks"). Source and label go together here (colonoscopy never shows folds), so one head for
    all would make the features forget the label: the sources of a label have a head of their own, and a label with a
    single source has none. h[y] is a linear layer, ReLU, a linear layer. Over the M images of labels with a head

        L = -1/M sum_n log softmax(h[y[n]](r(f[n])))[s[n]],

    where r is the identity whose gradient is multiplied by -strength * ramp(p): the heads descend, the features climb.

    Shapes: features f (N, F), labels y int64 (N,), sources s int64 (N,) -> scalar.

    Args:
        features: F.
        sources: by label the sources that it has; no head where there are fewer than two.
        strength: the largest factor of the reversed gradient.
        width: units between.
    """

    def __init__(
        self, features: int, sources: Mapping[int, Sequence[int]], strength: float, *, width: int = 128
    ) -> None:
        super().__init__()
        self.strength = strength
        self.sources = {label: sorted(set(told)) for label, told in sources.items() if len(set(told)) > 1}
        self.heads = nn.ModuleDict({
            str(label): nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, len(told)))
            for label, told in sorted(self.sources.items())
        })  # fmt: skip

    def forward(self, features: Tensor, labels: Tensor, sources: Tensor, progress: float) -> Tensor:
        """The heads' mean cross-entropy; 0 where no image has a label with a head."""
        seen = reverse(features.float(), self.strength * ramp(progress))
        # So that every head and every feature takes part in each process, whatever its images are.
        loss, count = 0.0 * seen.sum(), torch.zeros((), device=seen.device)
        for label, told in self.sources.items():
            place = torch.tensor(told, device=sources.device)
            chosen = (labels == label) & (sources[:, None] == place).any(1)
            said = self.heads[str(label)](seen[chosen]).float()
            wanted = (sources[chosen, None] == place).long().argmax(1)
            loss = loss + functional.cross_entropy(said, wanted, reduction="sum")
            count = count + chosen.sum()
        count, processes = together(count)
        return processes * loss / count.clamp(min=1)


class TwinMargin(nn.Module):
    """Twins, one picture with its folds and without, must be told apart by a margin: all else about them is the same.

    d[k] = (log-odds of the finding in the twin that shows it) - (the same in the other); over the K pairs of a batch

        L = 1/K sum_k log(1 + exp(margin - d[k])),

    the logistic ranking loss (RankNet, Burges et al. 2005) with a margin. It is about a difference alone: what light,
    colour or source add to both logits cancels out. A cross-entropy on both is content once each is on its side.

    Images 2k and 2k + 1 of a batch are twins where they are made of one record and have opposite labels. That two such
    were drawn one by one happens, and does no harm: it is one larynx with its folds and without them.

    Shapes: logits (N, 2), labels int64 (N,), records int64 (N,) -> scalar.

    Args:
        margin: of the log-odds.
        finding: the label that one twin shows.
    """

    def __init__(self, margin: float, finding: int) -> None:
        super().__init__()
        self.margin, self.finding = margin, finding

    def forward(self, logits: Tensor, labels: Tensor, records: Tensor) -> Tensor:
        """The mean over the pairs; 0 where there are none."""
        even = len(labels) // _PAIR * _PAIR
        shown = (labels[:even] == self.finding).view(-1, _PAIR)
        made = records[:even].view(-1, _PAIR)
        pairs = (made[:, 0] == made[:, 1]) & (shown[:, 0] != shown[:, 1])
        odds = (logits[:, self.finding] - logits[:, 1 - self.finding]).float()[:even].view(-1, _PAIR)
        apart = torch.where(shown[:, 0], odds[:, 0] - odds[:, 1], odds[:, 1] - odds[:, 0])
        count, processes = together(pairs.sum())
        return processes * functional.softplus(self.margin - apart[pairs]).sum() / count.clamp(min=1)
