"""The machine under a measurement: what it is, and what else it did meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnxruntime

from edge import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")


def fingerprint() -> dict[str, Any]:
    """The machine that a figure was measured on, without its name."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
    board = _PROC / "device-tree/model"
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "machine": platform.machine(),
        "cpu": model,
        "board": board.read_text(encoding="utf-8").strip("\0") if board.exists() else None,
        "cores": os.cpu_count() or 1,
        "governor": governor.read_text(encoding="utf-8").strip() if governor.exists() else None,
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
        "system": platform.platform(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "foldsight": __version__,
    }


@contextlib.contextmanager
def one_core() -> Iterator[int]:
    """Keep this thread, and every one started inside, on one core: the last, as the first serves the interrupts."""
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Use:
    """Running totals in seconds; the difference of two says what happened between them.

    Attributes:
        at: monotonic time.
        process: processor time of this process.
        thread: processor time of the calling thread.
        busy: processor time of the whole machine, all cores, but what a hypervisor took.
        stolen: what a hypervisor took.
        waited: how long this process's threads wanted to run and had no core (Linux' schedstat).
    """

    at: float
    process: float
    thread: float
    busy: float
    stolen: float
    waited: float

    @classmethod
    def now(cls) -> Use:
        """The totals so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        busy, stolen = _machine_s()
        return cls(time.monotonic(), usage.ru_utime + usage.ru_stime, time.thread_time(), busy, stolen, _waited_s())

    def since(self, before: Use) -> dict[str, float]:
        """What happened between, per second of wall time: cores, and milliseconds of waiting."""
        seconds = max(1e-9, self.at - before.at)
        own = self.process - before.process
        return {
            "process": round(own / seconds, 4),
            "pipeline": round((self.thread - before.thread) / seconds, 4),
            "others": round(max(0.0, self.busy - before.busy - own) / seconds, 3),
            "stolen": round((self.stolen - before.stolen) / seconds, 3),
            "waited_ms_per_s": round(max(0.0, 1000 * (self.waited - before.waited)) / seconds, 2),
        }


def _machine_s() -> tuple[float, float]:
    try:
        user, nice, system, _, _, irq, soft, stolen = (
            int(text) for text in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):
        return 0.0, 0.0
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + soft) / tick, stolen / tick


def _waited_s() -> float:
    total = 0
    for path in (_PROC / "self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread may end while it is looked at
            total += int(path.read_text().split()[1])
    return total / 1e9
