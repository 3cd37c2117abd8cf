"""Advantages: by hand, against the slow definition, and the cases where float32 would go wrong."""

import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from superrl.advantages import center, generalized_advantages, leave_one_out, per_success, standardize, whiten

number = st.floats(-10, 10)
rewards = st.lists(number, min_size=2, max_size=8)
episodes = st.lists(st.tuples(number, number), min_size=1, max_size=7)
share = st.sampled_from([0.0, 0.5, 0.95, 1.0])


def spread(values):
    return max(values) - min(values)


def test_center_by_hand():
    assert center([1.0, 0.0, 0.0, 0.0]) == (0.75, -0.25, -0.25, -0.25)


@pytest.mark.parametrize(("std", "deviation"), [("sample", statistics.stdev), ("population", statistics.pstdev)])
@given(values=rewards)
def test_standardize_is_its_definition(std, deviation, values):
    assume(spread(values) > 1e-8)
    mean = statistics.fmean(values)
    expected = [(v - mean) / (deviation(values) + 1e-4) for v in values]
    assert standardize(values, std=std) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(values=rewards)
def test_leave_one_out_is_its_definition(values):
    assume(spread(values) > 1e-8)
    others = [values[:k] + values[k + 1 :] for k in range(len(values))]
    expected = [v - statistics.fmean(rest) for v, rest in zip(values, others, strict=True)]
    assert leave_one_out(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(successes=st.integers(1, 7))
def test_per_success_gives_a_success_the_weight_of_the_log_likelihood(successes):
    """(1/K) sum_k A_k grad log p_k = mean over successes of grad log p - the mean over all: what MaxRL estimates."""
    scores = [1.0] * successes + [0.0] * (8 - successes)
    expected = [v / successes - 1 / 8 for v in scores]
    assert [a / 8 for a in per_success(scores, eps=0.0)] == pytest.approx(expected, rel=1e-12)


@given(values=rewards, shift=st.floats(-5, 5))
def test_advantages_sum_to_zero_and_ignore_shifts(values, shift):
    assert abs(sum(standardize(values))) < 1e-6
    assert center([v + shift for v in values]) == pytest.approx(center(values), abs=1e-7)


RELATIVE = [center, standardize, leave_one_out, per_success]


@pytest.mark.parametrize("function", RELATIVE)
@pytest.mark.parametrize("value", [0.3, 0.1, 1e-9, 1e6 + 0.1, 0.0])
@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_equal_rewards_give_exactly_zero(function, value, count):
    assert function([value] * count) == (0.0,) * count


@pytest.mark.parametrize("function", RELATIVE)
def test_rewards_equal_but_for_rounding_give_exactly_zero(function):
    assert function([0.3, 0.1 + 0.2, 0.3]) == (0.0,) * 3


@pytest.mark.parametrize("shift", [True, False])
@given(columns=st.lists(st.lists(number, max_size=4), min_size=1, max_size=5))
def test_whitening_is_over_all_numbers(columns, shift):
    values = [value for column in columns for value in column]
    assume(len(values) > 1 and spread(values) > 1e-3)
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    found = whiten(columns, eps=0.0, shift=shift)
    assert [len(column) for column in found] == [len(column) for column in columns]
    expected = [(value - mean * shift) / deviation for value in values]
    assert [value for column in found for value in column] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_whitening_equal_numbers_divides_by_nothing():
    assert whiten([[0.3], [0.3, 0.1 + 0.2]]) == [(0.0,), (0.0, 0.0)]
    assert whiten([[2.0], [2.0]], shift=False) == [(2.0,), (2.0,)]
    assert whiten([[2.0], []], shift=False) == [(2.0,), ()]


@given(episode=episodes, last=number, gamma=share, lam=share)
def test_gae_is_its_slow_sum(episode, last, gamma, lam):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, term by term."""
    rewards, values = zip(*episode, strict=True)
    after = [*values[1:], last]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    slow = [
        sum((gamma * lam) ** step * deltas[t + step] for step in range(len(deltas) - t)) for t in range(len(deltas))
    ]
    assert generalized_advantages(rewards, values, last, gamma=gamma, lam=lam) == pytest.approx(slow, abs=1e-9)


@given(
    length=st.integers(1, 9), c=number, reward=number, last=number, gamma=share, lam=st.sampled_from([0.0, 0.5, 0.95])
)
def test_gae_with_a_constant_critic_is_the_closed_form(length, c, reward, last, gamma, lam):
    """V = c everywhere and one reward at the end: a geometric series, and the last difference."""
    found = generalized_advantages([0.0] * (length - 1) + [reward], [c] * length, last, gamma=gamma, lam=lam)
    q = gamma * lam
    for t, advantage in enumerate(found):
        n = length - 1 - t
        series = (gamma - 1.0) * c * (1.0 - q**n) / (1.0 - q) + q**n * (reward + gamma * last - c)
        assert advantage == pytest.approx(series, rel=1e-9, abs=1e-9)


@given(episode=episodes, last=number, gamma=share)
def test_gae_at_lambda_one_is_the_discounted_return_minus_the_value(episode, last, gamma):
    rewards, values = zip(*episode, strict=True)
    found = generalized_advantages(rewards, values, last, gamma=gamma, lam=1.0)
    for t, value in enumerate(values):
        ahead = [*rewards[t:], last]
        assert found[t] == pytest.approx(sum(gamma**i * r for i, r in enumerate(ahead)) - value, abs=1e-9)


@given(episode=episodes, last=number, gamma=share)
def test_gae_at_lambda_zero_is_one_step_ahead(episode, last, gamma):
    rewards, values = zip(*episode, strict=True)
    after = [*values[1:], last]
    expected = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    assert generalized_advantages(rewards, values, last, gamma=gamma, lam=0.0) == pytest.approx(expected, abs=1e-9)


def test_nothing_drawn_has_no_advantage():
    assert generalized_advantages([], [], 0.7, gamma=1.0, lam=1.0) == ()
