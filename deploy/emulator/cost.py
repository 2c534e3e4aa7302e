# ruff: noqa: INP001
"""The command `python deploy/emulator`: arm64 instructions per frame, counted under emulation (docs/cost.md)."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from arm_root import CPUS, HERE, PYTHON, Cpu, Root, default_folder, prepare
from prepared import SetupError
from tally import Tally, TallyError, read_counts, tally

from edge.bench.ring import RingSource
from edge.config import COMMITTED_BUNDLE
from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Sequence

STAGES = ("wait", "optics", "preprocess", "inference", "decide", "message", "publish", "account")
_WIDTH, _HEIGHT, _FPS, _RING, _MEASURED = 1280, 720, 30.0, 24, 30
_LEAST_SHOWN = 0.01e6  # instructions a frame below which a function is not worth a line
_LIMIT_S = 1800


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 where it failed and said why."""
    given = _parser().parse_args(argv)
    try:
        root = prepare(given.folder, _tell, given.mirror)
        if given.setup:
            print(root.folder)
            return 0
        for path in [*(given.model or []), given.calls or given.bundle]:
            if not path.is_file():
                raise SetupError(f"{path} is not there: give the path of a file")
        with tempfile.TemporaryDirectory(prefix="foldsight-") as folder:
            kind = _models if given.model else _calls if given.calls else _frames
            result = kind(root, given, Path(folder))
    except FoldsightError as error:
        print(f"foldsight: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(frame_table(result) if "about" in result else alone_table(result)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python deploy/emulator", description="Arm instructions per frame, counted under emulation."
    )
    parser.add_argument(
        "--folder", type=Path, default=default_folder(), help="of the emulated root (default: %(default)s)"
    )
    parser.add_argument("--mirror", help="URL of a Debian mirror (default: debootstrap's)")
    parser.add_argument("--setup", action="store_true", help="only set up, and print the folder")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="default: all; may be given again")
    parser.add_argument("--runs", type=_count, default=1, help="count so often, and tell how far the runs differ")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bundle", type=Path, default=COMMITTED_BUNDLE, help="default: the one that ships")
    what.add_argument("--model", type=Path, nargs="+", help="ONNX files with the one input `image`: inference alone")
    what.add_argument("--calls", type=Path, help="a Python file with CALLS, functions without arguments by name")
    parser.add_argument(
        "--runtime", choices=("onnxruntime", "ncnn"), default="onnxruntime", help="of the bundle (default: %(default)s)"
    )
    parser.add_argument("--steps", action="store_true", help="the functions within the stages, too")
    parser.add_argument("--json", action="store_true")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _tell(line: str) -> None:
    print(f"foldsight: {line}", file=sys.stderr, flush=True)


def _cpus(given: argparse.Namespace) -> list[Cpu]:
    return [CPUS[name] for name in given.cpu or CPUS]


def _frames(root: Root, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Count the whole way of a frame on every processor."""
    ring = RingSource(width=_WIDTH, height=_HEIGHT, fps=_FPS, seed=0, frames=_RING)
    ring.open()
    frames = folder / "frames.npy"
    np.save(frames, np.stack([ring.read().image for _ in range(_RING)]))
    arguments = ["--bundle", str(given.bundle.absolute()), "--frames", str(frames), "--fps", str(_FPS)]
    arguments += ["--measured", str(_MEASURED), "--runtime", given.runtime]
    result: dict[str, Any] = {"schema": 1, "qemu": _qemu_version(), "cpus": {}}
    for cpu in _cpus(given):
        runs = []
        for index in range(given.runs):
            _tell(f"{cpu.name}: {_MEASURED} frames, run {index + 1} of {given.runs}")
            about, counted = run(root, cpu, arguments, folder)
            runs.append(counted)
        result["about"] = about
        entry = summary(runs)
        entry["golden"], entry["runtime"] = about.pop("golden"), about.pop("runtime")
        if given.steps:
            _tell(f"{cpu.name}: the same with every function marked")
            entry["steps"] = steps(run(root, cpu, [*arguments, "--deep"], folder)[1])
        result["cpus"][cpu.name] = entry
    return result


def _models(root: Root, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Count inference alone, of every graph on every processor."""
    result: dict[str, Any] = {"schema": 1, "qemu": _qemu_version(), "models": {}}
    for path in given.model:
        entry: dict[str, Any] = {}
        for cpu in _cpus(given):
            _tell(f"{cpu.name}: {path.name}")
            runs = [run(root, cpu, ["--model", str(path.absolute())], folder) for _ in range(given.runs)]
            values = [counted.mean()["inference"] for _, counted in runs]
            entry[cpu.name] = {"instructions": round(fmean(values)), "spread": spread(values)}
            entry["input"], result["versions"] = runs[0][0]["input"], runs[0][0]["versions"]
        result["models"][str(path)] = entry
    return result


def _calls(root: Root, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Count calls by themselves, on every processor."""
    result: dict[str, Any] = {"schema": 1, "qemu": _qemu_version(), "calls": {}}
    for cpu in _cpus(given):
        _tell(f"{cpu.name}: {given.calls.name}")
        about, counted = run(root, cpu, ["--calls", str(given.calls.absolute())], folder)
        result["versions"] = about["versions"]
        for (name, *_), step in counted.steps.items():
            entry = result["calls"].setdefault(name, {})
            entry[cpu.name] = {"instructions": round(step.whole / step.calls)}
    return result


def run(root: Root, cpu: Cpu, arguments: Sequence[str], folder: Path) -> tuple[dict[str, Any], Tally]:
    """Run inside.py under emulation.

    Args:
        root: the emulated root.
        cpu: as which processor.
        arguments: of inside.py.
        folder: for its files.

    Returns:
        What it says of itself, and what was counted.

    Raises:
        SetupError: it failed.
        TallyError: the counts make no sense.
    """
    counts, marks, place = folder / "counts", folder / "marks.json", root.of(cpu)
    for old in (counts, marks):
        old.unlink(missing_ok=True)
    command = ["qemu-aarch64", "-cpu", cpu.name, "-L", str(place), "-plugin", f"{root.plugin},out={counts}"]
    command += [str(place / "usr" / "bin" / PYTHON), "-s", str(HERE / "inside.py"), "--out", str(marks), *arguments]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # else sets and dicts of every run would lie in another order
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(root.packages)]),
        "PYTHONPYCACHEPREFIX": str(root.folder / "bytecode"),
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"the emulated {cpu.name} was not done in {_LIMIT_S} s: is the machine overloaded?") from error
    if done.returncode or not marks.is_file():
        raise SetupError(failure(cpu, done.returncode, done.stderr))
    said = json.loads(marks.read_text(encoding="utf-8"))
    about = said["about"]
    if about.pop("machine") != "aarch64":
        raise TallyError("the program did not run as aarch64: no instruction was counted")
    return about, tally(said["marks"], read_counts(counts.read_text(encoding="ascii")), about.pop("begin"))


def failure(cpu: Cpu, status: int, said: str) -> str:
    """The one sentence about an emulated program that failed."""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit status {status}")
    if "API version" in said:
        return f"this QEMU has another plugin interface than the plugin, which needs QEMU 4.2 to 9.0 ({last})"
    last = re.sub(r"^edge\.errors\.\w+: ", "", last)
    return f"the emulated {cpu.name} failed: {last}"


def _qemu_version() -> str:
    said = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else "unknown"


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / mean."""
    return (max(values) - min(values)) / fmean(values)


def summary(runs: Sequence[Tally]) -> dict[str, Any]:
    """Instructions a frame of one processor, means over the runs' frames, and how far the runs differ."""
    means = [counted.mean() for counted in runs]
    wholes = [sum(mean.values()) for mean in means]
    stages = {stage: round(fmean(mean.get(stage, 0.0) for mean in means)) for stage in STAGES}
    whole = sum(stages.values())
    sums = [sum(frame.values()) for counted in runs for frame in counted.frames]
    return {
        "stages": stages,
        "whole": whole,
        "not_inference": whole - stages["inference"],
        "smallest_frame": min(sums),
        "largest_frame": max(sums),
        "spread": {"whole": spread(wholes), "inference": spread([mean["inference"] for mean in means])},
    }


def steps(counted: Tally) -> list[dict[str, Any]]:
    """Stages in their order, and the functions within them, the dearest first."""
    frames = len(counted.frames)

    def order(path: tuple[str, ...]) -> tuple[Any, ...]:
        parents = (path[: depth + 1] for depth in range(1, len(path)))
        return (STAGES.index(path[0]), *((-counted.steps[parent].whole, parent[-1]) for parent in parents))

    return [
        {
            "path": list(path),
            "calls": counted.steps[path].calls / frames,
            "whole": round(counted.steps[path].whole / frames),
            "own": round(counted.steps[path].own / frames),
        }
        for path in sorted(counted.steps, key=order)
        if counted.steps[path].whole / frames >= _LEAST_SHOWN
    ]


def frame_table(result: dict[str, Any]) -> list[str]:
    """The lines for a terminal."""
    about, cpus = result["about"], result["cpus"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    height, width = about["frame"]
    lines = [
        "Arm instructions per frame, millions",
        f"{width}x{height} BGR to the MQTT packet, mean of {about['frames']} frames at {about['fps']:g} a second",
        f"{about['model']}, {about['precision']}, input {about['input'][1]}x{about['input'][0]}; {versions}",
        result["qemu"],
        "",
        _row("", list(cpus)),
    ]

    def row(name: str, values: Sequence[float]) -> str:
        return _row(name, [f"{value / 1e6:.2f}" for value in values])

    if len(told := {cpu["runtime"] for cpu in cpus.values()}) > 1 or not next(iter(told)).startswith("ONNX"):
        lines[3:3] = [f"{name}: {cpu['runtime']}" for name, cpu in cpus.items()]
    lines += [row(stage, [cpu["stages"][stage] for cpu in cpus.values()]) for stage in STAGES]
    lines += [
        row("whole path", [cpu["whole"] for cpu in cpus.values()]),
        row("  of a frame without a search", [cpu["smallest_frame"] for cpu in cpus.values()]),
        row("  of the dearest frame", [cpu["largest_frame"] for cpu in cpus.values()]),
        row("all but inference", [cpu["not_inference"] for cpu in cpus.values()]),
        _row("  of inference", [f"{cpu['not_inference'] / cpu['stages']['inference']:.0%}" for cpu in cpus.values()]),
        _row("runs differ by", [f"{cpu['spread']['whole']:.3%}" for cpu in cpus.values()]),
        _row("golden scores differ by", [f"{max(cpu['golden'].values()):.1e}" for cpu in cpus.values()]),
    ]
    for name, cpu in cpus.items():
        if "steps" not in cpu:
            continue
        lines += ["", _row(f"within the stages, {name}", ["calls", "a frame", "itself", "a call"])]
        for step in cpu["steps"]:
            cells = [f"{step['calls']:.2f}", *(f"{step[key] / 1e6:.2f}" for key in ("whole", "own"))]
            label = "  " * (len(step["path"]) - 1) + step["path"][-1]
            lines.append(_row(label, [*cells, f"{step['whole'] / step['calls'] / 1e6:.2f}"]))
    return lines


def alone_table(result: dict[str, Any]) -> list[str]:
    """The lines for a terminal, of models or calls by themselves."""
    kind = "models" if "models" in result else "calls"
    entries = result[kind]
    names = [name for name in next(iter(entries.values())) if name in CPUS]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"Arm instructions, millions, {kind} by themselves", versions, result["qemu"], "", _row("", names)]
    for label, entry in entries.items():
        size = "x".join(map(str, entry.get("input", [])))
        shown = f"{Path(label).name} {size}" if size else label
        lines.append(_row(shown, [f"{entry[name]['instructions'] / 1e6:.2f}" for name in names]))
    return lines


def _row(label: str, cells: Sequence[str]) -> str:
    return (f"{label:<44}" + "".join(f"{cell:>12}" for cell in cells)).rstrip()
