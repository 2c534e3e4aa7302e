"""What it saves to ask a teacher once: a student's epochs per hour with answers from disk, and with a teacher at work.

Both ways see the same samples in the same order from the same first weights, so that their losses can be compared step
by step.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.console import say
from trainer.data.dataset import limit_threads
from trainer.distil import Taught
from trainer.laboratory.data import LaboratoryData
from trainer.laboratory.guides import make_guides
from trainer.laboratory.lesson import Answers, Asker, Lesson, LessonSet, write_answers
from trainer.laboratory.networks import channels_of, create_network, layers_of, size_of
from trainer.laboratory.recipe import LaboratoryRecipe
from trainer.laboratory.study import machine_name
from trainer.losses import HardLabels
from trainer.models import Probe
from trainer.smoke import MANIFEST, write_smoke_images
from trainer.train import fit, resolve_precision

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from trainer.distil import Beside

_NAME = "teacher"
_BATCH = 32


class _Drawn(Dataset[Any]):
    """A lesson's samples in a `LessonSet`'s order, drawn anew."""

    def __init__(self, stream: Any, images: int, variants: int, seed: int) -> None:
        self._stream, self._images, self._variants, self._seed = stream, images, variants, seed
        self._order = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._images

    def set_epoch(self, epoch: int) -> None:
        self._stream.set_epoch(epoch % self._variants)
        self._order = np.random.default_rng([self._seed, 6, epoch]).permutation(self._images)

    def __getitem__(self, i: int) -> Any:
        return self._stream[int(self._order[i])]


class _Recorded(Taught):
    """Remembers its losses."""

    losses: list[float]

    def forward(self, pixels: Tensor, labels: Tensor, answers: Any, beside: Beside | None = None) -> dict[str, Tensor]:
        terms = super().forward(pixels, labels, answers, beside)
        self.losses.append(float(terms["loss"].detach()))
        return terms


def bench_recipe(teacher: str, student: str, side: int, images: int, epochs: int) -> LaboratoryRecipe:
    """The comparison that is timed: one student, taught by its teacher's answers and maps."""
    train = {"epochs": epochs, "batch": min(_BATCH, images)}
    return LaboratoryRecipe.model_validate({
        "kind": "comparison", "name": "bench", "side": side, "seeds": [1],
        "task": {"kind": "visibility", "data": {"sources": [], "manifest": MANIFEST, "allow_duplicates": True}},
        "lesson": {"images": images, "variants": epochs, "feature_side": 6},
        "teachers": {_NAME: {"model": teacher, "train": train}},
        "students": {"student": {"model": student, "train": train}},
        "rows": {"scratch": {}, "taught": {"taught_by": [_NAME], "terms": [{"loss": "kl"}, {"loss": "fitnets"}]}},
    })  # fmt: skip


def bench(
    folder: Path, *, teacher: str, student: str, side: int, images: int, epochs: int, threads: int
) -> dict[str, Any]:
    """Time both ways.

    Args:
        folder: for rendered images, the lesson and the answers.
        teacher: timm's name; its weights are drawn, which costs the same as trained ones.
        student: as in a recipe.
        side: pixels of both networks' input.
        images: of an epoch.
        epochs: that are timed each way.
        threads: of torch; 0 leaves it to torch.

    Returns:
        For JSON: `epochs_per_hour` of `cached` and `online`, `times` (cached over online), `once_s` (drawing the lesson
        and asking the teacher, per epoch's images), `loss_difference` (largest, relative, of the first epoch's steps),
        `bytes_per_image` on disk, and what was timed on what.
    """
    if threads:
        torch.set_num_threads(threads)
    limit_threads()
    recipe = bench_recipe(teacher, student, side, images, epochs)
    root = folder / "images"
    write_smoke_images(root, 0)
    data = LaboratoryData(recipe, root, folder)
    stream = data.stream(side)

    began = time.monotonic()
    lesson = Lesson.open_or_draw(data, [side])
    drawn = time.monotonic() - began
    torch.manual_seed(0)
    network = create_network(recipe.teachers[_NAME], 2)
    probe = Probe(network, layers_of(recipe.teachers[_NAME], network))
    device = torch.device("cpu")
    began = time.monotonic()
    write_answers(network, probe, lesson.pixels(side), folder / "answers", most=6, features=True, device=device,
                  title=_NAME)  # fmt: skip
    asked = time.monotonic() - began
    answers = Answers(folder / "answers", features=True)

    ask = Asker({_NAME: (network, probe)}, {_NAME: answers.units}, most=6, features=True, device=device)
    ways: dict[str, tuple[Any, Any]] = {
        "cached": (LessonSet(lesson, side, {_NAME: answers}, 1), None),
        "online": (_Drawn(stream, images, epochs, 1), ask),
    }
    seconds, losses = {}, {}
    for way, (samples, asker) in ways.items():
        task = _task(recipe, answers.channels, asker)
        say(f"{way}: {epochs} epochs of {images} images")
        began = time.monotonic()
        fit(_fabric(), task, samples, lambda _: {"score": 0.0}, recipe.students["student"].train.settings(images),
            folder / way, title=way, seed=1)  # fmt: skip
        seconds[way], losses[way] = time.monotonic() - began, task.losses
    first = images // min(_BATCH, images)
    pairs = zip(losses["cached"][:first], losses["online"][:first], strict=True)
    difference = max(abs(a - b) / abs(b) for a, b in pairs)
    settings = recipe.teachers[_NAME], recipe.students["student"]
    sizes = [size_of(create_network(one, 2), side) for one in settings]
    kept = sum(path.stat().st_size for place in (lesson.folder, folder / "answers") for path in place.glob("*.npy"))
    return {
        "epochs_per_hour": {way: 3600 * epochs / took for way, took in seconds.items()},
        "times": seconds["online"] / seconds["cached"],
        "once_s": (drawn + asked) / epochs,
        "loss_difference": difference,
        "bytes_per_image": kept // len(lesson),
        "teacher": {"model": teacher, "parameters": sizes[0].parameters, "macs": sizes[0].macs},
        "student": {"model": student, "parameters": sizes[1].parameters, "macs": sizes[1].macs},
        "side": side, "images": images, "epochs": epochs, "machine": machine_name(threads),
    }  # fmt: skip


def _task(recipe: LaboratoryRecipe, channels: list[int], ask: Any) -> _Recorded:
    settings, row = recipe.students["student"], recipe.rows["taught"]
    torch.manual_seed(1)
    model = create_network(settings, 2)
    layers, hard = layers_of(settings, model), HardLabels()
    guides = make_guides(row.terms, channels_of(model, layers, recipe.side), [channels], 2, hard, exclusive=True)
    task = _Recorded(model, hard, row.hard, guides, [_NAME], Probe(model, layers), ask)
    task.losses = []
    return task


def _fabric() -> Any:
    from lightning.fabric import Fabric  # noqa: PLC0415  after the shim, which the study brings

    return Fabric(accelerator="cpu", devices=1, precision=resolve_precision("auto"))  # type: ignore[arg-type]


def told(found: dict[str, Any]) -> str:
    """The outcome for people."""
    rates = found["epochs_per_hour"]
    return (
        f"{found['student']['model']} taught by {found['teacher']['model']} at {found['side']} px, {found['images']} "
        f"images per epoch, {found['machine']}:\n"
        f"  answers from disk   {rates['cached']:8.1f} epochs per hour\n"
        f"  teacher at work     {rates['online']:8.1f} epochs per hour\n"
        f"  {found['times']:.1f} times as many; once, {found['once_s']:.1f} s for each epoch's images that are kept\n"
        f"  losses differ by at most {found['loss_difference']:.1e} of their size; "
        f"{found['bytes_per_image'] / 1000:.0f} kB per image on disk"
    )
