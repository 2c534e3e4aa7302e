"""The comparison: every runtime in turn, round after round, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from edge.decision import calibrate
from trainer.console import say
from trainer.peers.runtimes import PEERS, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trainer.peers.graphs import Subject
    from trainer.peers.runtimes import Peer

BASE = "onnx-int8"  # what ratios are to
TRUTH = "onnx-fp32"  # what outputs are compared with
_WARM = 3
_MATTERS = 0.2  # share of the instructions that another runtime must save to be worth a word


def compare(
    subjects: Sequence[Subject], names: Sequence[str], *, rounds: int, calls: int, keep: Path
) -> dict[str, Any]:
    """Run all models in all runtimes.

    Args:
        subjects: the models.
        names: keys of `PEERS`.
        rounds: in each of them every row is asked in turn.
        calls: inferences of a row in a round; their mean is the round's figure.
        keep: folder for the converted models.

    Returns:
        For JSON: `machine`, `rounds`, `calls`, and `rows`: model, runtime, version, `ms` (median, p10, p90 over
        rounds), `ratio` to the same model in ONNX Runtime INT8 (the same, of each round's own ratio),
        `score_difference` from FP32, or `missing` with the reason.
    """
    rows: list[dict[str, Any]] = []
    ready: list[tuple[dict[str, Any], Peer, Subject]] = []
    for subject in subjects:
        for name in names:
            place = subject.name.replace(" ", "-").replace(",", "").lower()
            row: dict[str, Any] = {"model": subject.name, "key": name, "folder": place}
            rows.append(row)
            folder = keep / place
            folder.mkdir(parents=True, exist_ok=True)
            say(f"{subject.name}: {name}")
            try:
                with _quiet():
                    peer = PEERS[name](subject, folder)
                    peer.infer(subject.images[:1])
            except Exception as error:  # noqa: BLE001  foreign packages raise anything: the table says it
                said = (str(error).strip().splitlines() or [""])[0]
                row["missing"] = f"{type(error).__name__}: {said}"[:200]
                continue
            row |= {"runtime": peer.runtime, "version": version(peer.package)}
            ready.append((row, peer, subject))
    _agreement(ready)
    times = _measure(ready, rounds, calls)
    for row, spent in zip([row for row, _, _ in ready], times, strict=True):
        base = next((t for (other, _, _), t in zip(ready, times, strict=True)
                     if other["model"] == row["model"] and other["key"] == BASE), None)  # fmt: skip
        row["ms"] = _spread(1000 * spent)
        row["ratio"] = None if base is None else _spread(spent / base)
    machine = f"{platform.machine()}, {_processor()}, one thread of {os.cpu_count()}"
    return {"machine": machine, "rounds": rounds, "calls": calls, "rows": rows}


def _measure(ready: Sequence[tuple[dict[str, Any], Peer, Subject]], rounds: int, calls: int) -> list[Any]:
    times = np.zeros((len(ready), rounds))
    for _, peer, subject in ready:
        for _ in range(_WARM):
            peer.infer(subject.images[:1])
    rng = np.random.default_rng(0)
    for number in range(rounds):
        for index in rng.permutation(len(ready)):  # no row always follows the same other one
            _, peer, subject = ready[index]
            peer.infer(subject.images[:1])
            began = time.perf_counter()
            for call in range(calls):
                peer.infer(subject.images[call % len(subject.images)][None])
            times[index, number] = (time.perf_counter() - began) / calls
    return list(times)


def _agreement(ready: Sequence[tuple[dict[str, Any], Peer, Subject]]) -> None:
    """Largest difference of a calibrated score on the golden inputs from the float graph in ONNX Runtime."""
    truths: dict[str, Any] = {}
    for row, peer, subject in ready:
        if not peer.same:
            row["score_difference"] = None
            continue
        told = np.stack([peer.infer(image[None]).copy() for image in subject.images])
        row["logits"] = told[0].tolist()  # of the first image, for a look from elsewhere
        scores = np.stack([calibrate(logits, subject.temperature, exclusive=True) for logits in told])
        if row["key"] == TRUTH:
            truths[subject.name] = scores
        truth = truths.get(subject.name)
        row["score_difference"] = None if truth is None else float(np.abs(scores - truth).max())


def _spread(values: Any) -> dict[str, float]:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {"median": float(middle), "p10": float(low), "p90": float(high)}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep converters' chatter, which C++ writes too, from the terminal."""
    saved = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as sink:
        for number in (1, 2):
            os.dup2(sink.fileno(), number)
        try:
            yield
        finally:
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


# --- for people ---

COLUMNS = ("model", "runtime", "version", "ms", "p10 to p90", "times ONNX Runtime INT8", "scores differ by")
ARM_COLUMNS = ("A76, M", "A72, M")


def _columns(result: Mapping[str, Any]) -> tuple[str, ...]:
    return (*COLUMNS, *ARM_COLUMNS) if any("arm" in row for row in result["rows"]) else COLUMNS


def _cells(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in result["rows"]:
        if "missing" in row:
            cells = [row["model"], row["key"], "-", row["missing"], "", "", ""]
        else:
            ms, ratio, apart = row["ms"], row["ratio"], row["score_difference"]
            cells = [
                row["model"],
                row["runtime"],
                row["version"],
                f"{ms['median']:.2f}",
                f"{ms['p10']:.2f} to {ms['p90']:.2f}",
                "-" if ratio is None else f"{ratio['median']:.2f}",
                "other network" if apart is None else f"{apart:.4f}",
            ]
        arm = row.get("arm", {})
        cells += [f"{arm[cpu]:.2f}" if cpu in arm else "-" for cpu in ("cortex-a76", "cortex-a72")]
        yield cells[: len(_columns(result))]


def remarks(result: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit into a table: why a row has no Arm figure, and who beats ONNX Runtime INT8 there."""
    counted = [row for row in result["rows"] if "arm" in row]
    base = {row["model"]: row["arm"] for row in counted if row["key"] == BASE and "missing" not in row["arm"]}
    for row in counted:
        arm, ours, who = row["arm"], base.get(row["model"]), f"{row['model']}, {row['runtime']} on Arm"
        if "missing" in arm:
            yield f"{who}: {arm['missing']}"
        elif ours is not None:
            saved = {cpu: 1 - arm[cpu] / ours[cpu] for cpu in ours if cpu.startswith("cortex") and cpu in arm}
            less = [f"{100 * share:.0f} % on a {cpu}" for cpu, share in saved.items() if share > _MATTERS]
            if less:
                yield f"{who}: fewer instructions than ONNX Runtime INT8, {', '.join(less)}"


def table(result: Mapping[str, Any]) -> Table:
    """For a terminal."""
    shown = Table(title=f"{result['machine']}; {result['rounds']} interleaved rounds of {result['calls']} inferences",
                  title_justify="left", title_style="bold")  # fmt: skip
    for index, name in enumerate(_columns(result)):
        shown.add_column(name, justify="left" if index < 3 else "right")  # noqa: PLR2004  the words
    for cells in _cells(result):
        shown.add_row(*cells)
    return shown


def markdown(result: Mapping[str, Any]) -> str:
    """The same in Markdown."""
    names = _columns(result)
    lines = [f"| {' | '.join(names)} |", "| --- | --- | --- |" + " ---: |" * (len(names) - 3)]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(result)]
    told = f"{result['machine']}; {result['rounds']} rounds of {result['calls']} inferences."
    return "\n".join([*lines, "", told, "", *(f"- {line}" for line in remarks(result)), ""])
