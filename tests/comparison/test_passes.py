"""pass@k curves against the evaluation's own estimate, and their crossings by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl import evaluation
from superrl.comparison.passes import beyond, crossing, curve, over_seeds, pass_at_k, plain, powers
from superrl.comparison.results import Passes, Run


def passes(*counts, samples=4):
    return Passes(samples, {f"p{i}": count for i, count in enumerate(counts)})


def run(found, seed=1):
    return Run("s", "arm", seed, (), {}, {}, (), None, None, {}, found)


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_the_estimate_is_the_evaluation_s(case):
    n, correct, k = case
    assert pass_at_k(n, correct, k) == evaluation.pass_at_k(n, correct, k)


def test_a_curve_by_hand():
    assert curve(passes(0, 1, 4)) == {1: pytest.approx(1.25 / 3), 2: pytest.approx(0.5), 4: pytest.approx(2 / 3)}
    assert [powers(n) for n in (1, 3, 16)] == [[1], [1, 2], [1, 2, 4, 8, 16]]
    assert plain(passes(0, 4)) == {"samples": 4, "problems": 2, "at": {"1": 0.5, "2": 0.5, "4": 0.5}}
    assert plain(None) is None


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_more_attempts_never_solve_less(counts):
    found = list(curve(passes(*counts, samples=8)).values())
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(found))


def test_a_crossing_is_the_first_k_at_which_the_base_is_no_worse():
    own = {1: 0.5, 2: 0.5, 4: 0.5, 8: 0.5}
    assert crossing(own, {1: 0.1, 2: 0.3, 4: 0.5, 8: 0.9}) == 4  # it meets
    assert crossing(own, {1: 0.1, 2: 0.3, 4: 0.4, 8: 0.49}) is None
    assert crossing(own, {1: 0.6, 2: 0.6, 4: 0.6, 8: 0.6}) == 1  # it was never behind
    assert crossing({1: 0.0, 2: 0.0}, {1: 0.0, 2: 0.0}) is None, "nobody solves anything"
    assert crossing(own, {1: 0.1, 2: 0.3}) is None, "what the base was not asked says nothing"


def test_what_lies_beyond_the_base_and_what_is_lost_by_hand():
    own, base = passes(4, 4, 0, 0), passes(0, 1, 1, 0)
    assert beyond(own, base) == 0.25 and beyond(base, own) == 0.25
    found = over_seeds([run(own), run(passes(4, 4, 4, 0), 2)], base)
    assert found["beyond"]["mean"] == 0.25 and found["lost"]["mean"] == 0.125 and found["compared"]
    assert [found["at"][k]["mean"] for k in ("1", "4")] == [0.625, 0.625] and found["crossing"] is None
    assert over_seeds([run(passes(1, 0, 0, 0))], base)["crossing"] == 1
    assert over_seeds([run(passes(2, 0, 0, 0))], base)["crossing"] == 1  # 1/8 against 1/8
    assert over_seeds([run(passes(3, 0, 0, 0))], base)["crossing"] == 2  # 3/16 and 1/4 against 1/8 and 1/4


@pytest.mark.parametrize("base", [None, passes(1, 1), passes(1, 1, 1, 1, samples=8)])
def test_curves_of_other_problems_or_samples_are_not_compared(base):
    found = over_seeds([run(passes(4, 4, 0, 0))], base)
    assert found["at"]["2"]["mean"] == 0.5
    assert (found["compared"], found["crossing"], found["beyond"], found["lost"]) == (False, None, None, None)


def test_runs_of_unlike_samples_share_the_k_that_both_serve():
    assert list(over_seeds([run(passes(1)), run(passes(1, samples=2), 2)], None)["at"]) == ["1", "2"]
    assert over_seeds([run(None)], passes(1)) is None
