"""How the device is: temperature, throttling, memory, clock. Reads files; never on the hot thread."""

from __future__ import annotations

import ctypes
from pathlib import Path

_THROTTLE_FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "temperature_limit"}
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


class Telemetry:
    """Reads the kernel's files below `root`, which is `/` but in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def temperature_c(self) -> float | None:
        """The hottest thermal zone in degrees Celsius, None where there is none."""
        values = []
        for zone in self._root.glob("sys/class/thermal/thermal_zone*/temp"):
            try:
                values.append(int(zone.read_text()) / 1000)
            except (OSError, ValueError):
                continue  # a zone that is switched off answers with an error
        return max(values, default=None)

    def throttled(self) -> list[str]:
        """What limits a Raspberry Pi's processor now, by the firmware's flags; empty where nothing or not a Pi."""
        path = self._root / "sys/devices/platform/soc/soc:firmware/get_throttled"
        try:
            flags = int(path.read_text(), 16)
        except (OSError, ValueError):
            return []
        return [name for bit, name in _THROTTLE_FLAGS.items() if flags >> bit & 1]

    def memory_mb(self) -> float:
        """Resident memory of this process in MB (10^6 bytes)."""
        try:
            for line in (self._root / "proc/self/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1.024 / 1000
        except (OSError, ValueError):
            pass
        return 0.0


def clock_synced() -> bool:
    """Whether the kernel says that its wall clock is synchronised (adjtimex(2))."""
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes 0: only ask
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer)) not in (-1, _TIME_ERROR)
