# ruff: noqa: INP001
"""What runs inside the emulated root: edge's own pipeline, with marks between its stages.

A mark is a call of getppid(2), at which the plugin (count.c) writes down how many instructions have run; its name is
kept here. The names in order go to the file that `--out` names, as JSON; pairing them with the counts is the caller's.
Everything runs on one thread, on a clock that stands still within a frame, so that two runs count the same.

Run it through `python deploy/emulator`; by itself, without an emulator, it runs as well and counts nothing.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import runpy
import socket
import sys
import threading
import time
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edge.config import Config
    from edge.mqtt import Link

NULL = "null"  # between two of these lies nothing but a mark
STAGES = ("wait", "optics", "preprocess", "inference", "decide", "message", "publish", "account")
OFF = "off"
_NULLS = 50
_RUNS = 5
_ACROSS = ("now_ns", "analyse")  # the marks of stages themselves, and what holds several stages
_MARKED = (
    "edge.analysis",
    "edge.decision",
    "edge.latency",
    "edge.messages",
    "edge.mqtt",
    "edge.optics.aperture",
    "edge.optics.frozen",
    "edge.optics.quality",
    "edge.preprocess",
    "edge.regions",
    "edge.runtime.ncnn",
    "edge.runtime.onnx",
    "edge.stats",
)
_START_S = 1000.0  # of the clock; any will do


class Marks:
    """Names of the marks so far.

    `STAGE` means that from here on STAGE runs, `+NAME` that the function NAME begins within it, `-NAME` that it ends.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        """Mark this moment."""
        self.names.append(name)
        os.getppid()


class Clock:
    """Stands in for the `time` module's clocks, and moves only when told to.

    It costs what a system call would: one call into C. On a device the kernel answers without one.
    """

    def __init__(self) -> None:
        self.at_s = _START_S
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """Go to so many seconds after the start."""
        self.at_s = _START_S + seconds
        time.monotonic = self.at_s.__float__
        time.monotonic_ns = round(self.at_s * 1e9).__int__
        time.time = (1.7e9 + seconds).__float__


def count_frames(
    mark: Marks, bundle_path: Path, frames: NDArray[np.uint8], *, fps: float, measured: int, deep: bool, runtime: str
) -> dict[str, Any]:
    """Send frames through the live pipeline.

    Args:
        mark: told of every stage.
        bundle_path: the model bundle.
        frames: uint8 (n, height, width, 3) BGR, shown forwards and backwards in turn.
        fps: what the clock says of their rate.
        measured: how many frames to count, after a second that is not counted.
        deep: mark every function of edge and of OpenCV within the stages, too.
        runtime: `onnxruntime` or `ncnn`.

    Returns:
        What ran: names and versions, the golden inputs' largest difference, and the states that were decided.
    """
    import edge.analysis  # noqa: PLC0415  the clock and the environment come first
    import edge.pipeline  # noqa: PLC0415
    from edge.bench.ring import RingSource  # noqa: PLC0415
    from edge.bundle import Bundle  # noqa: PLC0415
    from edge.capture import Reader  # noqa: PLC0415
    from edge.choice import choose, open_analyser  # noqa: PLC0415
    from edge.config import Config  # noqa: PLC0415
    from edge.frames import Frame, NewestFrameSlot  # noqa: PLC0415
    from edge.pipeline import Pipeline  # noqa: PLC0415

    config = Config.model_validate({"device": "adapter", "model": {"bundle": bundle_path, "runtime": runtime}})
    bundle = Bundle.open(bundle_path, golden=False)
    golden = {artefact.name: bundle.check_golden(artefact) for artefact in bundle.manifest.artefacts}
    if why := choose(config, bundle).missing:
        raise SystemExit(why)
    analyser, slot, clock = open_analyser(config, bundle), NewestFrameSlot(), Clock()
    link, peer = _link(config)
    outlet = _Outlet(mark, link)
    idle = RingSource(width=64, height=64, fps=fps, seed=0)  # frames are put into the slot here: it is never opened
    reader = Reader(idle, slot, lossless=False, tell=lambda state, why: None)  # noqa: ARG005
    pipeline = Pipeline(config, session=1, reader=reader, slot=slot, analyser=analyser, outlet=outlet)
    analysed, stepped = _turns(mark, edge.analysis, STAGES[1:5]), _turns(mark, edge.pipeline, ("", "", "message"))
    if deep:
        _mark_functions(mark)
    warm = round(fps)
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    images = [frames[index] for index in order]
    for _ in range(_NULLS):
        mark(NULL)
    mark(OFF)
    for seq in range(warm + measured):
        if seq == warm:
            begin = len(mark.names)
        clock.set(seq / fps)
        now = time.monotonic_ns()
        frame = Frame(images[seq % len(images)], seq, now, "driver", now, time.time())
        analysed.clear()
        stepped.clear()
        mark("wait")
        slot.put(frame)
        pipeline.step()
        mark(OFF)
        peer.recv(1 << 20)
    states = dict(pipeline.counts.states)
    if pipeline.counts.classified != warm + measured:
        raise SystemExit(f"only {pipeline.counts.classified} of {warm + measured} frames were classified")
    return {
        "model": f"{bundle.manifest.name} {bundle.manifest.version}",
        "sha256": bundle.sha256,
        "precision": analyser.artefact.precision if runtime == "onnxruntime" else "fp32",
        "runtime": analyser.runtime.description,
        "input": [bundle.manifest.input.height, bundle.manifest.input.width],
        "golden": golden,
        "frame": list(frames.shape[1:3]),
        "fps": fps,
        "frames": measured,
        "states": states,
        "begin": begin,
    }


class _Outlet:
    """Hands everything to the link; the detection's packet is a stage, and what follows it another."""

    def __init__(self, mark: Marks, link: Link) -> None:
        self._mark, self._live, self.event = mark, link.live, link.event

    def live(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = 1) -> bool:
        """Publish."""
        if topic != "detection":
            return self._live(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        self._mark("publish")
        sent = self._live(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        self._mark("account")
        return sent


def _turns(mark: Marks, module: ModuleType, names: Sequence[str]) -> list[int]:
    """Have a module's calls of `now_ns` mark the beginnings of stages, in turn; empty: this one begins none."""
    calls: list[int] = []

    def now_ns() -> int:
        turn = len(calls)
        if turn < len(names):
            calls.append(turn)
            if names[turn]:
                mark(names[turn])
        return time.monotonic_ns()

    module.now_ns = now_ns  # type: ignore[attr-defined]
    return calls


def _link(config: Config) -> tuple[Link, socket.socket]:
    """A link that thinks itself connected, and the socket at which its packets arrive."""
    from edge.mqtt import Link  # noqa: PLC0415  the clock and the environment come first

    link = Link(config.mqtt, device=config.device, session=1, will=b"", hello=list, command=lambda *_: b"")
    client = link._make(threading.Event())
    near, far = socket.socketpair()  # a broker's answers would come when they like
    client._sock = near  # noqa: SLF001
    link._client = client  # noqa: SLF001
    return link, far


def _mark_functions(mark: Marks) -> None:
    """Wrap every function of edge's modules that a frame goes through, and of the OpenCV that they call."""

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        enter, leave = f"+{name}", f"-{name}"

        def wrapped(*args: Any, **more: Any) -> Any:
            mark(enter)
            result = function(*args, **more)
            mark(leave)
            return result

        return wrapped

    edge = {name: module for name, module in sys.modules.items() if name.startswith("edge.")}
    replaced: dict[int, Callable[..., Any]] = {}
    for module in (edge[name] for name in _MARKED if name in edge):
        if hasattr(module, "cv2"):
            module.cv2 = _Wrapped(module.cv2, wrap)  # type: ignore[attr-defined]
        classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        for owner in (module, *classes):
            for key, function in _own_functions(owner, module):
                replaced[id(function)] = wrap(function.__qualname__, function)
                setattr(owner, key, replaced[id(function)])
    for module in edge.values():  # those that were imported by their names
        for key, value in list(vars(module).items()):
            if id(value) in replaced:
                setattr(module, key, replaced[id(value)])


def _own_functions(owner: Any, module: ModuleType) -> list[tuple[str, FunctionType]]:
    return [
        (key, value)
        for key, value in vars(owner).items()
        if isinstance(value, FunctionType)
        and value.__module__ == module.__name__
        and not key.startswith("__")
        and key not in _ACROSS
    ]


class _Wrapped:
    """A module whose functions are marked."""

    def __init__(self, module: ModuleType, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
        for name, value in vars(module).items():
            callable_ = callable(value) and not inspect.isclass(value)
            setattr(self, name, wrap(f"cv2.{name}", value) if callable_ else value)


def count_model(mark: Marks, path: Path) -> dict[str, Any]:
    """Run a graph by itself, on one thread, its input and outputs bound.

    Args:
        mark: told of every run.
        path: an ONNX file; its one input, of a fixed shape, is called `image`.
    """
    import numpy as np  # noqa: PLC0415  after the affinity
    import onnxruntime as ort  # noqa: PLC0415

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if [i.name for i in inputs] != ["image"] or not all(isinstance(side, int) for side in inputs[0].shape):
        have = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise SystemExit(f"{path} has other inputs than one, called image, of a fixed shape: {have}")
    types = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(float)": np.float32}
    if inputs[0].type not in types:
        raise SystemExit(f"{path} wants {inputs[0].type}; only {', '.join(types)} can be counted")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 128, inputs[0].shape).astype(types[inputs[0].type])
    binding = session.io_binding()
    binding.bind_cpu_input("image", image)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    for _ in range(_NULLS):
        mark(NULL)
    mark(OFF)
    session.run_with_iobinding(binding)  # the first run lays out its memory
    begin = len(mark.names)
    for _ in range(_RUNS):
        mark("inference")
        session.run_with_iobinding(binding)
        mark(OFF)
    return {"model": path.name, "input": list(inputs[0].shape), "frames": _RUNS, "begin": begin}


def count_calls(mark: Marks, path: Path) -> dict[str, Any]:
    """Run calls one by one.

    Args:
        mark: told of every call.
        path: a Python file that defines CALLS, functions without arguments by name.
    """
    calls = runpy.run_path(str(path)).get("CALLS")
    if not isinstance(calls, dict) or not calls:
        raise SystemExit(f"{path} defines no CALLS: a dict of functions without arguments, by name")
    for _ in range(_NULLS):
        mark(NULL)
    mark(OFF)
    begin = len(mark.names)
    for name, call in calls.items():
        call()  # the first one may build tables
        for _ in range(_RUNS):
            mark(name)
            call()
            mark(OFF)
    return {"begin": begin}


def main() -> None:
    """Count one thing and write the marks' names down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--measured", type=int, default=30)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calls", type=Path)
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # libraries start no threads on one core
    import numpy as np  # noqa: PLC0415  after the affinity

    mark = Marks()
    if given.model:
        about = count_model(mark, given.model)
    elif given.calls:
        about = count_calls(mark, given.calls)
    else:
        frames = np.load(given.frames)
        about = count_frames(
            mark,
            given.bundle,
            frames,
            fps=given.fps,
            measured=given.measured,
            deep=given.deep,
            runtime=given.runtime,
        )
    import cv2  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    about["machine"] = platform.machine()
    about["versions"] = {
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    given.out.write_text(json.dumps({"about": about, "marks": mark.names}), encoding="utf-8")


if __name__ == "__main__":
    main()
