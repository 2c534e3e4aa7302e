"""Response-based distillation: losses on the teacher's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


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
