"""Losses on a teacher's answers: what it says, softened.

All mean over the batch; no gradient reaches the teacher. `exclusive` says whether exactly one class is right (softmax),
or every label is by itself (multi-label, logistic): the softmax of labels that do not exclude each other means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-6  # nearest that a chance comes to 0 or 1
_TINY = 1e-8


class SoftTargets(nn.Module):
    """Divergence from the teacher's softened answer (Hinton et al. 2015, arXiv 1503.02531).

    L = T^2 / N sum_n KL(softmax(t[n] / T) || softmax(z[n] / T)). The sum over classes and the mean over the batch make
    it a divergence (a mean over both is none); T^2 keeps its gradient's size when the temperature changes.

    Shapes: student logits z (N, C), teacher logits t (N, C) -> scalar.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence, batch mean times temperature squared. No gradient reaches the teacher."""
        log_student = functional.log_softmax(student.float() / self.temperature, dim=1)
        log_teacher = functional.log_softmax(teacher.detach().float() / self.temperature, dim=1)
        divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2

    def each(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence of every image, times temperature squared, (N,)."""
        log_student = functional.log_softmax(student.float() / self.temperature, dim=1)
        log_teacher = functional.log_softmax(teacher.detach().float() / self.temperature, dim=1)
        divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
        return divergence.sum(dim=1) * self.temperature**2


class BernoulliTargets(nn.Module):
    """The same for labels that do not exclude each other: a divergence for every label by itself.

    L = T^2 / (N C) sum_nc KL(Bernoulli(s(t[n, c] / T)) || Bernoulli(s(z[n, c] / T))), where s is the logistic function.
    The mean over labels is that of the hard binary cross-entropy beside it.

    Shapes: student logits z (N, C), teacher logits t (N, C) -> scalar.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The divergence, mean over batch and labels, times temperature squared."""
        z, t = student.float() / self.temperature, teacher.detach().float() / self.temperature
        q = t.sigmoid()
        there = functional.logsigmoid(t) - functional.logsigmoid(z)
        absent = functional.logsigmoid(-t) - functional.logsigmoid(-z)
        return (q * there + (1 - q) * absent).mean() * self.temperature**2


class SoftBinary(nn.Module):
    """Binary cross-entropy of every class with the teacher's softened chance.

    As Bandyopadhyay et al. 2021 (arXiv 2108.03470) distil labels that do not exclude each other.
    L = -T^2 / (N C) sum_nc q log p + (1 - q) log(1 - p). Labels by themselves: p = s(z / T), q = s(t / T), s the
    logistic function; its gradient is that of `BernoulliTargets`. Exclusive classes: p = softmax(z / T), q = softmax(t
    / T), as Owen et al. (in paper 4) have it.

    Shapes: student logits z (N, C), teacher logits t (N, C) -> scalar.
    """

    def __init__(self, temperature: float, *, exclusive: bool) -> None:
        super().__init__()
        self.temperature, self.exclusive = temperature, exclusive

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over batch and classes, times temperature squared."""
        z, t = student.float() / self.temperature, teacher.detach().float() / self.temperature
        if self.exclusive:
            chances = z.softmax(dim=1).clamp(_EPSILON, 1 - _EPSILON)
            loss = functional.binary_cross_entropy(chances, t.softmax(dim=1))
        else:
            loss = functional.binary_cross_entropy_with_logits(z, t.sigmoid())
        return loss * self.temperature**2


class LogitError(nn.Module):
    """Squared (Ba & Caruana 2014, arXiv 1312.6184) or absolute error of the logits.

    L = 1 / (N C) sum |z - t|^p, p = 2 or 1. Exclusive classes: z and t less their mean over the classes, which a
    softmax does not see.

    Shapes: student logits z (N, C), teacher logits t (N, C) -> scalar.
    """

    def __init__(self, power: int, *, exclusive: bool) -> None:
        super().__init__()
        self.power, self.exclusive = power, exclusive

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over batch and classes."""
        z, t = student.float(), teacher.detach().float()
        if self.exclusive:
            z, t = z - z.mean(dim=1, keepdim=True), t - t.mean(dim=1, keepdim=True)
        return (z - t).abs().pow(self.power).mean()


class DecoupledTargets(nn.Module):
    """DKD (Zhao et al. 2022, arXiv 2203.08679): target and non-target classes apart.

    L = T^2 / N sum_n a KL(b(t[n]) || b(z[n])) + b KL(o(t[n]) || o(z[n])), where b is the softened chance of the true
    class against all others, and o the softened answer among those others alone. With two classes o is always (1,): the
    second term is exactly zero.

    Shapes: student logits z (N, C), teacher logits t (N, C), labels int64 (N,) -> scalar; C at least 3.

    Args:
        temperature: T.
        target: a.
        others: b.
    """

    def __init__(self, temperature: float, target: float = 1.0, others: float = 8.0) -> None:
        super().__init__()
        self.temperature, self.target, self.others = temperature, target, others

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The batch mean times temperature squared."""
        count, classes = student.shape
        true = functional.one_hot(labels, classes).bool()

        def apart(logits: Tensor) -> tuple[Tensor, Tensor]:
            scaled = logits.float() / self.temperature
            rest = scaled[~true].view(count, classes - 1)
            pair = torch.stack((scaled[true], rest.logsumexp(dim=1)), dim=1)
            return pair.log_softmax(dim=1), rest.log_softmax(dim=1)

        (pair_z, rest_z), (pair_t, rest_t) = apart(student), apart(teacher.detach())
        target = functional.kl_div(pair_z, pair_t, reduction="batchmean", log_target=True)
        others = functional.kl_div(rest_z, rest_t, reduction="batchmean", log_target=True)
        return (self.target * target + self.others * others) * self.temperature**2


class CorrelatedTargets(nn.Module):
    """DIST (Huang et al. 2022, arXiv 2205.10536): as good as the teacher up to scale and shift.

    L = T^2 (a (1 - mean_n r(p[n], q[n])) + b (1 - mean_c r(p[:, c], q[:, c]))), where p = softmax(z / T), q = softmax(t
    / T) and r is Pearson's correlation: between the classes of an image, and between the images of a batch. With two
    classes the first is always +1 or -1, without a gradient.

    Shapes: student logits z (N, C), teacher logits t (N, C) -> scalar; C at least 3 unless a is 0.

    Args:
        temperature: T.
        between_classes: a.
        between_images: b.
    """

    def __init__(self, temperature: float = 1.0, between_classes: float = 1.0, between_images: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.classes, self.images = temperature, between_classes, between_images

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The two terms, times temperature squared."""
        p = (student.float() / self.temperature).softmax(dim=1)
        q = (teacher.detach().float() / self.temperature).softmax(dim=1)
        loss = self.images * (1 - _correlation(p.T, q.T).mean())
        if self.classes:
            loss = loss + self.classes * (1 - _correlation(p, q).mean())
        return loss * self.temperature**2


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each row with its like; 0 where a row is constant."""
    a, b = first - first.mean(dim=1, keepdim=True), second - second.mean(dim=1, keepdim=True)
    lengths: Tensor = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(dim=1) / lengths.clamp(min=_TINY)
