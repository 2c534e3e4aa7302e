from __future__ import annotations

import threading
import time

import numpy as np

from edge.frames import Frame, NewestFrameSlot, now_ns
from edge.geometry import Box


def frame(seq: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), seq, now_ns(), "synthetic", now_ns(), time.time())


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    slot = NewestFrameSlot()
    for seq in range(5):
        slot.put(frame(seq))
    taken = slot.take(0.1)
    assert taken is not None
    assert taken.seq == 4
    assert slot.replaced == 4
    assert slot.take(0.01) is None


def test_take_waits_for_a_frame_and_no_longer_than_asked() -> None:
    slot = NewestFrameSlot()
    begin = time.monotonic()
    assert slot.take(0.05) is None
    assert time.monotonic() - begin >= 0.05
    threading.Timer(0.05, slot.put, [frame(7)]).start()
    taken = slot.take(5)
    assert taken is not None
    assert taken.seq == 7


def test_lossless_loses_nothing_and_close_wakes_who_waits() -> None:
    slot, seen = NewestFrameSlot(), []

    def produce() -> None:
        for seq in range(50):
            slot.put_when_free(frame(seq))
        slot.close()

    thread = threading.Thread(target=produce)
    thread.start()
    while (taken := slot.take(1)) is not None:
        seen.append(taken.seq)
    thread.join()
    assert seen == list(range(50))
    slot.put(frame(0))
    blocked = threading.Thread(target=slot.put_when_free, args=[frame(1)])
    blocked.start()
    blocked.join(1)
    assert not blocked.is_alive()


def test_age_is_of_the_monotonic_clock() -> None:
    begin = now_ns()
    old = Frame(np.zeros((2, 2, 3), np.uint8), 0, begin - 40_000_000, "driver", begin, 0.0)
    assert old.age_ms(begin) == 40
    assert old.decided_at_s == (begin - 40_000_000) / 1e9


def test_boxes_as_fractions_and_clipped() -> None:
    assert Box(10, 20, 30, 40).as_fractions(100, 200) == (0.1, 0.1, 0.3, 0.2)
    assert Box(-5, -5, 20, 20).clipped(10, 8) == Box(0, 0, 10, 8)
