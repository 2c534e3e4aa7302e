"""Training tasks: each owns a model and its losses, and answers a batch with `loss` and every named term of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses import HardLabels, SoftMaps, SoftTargets


class Task(nn.Module):
    """A model with what it learns from.

    Its forward takes pixels uint8 (N, 3, H, W), labels int64 (N,) and maps float32 (N, labels, h, w), which have no
    elements where the data has none.

    Attributes:
        model: what is trained: uint8 pixels (N, 3, H, W) -> logits (N, C), and map logits (N, labels, h, w) with them
            where it has a map.
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

    def forward(self, pixels: Tensor, labels: Tensor, _maps: Tensor) -> dict[str, Tensor]:
        """The `loss`, and its term `hard`."""
        hard = self.hard(self.model(pixels), labels)
        return {"loss": hard, "hard": hard.detach()}


class Distillation(Task):
    """Learns from a frozen teacher's answers and from the true labels.

    L = soft_weight * soft(student, teacher) + hard_weight * hard(student, labels); both see the same augmented pixels
    (Beyer et al. 2022, arXiv 2106.05237). Where the student has a map, map_weight * dense(map, maps) joins them: the
    maps are a segmentation teacher's answer, computed once and carried through the augmentation.
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
        dense: SoftMaps | None = None,
        map_weight: float = 0.0,
    ) -> None:
        super().__init__(model)
        # In a tuple, so that it is no submodule: train(), state_dict() and the optimiser pass it by.
        self._teacher = (teacher.eval().requires_grad_(requires_grad=False),)
        self.soft, self.hard = soft, hard
        self.soft_weight, self.hard_weight = soft_weight, hard_weight
        self.dense, self.map_weight = dense, map_weight

    def frozen(self) -> list[nn.Module]:
        """The teacher."""
        return list(self._teacher)

    def forward(self, pixels: Tensor, labels: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """The `loss`, and its terms `soft`, `hard` and `map` before weighting."""
        with torch.no_grad():
            answer = self._teacher[0](pixels)
        logits = self.model(pixels)
        terms = {}
        if self.dense is not None:
            logits, found = logits
            terms["map"] = self.dense(found, maps)
        terms["soft"], terms["hard"] = self.soft(logits, answer), self.hard(logits, labels)
        loss = self.soft_weight * terms["soft"] + self.hard_weight * terms["hard"]
        if self.dense is not None:
            loss = loss + self.map_weight * terms["map"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}
