"""The first minute of a new release: it stays, or the one before comes back.

The judge is the release before (`foldsight-trial.service` runs it), which has proved that it works on this machine. It
is started by an update, and at each start of the machine for as long as the trial is not over.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge.errors import FoldsightError
from edge.software.system import restart, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.service import Notifier
    from edge.software.releases import Releases, Trial
    from edge.software.system import Systemd

log = logging.getLogger(__name__)

TRIAL_S = 60.0
READY_S = 120.0
STARTS = 3
"""A release with which the machine was started so often without passing is given up before it is started again."""
_LOOK_S = 0.5


@dataclass
class Judge:
    """Watches services from one moment on. All times are microseconds of the monotonic clock, as systemd has them.

    Attributes:
        units: those that must run; true where one must get READY.
        began: what started before is of another release.
        trial_s: how long they must run undisturbed.
        ready_s: within which they must get READY.
    """

    units: Mapping[str, bool]
    began: int
    trial_s: float = TRIAL_S
    ready_s: float = READY_S
    _started: dict[str, int] = field(default_factory=dict)

    def look(self, states: Mapping[str, Mapping[str, str]], now: int) -> tuple[bool, str]:
        """Whether they have passed, and why they have failed, if so."""
        passed = True
        for unit, must_be_ready in self.units.items():
            fault, well = self._one(unit, states.get(unit, {}), now, must_be_ready=must_be_ready)
            if fault:
                return False, f"{unit} {fault}"
            passed = passed and well
        return passed, ""

    def _one(self, unit: str, state: Mapping[str, str], now: int, *, must_be_ready: bool) -> tuple[str, bool]:
        active, sub = state.get("ActiveState", ""), state.get("SubState", "")
        started = int(state.get("ExecMainStartTimestampMonotonic") or 0)
        waited_s = (now - self.began) / 1e6
        if started < self.began:
            return (f"was not started within {self.ready_s:g} s" if waited_s > self.ready_s else ""), False
        first = self._started.setdefault(unit, started)
        if active == "failed" or sub == "auto-restart" or started != first:
            return "ended by itself", False
        if not must_be_ready:
            return "", active in ("active", "activating") and now - started >= self.trial_s * 1e6
        since = int(state.get("ActiveEnterTimestampMonotonic") or 0)
        if active != "active" or since < self.began:
            return (f"did not get READY within {self.ready_s:g} s" if waited_s > self.ready_s else ""), False
        return "", now - since >= self.trial_s * 1e6


def begin(releases: Releases, systemd: Systemd) -> Trial | None:
    """What the machine's start does first: finish what a power cut left, count this start, give up what had too many.

    Returns:
        The trial that is on, counted; None where none is.

    Raises:
        FoldsightError: the folder cannot be written.
    """
    with releases.locked():
        if releases.settled:
            return None
        tell(releases, systemd)
        trial = releases.trial
        if trial is None:
            releases.settle()
            return None
        if trial.starts >= STARTS:
            go_back(releases, systemd, f"the machine was started {trial.starts} times before it had proved itself")
            return None
        counted = trial.model_copy(update={"starts": trial.starts + 1})
        releases.note(counted)
    return counted


def watch(
    releases: Releases, systemd: Systemd, notifier: Notifier, *, trial_s: float = TRIAL_S, ready_s: float = READY_S
) -> None:
    """See a trial to its end; at once over where none is on.

    Raises:
        FoldsightError: the folder cannot be written.
    """
    began = _now()
    trial = begin(releases, systemd)
    notifier.ready("no release is on trial" if trial is None else f"{trial.version} is on trial")
    if trial is None:
        return
    judge = Judge(trial.units, began, trial_s, ready_s)
    while True:
        passed, fault = judge.look({unit: systemd.state(unit) for unit in trial.units}, _now())
        if passed or fault:
            break
        time.sleep(_LOOK_S)
    with releases.locked():
        if releases.trial is None or releases.trial.version != trial.version:
            return  # somebody decided meanwhile
        if passed:
            log.info("Foldsight %s has passed its trial", trial.version)
            releases.passed()
            return
        go_back(releases, systemd, fault)
    restart(systemd)


def go_back(releases: Releases, systemd: Systemd, reason: str) -> str:
    """Use the release before again, and have the system know it; the services are not restarted here.

    Returns:
        Its version.

    Raises:
        FoldsightError: there is none.
    """
    gone = releases.current
    version = releases.roll_back(reason)
    log.error("Foldsight %s is given up, back to %s: %s", gone, version, reason)
    try:
        tell(releases, systemd)
        releases.settle()
    except FoldsightError as error:
        log.warning("%s", error)
    return version


def _now() -> int:
    return time.monotonic_ns() // 1000
