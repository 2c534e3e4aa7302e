"""A long run of the whole daemon with a real broker: does it stay as quick and as small as it was?

`make soak` runs it for ten minutes, `make soak SOAK=8h` on a device overnight. The daemon is a process of its own, fed
with frames that were rendered beforehand; everything is judged from outside: what it publishes, and what the kernel
says of its memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edge import config as settings
from edge import daemon
from edge.bench.ring import RingSource
from edge.bench.sketch import Sketch
from edge.broker import Broker
from edge.config import COMMITTED_BUNDLE
from edge.errors import FoldsightError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.config import Capture

MEMORY_MB = 2.0
"""By how much memory may grow from the first part after the warm-up to any later one."""
SLOWER = 0.10
"""By how much of the first part's p99 age that of the last may be above it."""
_PART_S = 60.0
_PARTS = 10  # at least; a shorter run has shorter parts
_FIRST_S = 60.0  # within which the first frame must come: a small board renders for long
_LINES = 20  # of the table


@dataclass(frozen=True, slots=True)
class Part:
    """One minute of the run; the first is the warm-up."""

    begin_s: float
    seconds: float
    frames: int
    age_p50: float
    age_p99: float
    age_max: float
    dropped: int
    memory_mb: float
    cpu: float


def parse_duration(text: str) -> float:
    """Seconds of `90`, `20s`, `10m`, `8h`.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 600, 20s, 10m or 8h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


class _Listener:
    """Counts what the daemon publishes, part by part."""

    def __init__(self, broker: Broker) -> None:
        self.ages = Sketch()
        self.dropped = self.last_seq = 0
        self.faults: list[str] = []
        self.first = threading.Event()
        self._lock = threading.Lock()
        self._client = broker.client("soak")
        self._client.on_connect = lambda client, *_: client.subscribe("foldsight/v1/#", 1)
        self._client.on_message = self._hear
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def _hear(self, _client: Any, _data: Any, message: Any) -> None:
        topic = message.topic.rpartition("/")[2]
        if topic not in ("detection", "event", "status"):
            return
        payload = json.loads(message.payload)
        with self._lock:
            if topic == "detection":
                self.ages.add(payload["age_ms"])
                self.dropped = payload["dropped"]
                if payload["seq"] <= self.last_seq and self.first.is_set():
                    self.faults.append(f"frame {payload['seq']} came after {self.last_seq}")
                self.last_seq = payload["seq"]
                self.first.set()
            elif topic == "status" and payload["state"] in ("degraded", "offline"):
                self.faults.append(f"status {payload['state']}: {', '.join(payload['reasons'])}")
            elif topic == "event" and payload["kind"] == "fault":
                self.faults.append(f"fault: {payload['detail']}")

    def take(self) -> tuple[Sketch, int]:
        """The ages since the last call, and the frames dropped since the daemon's start."""
        with self._lock:
            ages, self.ages = self.ages, Sketch()
            return ages, self.dropped

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def soak(config: dict[str, Any], seconds: float, *, tell: bool = True) -> tuple[list[Part], list[str]]:
    """Run the daemon and watch it.

    Args:
        config: the daemon's settings; broker, state folder and source are filled in.
        seconds: how long, from the first classified frame.
        tell: print each part as it ends, on stderr.

    Returns:
        Its parts, the warm-up first, and what went wrong meanwhile, one sentence each.

    Raises:
        FoldsightError: mosquitto is missing, or the daemon did not start.
    """
    part_s = min(_PART_S, seconds / _PARTS)
    with Broker() as broker, tempfile.TemporaryDirectory(prefix="foldsight-soak-") as folder:
        path, log = Path(folder, "edge.yaml"), Path(folder, "daemon.log")
        config = {**config, "device": "soak", "state_dir": folder, "log": "warning",
                  "mqtt": {"host": broker.host, "port": broker.port}}  # fmt: skip
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        listener = _Listener(broker)
        with log.open("wb") as output:
            process = subprocess.Popen([sys.executable, "-m", "edge.bench.soak", "--daemon", str(path)], stderr=output)
        try:
            if not _wait(listener, process):
                raise FoldsightError(f"the daemon gave no frame: {log.read_text(errors='replace').strip()}")
            parts = _watch(listener, process, seconds, part_s, tell=tell)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            listener.close()
        faults = [*listener.faults]
        if process.returncode != 0:
            faults.append(f"the daemon ended with code {process.returncode}: {log.read_text(errors='replace').strip()}")
        return parts, faults


def _wait(listener: _Listener, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _FIRST_S
    while time.monotonic() < deadline and process.poll() is None:
        if listener.first.wait(0.2):
            return True
    return False


def _watch(
    listener: _Listener, process: subprocess.Popen[bytes], seconds: float, part_s: float, *, tell: bool
) -> list[Part]:
    """The parts of the run, until its end or the daemon's."""
    listener.take()
    begin = part_begin = time.monotonic()
    memory: list[float] = []
    cpu, dropped = _cpu_s(process.pid), listener.dropped
    parts: list[Part] = []
    while process.poll() is None and len(parts) < round(seconds / part_s):
        time.sleep(min(1.0, part_s / 10))
        memory.append(_memory_mb(process.pid))
        now = time.monotonic()
        if now - begin < (len(parts) + 1) * part_s:
            continue
        ages, total = listener.take()
        used = _cpu_s(process.pid)
        age = ages.percentiles()
        part = Part(
            begin_s=round(part_begin - begin, 2),
            seconds=round(now - part_begin, 2),
            frames=ages.total,
            age_p50=age["p50"],
            age_p99=age["p99"],
            age_max=age["max"],
            dropped=total - dropped,
            memory_mb=round(statistics.median(memory), 2),
            cpu=round((used - cpu) / (now - part_begin), 3),
        )
        parts.append(part)
        if tell:
            print(_line(part, warm_up=len(parts) == 1), file=sys.stderr, flush=True)
        part_begin, cpu, dropped = now, used, total
        memory.clear()
    return parts


def _memory_mb(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1.024 / 1000
    return 0.0


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        user, system = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / 100  # USER_HZ is 100 on every Linux that runs this
    return 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it was kept."""

    name: str
    value: str
    allowed: str
    kept: bool


def judge(
    parts: Sequence[Part], faults: Sequence[str], *, memory_mb: float = MEMORY_MB, slower: float = SLOWER
) -> list[Check]:
    """What the run has shown.

    Args:
        parts: of the run; the first is the warm-up and does not count.
        faults: what went wrong meanwhile.
        memory_mb: by how much memory may grow.
        slower: by how much of its first value the p99 age may rise.
    """
    counted = [part for part in parts[1:] if part.frames]
    if len(counted) < 2:  # noqa: PLR2004  a first and a last
        return [Check("frames", f"in {len(counted)} parts", "in at least 2", kept=False)]
    first, last = counted[0], counted[-1]
    growth = max(part.memory_mb for part in counted) - first.memory_mb
    rise = last.age_p99 / max(first.age_p99, 1e-9) - 1
    empty = len(parts) - 1 - len(counted)
    return [
        Check("memory growth", f"{growth:+.2f} MB", f"{memory_mb:g} MB", growth <= memory_mb),
        Check("p99 age, last against first", f"{100 * rise:+.1f} %", f"{100 * slower:+g} %", rise <= slower),
        Check("minutes without a frame", f"{empty}", "0", not empty),
        Check("faults", "; ".join(faults[:3]) or "none", "none", not faults),
    ]


def table(parts: Sequence[Part], checks: Sequence[Check]) -> str:
    """The run for a person: at most a screenful of parts, then the promises."""
    every = -(-len(parts) // _LINES)
    lines = [f"{'from':>8}{'frames/s':>10}{'age p50':>9}{'p99':>9}{'max':>9}{'dropped':>9}{'memory MB':>11}{'CPU':>7}"]
    lines += [_line(part, warm_up=at == 0) for at, part in enumerate(parts) if at % every == 0 or at == len(parts) - 1]
    lines.append("")
    lines += [
        f"{'kept  ' if check.kept else 'BROKEN'}  {check.name}: {check.value} (allowed {check.allowed})"
        for check in checks
    ]
    return "\n".join(lines)


def _line(part: Part, *, warm_up: bool) -> str:
    minutes, seconds = divmod(round(part.begin_s), 60)
    begin = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return (
        f"{begin:>8}{part.frames / part.seconds:>10.1f}{part.age_p50:>9.2f}{part.age_p99:>9.2f}{part.age_max:>9.2f}"
        f"{part.dropped:>9}{part.memory_mb:>11.2f}{100 * part.cpu:>6.0f}%" + ("  warm-up" if warm_up else "")
    )


def _serve(path: Path) -> int:
    """Be the daemon, with the ring as its camera."""

    def ring(capture: Capture) -> RingSource:
        return RingSource(width=capture.width, height=capture.height, fps=capture.fps, seed=capture.seed)

    # The camera is replaced, and nothing else.
    daemon.choose_source = ring  # type: ignore[attr-defined,assignment]
    config = settings.load(path)
    daemon.log_to_stderr(config.log)
    service = daemon.Daemon(config)
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    signal.signal(signal.SIGINT, lambda *_: service.stop())
    service.run()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak.

    Returns:
        0 all promises kept, 1 one broken or it could not run, 2 wrong usage.
    """
    parser = argparse.ArgumentParser(prog="make soak", description="The whole daemon for long: as quick and as small?")
    parser.add_argument("--for", dest="seconds", type=parse_duration, default=600.0, help="600, 20s, 10m, 8h")
    parser.add_argument(
        "--bundle", type=Path, default=COMMITTED_BUNDLE, help="model bundle (default: that which ships)"
    )
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--size", default="1280x720", help="of the frames, WIDTHxHEIGHT")
    parser.add_argument("--memory-mb", type=float, default=MEMORY_MB, help="allowed growth (default %(default)s)")
    parser.add_argument(
        "--slower", type=float, default=SLOWER, help="allowed rise of the p99 age (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--daemon", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    size = re.fullmatch(r"(\d+)x(\d+)", arguments.size)
    if size is None:
        parser.error(f"--size {arguments.size}: write for example 1280x720")
    try:
        if arguments.daemon is not None:
            return _serve(arguments.daemon)
        config = {
            # The daemon must take it for a camera, with all that it does for one.
            "capture": {"source": "phantom", "width": int(size[1]), "height": int(size[2]), "fps": arguments.fps},
            "model": {"bundle": str(arguments.bundle.resolve())},
        }
        parts, faults = soak(config, arguments.seconds, tell=not arguments.json)
    except FoldsightError as error:
        print(f"foldsight: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 1
    checks = judge(parts, faults, memory_mb=arguments.memory_mb, slower=arguments.slower)
    kept = all(check.kept for check in checks)
    if arguments.json:
        print(json.dumps({"kept": kept, "checks": [asdict(c) for c in checks], "parts": [asdict(p) for p in parts]}))
    else:
        print("", table(parts, checks), sep="\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
