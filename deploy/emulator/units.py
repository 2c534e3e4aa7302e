# ruff: noqa: INP001
"""systemd's own judgement of the units, on this machine: what can be rehearsed where no adapter can be emulated."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prepared import SetupError, tool_path

if TYPE_CHECKING:
    from collections.abc import Callable

WORST = 2.0
"""Exposure, of systemd-analyze security, that a service may have: 0 is best, 10 worst."""
_UNITS = Path(__file__).parents[2] / "systemd"


def look(tell: Callable[[str], None]) -> dict[str, Any]:
    """Verify every unit and score the services' sandboxes.

    Args:
        tell: called with a line of progress.

    Raises:
        SetupError: systemd-analyze is not there.
    """
    program = shutil.which("systemd-analyze", path=tool_path())
    if program is None:
        raise SetupError("systemd-analyze is not there either: run 'apt-get install systemd' as root")
    rows = []
    with tempfile.TemporaryDirectory(prefix="foldsight-units-") as name:
        folder = Path(name)
        units = [path for pattern in ("*.service", "*.target", "*.timer") for path in sorted(_UNITS.glob(pattern))]
        for path in units:
            (folder / path.name).write_text(runnable(path.read_text(encoding="utf-8")), encoding="utf-8")
        for path in units:
            tell(f"looking at {path.name}")
            unit, problems, score = folder / path.name, [], None
            said = _run(program, "verify", "--man=no", str(unit)).stderr
            problems += [line for line in said.splitlines() if path.name in line]
            if path.suffix == ".service":
                score = exposure(_run(program, "security", "--no-pager", "--offline=true", str(unit)).stdout)
                if score > WORST:
                    problems.append(f"it is exposed {score}, more than {WORST}")
            rows.append({"step": path.name, "exposure": score, "problems": problems})
    return {"schema": 1, "emulated": False, "rows": rows}


def runnable(unit: str) -> str:
    """A unit whose command is there, so that systemd does not stop at its absence."""
    return re.sub(r"(?m)^(Exec\w+=)\S+", r"\1/bin/true", unit)


def exposure(said: str) -> float:
    """The overall level that systemd-analyze security ends with.

    Raises:
        SetupError: it names none.
    """
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", said)
    if found is None:
        raise SetupError(f"systemd-analyze gives no exposure: {' '.join(said.split())[-200:]}")
    return float(found[1])


def table(result: dict[str, Any]) -> list[str]:
    """The lines for a terminal."""
    lines = [f"{'unit':<30}{'exposure':>10}"]
    for row in result["rows"]:
        score = "-" if row["exposure"] is None else f"{row['exposure']:.1f}"
        lines.append(f"{row['step']:<30}{score:>10}{'  BROKEN' if row['problems'] else ''}")
    lines += [f"BROKEN  {row['step']}: {problem}" for row in result["rows"] for problem in row["problems"]]
    return [*lines, "", "No adapter was emulated: only the units were looked at, on this machine."]


def _run(*line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
