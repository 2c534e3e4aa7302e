"""What decides which epoch is kept: the validation split as the device sees it, every source counting alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.metrics import mean_over_sources

if TYPE_CHECKING:
    from torch import nn

    from trainer.inputs import Inputs

_BATCH = 64


class Validation:
    """Balanced accuracy, averaged over sources, on prepared inputs.

    Args:
        inputs: the validation split.
        finding: the label's index.
    """

    def __init__(self, inputs: Inputs, finding: int) -> None:
        self._inputs, self._finding = inputs, finding

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`score` (the mean over sources), each source's balanced accuracy, and the cross-entropy `loss`."""
        logits = predict(model, self._inputs)
        chances = torch.softmax(logits, dim=1)
        truth = self._inputs.labels == self._finding
        scores = chances[:, self._finding].double().numpy()
        found = mean_over_sources(truth, scores, self._inputs.sources)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(self._inputs.labels))
        return {**found, "loss": float(loss)}


def predict(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """Logits float32 (N, C) of prepared inputs, on the device that the model is on."""
    device = next(model.parameters()).device
    answers = []
    with torch.inference_mode():
        for start in range(0, len(inputs.labels), _BATCH):
            batch = torch.from_numpy(np.array(inputs.images[start : start + _BATCH])).to(device)
            answer = model(batch.permute(0, 3, 1, 2))
            answers.append((answer[0] if isinstance(answer, tuple) else answer).float().cpu())
    return torch.cat(answers)
