"""Events that wait outlive the process, and cost the disk nothing while the broker is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.spool import Spool


def event(number: int) -> bytes:
    return json.dumps({"id": number}).encode()


def ids(spool: Spool) -> list[int]:
    return [json.loads(waiting.payload)["id"] for waiting in spool.waiting()]


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def on_disk(path: Path) -> list[int]:
    return [json.loads(row)["id"] for row in path.read_bytes().splitlines() if row] if path.exists() else []


def test_what_waits_for_a_broker_that_is_away_is_on_the_disk_at_once_and_in_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "spool"
    spool = Spool(10, path)
    spool.start()
    for number in range(3):
        spool.add(event(number))
    until(lambda: on_disk(path) == [0, 1, 2])
    assert path.stat().st_mode & 0o777 == 0o600
    again = Spool(10, path)  # the first one was killed: it was never stopped
    assert ids(again) == [0, 1, 2]
    again.start()
    for number, waiting in enumerate(again.waiting()):
        waiting.mid = number
    again.settle({0, 1, 2})
    until(lambda: not path.exists())
    again.stop()
    spool.stop()


def test_what_the_broker_takes_soon_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.spool._PATIENCE_S", 5.0)
    spool = Spool(10, tmp_path / "spool")
    spool.start()
    spool.connected(True)
    time.sleep(0.05)  # for the thread to see it
    spool.add(event(1))
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())
    spool.waiting()[0].mid = 1
    spool.settle({1})
    spool.stop()
    assert not list(tmp_path.iterdir())


def test_a_broker_that_does_not_answer_is_as_one_that_is_away(tmp_path: Path) -> None:
    spool = Spool(10, tmp_path / "spool")
    spool.start()
    spool.connected(True)
    spool.add(event(1))
    until(lambda: on_disk(tmp_path / "spool") == [1])
    spool.stop()


def test_stopping_keeps_what_waits(tmp_path: Path) -> None:
    spool = Spool(10, tmp_path / "spool")
    spool.connected(True)
    spool.start()
    spool.add(event(1))
    spool.stop()
    assert ids(Spool(10, tmp_path / "spool")) == [1]


def test_a_disk_that_cannot_be_written_holds_nothing_up_and_is_used_once_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")
    spool = Spool(10, tmp_path / "state" / "spool")
    spool.start()
    spool.add(event(1))
    until(lambda: "cannot be written" in caplog.text)
    spool.add(event(2))
    assert ids(spool) == [1, 2]
    (tmp_path / "state").unlink()
    until(lambda: on_disk(tmp_path / "state" / "spool") == [1, 2])
    assert caplog.text.count("cannot be written") == 1
    spool.stop()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=40), st.integers(1, 8), st.data())
def test_after_any_history_and_a_cut_anywhere_the_file_gives_back_what_waited(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | None], limit: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool = Spool(limit, path)
    number = 0
    for step in steps:
        if step is None:
            for waiting in spool.waiting()[:1]:
                waiting.mid = -1
            spool.settle({-1})
        else:
            for _ in range(step):
                spool.add(event(number))
                number += 1
        spool._keep()
        assert len(spool) <= limit
        assert spool._rows <= 2 * limit + limit
    again = ids(Spool(limit, path))
    assert again[len(again) - len(spool) :] == ids(spool)  # perhaps some more, which the broker has already
    if path.exists():
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        rest = Spool(limit, path)
        whole = [json.loads(row)["id"] for row in content[:cut].splitlines() if row.endswith(b"}")]
        assert ids(rest) == whole[-limit:]
        rest.add(event(99))
        rest._keep()
        assert ids(Spool(limit, path))[-1] == 99
