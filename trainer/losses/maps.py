"""Distances between the maps of a student and of its teacher: of outputs pixel by pixel, and of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class SquaredError(nn.Module):
    """Squared error of logits (Cao et al., in paper 4) or of features (Romero et al. 2015, arXiv 1412.6550).

    L = 1/(N C H W) sum (z - t)^2.

    Shapes: student z (N, C, H, W), teacher t (N, C, H, W) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over everything; no gradient reaches the teacher."""
        return functional.mse_loss(student.float(), teacher.detach().float())


class SquaredErrorOfChances(nn.Module):
    """Paper 4's MSE over class probabilities.

    L = 1/(N C H W) sum (softmax(z) - softmax(t))^2, softmax over the channels.

    Shapes: student logits z (N, C, H, W), teacher logits t (N, C, H, W) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over everything; no gradient reaches the teacher."""
        return functional.mse_loss(student.float().softmax(dim=1), teacher.detach().float().softmax(dim=1))


class Divergence(nn.Module):
    """Divergence of the student's chances from the teacher's (Hinton et al. 2015, arXiv 1503.02531), pixel by pixel.

    L = T^2/(N H W) sum_p KL(softmax(t[p] / T) || softmax(z[p] / T)), softmax over the channels, as in paper 4. The sum
    over channels and the mean over pixels make it a divergence. On features: which channels are strong where.

    Shapes: student z (N, C, H, W), teacher t (N, C, H, W) -> scalar.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all pixels; no gradient reaches the teacher."""
        log_student = functional.log_softmax(student.float() / self.temperature, dim=1)
        log_teacher = functional.log_softmax(teacher.detach().float() / self.temperature, dim=1)
        divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        return divergence * self.temperature**2 * student.shape[1] / student.numel()


class CrossEntropyOfChances(nn.Module):
    """Binary cross-entropy of every class by itself, as Owen et al. (in paper 4) distil a segmentation's outputs.

    L = -1/(N C H W) sum q log p + (1 - q) log(1 - p), where p = softmax(z) and q = softmax(t).

    Shapes: student logits z (N, C, H, W), teacher logits t (N, C, H, W) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over everything; no gradient reaches the teacher."""
        chances = student.float().softmax(dim=1).clamp(_EPSILON, 1 - _EPSILON)
        return functional.binary_cross_entropy(chances, teacher.detach().float().softmax(dim=1))


class AbsoluteError(nn.Module):
    """The L1 norm between layers (Vaze et al., in paper 4).

    L = 1/(N C H W) sum |z - t|.

    Shapes: student z (N, C, H, W), teacher t (N, C, H, W) -> scalar.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over everything; no gradient reaches the teacher."""
        return functional.l1_loss(student.float(), teacher.detach().float())


_EPSILON = 1e-6  # nearest that a chance comes to 0 or 1
