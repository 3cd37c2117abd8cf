"""Group advantages: by hand, against the slow definition, and the cases where float32 would go wrong."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.advantages import center, standardize

rewards = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


def test_center_by_hand():
    assert center([1.0, 0.0, 0.0, 0.0]) == (0.75, -0.25, -0.25, -0.25)


@pytest.mark.parametrize(("std", "deviation"), [("sample", statistics.stdev), ("population", statistics.pstdev)])
@given(values=rewards)
def test_standardize_is_its_definition(std, deviation, values):
    if max(values) - min(values) <= 1e-8:
        return
    mean = statistics.fmean(values)
    expected = [(v - mean) / (deviation(values) + 1e-4) for v in values]
    assert standardize(values, std=std) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(values=rewards, shift=st.floats(-5, 5))
def test_advantages_sum_to_zero_and_ignore_shifts(values, shift):
    assert abs(sum(standardize(values))) < 1e-6
    assert center([v + shift for v in values]) == pytest.approx(center(values), abs=1e-7)


@pytest.mark.parametrize("value", [0.3, 0.1, 1e-9, -0.7, 1e6 + 0.1])
def test_equal_rewards_give_exactly_zero(value):
    assert standardize([value] * 8) == (0.0,) * 8
    assert center([value] * 8) == (0.0,) * 8


def test_rewards_equal_but_for_rounding_give_exactly_zero():
    assert standardize([0.3, 0.1 + 0.2, 0.3]) == (0.0,) * 3
