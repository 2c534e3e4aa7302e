"""How the device is: temperature, throttling, memory, clock. Reads files; never on the hot thread.

| board | file | says |
| --- | --- | --- |
| Raspberry Pi | `…/soc:firmware/get_throttled` | the firmware's flags: bits 0 to 3 now, 16 to 19 since boot |
| Raspberry Pi | hwmon `rpi_volt`, `in0_lcrit_alarm` | under-voltage, where the kernel no longer has the file above |
| Jetson | hwmon `soctherm_oc`, `oc*_event_cnt` | over-current events since boot; more than at the last look: now |
| any | `thermal/cooling_device*`, of a processor's frequency | above state 0: the kernel caps it against heat |
| any | `thermal/thermal_zone*` | temperatures |
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_THROTTLE_FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "temperature_limit"}
_SINCE_BOOT = 16  # the same flags again, this many bits further up
_FIRMWARE = ("sys/devices/platform/soc*/soc*firmware/get_throttled", "sys/devices/platform/soc*firmware/get_throttled")
_COOLING = ("cpufreq", "cpu-throttle", "gpufreq", "devfreq", "Processor")  # in the types of those that slow down
_EVERY_S = 2.0
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@dataclass(frozen=True, slots=True)
class Condition:
    """What was read at one moment."""

    temperatures_c: dict[str, float] = field(default_factory=dict)
    throttled: list[str] = field(default_factory=list)
    since_boot: list[str] = field(default_factory=list)


class Telemetry:
    """Reads the kernel's files below `root`, which is `/` but in tests, at most every two seconds by `clock`."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._read_s = float("-inf")
        self._condition = Condition()
        self._over_currents: int | None = None
        self._since_boot: set[str] = set()

    def temperature_c(self) -> float | None:
        """The hottest thermal zone in degrees Celsius, None where there is none."""
        return max(self.temperatures_c().values(), default=None)

    def temperatures_c(self) -> dict[str, float]:
        """Degrees Celsius by thermal zone."""
        return self._current().temperatures_c

    def throttled(self) -> list[str]:
        """What slows the processor down now; empty where nothing does, or nothing says so."""
        return self._current().throttled

    def throttled_since_boot(self) -> list[str]:
        """What slowed it down at any moment since the device was started, as far as firmware or we have seen."""
        return self._current().since_boot

    def memory_mb(self) -> float:
        """Resident memory of this process in MB (10^6 bytes), read anew each time."""
        try:
            for line in (self._root / "proc/self/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1.024 / 1000
        except (OSError, ValueError):
            pass
        return 0.0

    def _current(self) -> Condition:
        now_s = self._clock()
        if now_s - self._read_s >= _EVERY_S:
            self._read_s = now_s
            flags = self._firmware_flags()
            now = [name for bit, name in _THROTTLE_FLAGS.items() if flags >> bit & 1]
            ever = [name for bit, name in _THROTTLE_FLAGS.items() if flags >> (bit + _SINCE_BOOT) & 1]
            if self._over_current_now():
                now.append("over_current")
            if self._over_currents:
                ever.append("over_current")
            if "frequency_capped" not in now and self._cooling():
                now.append("frequency_capped")
            self._since_boot.update(now, ever)
            self._condition = Condition(self._zones(), now, sorted(self._since_boot))
        return self._condition

    def _zones(self) -> dict[str, float]:
        zones: dict[str, float] = {}
        for folder in sorted(self._root.glob("sys/class/thermal/thermal_zone*")):
            value = _number(folder / "temp")  # a zone that is switched off answers with an error
            if value is not None:
                name = _text(folder / "type") or folder.name
                zones[name if name not in zones else f"{name} {folder.name}"] = value / 1000
        return zones

    def _firmware_flags(self) -> int:
        for pattern in _FIRMWARE:
            for path in self._root.glob(pattern):
                try:
                    return int(path.read_text(), 16)
                except (OSError, ValueError):
                    continue
        alarms = (_number(folder / "in0_lcrit_alarm") for folder in self._hwmon("rpi_volt"))
        return int(any(alarms))  # bit 0: under-voltage

    def _over_current_now(self) -> bool:
        counts = [_number(p) or 0 for folder in self._hwmon("soctherm_oc") for p in folder.glob("oc*_event_cnt")]
        before, self._over_currents = self._over_currents, sum(counts)
        return before is not None and self._over_currents > before

    def _cooling(self) -> bool:
        return any(
            any(word in _text(folder / "type") for word in _COOLING) and (_number(folder / "cur_state") or 0) > 0
            for folder in self._root.glob("sys/class/thermal/cooling_device*")
        )

    def _hwmon(self, name: str) -> list[Path]:
        return [f for f in self._root.glob("sys/class/hwmon/hwmon*") if _text(f / "name") == name]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def clock_synced() -> bool:
    """Whether the kernel says that its wall clock is synchronised (adjtimex(2))."""
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0: only ask
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer)) not in (-1, _TIME_ERROR)
