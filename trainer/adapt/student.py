"""The trained student behind a bundle, and what of it is refitted: its last layer, or its last block."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edge.decision import calibrate
from edge.errors import ConfigError
from trainer.models import PixelModel, SimpleResNet
from trainer.recipe import Recipe, check_recipe
from trainer.stages import DONE, RECIPE, Run
from trainer.train import BEST, load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edge.bundle import Bundle

_SAME = 0.08  # largest mean difference of scores between INT8 and the FP32 weights that it was made of
_BATCH = 32
_HOLD = 40.0  # how strongly the last layer is held at its shipped weights, in frames
_EPOCHS, _RATE, _DECAY = 24, 3e-4, 0.02


@dataclass(frozen=True)
class Views:
    """What the trunk makes of images, so that the rest can be refitted in seconds.

    Attributes:
        tails: float32 (N, 2, C, h, w), the last block's input for each image and its mirror image.
        features: float32 (N, 2, F), the last layer's.
    """

    tails: torch.Tensor
    features: torch.Tensor

    def take(self, kept: NDArray[np.int64]) -> Views:
        """Those of some images."""
        chosen = torch.from_numpy(np.ascontiguousarray(kept))
        return Views(self.tails[chosen], self.features[chosen])

    def and_(self, more: Views) -> Views:
        """These and more."""
        return Views(torch.cat([self.tails, more.tails]), torch.cat([self.features, more.features]))


class Student:
    """The float network that a bundle's INT8 model was quantised from.

    Args:
        model: with its weights.
    """

    def __init__(self, model: PixelModel) -> None:
        if not isinstance(model.body, SimpleResNet):
            raise ConfigError(
                f"only simple_resnet can be refitted, not {type(model.body).__name__}: leave --run out, "
                "then the operating point alone is adapted"
            )
        self.model = model.eval()
        self.body: SimpleResNet = model.body

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (N, labels) of uint8 (N, H, W, 3) RGB."""
        views = self.views(images)
        with torch.inference_mode():
            return np.asarray(self.body.classifier(views.features[:, 0]).numpy(), np.float32)

    def views(self, images: NDArray[np.uint8]) -> Views:
        """What the trunk makes of uint8 (N, H, W, 3) RGB."""
        tails, features = [], []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).permute(0, 3, 1, 2)
                both = torch.stack([pixels, pixels.flip(3)], 1).flatten(0, 1)
                x = self.body.stem((both.float() - 127) / 128)
                for stage in list(self.body.stages)[:-1]:
                    x = stage(x)
                tails.append(x.reshape(-1, 2, *x.shape[1:]))
                features.append(_pooled(self.body.stages[-1](x)).reshape(len(pixels), 2, -1))
        return Views(torch.cat(tails).clone(), torch.cat(features).clone())

    def with_parts(self, parts: nn.ModuleDict) -> Student:
        """A copy with some parts replaced: `classifier`, and maybe `block`."""
        model = copy.deepcopy(self.model)
        body = model.body
        if isinstance(body, SimpleResNet):
            body.classifier = copy.deepcopy(parts["classifier"])  # type: ignore[assignment]
            if "block" in parts:
                body.stages[-1] = copy.deepcopy(parts["block"])
        return Student(model)


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, x.shape[-2:]).flatten(1)


def answers(parts: nn.ModuleDict, views: Views) -> NDArray[np.float32]:
    """Logits (N, labels) of refitted parts."""
    with torch.inference_mode():
        features = _pooled(parts["block"](views.tails[:, 0])) if "block" in parts else views.features[:, 0]
        return np.asarray(parts["classifier"](features).numpy(), np.float32)


def refit_layer(
    student: Student, views: Views, labels: NDArray[np.int64], weights: NDArray[np.float64], temperature: float
) -> nn.ModuleDict:
    """Refit the last layer, held at its shipped weights as if they were a few frames' worth of evidence.

    Args:
        student: the shipped one.
        views: of N images.
        labels: (N,).
        weights: (N,), how much each image counts; their sum is 1.
        temperature: logits are divided by it before the loss, as on the device.
    """
    layer = copy.deepcopy(student.body.classifier)
    start = {name: value.detach().clone() for name, value in layer.named_parameters()}
    spread = views.features.std(dim=(0, 1)).clamp_min(1e-3)
    truth, share = torch.from_numpy(labels), torch.from_numpy(weights.astype(np.float32))
    steps = torch.optim.LBFGS(layer.parameters(), max_iter=80, line_search_fn="strong_wolfe")
    hold = _HOLD / len(labels)

    def loss() -> torch.Tensor:
        steps.zero_grad()
        said = layer(views.features) / temperature
        each = [functional.cross_entropy(said[:, k], truth, reduction="none") for k in (0, 1)]
        wrong = (share * (each[0] + each[1])).sum() / 2
        moved = ((layer.weight - start["weight"]) * spread).square().sum()
        total: torch.Tensor = wrong + hold * (moved + (layer.bias - start["bias"]).square().sum())
        total.backward()  # type: ignore[no-untyped-call]
        return total

    steps.step(loss)  # type: ignore[no-untyped-call]
    return nn.ModuleDict({"classifier": layer.eval()})


def refit_block(
    student: Student,
    views: Views,
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    temperature: float,
    *,
    seed: int,
) -> nn.ModuleDict:
    """Train the last block and layer for a few epochs from the shipped weights; batch statistics stay as they are."""
    torch.manual_seed(seed)
    parts = nn.ModuleDict(
        {"block": copy.deepcopy(student.body.stages[-1]), "classifier": copy.deepcopy(student.body.classifier)}
    ).eval()
    rng = np.random.default_rng(seed)
    steps = torch.optim.AdamW(parts.parameters(), lr=_RATE, weight_decay=_DECAY)
    truth = torch.from_numpy(labels)
    chance = weights / weights.sum()
    rounds = max(1, round(_EPOCHS * len(labels) / _BATCH))
    for step in range(rounds):
        for group in steps.param_groups:
            group["lr"] = _RATE * (1 - step / rounds)
        drawn = rng.choice(len(labels), _BATCH, p=chance)
        side = rng.integers(0, 2, _BATCH)
        x = views.tails[torch.from_numpy(drawn), torch.from_numpy(side)]
        x = x * torch.from_numpy(np.exp(rng.normal(0, 0.06, (_BATCH, 1, 1, 1))).astype(np.float32))
        said = parts["classifier"](_pooled(parts["block"](x))) / temperature
        loss = functional.cross_entropy(said, truth[torch.from_numpy(drawn)], label_smoothing=0.05)
        steps.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    return parts


def find_student(run: Path, bundle: Bundle, golden: dict[str, NDArray[Any]]) -> Student:
    """The student in a run's folder whose weights a bundle's primary model was made of.

    Args:
        run: the folder of a run.
        bundle: the bundle.
        golden: its golden arrays.

    Raises:
        ConfigError: the folder is no run's, or none of its students answers the golden inputs as the bundle does.
    """
    path = run / RECIPE
    if not path.exists():
        raise ConfigError(f"{run} is no run's folder (it holds no {RECIPE}): give the one that the bundle was made in")
    recipe = check_recipe(Recipe, json.loads(path.read_text(encoding="utf-8")), str(path))
    empty = Run(recipe, run, run)
    spec = bundle.manifest
    expected = golden[f"scores_{bundle.artefact('int8').name}"]
    best: tuple[float, Student] | None = None
    for folder in sorted(run.glob("distil-*")):
        if not (folder / DONE).exists():
            continue
        for row in ("distilled", "no_map"):
            model = empty.new_student(row)
            try:
                load_weights(model, folder / BEST)
            except (RuntimeError, KeyError):
                continue  # another student's weights
            student = Student(model)  # type: ignore[arg-type]
            scores = np.stack(
                [
                    calibrate(row_logits, spec.decision.temperature, exclusive=True)
                    for row_logits in student.logits(golden["inputs"])
                ]
            )
            far = float(np.abs(scores - expected).mean())
            if best is None or far < best[0]:
                best = far, student
            break
    if best is None or best[0] > _SAME:
        raise ConfigError(
            f"{run}: none of its students is the one in {bundle.path}; give the folder of the run that made it, "
            "or leave --run out, then the operating point alone is adapted"
        )
    return best[1]
