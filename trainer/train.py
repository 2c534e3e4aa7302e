"""The training loop: Lightning Fabric, one task, checkpoints from which a run goes on bit for bit."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch.utils.data import DataLoader

from edge.errors import FoldsightError
from trainer._torchvision import ensure_torchvision
from trainer.console import Meter, say
from trainer.distil import Beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from lightning.fabric import Fabric
    from torch import Tensor, nn
    from typing_extensions import Self

    from trainer.distil import Task
    from trainer.recipe import TrainSettings

    Validate = Callable[[nn.Module], Mapping[str, float]]

LAST, BEST, METRICS, BOARD = "last.pt", "best.pt", "metrics.jsonl", "tensorboard"
_SAVE_EVERY_S = 60.0
_LOG_EVERY_STEPS = 20
_FINAL_RATE = 0.01  # of the peak learning rate, where the cosine ends


class TrainingData(Protocol):
    """What the loop draws from: sample i of an epoch is the same whenever it is asked for."""

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: with it all samples change."""

    def __len__(self) -> int:
        """Samples of an epoch."""

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, Tensor]:
        """Pixels uint8 (3, H, W) RGB, label, where it comes from, and more that the task learns from.

        That is maps float32 (labels, h, w), empty for none, or teachers' answers by name.
        """


@dataclass(frozen=True)
class Trained:
    """What a training left: the weights of the best epoch and its validation."""

    weights: Path
    epoch: int
    metrics: dict[str, float]


class _Batches:
    """Batch sampler over an epoch's samples in order: skips what is done, and takes one rank's part of each batch.

    The ranks take turns, `together` samples at a time.
    """

    def __init__(self, steps: int, batch: int, start: int, rank: int, world: int, together: int = 1) -> None:
        self._steps, self._batch, self._start, self._rank, self._world = steps, batch, start, rank, world
        self._together = together

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._start, self._steps):
            first = step * self._batch
            yield [first + i for i in range(self._batch) if i // self._together % self._world == self._rank]


def fit(
    fabric: Fabric,
    task: Task,
    data: TrainingData,
    validate: Validate,
    settings: TrainSettings,
    folder: Path,
    *,
    title: str = "training",
    workers: int = 0,
    seed: int = 0,
) -> Trained:
    """Train, or go on with an interrupted training, until the last epoch.

    A sample follows from seed, epoch and index alone; weights, optimiser, averaged weights and random state are in the
    checkpoint. So a run that was cut off ends with the same weights as one that was not, bit for bit on a CPU with the
    same number of threads.

    Args:
        fabric: devices and precision, launched.
        task: model and losses; its model takes uint8 (N, 3, H, W).
        data: training images.
        validate: model -> metrics; `score` decides which epoch is kept.
        settings: see there.
        folder: checkpoints and metrics go here.
        title: what the progress is called.
        workers: processes that prepare images, 0 for none.
        seed: of dropout.

    Raises:
        FoldsightError: the loss is no longer a number, or the checkpoint cannot be used.
    """
    steps = len(data) // settings.batch
    if not steps:
        raise FoldsightError(f"{title}: an epoch of {len(data)} images is less than one batch of {settings.batch}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    learner = _Learner(fabric, task, settings, steps, title)
    first, start, best = learner.resume(folder / LAST)
    if first or start:
        say(f"{title}: going on at epoch {first + 1}, step {start} of {steps}")
    images, saved = steps * settings.batch, time.monotonic()
    with (
        Meter(title, images * settings.epochs, done=images * first + start * settings.batch) as meter,
        _Log(folder / METRICS, first, start, steps, active=fabric.is_global_zero) as log,
    ):
        for epoch in range(first, settings.epochs):
            data.set_epoch(epoch)
            sampler = _Batches(steps, settings.batch, start, fabric.global_rank, fabric.world_size, task.together)
            # Its own generator: a loader begun again within an epoch must not draw from the random state of dropout.
            loader: DataLoader[Any] = DataLoader(
                data,  # type: ignore[arg-type]
                batch_sampler=sampler,
                num_workers=workers,
                generator=torch.Generator(),
            )
            task.train()
            for step, (pixels, labels, origins, more) in enumerate(loader, start=start + 1):
                terms = learner.learn(pixels, labels, origins, more, epoch, step)
                if step % _LOG_EVERY_STEPS == 0 or step == steps:
                    log.write(epoch, step, rate=meter.rate, learning_rate=learner.learning_rate, **terms)
                meter.advance(settings.batch, f"epoch {epoch + 1}/{settings.epochs} loss {terms['loss']:.4f}")
                if time.monotonic() - saved > _SAVE_EVERY_S and step < steps:
                    learner.save(folder / LAST, epoch=epoch, step=step, best=best)
                    saved = time.monotonic()
            start = 0
            kept = learner.kept
            metrics = dict(validate(kept))
            log.write(epoch, steps, **{f"val_{name}": value for name, value in metrics.items()})
            better = best is None or metrics["score"] > best["metrics"]["score"]
            if better:
                best = {"epoch": epoch, "metrics": metrics}
                if fabric.is_global_zero:
                    save_atomically(folder / BEST, {"model": kept.state_dict(), **best})
            said = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) + (" (best)" if better else "")
            say(f"{title}: epoch {epoch + 1}/{settings.epochs} validated: {said}")
            learner.save(folder / LAST, epoch=epoch + 1, step=0, best=best)
            saved = time.monotonic()
    fabric.barrier()
    if best is None:
        raise FoldsightError(f"{folder / LAST} is of a training that is over, without its best epoch: remove {folder}")
    return Trained(folder / BEST, best["epoch"], best["metrics"])


class _Learner:
    """A task with its optimiser and averaged weights: one step, and all of its state to and from a file."""

    def __init__(self, fabric: Fabric, task: Task, settings: TrainSettings, steps: int, title: str) -> None:
        ensure_torchvision()
        from timm.utils.model_ema import ModelEmaV3  # noqa: PLC0415  after the shim

        self._fabric, self._task, self._settings, self._steps, self._title = fabric, task, settings, steps, title
        self._model, self._helpers = channels_last(task.model), task.helpers()
        optimiser = torch.optim.AdamW(
            _groups(settings.weight_decay, self._model, self._helpers), lr=settings.learning_rate
        )
        # The averages follow quickly at first, so that few epochs are not spent on forgetting the first weights.
        self._ema = ModelEmaV3(self._model, decay=settings.ema, use_warmup=True) if settings.ema else None
        task.model, self._optimiser = fabric.setup(self._model, optimiser)
        self._helpers.to(fabric.device)
        for network in (*task.frozen(), *([self._ema] if self._ema else [])):
            channels_last(network.to(fabric.device))
        self.learning_rate = 0.0

    @property
    def kept(self) -> nn.Module:
        """What is validated and kept: the averaged weights where there are any."""
        model: nn.Module = self._model if self._ema is None else self._ema.module
        return model.eval()

    def learn(
        self,
        pixels: Tensor,
        labels: Tensor,
        origins: Tensor,
        more: Tensor | Mapping[str, Tensor],
        epoch: int,
        step: int,
    ) -> dict[str, float]:
        """Take step number `step` (from 1) of an epoch; returns the loss and its terms.

        Raises:
            FoldsightError: the loss or its gradient is no longer a number. The weights are as before the step.
        """
        fabric, done = self._fabric, epoch * self._steps + step - 1
        steps = self._steps * self._settings.epochs
        self.learning_rate = _rate(done, steps, self._settings)
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate
        batch = pixels.to(fabric.device).contiguous(memory_format=torch.channels_last)
        with fabric.autocast():
            beside = Beside(origins.to(fabric.device), done / steps)
            terms = self._task(batch, labels.to(fabric.device), _to(more, fabric.device), beside)
        self._optimiser.zero_grad()
        fabric.backward(terms["loss"])
        if fabric.world_size > 1:  # what helps the model learn is not in its wrapper
            for parameter in self._helpers.parameters():
                if parameter.grad is not None:
                    parameter.grad = cast("Tensor", fabric.all_reduce(parameter.grad, reduce_op="mean"))
        norm = fabric.clip_gradients(
            self._task.model, self._optimiser, max_norm=self._settings.clip, error_if_nonfinite=False
        )
        values = {name: float(self._mean(value.detach())) for name, value in terms.items()}
        if not (math.isfinite(values["loss"]) and norm is not None and torch.isfinite(norm)):
            raise FoldsightError(
                f"{self._title}: the loss became {values['loss']} in epoch {epoch + 1}, step {step}; "
                "lower the learning rate, or train in precision 32-true"
            )
        self._optimiser.step()
        if self._ema is not None:
            self._ema.update(self._model, step=done + 1)
        return values

    def _mean(self, value: Tensor) -> Tensor:
        """Over all processes, each of which saw its part of the batch."""
        if self._fabric.world_size == 1:
            return value
        return cast("Tensor", self._fabric.all_reduce(value, reduce_op="mean"))

    def save(self, path: Path, **place: Any) -> None:
        """Write everything that a run needs to go on."""
        if not self._fabric.is_global_zero:
            return
        state = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            **place,
        }
        if self._ema is not None:
            state["ema"] = self._ema.state_dict()
        if self._helpers.state_dict():
            state["helpers"] = self._helpers.state_dict()
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state_all()
        save_atomically(path, state)

    def resume(self, path: Path) -> tuple[int, int, dict[str, Any] | None]:
        """Read it back; returns epoch, step within it, and the best epoch so far."""
        if not path.exists():
            return 0, 0, None
        state = _read(path)
        try:
            self._model.load_state_dict(state["model"])
            self._optimiser.load_state_dict(state["optimiser"])
            if self._ema is not None:
                self._ema.load_state_dict(state["ema"])
            if self._helpers.state_dict():
                self._helpers.load_state_dict(state["helpers"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise FoldsightError(f"{path} is a checkpoint of another network: remove {path.parent}") from error
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return state["epoch"], state["step"], state["best"]


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a network's weights out as its convolutions want them, on a CPU above all."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_weights(model: nn.Module, path: Path) -> dict[str, float]:
    """Load what `fit` kept into a model of the same shape.

    Returns:
        The validation metrics of those weights.
    """
    state = _read(path)
    model.load_state_dict(state["model"])
    model.eval()
    return dict(state["metrics"])


def resolve_precision(precision: str) -> str:
    """What `auto` means here: bf16-mixed where the processor multiplies bf16 itself, else 32-true."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001  no public name
    return "bf16-mixed" if native else "32-true"


def save_atomically(path: Path, state: Mapping[str, Any]) -> None:
    """torch.save that leaves the old file whole when it is cut off."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FoldsightError(
            f"{path} cannot be written ({error.strerror}); the last checkpoint is untouched"
        ) from error


def _to(more: Any, device: torch.device) -> Any:
    """A tensor, or each of a dictionary's, on a device."""
    return {name: value.to(device) for name, value in more.items()} if isinstance(more, dict) else more.to(device)


def _groups(weight_decay: float, *modules: nn.Module) -> list[dict[str, Any]]:
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int, settings: TrainSettings) -> float:
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    turn = (step - warm) / max(1, steps - warm)
    return settings.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * turn)))


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # a damaged file fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FoldsightError(f"{path} cannot be read ({reason}); remove its folder and train again") from error


class _Log:
    """Metrics as JSON lines, and for TensorBoard where it is installed.

    What an interrupted run wrote after its last checkpoint is dropped: it comes again.
    """

    def __init__(self, path: Path, epoch: int, step: int, steps: int, *, active: bool) -> None:
        self._active, self._steps = active, steps
        self._board = _board(path.parent / BOARD, epoch * steps + step + 1) if active else None
        if active:
            kept = []
            if path.exists():
                for line in path.read_text(encoding="utf-8").splitlines():
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        continue  # the line that was being written when the power went
                    if (entry["epoch"] - 1, entry["step"]) <= (epoch, step):
                        kept.append(line)
            part = path.with_suffix(".part")
            part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            part.replace(path)
            self._stream = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._stream.close()
        if self._board is not None:
            self._board.close()

    def write(self, epoch: int, step: int, **values: float) -> None:
        if self._active:
            told = {name: float(f"{value:.6g}") for name, value in values.items()}
            self._stream.write(json.dumps({"epoch": epoch + 1, "step": step, **told}) + "\n")
            self._stream.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, epoch * self._steps + step)


def _board(folder: Path, step: int) -> Any:
    """A writer for TensorBoard that goes on at a step; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415  optional, and slow to import
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)
