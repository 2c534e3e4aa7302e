"""Training tasks: each owns a model and its losses, and answers a batch with `loss` and every named term of it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from trainer.distrust import Distrust
    from trainer.focus import Focus
    from trainer.losses import HardLabels, SoftMaps, SoftTargets
    from trainer.models import Probe


class Beside(NamedTuple):
    """What is known of a batch beside its pictures, their labels and maps.

    Attributes:
        origins: int64 (N,), where each image comes from, as its data counts.
        progress: share of the training that is done, from 0 to 1.
    """

    origins: Tensor
    progress: float


class Task(nn.Module):
    """A model with what it learns from.

    Its forward takes pixels uint8 (N, 3, H, W), labels int64 (N,), maps float32 (N, labels, h, w), which have no
    elements where the data has none, and what is known beside; most tasks need nothing of the last.

    Attributes:
        model: what is trained: uint8 pixels (N, 3, H, W) -> logits (N, C), and map logits (N, labels, h, w) with them
            where it has a map.
        distrust: what keeps it from learning the images' sources; None for nothing.
        focus: what keeps its evidence on the finding; None for nothing.
    """

    distrust: Distrust | None
    focus: Focus | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.distrust = self.focus = None

    @property
    def together(self) -> int:
        """How many images in a row must be seen by one process."""
        return 1 if self.distrust is None else self.distrust.together

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within this the model must answer: what `distrust` and `focus` look at is kept."""
        with (
            nullcontext() if self.distrust is None else self.distrust.watch(),
            nullcontext() if self.focus is None else self.focus.watch(),
        ):
            yield

    def frozen(self) -> list[nn.Module]:
        """Networks that take part but do not learn: moved to the device, but neither wrapped nor saved."""
        return []

    def helpers(self) -> nn.Module:
        """What learns beside the model without being kept, a regressor for example; nothing, as a rule."""
        return nn.ModuleList() if self.distrust is None else self.distrust


class Supervised(Task):
    """Learns from the true labels alone."""

    def __init__(self, model: nn.Module, hard: HardLabels) -> None:
        super().__init__(model)
        self.hard = hard

    def forward(self, pixels: Tensor, labels: Tensor, maps: Tensor, beside: Beside | None = None) -> dict[str, Tensor]:
        """The `loss`, and its terms `hard` and `focus` before weighting."""
        with self.watched():
            logits = self.model(pixels)
        if self.distrust is None:
            loss = self.hard(logits, labels)
            terms = {"hard": loss.detach()}
        else:
            each = self.hard.each(logits, labels)
            terms = {**self.distrust(each, logits, labels, beside), "hard": each.detach().mean()}
            loss = terms.pop("loss")
        if self.focus is not None:
            stray = self.focus(labels, maps)
            loss, terms["focus"] = loss + self.focus.weight * stray, stray.detach()
        return {"loss": loss, **terms}


class Answer(NamedTuple):
    """What a network says about a batch.

    Attributes:
        logits: (N, C).
        features: its levels' maps (N, C[i], h[i], w[i]), from shallow to deep; none where nobody looks at them.
    """

    logits: Tensor
    features: Sequence[Tensor]


class Guide(nn.Module):
    """A distance between a student's answer and its teachers': a term of `Taught`."""

    def forward(self, own: Answer, its: Sequence[Answer], labels: Tensor) -> Tensor:
        """The distance, a scalar. No gradient reaches the teachers."""
        raise NotImplementedError


class Also(NamedTuple):
    """More that a student learns from its one teacher than its answers.

    Attributes:
        guides: by name the weight of a term, and the term.
        own: takes the student's maps.
        its: takes the teacher's.
        units: what the teacher's levels are divided by, so that the terms on all levels are of one size.
    """

    guides: Mapping[str, tuple[float, Guide]]
    own: Probe
    its: Probe
    units: Sequence[float]


class Distillation(Task):
    """Learns from a frozen teacher's answers and from the true labels.

    L = soft_weight * soft(student, teacher) + hard_weight * hard(student, labels); both see the same augmented pixels
    (Beyer et al. 2022, arXiv 2106.05237). Where the student has a map, map_weight * dense(map, maps) joins them: the
    maps are a segmentation teacher's answer, computed once and carried through the augmentation. So do the terms of
    `also`. With `distrust`, its loss over the images' own soft and hard terms stands for the first two. Of images that
    are mixed (`mix`) the soft term alone counts: what a mixture is, only the teacher says. `focus` joins its own term.
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
        also: Also | None = None,
        mix: float = 0.0,
    ) -> None:
        super().__init__(model)
        self.mix = mix
        # In a tuple, so that it is no submodule: train(), state_dict() and the optimiser pass it by.
        self._teacher = (teacher.eval().requires_grad_(requires_grad=False),)
        self.soft, self.hard = soft, hard
        self.soft_weight, self.hard_weight = soft_weight, hard_weight
        self.dense, self.map_weight, self._also = dense, map_weight, also
        self.guides = nn.ModuleDict() if also is None else nn.ModuleDict({n: g for n, (_, g) in also.guides.items()})

    def helpers(self) -> nn.Module:
        """The terms of `also`: some of them learn."""
        if self.distrust is None:
            return self.guides
        return nn.ModuleDict({"guides": self.guides, "distrust": self.distrust})

    def frozen(self) -> list[nn.Module]:
        """The teacher."""
        return list(self._teacher)

    def forward(self, pixels: Tensor, labels: Tensor, maps: Tensor, beside: Beside | None = None) -> dict[str, Tensor]:
        """The `loss`, and its terms `soft`, `hard`, `map`, `focus` and those of `also` before weighting."""
        if self.mix and self.training:
            return self._mixed(pixels, labels, maps)
        with torch.no_grad(), nullcontext() if self._also is None else self._also.its:
            answer = self._teacher[0](pixels)
        with nullcontext() if self._also is None else self._also.own, self.watched():
            logits = self.model(pixels)
        terms: dict[str, Tensor] = {}
        if self.dense is not None:
            logits, found = logits
            terms["map"] = self.dense(found, maps)
        if self.distrust is None:
            terms["soft"], terms["hard"] = self.soft(logits, answer), self.hard(logits, labels)
            loss = self.soft_weight * terms["soft"] + self.hard_weight * terms["hard"]
        else:
            soft, hard = self.soft.each(logits, answer), self.hard.each(logits, labels)
            terms |= self.distrust(self.soft_weight * soft + self.hard_weight * hard, logits, labels, beside)
            loss = terms.pop("loss")
            terms["soft"], terms["hard"] = soft.mean(), hard.mean()
        if self.dense is not None:
            loss = loss + self.map_weight * terms["map"]
        if self.focus is not None:
            terms["focus"] = self.focus(labels, maps)
            loss = loss + self.focus.weight * terms["focus"]
        if self._also is not None:
            levels = [level / unit for level, unit in zip(self._also.its.features, self._also.units, strict=True)]
            own = Answer(logits, self._also.own.features)
            for name, guide in self.guides.items():
                terms[name] = guide(own, [Answer(answer, levels)], labels)
                loss = loss + self._also.guides[name][0] * terms[name]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _mixed(self, pixels: Tensor, labels: Tensor, maps: Tensor) -> dict[str, Tensor]:
        pixels, plain = mix_images(pixels, self.mix)
        with torch.no_grad():
            answer = self._teacher[0](pixels)
        with self.watched():
            logits = self.model(pixels)
        share = plain.float() / plain.sum().clamp_min(1)
        terms: dict[str, Tensor] = {}
        if self.dense is not None:
            logits, found = logits
            # Of no picture where all are mixed: then a zero that still has a gradient.
            terms["map"] = self.dense(found[plain], maps[plain]) if bool(plain.any()) else 0 * found.sum()
        terms["soft"] = self.soft(logits, answer)
        terms["hard"] = (share * self.hard.each(logits, labels)).sum()
        loss = self.soft_weight * terms["soft"] + self.hard_weight * terms["hard"]
        if self.dense is not None:
            loss = loss + self.map_weight * terms["map"]
        if self.focus is not None:
            terms["focus"] = self.focus(labels, maps, plain)
            loss = loss + self.focus.weight * terms["focus"]
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


def mix_images(pixels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blend some images of a batch with others of it, in a proportion drawn evenly.

    After Zhang et al. 2018 (arXiv 1710.09412); with a teacher that answers the blend, Beyer et al. 2022 (2106.05237).

    Args:
        pixels: uint8 (N, 3, H, W).
        share: chance of each image to be blended.

    Returns:
        uint8 (N, 3, H, W), and bool (N,), which images are as they were. Torch's random state decides.
    """
    count = len(pixels)
    blended, other, weight = torch.rand(count) < share, torch.randperm(count), torch.rand(count)
    weight = torch.where(blended, weight, 0.0).to(pixels.device).view(-1, 1, 1, 1)
    both = torch.lerp(pixels.float(), pixels[other.to(pixels.device)].float(), weight)
    return both.round().to(torch.uint8), ~blended.to(pixels.device)


class Taught(Task):
    """Learns from the true labels, and from the answers of any number of teachers by any number of terms.

    L = hard_weight * hard(student, labels) + sum over terms of weight * guide(student, teachers, labels). The answers
    come with the data, where they were computed once, or from `ask`.

    Args:
        model: uint8 pixels (N, 3, H, W) -> logits (N, C).
        hard: loss on the true labels.
        hard_weight: its weight; at 0 it is not computed.
        guides: by name the weight of a term, and the term.
        teachers: names in the answers: `NAME/logits`, `NAME/0`, `NAME/1`, ...: its logits, its levels.
        probe: takes the student's own maps; None where no term looks at them.
        ask: pixels -> answers, where they do not come with the data.
    """

    def __init__(
        self,
        model: nn.Module,
        hard: nn.Module,
        hard_weight: float = 1.0,
        guides: Mapping[str, tuple[float, Guide]] | None = None,
        teachers: Sequence[str] = (),
        probe: Probe | None = None,
        ask: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(model)
        self.hard, self.hard_weight, self.teachers, self._ask = hard, hard_weight, tuple(teachers), ask
        given = guides or {}
        self.weights = {name: weight for name, (weight, _) in given.items()}
        self.guides = nn.ModuleDict({name: guide for name, (_, guide) in given.items()})
        self._probe = probe

    def helpers(self) -> nn.Module:
        """The terms: some of them learn, regressors and fusions."""
        return self.guides

    def forward(self, pixels: Tensor, labels: Tensor, answers: Any, _beside: Beside | None = None) -> dict[str, Tensor]:
        """The `loss`, and its terms before weighting."""
        if self._ask is not None:
            answers = self._ask(pixels)
        if self._probe is None:
            own = Answer(self.model(pixels), ())
        else:
            with self._probe:
                logits = self.model(pixels)
            own = Answer(logits, self._probe.features)
        its = [_answer(answers, name) for name in self.teachers]
        terms: dict[str, Tensor] = {}
        loss: Tensor | float = 0.0
        if self.hard_weight:
            terms["hard"] = self.hard(own.logits, labels)
            loss = self.hard_weight * terms["hard"]
        for name, guide in self.guides.items():
            terms[name] = guide(own, its, labels)
            loss = loss + self.weights[name] * terms[name]
        return {"loss": torch.as_tensor(loss), **{name: term.detach() for name, term in terms.items()}}


def _answer(answers: Mapping[str, Tensor], name: str) -> Answer:
    features: list[Tensor] = []
    while f"{name}/{len(features)}" in answers:
        features.append(answers[f"{name}/{len(features)}"])
    return Answer(answers[f"{name}/logits"], features)
