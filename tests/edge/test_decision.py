from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import DecisionSpec
from edge.decision import NO_SIGNAL, UNCERTAIN, Decision, calibrate, judge

SPEC = DecisionSpec(temperature=1, low=0.3, threshold=0.5, high=0.7, smoothing_s=0.3, dwell_s=0.4, expire_s=1.0)


def decision() -> Decision:
    return Decision(SPEC, "folds", "no_folds")


def changes(
    rate: float, seconds: float, score_at, *, drop=lambda _: False, jitter=lambda _: 0.0, start: float = 100.0
) -> list[tuple[float, str]]:
    """(moment, state) at each change of a signal that is sampled at a rate, jitter in frames."""
    machine, result = decision(), []
    for index in range(int(seconds * rate)):
        t = (index + jitter(index)) / rate
        if drop(index):
            continue
        verdict = machine.frame(start + t, score_at(t))
        if verdict.changed:
            result.append((t, verdict.state))
    return result


def test_calibration_is_softmax_over_temperature() -> None:
    logits = np.array([1.0, 3.0], np.float32)
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert calibrate(logits, 2.0, exclusive=True) == pytest.approx(expected, abs=1e-6)
    assert calibrate(logits, 2.0, exclusive=False) == pytest.approx(1 / (1 + np.exp(-logits / 2)), abs=1e-6)
    assert np.isfinite(calibrate(np.array([1e4, -1e4], np.float32), 1.0, exclusive=True)).all()


def test_one_frame_alone() -> None:
    assert [judge(s, SPEC, "folds", "no_folds") for s in (0.9, 0.5, 0.1)] == ["folds", UNCERTAIN, "no_folds"]


def test_a_single_confident_frame_decides_nothing() -> None:
    machine = decision()
    assert machine.frame(1.0, 1.0).state == UNCERTAIN


def test_step_up_and_down() -> None:
    found = changes(30, 6, lambda t: 0.95 if 2 <= t < 4 else 0.05)
    assert [state for _, state in found] == [UNCERTAIN, "no_folds", UNCERTAIN, "folds", UNCERTAIN, "no_folds"]
    on = next(t for t, state in found if state == "folds")
    assert 2.2 < on < 2.9  # two dwells at most


def test_hysteresis_holds_between_the_thresholds() -> None:
    machine = decision()
    for index in range(90):
        machine.frame(index / 30, 0.95)
    states = {machine.frame(3 + index / 30, 0.55).state for index in range(90)}
    assert states == {"folds"}
    later = [machine.frame(6 + index / 30, 0.45).state for index in range(90)]
    assert later[-1] == UNCERTAIN


def test_frames_that_cannot_be_judged_become_uncertain_and_say_why() -> None:
    machine = decision()
    for index in range(60):
        machine.frame(index / 30, 0.95)
    verdicts = [machine.frame(2 + index / 30, None, ("blurred",)) for index in range(30)]
    assert verdicts[-1].state == UNCERTAIN
    assert verdicts[-1].reasons == ("blurred",)


def test_expiry_and_no_signal_take_effect_at_once_and_forget() -> None:
    machine = decision()
    for index in range(60):
        machine.frame(index / 30, 0.95)
    assert machine.current(2.5).state == "folds"
    assert machine.current(60 / 30 + 1.2).state == NO_SIGNAL
    assert machine.frame(3.4, 0.95).state == UNCERTAIN  # what was seen before the gap is not believed
    assert machine.no_signal(3.5, "source_lost").reasons == ("source_lost",)
    assert machine.current(9.0).reasons == ("source_lost",)


def test_time_that_stands_still_or_goes_back_changes_nothing() -> None:
    machine = decision()
    for index in range(60):
        machine.frame(index / 30, 0.95)
    before = machine.current(2.0)
    for _ in range(100):
        machine.frame(0.5, 0.0)
    assert machine.current(2.0).score == pytest.approx(before.score)


@settings(max_examples=300, deadline=None)
@given(
    # Every level stands long enough for its dwells to pass; at their very edge a frame more or less may decide.
    edges=st.lists(st.floats(1.2, 3.0), min_size=1, max_size=4),
    levels=st.lists(st.sampled_from([0.02, 0.1, 0.9, 0.98]), min_size=5, max_size=5),
    rate=st.sampled_from([10, 15, 30, 60]),
    dropped=st.sets(st.integers(0, 600), max_size=40),
    shake=st.floats(0, 0.3),
)
def test_the_answer_does_not_depend_on_the_frame_rate(
    edges: list[float], levels: list[float], rate: int, dropped: set[int], shake: float
) -> None:
    moments = np.cumsum(edges)

    def score(t: float) -> float:
        return levels[int(np.searchsorted(moments, t, side="right"))]

    seconds = float(moments[-1]) + 2
    reference = changes(600, seconds, score)
    # No two neighbours go: the longest gap is two intervals.
    gaps = {index for index in dropped if index - 1 not in dropped and index > 0}
    sampled = changes(
        rate, seconds, score, drop=lambda index: index in gaps, jitter=lambda index: shake * math.sin(7.3 * index)
    )
    assert [s for _, s in sampled] == [s for _, s in reference]
    slack = ((2 if gaps else 1) + 2 * shake) / rate + 0.011  # a frame, one more where it was dropped, jitter, a step
    for (t_sampled, _), (t_reference, _) in zip(sampled, reference, strict=True):
        assert abs(t_sampled - t_reference) <= slack
