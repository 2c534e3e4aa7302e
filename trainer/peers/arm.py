"""Arm instructions of the same rows: each runtime's aarch64 wheel in the emulated root of `deploy/emulator`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.decision import calibrate
from edge.errors import FoldsightError
from trainer.console import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.peers.graphs import Subject

EMULATOR = Path(__file__).parents[2] / "deploy" / "emulator"
PACKAGES = ("ncnn", "ai-edge-litert", "openvino")
FILES = {
    "onnx-fp32": ("fp32.onnx",),
    "onnx-int8": ("int8.onnx",),
    "ncnn": ("body.ncnn.param", "body.ncnn.bin"),
    "litert-fp32": ("fp32.tflite",),
    "litert-int8": ("int8.tflite",),
    "openvino-fp32": ("fp32.onnx",),
    "openvino-int8": ("int8.onnx",),
}
_GLIBC = (36, 35, 34, 31, 28, 27, 24, 17)
_LIMIT_S = 1800


def count(result: dict[str, Any], subjects: Sequence[Subject], keep: Path) -> None:
    """Add `arm` to the rows of `trainer.peers.bench.compare`: millions of instructions by processor, or why not.

    Args:
        result: changed in place.
        subjects: the models.
        keep: the folder with the converted models.

    Raises:
        FoldsightError: the emulated root or the wheels cannot be had.
    """
    root = _emulator(["--setup"]).strip()
    packages = _wheels(Path(root))
    for row in result["rows"]:
        if row["key"] not in FILES or "missing" in row:
            continue
        subject = next(subject for subject in subjects if subject.name == row["model"])
        folder = keep / row["folder"] / f"arm-{row['key']}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES[row["key"]]:
            shutil.copy(keep / row["folder"] / name, folder)
        shutil.copy(Path(__file__).with_name("arm_calls.py"), folder)
        np.save(folder / "image.npy", subject.images[:1])
        said = json.dumps({"peer": row["key"], "packages": str(packages)})
        (folder / "peer.json").write_text(said, encoding="utf-8")
        say(f"Arm: {row['model']}, {row['key']}")
        try:
            counted = json.loads(_emulator(["--calls", str(folder / "arm_calls.py"), "--json"]))["calls"][row["key"]]
        except FoldsightError as error:
            row["arm"] = {"missing": str(error)}
            continue
        row["arm"] = {cpu: entry["instructions"] / 1e6 for cpu, entry in counted.items()}
        logits = [np.load(folder / "told.npy").astype(np.float32), row["logits"]]
        there, here = (calibrate(np.asarray(z, np.float32), subject.temperature, exclusive=True) for z in logits)
        row["arm"]["score_difference"] = float(np.abs(there - here).max())


def _emulator(arguments: Sequence[str]) -> str:
    home = EMULATOR.parents[1]
    command = [sys.executable, str(EMULATOR), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(home)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, cwd=home, env=environment
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise FoldsightError(said.removeprefix("foldsight: "))
    return done.stdout


def _wheels(root: Path) -> Path:
    """The runtimes' aarch64 wheels, unpacked once."""
    place = root / f"peers-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
    if place.exists():
        return place
    part = place.with_name(place.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    say("fetching the peers' aarch64 wheels (50 MB)")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in _GLIBC]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--target", str(part)]
    command += [*platforms, "--platform=manylinux2014_aarch64", "--python-version=3.11", "--implementation=cp"]
    command += ["--only-binary=:all:", "--no-deps", "--no-compile", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise FoldsightError(f"the peers' aarch64 wheels could not be fetched ({said}): is the network there?")
    part.rename(place)
    return place
