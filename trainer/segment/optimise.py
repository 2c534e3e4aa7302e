"""A short training on dense targets: Adam, a cosine, early stopping, the weights of the lowest validation loss."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from trainer.segment.dataset import MaskSet
    from trainer.segment.recipe import Budget

    Lose = Callable[["Batch"], Tensor]


class Batch(NamedTuple):
    """Images with their targets.

    Attributes:
        pixels: uint8 (N, 3, H, W) RGB.
        sets: uint8 (N, H, W), the classes that each pixel may be.
        places: int64 (N,), where a fixed stream holds them.
    """

    pixels: Tensor
    sets: Tensor
    places: Tensor


class Outcome(NamedTuple):
    """What a training left.

    Attributes:
        epoch: of the best weights, from 1.
        epochs: that were trained.
        loss: the lowest validation loss.
    """

    epoch: int
    epochs: int
    loss: float


class Stream:
    """An epoch's batches from a data set: drawn anew every epoch, or once and for all.

    Args:
        data: Augmented samples.
        budget: How many, in which batches, and whether fixed.
        seed: Of the order.
    """

    def __init__(self, data: MaskSet, budget: Budget, seed: int) -> None:
        if budget.images < budget.batch:
            raise FoldsightError(f"an epoch of {budget.images} images is less than one batch of {budget.batch}")
        self._data, self._budget, self._seed = data, budget, seed
        self.fixed: Batch | None = self._draw(range(budget.images)) if budget.fixed else None

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self._budget.images // self._budget.batch

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, a function of its number and the seed."""
        order = np.random.default_rng([self._seed, 6, number]).permutation(self._budget.images)
        if self.fixed is None:
            self._data.set_epoch(number)
        for step in range(self.steps):
            places = order[step * self._budget.batch : (step + 1) * self._budget.batch]
            if self.fixed is None:
                yield self._draw(places)
            else:
                chosen = torch.from_numpy(places)
                yield Batch(self.fixed.pixels[chosen], self.fixed.sets[chosen], chosen)

    def _draw(self, places: Any) -> Batch:
        samples = [self._data[int(i)] for i in places]
        return Batch(
            torch.stack([sample[0] for sample in samples]),
            torch.stack([sample[3] for sample in samples]),
            torch.as_tensor(np.asarray(places)),
        )


def optimise(
    model: nn.Module,
    helpers: nn.Module | None,
    stream: Stream,
    lose: Lose,
    validate: Callable[[], float],
    budget: Budget,
    *,
    title: str,
    advance: Callable[[int, str], None] = lambda _count, _note: None,
) -> Outcome:
    """Train a model in place; it ends with the weights of its lowest validation loss.

    Args:
        model: Takes uint8 (N, 3, H, W).
        helpers: What learns beside it without being kept, a regressor for example.
        stream: Of training images.
        lose: The loss of a batch.
        validate: The validation loss of the model as it is.
        budget: Epochs, patience, learning rate.
        title: What the network is called in an error.
        advance: Told how many images were learnt from, and how it goes.

    Raises:
        FoldsightError: The loss is no longer a number.
    """
    parameters = [p for module in (model, helpers) if module is not None for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=budget.learning_rate)
    steps, done = stream.steps * budget.epochs, 0
    best, kept = Outcome(0, 0, math.inf), copy.deepcopy(model.state_dict())
    for epoch in range(budget.epochs):
        model.train()
        for batch in stream.epoch(epoch):
            rate = budget.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / steps)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = lose(batch)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FoldsightError(f"{title}: the loss became {value} in epoch {epoch + 1}; lower the learning rate")
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            done += 1
            advance(len(batch.pixels), f"{title}, epoch {epoch + 1}")
        model.eval()
        held = validate()
        if held < best.loss:
            best, kept = Outcome(epoch + 1, epoch + 1, held), copy.deepcopy(model.state_dict())
        elif epoch + 1 - best.epoch >= budget.patience:
            advance((steps - done) * budget.batch, title)
            break
    model.load_state_dict(kept)
    model.eval()
    return best._replace(epochs=epoch + 1)
