"""The ladder: remedies in order, each tried only when the gate before it fails, all of it written down."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from trainer.console import say
from trainer.evaluate import run_model
from trainer.onnx_export import MAPS, with_image_input
from trainer.quantise.gate import measure
from trainer.quantise.signal import layer_signal
from trainer.quantise.static import Static, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx

    from trainer.quantise.gate import Ground, Measured
    from trainer.recipe import QuantiseSettings

    Train = Callable[[onnx.ModelProto, onnx.ModelProto], tuple[onnx.ModelProto, onnx.ModelProto]]

TITLES = {
    "static": "static, as the recipe says",
    "percentile": "percentile ranges",
    "entropy": "entropy ranges",
    "bias": "bias correction",
    "equalise": "cross-layer equalisation",
    "float": "worst layers in float",
    "aware": "quantisation-aware training",
}
_SIGNAL_IMAGES = 16


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        rung: a key of `TITLES`.
        way: what was done, in words.
        measured: what came of it.
        failures: why the gate refuses it; none where it passes.
        signal: signal-to-noise ratio per layer, decibels.
        seconds: that it took.
        bytes: of the graph.
    """

    rung: str
    way: Way
    measured: Measured
    failures: list[str]
    signal: dict[str, float]
    seconds: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rung": self.rung,
            "way": str(self.way),
            "float_layers": list(self.way.wide),
            **self.measured.as_dict(),
            "failures": self.failures,
            "layers_db": self.signal,
            "seconds": round(self.seconds, 1),
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Climbed:
    """Where the ladder ended.

    Attributes:
        model: the INT8 graph with the device's input.
        body: the float graph that it is of.
        taken: the attempt that it is of.
        attempts: all of them, in their order.
    """

    model: onnx.ModelProto
    body: onnx.ModelProto
    taken: Attempt
    attempts: list[Attempt]

    @property
    def why(self) -> str:
        """One sentence on the choice."""
        if self.taken.failures:
            return f"no rung passes; taken is the nearest, {TITLES[self.taken.rung]}, and it fails: " + "; ".join(
                self.taken.failures
            )
        before = len({a.rung for a in self.attempts[: self.attempts.index(self.taken)]})
        if not before:
            return f"{TITLES[self.taken.rung]} passes the gate: nothing else was needed"
        return f"{TITLES[self.taken.rung]} is the first to pass the gate, after {before} that did not"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "taken": self.taken.rung,
            "why": self.why,
            "passed": not self.taken.failures,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


def climb(
    static: Static, ground: Ground, settings: QuantiseSettings, *, train: Train | None = None, every: bool = False
) -> Climbed:
    """Try the recipe's rungs in order until the gate passes.

    The ways of calibration are tried by themselves; every later rung builds on the best of those before it.

    Args:
        static: the body with its calibration images.
        ground: what INT8 is measured on.
        settings: the rungs, the gate.
        train: makes of a float graph and its QDQ graph a pair whose weights have learnt to be whole numbers; None
            leaves that rung out.
        every: try all of them, whether or not one has passed; the first that passes is taken all the same.
    """
    ladder = _Ladder(static, ground, settings)
    for rung in settings.ladder:
        if ladder.passed and not every:
            break
        if rung == "float":
            ladder.leave_layers(every=every)
        elif rung == "aware":
            if train is not None:
                ladder.learn(train)
        else:
            ladder.try_way(rung)
    return ladder.result()


class _Ladder:
    """The attempts so far."""

    def __init__(self, static: Static, ground: Ground, settings: QuantiseSettings) -> None:
        self._static, self._ground, self._settings = static, ground, settings
        self._attempts: list[Attempt] = []
        self._models: list[tuple[onnx.ModelProto, onnx.ModelProto]] = []

    @property
    def passed(self) -> bool:
        """Whether one of them has."""
        return any(not attempt.failures for attempt in self._attempts)

    def _best(self) -> int:
        """The first that passes, else the nearest to passing."""
        gate, attempts = self._settings.gate, self._attempts

        def distance(index: int) -> tuple[bool, float]:
            attempt = attempts[index]
            return bool(attempt.failures), attempt.measured.excess(gate) if attempt.failures else 0.0

        return min(range(len(attempts)), key=distance)

    def try_way(self, rung: str) -> None:
        """A rung that needs no training."""
        base = self._attempts[self._best()].way if self._attempts else Way(self._settings.method)
        way = {
            "static": Way(self._settings.method),
            "percentile": Way("percentile"),
            "entropy": Way("entropy"),
            "bias": replace(base, corrected=True),
            "equalise": replace(base, equalised=True),
        }[rung]
        if any(attempt.way == way and attempt.rung != "aware" for attempt in self._attempts):
            return
        self._judge(rung, way, lambda: self._make(way))

    def leave_layers(self, *, every: bool) -> None:
        """Leave one, two, four, ... of the layers with the worst signal in float, until it is enough."""
        base = self._attempts[self._best()] if self._attempts else None
        if base is None:
            return
        worst = sorted(base.signal, key=lambda name: base.signal[name])
        count = 1
        while count <= min(self._settings.float_layers, len(worst)):
            way = replace(base.way, wide=tuple(worst[:count]))
            self._judge("float", way, lambda way=way: self._make(way))  # type: ignore[misc]
            if not self._attempts[-1].failures and not every:
                return
            count *= 2

    def learn(self, train: Train) -> None:
        """Train the weights of the best way so far."""
        way = self._attempts[self._best()].way if self._attempts else Way(self._settings.method)
        way = replace(way, wide=())
        self._judge("aware", way, lambda: train(self._static.float_graph(way), self._static.graph(way)))

    def _make(self, way: Way) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        return self._static.float_graph(way), self._static.graph(way)

    def _judge(self, rung: str, way: Way, make: Callable[[], tuple[onnx.ModelProto, onnx.ModelProto]]) -> None:
        began = time.monotonic()
        body, graph = make()
        ground, static = self._ground, self._static
        model = with_image_input(graph)
        content = model.SerializeToString()
        count = min(_SIGNAL_IMAGES, len(static.images))
        chosen = np.linspace(0, len(static.images) - 1, count).astype(int)
        # A corrected graph is shifted on purpose: what it is to keep is the plain one's signal.
        wide = body if rung == "aware" else static.float_graph(replace(way, corrected=False))
        signal = layer_signal(wide, graph, [static.images[i] for i in chosen])
        answers = run_model(content, ground.inputs, title=f"INT8, {TITLES[rung]}", labels=ground.wide.logits.shape[1],
                            maps=None if ground.maps is None else MAPS)  # fmt: skip
        measured = measure(ground, answers, signal)
        failures = measured.failures(self._settings.gate)
        self._attempts.append(Attempt(rung, way, measured, failures, signal, time.monotonic() - began, len(content)))
        self._models.append((body, model))
        say(f"quantising, {TITLES[rung]} ({way}): {'; '.join(failures) or 'the gate passes'}")

    def result(self) -> Climbed:
        """What is taken."""
        best = self._best()
        body, model = self._models[best]
        return Climbed(model, body, self._attempts[best], self._attempts)


# --- for people ---

_COLUMNS = ("rung", "way", "accuracy, points", "agreement %", "ECE, points", "flips %", "worst layer dB", "Dice loss",
            "KB", "gate")  # fmt: skip


def _rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for attempt in result["attempts"]:
        bounds = "" if attempt["low"] is None else f" ({100 * attempt['low']:.2f} to {100 * attempt['high']:.2f})"
        yield [
            TITLES[attempt["rung"]],
            attempt["way"],
            f"{100 * attempt['accuracy']:+.2f}{bounds}",
            f"{100 * attempt['agreement']:.2f}",
            f"{100 * attempt['ece']:+.2f}",
            f"{100 * attempt['flips']:.2f}",
            f"{attempt['signal_db']:.1f}",
            "-" if attempt["dice"] is None else f"{100 * attempt['dice']:.2f}",
            f"{attempt['bytes'] / 1000:.0f}",
            "fails" if attempt["failures"] else "passes",
        ]


def ladder_table(result: Mapping[str, Any]) -> Table:
    """The ladder of `Climbed.as_dict` for a terminal."""
    table = Table(title="INT8 against FP32, validation split", caption=result["why"], title_justify="left",
                  caption_justify="left", title_style="bold")  # fmt: skip
    for index, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right")  # noqa: PLR2004  the words
    for row in _rows(result):
        table.add_row(*row)
    return table


def ladder_markdown(result: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "| --- | --- |" + " ---: |" * (len(_COLUMNS) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in _rows(result)]
    return "\n".join([*lines, "", f"{result['why'][0].upper()}{result['why'][1:]}.", ""])
