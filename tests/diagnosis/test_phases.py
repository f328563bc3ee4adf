"""The phases of a training on series whose phases are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.config.fields import STATES
from ssltool.diagnosis.alarms import DEAD_KEY, Measurement, alarms
from ssltool.diagnosis.phases import COMPRESSION, ENTROPY, LEAST_CHANGE, WARM_UP, phases, phases_of_records
from ssltool.diagnosis.verdict import judge

RANK = [50, 40, 30, 35, 45, 60, 55, 45, 40]
ALPHA = [1.0, 1.2, 1.4, 1.3, 1.1, 0.8, 0.9, 1.0, 1.1]
AT = [0, 10, 20, 30, 40, 50, 60, 70, 80]


def found(rank, alpha, at=None):
    times = list(range(len(rank))) if at is None else at
    return [(phase.name, phase.first, phase.last) for phase in phases(times, rank, alpha)]


def test_a_fall_a_rise_and_a_late_fall_are_the_three_phases():
    assert found(RANK, ALPHA, AT) == [(WARM_UP, 0, 20), (ENTROPY, 20, 50), (COMPRESSION, 50, 80)]


def test_a_fall_before_any_rise_is_the_warm_up_however_long():
    assert found([9, 8, 7, 6, 5], [1, 2, 3, 4, 5]) == [(WARM_UP, 0, 4)]


def test_phases_may_return():
    rank, alpha = [1, 2, 1, 2, 1], [2, 1, 2, 1, 2]
    assert [name for name, *_ in found(rank, alpha)] == [ENTROPY, COMPRESSION, ENTROPY, COMPRESSION]


@pytest.mark.parametrize(("rank", "alpha"), [([1, 2], [1, 2]), ([2, 1], [2, 1]), ([1, 2], [1, 1])])
def test_a_rank_and_a_decay_that_move_alike_have_no_name(rank, alpha):
    assert found(rank, alpha) == []


def test_turns_that_are_smaller_than_the_noise_divide_nothing():
    small = 1 + LEAST_CHANGE / 2
    rank = [10, 10 * small, 10, 10 * small, 10]
    assert found(rank, [1, 2, 1, 2, 1]) == []
    assert found([10, 20, 20 / small, 30], [4, 3, 3.5, 1]) == [(ENTROPY, 0, 3)]


def test_values_that_are_not_finite_are_left_out():
    assert found([1, math.nan, 2], [2, 1, 1]) == [(ENTROPY, 0, 2)]
    assert found([1, 1.5, 2], [2, math.inf, 1]) == [(ENTROPY, 0, 2)]
    assert found([], []) == found([1], [1]) == []


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0.1, 3)), max_size=12), st.floats(0.01, 100))
def test_phases_are_in_order_do_not_overlap_and_do_not_depend_on_the_unit_of_the_rank(values, factor):
    rank, alpha = [r for r, _ in values], [a for _, a in values]
    named = found(rank, alpha)
    times = [time for _, first, last in named for time in (first, last)]
    assert times == sorted(times) and all(first < last for _, first, last in named)
    scaled = [r * factor for r in rank]
    if all(abs(abs(b / a - 1) - LEAST_CHANGE) > 1e-9 for a in rank for b in rank):
        assert found(scaled, alpha) == named


def test_records_of_epochs_count_from_1_and_those_of_steps_are_taken_as_they_are():
    values = [{"backbone_rankme": r, "backbone_alpha": a} for r, a in ((1.0, 2.0), (2.0, 1.0))]
    epochs = [{"epoch": i} | value for i, value in enumerate(values)]
    steps = [{"step": 100 * i} | value for i, value in enumerate(values)]
    (phase,), (other,) = phases_of_records([{"epoch": 0}, *epochs]), phases_of_records(steps)
    assert (phase.first, phase.last, other.first, other.last) == (1, 2, 0, 100)
    assert phases_of_records(epochs, "projector") == []
    assert str(phase) == f"{ENTROPY} (1 to 2)"


def look(rank: float, history: list[dict[str, float]], phase: str = "") -> list[str]:
    values = {"auc": 0.8, "effective_rank": rank, "dead_directions": 0.0, "feature_std": 0.8, DEAD_KEY: 0}
    verdict = judge(values, n=1000, d=100)
    layers = {"backbone": Measurement(values, 100, verdict)}
    return alarms(layers, history, lambda dead: "unknown", phase=phase)


def test_a_rank_that_falls_far_above_the_thresholds_is_no_alarm():
    history = [{"verdict": STATES[0], "backbone_effective_rank": rank} for rank in (60.0, 50.0, 40.0)]
    assert look(30.0, history, COMPRESSION) == []


def test_an_alarm_names_the_phase():
    (line,) = look(5.0, [{"verdict": STATES[0]}], COMPRESSION)
    assert f"in the phase {COMPRESSION}. Probable cause" in line
    (line,) = look(5.0, [{"verdict": STATES[0]}])
    assert "phase" not in line
