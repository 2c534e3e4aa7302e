from __future__ import annotations

from pathlib import Path

import pytest
from faults import FAULTS, Fault, Outcome, suffer, table

pytestmark = pytest.mark.system


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_noticed_told_and_got_over(fault: Fault, tiny_bundle: Path) -> None:
    outcome = suffer(fault, tiny_bundle)
    assert not outcome.problems, "\n" + table([outcome])


def test_the_table_names_what_is_broken() -> None:
    good = Outcome("source hung", "no_signal no_frames", ["state no_signal", "state no_signal"], 1.04, 0.4, 31.0)
    bad = Outcome("broker killed", "folds", [], None, None, 0.0, 0, ["it never came back"])
    lines = table([good, bad]).splitlines()
    assert lines[0].split()[0] == "fault"
    assert lines[2].endswith("1.04         0.40         31     0")
    assert lines[-1] == "BROKEN  broker killed: it never came back"
