"""Steps to target by hand: when a curve gets there, what it had cost, and which targets are worth nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.comparison.results import Point, Run
from superrl.comparison.targets import (
    Reach,
    SettingTargets,
    Target,
    first_reaching,
    mean_curve,
    ratios,
    reach,
    setting_targets,
    why_not_learning,
    window_means,
)

RISING = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
FAST = (0.0, 0.3, 0.6, 0.9, 0.9, 0.9)
FLAT = (0.0,) * 6


def curve(accuracies, every=10):
    return tuple(Point(every * i, accuracy, None) for i, accuracy in enumerate(accuracies))


def run(accuracies, *, arm="grpo", seed=1, tokens=100.0, second=2.0):
    points = curve(accuracies)
    steps = range(1, points[-1].step + 1)
    seconds = None if second is None else tuple(second * step for step in steps)
    return Run("s", arm, seed, points, {}, {}, tuple(tokens * step for step in steps), seconds, None)


def test_a_target_is_reached_at_the_last_of_three_evaluations():
    assert window_means(curve(RISING)) == [(20, pytest.approx(0.1)), (30, pytest.approx(0.2)),
                                           (40, pytest.approx(0.3)), (50, pytest.approx(0.4))]  # fmt: skip
    assert first_reaching(curve(RISING), 0.2) == 30 and first_reaching(curve(RISING), 0.21) == 40
    assert first_reaching(curve(RISING), 0.41) is None and first_reaching(curve((0.9, 0.9)), 0.1) is None


def test_one_lucky_evaluation_does_not_stop_the_clock():
    assert first_reaching(curve((0.0, 0.0, 0.5, 0.0, 0.0)), 0.4) is None


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12), st.floats(0, 1), st.floats(0, 0.5))
def test_a_higher_target_is_never_reached_sooner(accuracies, tau, more):
    low, high = (first_reaching(curve(accuracies), t) for t in (tau, tau + more))
    assert high is None or (low is not None and low <= high)


def test_the_mean_curve_has_the_steps_that_all_runs_share():
    assert mean_curve([curve((0.0, 0.4, 0.8)), curve((0.2, 0.2))]) == [Point(0, 0.1, None),
                                                                       Point(10, pytest.approx(0.3), None)]  # fmt: skip
    assert mean_curve([]) == []


def test_to_learn_is_to_gain_in_all_likelihood():
    assert why_not_learning([curve(RISING), curve(FAST)]) is not None  # gains of 0.4 and 0.9: 2 seeds, too far apart
    assert why_not_learning([curve(RISING), curve((0.0, 0.1, 0.2, 0.3, 0.4, 0.53))]) is None
    assert why_not_learning([curve(RISING)] * 2) is None  # no interval, but no doubt
    assert "not shown to learn" in why_not_learning([curve(FLAT)] * 3)
    assert "not shown to learn" in why_not_learning([curve(RISING[::-1])] * 3)
    assert "1 finished seed," in why_not_learning([curve(RISING)]) and "0 finished seeds" in why_not_learning([])
    assert "fewer than 3" in why_not_learning([curve((0.0, 0.5))] * 2)


def test_a_run_that_never_gets_there_counts_with_the_setting_s_steps_and_with_what_it_spent():
    runs = [run(FAST, seed=1), run(FLAT, seed=2, tokens=50.0)]
    found = reach(runs, 0.3, budget=60)
    assert found.steps == {1: 20, 2: None} and (found.reached, found.n) == (1, 2)
    assert found.mean == {"steps": (20 + 60) / 2, "tokens": (2000 + 2500) / 2, "seconds": (40 + 100) / 2}


def test_without_a_clock_there_are_no_seconds_but_steps_and_tokens():
    found = reach([run(FAST, seed=1), run(FAST, seed=2, second=None)], 0.3, 50)
    assert found.mean == {"steps": 20, "tokens": 2000, "seconds": None}


def test_targets_are_shares_of_the_best_of_the_baseline_s_mean_curve():
    runs = {
        "grpo": [run(RISING, seed=s) for s in (1, 2)],
        "superrl": [run(FAST, arm="superrl", seed=s, tokens=200) for s in (1, 2)],
    }
    found = setting_targets({**runs, "sft": []}, "grpo")
    assert found.best == pytest.approx(0.4) and found.why_none is None
    assert [target.tau for target in found.targets] == pytest.approx([0.2, 0.3, 0.36])
    assert [target.arms["grpo"].mean["steps"] for target in found.targets] == [30, 40, 50]
    assert [target.arms["superrl"].mean["steps"] for target in found.targets] == [20, 20, 30]
    assert [target.arms["superrl"].mean["tokens"] for target in found.targets] == [4000, 4000, 6000]
    assert all(set(target.arms) == {"grpo", "superrl"} and target.apart is None for target in found.targets)


def test_an_arm_that_stops_early_does_not_look_quick():
    short = run(FLAT[:4], arm="refill")
    runs = {"grpo": [run(RISING, seed=s) for s in (1, 2)], "refill": [short]}
    target = setting_targets(runs, "grpo").targets[0]
    assert short.steps == 30 and target.budget == 50
    assert target.arms["refill"].mean == {"steps": 50, "tokens": 3000, "seconds": 60}


def test_targets_worth_nothing_are_set_apart():
    high_start = (0.3, 0.3, 0.4, 0.5, 0.5, 0.5)
    found = setting_targets({"grpo": [run(high_start, seed=s) for s in (1, 2)]}, "grpo")
    assert [target.apart is None for target in found.targets] == [False, True, True]
    # Learning to solve 4 problems of 100, from none: the start's interval ends at 3.7 %, so only 90 % lies above it.
    little = [Point(10 * i, accuracy, (0.0, 0.037)) for i, accuracy in enumerate((0.0, 0.0, 0.042, 0.042, 0.042))]
    runs = [replace(run(FLAT, seed=s), validation=tuple(little)) for s in (1, 2)]
    assert [target.apart is None for target in setting_targets({"grpo": runs}, "grpo").targets] == [False, False, True]


@given(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=2, max_size=4))
def test_some_run_of_a_baseline_that_learns_reaches_every_target(curves):
    found = setting_targets({"grpo": [run(c, seed=seed) for seed, c in enumerate(curves)]}, "grpo")
    assert found.why_none is not None or all(target.arms["grpo"].reached > 0 for target in found.targets)


def test_a_baseline_that_does_not_learn_gives_no_targets():
    found = setting_targets({"grpo": [run(FLAT, seed=s) for s in (1, 2)], "superrl": [run(FAST)]}, "grpo")
    assert found.best is None and found.targets == () and found.why_none is not None
    assert found.why_none.startswith("grpo is not shown to learn")


def one_target(own, other, apart=None):
    def cost(value):
        return Reach({"steps": value, "tokens": value, "seconds": None}, 1, 1, {1: 1})

    arms = {"grpo": cost(other)} | ({} if own is None else {"superrl": cost(own)})
    return SettingTargets(0.4, None, (Target(0.5, 0.2, 50, arms, apart),))


def test_ratios_are_averaged_geometrically_over_the_settings_that_count():
    settings = {
        "a": one_target(10, 40),
        "b": one_target(40, 40),
        "apart": one_target(1, 100, "within the start"),
        "missing": one_target(None, 40),
        "none": SettingTargets(None, "grpo is not shown to learn", ()),
    }
    found = ratios(settings, "superrl", "grpo", 0.5, "steps")
    assert found.ratio == pytest.approx(0.5) and found.settings == 2 and (found.reached, found.n) == (2, 2)
    assert ratios(settings, "superrl", "grpo", 0.5, "seconds").ratio is None
    assert ratios(settings, "superrl", "grpo", 0.9, "steps").settings == 0
    assert ratios(settings, "grpo", "grpo", 0.5, "steps").ratio == pytest.approx(1.0)
