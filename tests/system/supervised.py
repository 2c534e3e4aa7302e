"""A daemon as a process of its own, started anew as systemd does, for what only a process can suffer.

`python supervised.py FOLDER` is that process: the real `foldsight run` with the scripted camera, which looks at files
in FOLDER to know what to do. The supervisor keeps to the unit: Restart=on-failure, RestartSec=1.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faults
from faults import Outcome
from rig import FPS, MAX_AGE_S, SLACK_S, Camera, Frame, Heard, Listener
from worlds import ImpossibleHereError, World, plain

_ROOT = Path(__file__).parents[2]
_RESTART_S = 1.0
_LEAK_MB = 20
_UNIT_MEMORY_MB = 512  # MemoryMax= of the unit


class Rig:
    """Broker, listener, and a supervised daemon with a scripted camera."""

    def __init__(self, bundle: Path, world: World, folder: Path) -> None:
        self.world, self.broker, self.folder = world, world.broker, folder
        self.listener = Listener(world.broker, world.phone)
        self.config = folder / "edge.yaml"
        self.config.write_text(
            f"device: adapter-1\nstate_dir: {world.state}\nmodel:\n  bundle: {bundle}\n"
            f"capture:\n  source: phantom\n  fps: {FPS}\n"
            f"mqtt:\n  port: {world.broker.port}\n  keepalive_s: 2\n"
        )
        self.red = True
        self.groups: list[Path] = []
        self.exits: list[tuple[float, int, str]] = []  # when, code, last words
        self.pid = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def red(self) -> bool:
        """Whether the camera shows what the model calls folds."""
        return (self.folder / "red").exists()

    @red.setter
    def red(self, red: bool) -> None:
        if red:
            (self.folder / "red").touch()
        else:
            (self.folder / "red").unlink(missing_ok=True)

    def _supervise(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, Path(__file__).parent)))}
        while not self._stop.is_set():
            with (self.folder / "words").open("w") as words:
                argv = [sys.executable, __file__, str(self.folder)]
                process = subprocess.Popen(argv, stderr=words, stdout=subprocess.DEVNULL, env=environment)
            self.pid = process.pid
            for group in self.groups:
                with contextlib.suppress(OSError):
                    (group / "cgroup.procs").write_text(str(process.pid))
            while process.poll() is None:
                if self._stop.wait(0.01):
                    process.kill()
            words_said = (self.folder / "words").read_text().strip().splitlines()
            self.exits.append((time.monotonic(), process.returncode, words_said[-1] if words_said else ""))
            if process.returncode == 0:
                return
            self._stop.wait(_RESTART_S)

    def kill(self) -> None:
        """As `kill -9`."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End all of it."""
        self._stop.set()
        self._thread.join(10)
        self.listener.close()
        for group in self.groups:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    group.rmdir()
                if not group.exists():
                    break
                time.sleep(0.02)


@dataclass(frozen=True)
class ProcessFault:
    """One fault of the process.

    Attributes:
        name: as the table calls it.
        begin: makes it happen.
        end: makes it go away.
        seconds: for how long it lasts.
        prepare: done before the daemon is looked at.
        killed: whether the daemon's process ends by it.
        words: what its last words must be, in part; it is waited for.
    """

    name: str
    begin: Callable[[Rig], None]
    end: Callable[[Rig], None]
    seconds: float
    prepare: Callable[[Rig], None] = lambda rig: None
    killed: bool = True
    words: str = ""


def _group(rig: Rig, kind: str, one: dict[str, str], two: dict[str, str]) -> None:
    """Put the daemon, and those that follow it, into a control group: version 1, or 2 where that is mounted."""
    name = f"foldsight-{os.getpid()}-{len(rig.groups)}"
    root = Path("/sys/fs/cgroup")
    group = (root / kind if (root / kind).is_dir() else root) / name
    try:
        group.mkdir()
        for file, value in (one if (root / kind).is_dir() else two).items():
            (group / file).write_text(value)
        rig.groups.append(group)
        (group / "cgroup.procs").write_text(str(rig.pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise ImpossibleHereError(f"a control group for {kind} cannot be made ({error.strerror})") from error


def _memory_max(rig: Rig) -> None:
    size = str(_UNIT_MEMORY_MB * 2**20)
    _group(rig, "memory", {"memory.limit_in_bytes": size}, {"memory.max": size})


def _steal(rig: Rig) -> None:
    part = {"cpu.cfs_period_us": "500000", "cpu.cfs_quota_us": "1000"}
    _group(rig, "cpu", part, {"cpu.max": "1000 500000"})


def _give_back(rig: Rig) -> None:
    group = rig.groups[-1]
    with contextlib.suppress(OSError):
        (group / "cpu.cfs_quota_us").write_text("-1")
    with contextlib.suppress(OSError):
        (group / "cpu.max").write_text("max 100000")


def _misconfigure(rig: Rig) -> None:
    (rig.folder / "good.yaml").write_text(rig.config.read_text())
    rig.config.write_text(rig.config.read_text() + "captrue: {}\n")
    rig.kill()


def _configure(rig: Rig) -> None:
    (rig.folder / "good.yaml").replace(rig.config)


FAULTS = (
    ProcessFault("out of memory", lambda rig: (rig.folder / "leak").touch(), lambda rig: (rig.folder / "leak").unlink(),
                 seconds=0.5, prepare=_memory_max),
    ProcessFault("CPU stolen: 2 ms of a second left", _steal, _give_back, seconds=5, killed=False),
    ProcessFault("settings damaged, then killed", _misconfigure, _configure, seconds=1,
                 words="captrue is not a setting"),
)  # fmt: skip


@contextlib.contextmanager
def _rig(bundle: Path, folder: Path) -> Iterator[Rig]:
    with plain(folder) as world:
        rig = Rig(bundle, world, folder)
        try:
            if rig.listener.first(faults._is_state("folds"), 0, 60) is None:
                words = (folder / "words").read_text()[-300:]
                raise RuntimeError(f"the daemon never came to see folds: {rig.exits} {words}")
            yield rig
        finally:
            rig.close()


def suffer(fault: ProcessFault, bundle: Path, folder: Path, within_s: float = 5) -> Outcome:
    """Do one fault to a fresh process, and say what was seen.

    Args:
        fault: what to do.
        bundle: the model.
        folder: an empty one.
        within_s: for the recovery; a machine that is busy with other things takes longer to start a process.
    """
    outcome = Outcome(fault.name)
    try:
        with _rig(bundle, folder) as rig:
            fault.prepare(rig)
            begin = time.monotonic()
            fault.begin(rig)
            _wait_until(partial(_has_ended, fault, rig), 60)
            time.sleep(fault.seconds)
            rig.red = False
            end = time.monotonic()
            fault.end(rig)
            found = rig.listener.first(faults._follows, end, 40)
            outcome.recovered_s = None if found is None else round(found.at - end, 2)
            time.sleep(0.3)
            _judge(fault, rig, begin, outcome)
            if outcome.recovered_s is None or outcome.recovered_s > within_s:
                outcome.problems.append(f"it recovered after {outcome.recovered_s} s, not within {within_s}")
    except ImpossibleHereError as error:
        outcome.impossible = str(error)
    return outcome


def _has_ended(fault: ProcessFault, rig: Rig) -> bool:
    return not fault.killed or any(fault.words in words for _, _, words in rig.exits)


def _judge(fault: ProcessFault, rig: Rig, begin: float, outcome: Outcome) -> None:
    heard = list(rig.listener.heard)
    signs = (h.at for h in heard if h.at > begin and _is_sign(h))
    sign = next(signs, None)
    outcome.noticed_s = None if sign is None else round(sign - begin, 2)
    outcome.phone = faults.seen_on_a_phone(heard, begin)
    outcome.lost_results, outcome.lost_events = faults.lost(heard, begin)
    _judge_ages(heard, begin, outcome)
    exits = [e for e in rig.exits if e[0] > begin]
    if outcome.lost_events:
        outcome.problems.append(f"{outcome.lost_events} events were lost")
    if fault.killed != bool(exits):
        outcome.problems.append(f"the process ended {len(exits)} times: {exits}")
    if not _has_ended(fault, rig):
        outcome.problems.append(f"its last words were {exits}")


def _is_sign(heard: Heard) -> bool:
    body = heard.body
    if heard.retained:
        return False
    return (heard.topic == "status" and body["state"] in ("offline", "degraded")) or (
        heard.topic == "state" and body["state"] in ("no_signal", "uncertain")
    )


def _judge_ages(heard: list[Heard], begin: float, outcome: Outcome) -> None:
    """Nothing old is published as current: by the camera's stamps, which are those of the moment."""
    ages = [h.body["age_ms"] for h in heard if h.topic == "detection" and h.at >= begin]
    outcome.oldest_ms = round(max(ages, default=0.0), 1)
    outcome.late = sum(faults.is_late(h) for h in heard if h.topic == "detection" and h.at >= begin)
    if outcome.oldest_ms > 1000 * (MAX_AGE_S + SLACK_S):
        outcome.problems.append(f"a frame {outcome.oldest_ms:.0f} ms old was published as current")


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def killed_at_random(
    times: int,
    bundle: Path,
    folder: Path,
    *,
    away: Callable[[int], bool] = lambda number: number % 4 == 3,
    within_s: float = 5,
    seed: int = 0,
) -> Outcome:
    """SIGKILL at random moments: while it starts, while it works, and every fourth time while its broker is away.

    Times are the worst of all: from the kill to the will, and to the first live result of the next process.
    """
    outcome = Outcome(f"killed {times} times at random")
    rng = random.Random(seed)
    noticed, recovered, sessions = [], [], [0]
    with _rig(bundle, folder) as rig:
        first = time.monotonic()
        for number in range(times):
            _wait_for_exit_after(rig, rng.uniform(0, 2.5), away=away(number), outcome=outcome)
            killed = max(rig.exits[-1][0], rig.listener.since)
            found = rig.listener.first(lambda h: h.topic == "detection" and not faults.is_late(h), killed + 0.05, 60)
            if found is None:
                outcome.problems.append(f"kill {number}: it never came back: {rig.exits[-3:]}")
                break
            session = found.body["session"]
            if session <= max(sessions):
                outcome.problems.append(f"kill {number}: session {session} is not after {max(sessions)}")
            sessions.append(session)
            recovered.append(found.at - killed)
            will = rig.listener.first(lambda h: h.topic == "status" and h.body["state"] == "offline", killed, 0.01)
            noticed.append(will.at - killed if will else 0.0)
            del rig.listener.heard[:-400]  # of the last seconds enough is left
        outcome.phone = faults.seen_on_a_phone(list(rig.listener.heard), max(first, rig.listener.heard[0].at))
        _judge_ages(list(rig.listener.heard), first, outcome)
    outcome.noticed_s = round(max(noticed, default=0.0), 2)
    outcome.recovered_s = round(max(recovered, default=float("inf")), 2)
    if outcome.recovered_s > within_s:
        outcome.problems.append(f"the slowest start took {outcome.recovered_s} s, not {within_s} at most")
    return outcome


def _wait_for_exit_after(rig: Rig, seconds: float, *, away: bool, outcome: Outcome) -> None:
    """Kill it after a while; with the broker away, what it had spooled must come all the same."""
    before = len(rig.exits)
    if away:
        rig.broker.kill()
        rig.red = not rig.red  # a change that only the spool can tell
        seconds = max(seconds, 1.5)
    time.sleep(seconds)
    spooled = _rows(rig.world.state / "spool") if away else []
    rig.kill()
    while len(rig.exits) == before:
        time.sleep(0.01)
    if not away:
        return
    rig.broker.start()
    rig.listener.connect()
    for event in spooled:
        wanted = (event["session"], event["id"])
        _wait_until(partial(rig.listener.events.__contains__, wanted), 60)
        if wanted not in rig.listener.events:
            outcome.problems.append(f"the spooled event {wanted} never came")
    outcome.events.append(f"{len(spooled)} spooled")


def _rows(path: Path) -> list[dict[str, int]]:
    return [json.loads(row) for row in path.read_bytes().splitlines() if row] if path.exists() else []


class _FileCamera(Camera):
    """The scripted camera, which does what files say."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._leaked: list[bytearray] = []

    def read(self) -> Frame:
        self.red = (self._folder / "red").exists()
        if (self._folder / "leak").exists():
            self._leaked.append(bytearray(b"x") * (_LEAK_MB * 1_000_000))
        return super().read()


def main() -> int:
    """`foldsight run`, but for the camera."""
    import edge.daemon  # noqa: PLC0415
    from edge import cli  # noqa: PLC0415

    folder = Path(sys.argv[1])
    edge.daemon.choose_source = lambda _: _FileCamera(folder)  # type: ignore[assignment]
    return cli.main(["run", "--config", str(folder / "edge.yaml")])


if __name__ == "__main__":
    sys.exit(main())
