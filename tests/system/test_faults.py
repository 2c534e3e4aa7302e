from __future__ import annotations

from pathlib import Path

import pytest
import supervised
from faults import FAULTS, Fault, Outcome, lost, seen_on_a_phone, suffer, table
from rig import Heard

pytestmark = pytest.mark.system


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.quick], ids=lambda fault: fault.name)
def test_a_fault_is_noticed_told_and_got_over(fault: Fault, tiny_bundle: Path) -> None:
    outcome = suffer(fault, tiny_bundle)
    if outcome.impossible:
        pytest.skip(outcome.impossible)
    assert not outcome.problems, "\n" + table([outcome])


def test_what_was_spooled_comes_though_the_process_was_killed(tiny_bundle: Path, tmp_path: Path) -> None:
    outcome = supervised.killed_at_random(1, tiny_bundle, tmp_path, away=lambda _: True, within_s=30)
    assert not outcome.problems, "\n" + table([outcome])
    assert outcome.events != ["0 spooled"]


def test_a_phone_shows_nothing_old() -> None:
    def result(at: float, state: str, sent: float) -> Heard:
        return Heard(at, "detection", {"state": state, "sent_ms": 1000 * sent, "session": 1, "seq": round(10 * at)})

    heard = [
        result(0.5, "folds", 0.5),
        Heard(1.0, "state", {"state": "folds", "sent_ms": 900}, retained=True),
        result(2.5, "folds", 1.0),
        result(4.0, "no_signal", 4.0),
        Heard(4.5, "status", {"state": "offline"}),
        result(6.0, "no_folds", 6.0),
    ]
    assert seen_on_a_phone(heard, 0.0) == "folds, not live 2.5 s, no signal 0.5 s, offline 1.5 s, no folds"


def test_what_is_lost_is_counted() -> None:
    events = [Heard(1.0, "event", {"session": 3, "id": number}) for number in (1, 2, 4)]
    results = [Heard(at, "detection", {"session": 3, "seq": seq}) for at, seq in ((0.0, 1), (2.0, 2), (3.0, 5))]
    assert lost([*events, *results], 1.0) == (2, 1)


def test_the_table_names_what_is_broken() -> None:
    good = Outcome("source hung", "no_signal no_frames", ["state no_signal", "state no_signal"], 1.04, 0.4, 31.0)
    bad = Outcome("broker killed", "folds", [], None, None, 0.0, 0, ["it never came back"])
    lines = table([good, bad]).splitlines()
    assert lines[0].split()[0] == "fault"
    assert lines[2].endswith("1.04         0.40  0, 0         31     0")
    assert lines[-1] == "BROKEN  broker killed: it never came back"
