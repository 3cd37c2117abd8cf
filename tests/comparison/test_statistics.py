"""Statistics by hand, by property, and by simulation: intervals cover what they say, and the one refused does not."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from superrl.comparison.statistics import (
    Estimate,
    adjust,
    claim,
    estimate,
    geometric_mean,
    holm,
    restricted_mean,
    smallest_detectable,
)
from superrl.errors import UserError

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)
DIFFERENCES = st.lists(st.floats(-1, 1), min_size=2, max_size=8)


def test_by_hand_with_the_closed_form_of_two_degrees_of_freedom():
    """t_0.975(2) = 4.302653; two-sided p = 1 - t / sqrt(2 + t^2)."""
    found = estimate([0.40, 0.35, 0.40])
    sd = math.sqrt((2 * (0.05 / 3) ** 2 + (0.1 / 3) ** 2) / 2)
    half = 4.302653 * sd / math.sqrt(3)
    t = found.mean / (sd / math.sqrt(3))
    expected = (1.15 / 3, sd, 1.15 / 3 - half, 1.15 / 3 + half, 1 - t / math.sqrt(2 + t * t))
    assert (found.mean, found.sd, found.lo, found.hi, found.p) == pytest.approx(expected, rel=1e-6)
    assert found.n == 3 and found.above() and not found.above(0.35)


@given(DIFFERENCES)
def test_as_scipy_s_t_test_has_it(values):
    found = estimate(values)
    if found.alike:
        assert max(values) - min(values) <= 1e-8
        return
    reference = stats.ttest_1samp(values, 0.0)
    low, high = reference.confidence_interval(0.95)
    assert (found.p, found.lo, found.hi) == pytest.approx((reference.pvalue, low, high), rel=1e-6, abs=1e-9)


def test_one_seed_and_seeds_that_are_alike_have_no_interval():
    assert estimate([0.5]) == Estimate(0.5, 1) and not estimate([0.5]).alike
    alike = estimate([0.9 - 0.2, 0.8 - 0.1, 0.7])  # not equal to the last bit
    assert alike.alike and alike.lo is None and alike.p is None and alike.sd == 0.0 and not alike.above()


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_a_mean_needs_finite_numbers(values):
    with pytest.raises(ValueError, match="finite"):
        estimate(values)


def test_the_interval_is_cut_to_what_an_accuracy_can_be():
    cut = estimate([0.99, 0.90]).within(0.0, 1.0)
    assert cut.hi == 1.0 and cut.lo is not None and 0.0 < cut.lo < 0.9
    assert estimate([0.5]).within(0.0, 1.0) == estimate([0.5])


@pytest.mark.parametrize("n", [2, 5])
def test_the_t_interval_covers_95_percent(n):
    """4000 draws: a share of 0.95 has a standard error of 0.0034."""
    rng = np.random.default_rng(n)
    found = [estimate(row) for row in rng.normal(0.3, 0.1, (4000, n)).tolist()]
    covered = np.mean([each.lo <= 0.3 <= each.hi for each in found])
    assert 0.937 < covered < 0.963


@pytest.mark.parametrize("differences", [[], [0.3]])
def test_a_claim_from_one_seed_is_refused(differences):
    with pytest.raises(UserError, match="covers the truth far less often than it says, so run more seeds"):
        claim(differences)


def test_a_claim_is_the_estimate_of_paired_differences():
    assert claim([0.1, 0.2, 0.4]) == estimate([0.1, 0.2, 0.4])


def test_resampling_problems_of_one_seed_under_covers():
    """Two arms of the same true accuracy: seeds deviate by 0.1, 200 problems each, one seed an arm.

    The difference of two seeds deviates by 0.141, and by 0.049 more through the problems; the bootstrap over problems
    sees only the latter, so 1.96 * 0.049 covers a deviation of 0.15 in 48 % of the cases. The same data with 5 seeds
    and a t interval cover 95 %.
    """
    rng = np.random.default_rng(0)

    def solved(seeds):
        """(arm, seed, problem): whether it was solved."""
        skill = np.clip(rng.normal(0.6, 0.1, (2, seeds, 1)), 0, 1)
        return rng.random((2, seeds, 200)) < skill

    bootstrap, paired = [], []
    for _ in range(600):
        difference = (lambda s: s[0, 0].astype(float) - s[1, 0])(solved(1))
        resampled = difference[rng.integers(0, 200, (300, 200))].mean(axis=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        bootstrap.append(low <= 0 <= high)
        five = solved(5).mean(axis=2)
        found = claim((five[0] - five[1]).tolist())
        paired.append(found.lo <= 0 <= found.hi)
    assert np.mean(bootstrap) < 0.6
    assert 0.92 < np.mean(paired) < 0.98


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.0, 0.5]) == [0.0, 0.5]


@given(P_VALUES)
def test_holm_lies_between_the_raw_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q * (1 + 1e-12) and q <= min(1.0, len(p_values) * p) * (1 + 1e-12)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(a[1] <= b[1] * (1 + 1e-12) for a, b in pairwise(pairs))


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.2, 1.2])


@given(st.lists(DIFFERENCES, min_size=1, max_size=6), st.integers(0, 3))
def test_an_adjusted_interval_leaves_out_0_exactly_where_the_adjusted_p_says_so(arms, waiting):
    found = {str(i): estimate(values) for i, values in enumerate(arms)}
    for name, adjusted in adjust(found, len(found) + waiting).items():
        low, high = found[name].lo, found[name].hi
        assert adjusted.lo <= low + 1e-12 and adjusted.hi >= high - 1e-12
        if abs(adjusted.p - 0.05) > 1e-9:
            assert (adjusted.p < 0.05) == (adjusted.lo > 0 or adjusted.hi < 0)


def test_arms_that_are_not_there_yet_count_in_the_family():
    found = {"a": estimate([0.1, 0.2, 0.15]), "b": estimate([0.3])}
    assert found["a"].p is not None
    assert set(adjust(found, 2)) == {"a"} and adjust(found, 6)["a"].p == pytest.approx(6 * found["a"].p)
    with pytest.raises(ValueError, match="family"):
        adjust(found, 1)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_smallest_detectable_difference_is_found_in_80_percent_of_simulations(n):
    sd = 0.07
    values = np.random.default_rng(n).normal(smallest_detectable(sd, n), sd, (20000, n))
    found = np.mean(stats.ttest_1samp(values, 0.0, axis=1).pvalue < 0.05)
    assert 0.79 < found < 0.81


def test_the_smallest_detectable_difference_of_nothing_is_unknown():
    assert smallest_detectable(0.1, 1) is None and smallest_detectable(0.0, 5) is None
    assert smallest_detectable(0.2, 5) == pytest.approx(2 * smallest_detectable(0.1, 5))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_the_geometric_mean_of_ratios_turned_over_is_turned_over(ratios):
    assert geometric_mean([1 / r for r in ratios]) == pytest.approx(1 / geometric_mean(ratios))


def test_geometric_and_restricted_means_by_hand():
    assert geometric_mean([0.25, 1.0]) == 0.5 and geometric_mean([0.0, 3.0]) == 0.0 and geometric_mean([]) is None
    assert restricted_mean([10, None, 90], [50, 60, 70]) == (10 + 60 + 70) / 3 and restricted_mean([], []) is None
    with pytest.raises(ValueError, match="ratios"):
        geometric_mean([-1.0])
