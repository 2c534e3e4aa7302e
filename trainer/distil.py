"""Training tasks: each owns a model and its losses, and answers a batch with `loss` and every named term of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses import HardLabels, SoftTargets


class Task(nn.Module):
    """A model with what it learns from.

    Attributes:
        model: what is trained: uint8 pixels (N, 3, H, W) -> logits (N, C).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def frozen(self) -> list[nn.Module]:
        """Networks that take part but do not learn: moved to the device, but neither wrapped nor saved."""
        return []


class Supervised(Task):
    """Learns from the true labels alone."""

    def __init__(self, model: nn.Module, hard: HardLabels) -> None:
        super().__init__(model)
        self.hard = hard

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Pixels uint8 (N, 3, H, W), labels int64 (N,) -> `loss`, and its term `hard`."""
        hard = self.hard(self.model(pixels), labels)
        return {"loss": hard, "hard": hard.detach()}


class Distillation(Task):
    """Learns from a frozen teacher's answers and from the true labels.

    L = soft_weight * soft(student, teacher) + hard_weight * hard(student, labels); both see the same augmented pixels
    (Beyer et al. 2022, arXiv 2106.05237).
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        *,
        soft: SoftTargets,
        hard: HardLabels,
        soft_weight: float,
        hard_weight: float,
    ) -> None:
        super().__init__(model)
        # In a tuple, so that it is no submodule: train(), state_dict() and the optimiser pass it by.
        self._teacher = (teacher.eval().requires_grad_(requires_grad=False),)
        self.soft, self.hard = soft, hard
        self.soft_weight, self.hard_weight = soft_weight, hard_weight

    def frozen(self) -> list[nn.Module]:
        """The teacher."""
        return list(self._teacher)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Pixels uint8 (N, 3, H, W), labels int64 (N,) -> `loss`, and its terms `soft` and `hard` before weighting."""
        with torch.no_grad():
            answer = self._teacher[0](pixels)
        logits = self.model(pixels)
        soft, hard = self.soft(logits, answer), self.hard(logits, labels)
        return {
            "loss": self.soft_weight * soft + self.hard_weight * hard,
            "soft": soft.detach(),
            "hard": hard.detach(),
        }
