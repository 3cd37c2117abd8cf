"""LUFFY: the formula written out, its truth table, which demonstrations join, and any split into micro-batches."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group
from relatives import CASES, LIMITS, agree, batch, check_any_split, decided, method, shown
from superrl.errors import UserError
from superrl.records import Score

BOTH, NOTHING = ("both", {"pg": 4, "sft": 1}), ("none", {})
TABLE = {
    "all fail": BOTH,
    "one right": BOTH,
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": BOTH,
    "rewards in {-1, 1}, one right": BOTH,
    "shaping on failures": BOTH,
    "equal shaping on failures": BOTH,
    "two have the mean reward": BOTH,
    "all fail, a wrong demonstration": NOTHING,
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("luffy", entropy_bonus=0.0), case) == TABLE[case]


def formula(groups, read):
    """One sequence at a time: A = R - mean over rollouts and demonstration, all over K L_max."""
    total, count = 0.0, 0
    for one in groups:
        rewards = [t.score.value for t in (*one.trajectories, *one.demonstrations)]
        mean = sum(rewards) / len(rewards)
        count += len(rewards)
        for trajectory in one.trajectories:
            row = read(trajectory)
            total += (-row.ratio * (trajectory.score.value - mean) - 0.001 * row.entropy).sum() / LIMITS.max_new_tokens
        for expert in one.demonstrations:
            p = read(expert).p
            total += (-(expert.score.value - mean) * p / (p + 0.1)).sum() / LIMITS.max_new_tokens
    return total / count


def test_the_loss_is_the_published_one():
    luffy, groups = method("luffy"), batch()
    agree(luffy, luffy.plan(groups, {}), lambda read: [formula(groups, read)])


def test_any_split():
    luffy = method("luffy")
    check_any_split(luffy, luffy.plan(batch(), {}))


def test_by_hand():
    plan = method("luffy", entropy_bonus=0.0).plan([shown(group([0, 0, 0], experts=[5]))], {})
    (update,) = plan.updates
    assert [s.advantage[-1] for s in update.samples] == [-0.25] * 3 + [0.75]
    assert {s.weight for s in update.samples} == {0.1}
    assert update.denominators == {"pg": (4.0,), "sft": (4.0,)}


def test_a_demonstration_takes_the_place_of_one_rollout_if_it_is_right():
    luffy = method("luffy")
    visits = [CASES["all fail"], CASES["all fail, no demonstration"], CASES["all fail, a wrong demonstration"]]
    unscored = group([0, 0, 0, 0], experts=[5])
    assert [r[0].n for r in luffy.requests([*visits, unscored], {})] == [3, 4, 4, 4]
    plan = luffy.plan([*visits, unscored], {})
    assert [d.demonstration for d in plan.decisions] == [0, None, None, None]
    assert plan.metrics == {"refused": 2.0}


def test_the_right_one_is_chosen_among_several():
    visit = shown(group([0, 0, 0], experts=[2, 5, 3]))
    wrong = replace(visit.demonstrations[0], score=Score(0.0, False))
    mixed = replace(visit, demonstrations=(wrong, *visit.demonstrations[1:]))
    found = {c: method("luffy", demonstration=c).plan([mixed], {}).decisions[0] for c in ("first", "shortest")}
    assert {c: d.demonstration for c, d in found.items()} == {"first": 1, "shortest": 2}


def test_a_demonstration_below_its_group_is_left_out_and_not_unlearnt():
    visit = shown(group([1.5, 1.4, 0.0], correct=[True, True, False], experts=[5]), value=0.5)
    plan = method("luffy", entropy_bonus=0.0).plan([visit], {})
    assert {s.stream for s in plan.updates[0].samples} == {"pg"} and plan.decisions[0].kind == "pg"


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.floats(-2, 2))
def test_advantages_of_the_group_sum_to_zero(rewards, demonstrated):
    visit = shown(group(rewards, correct=[False] * len(rewards), experts=[5]), value=demonstrated)
    (update,) = method("luffy").plan([visit], {}).updates
    rollouts = sum(s.advantage[-1] for s in update.samples if s.stream == "pg")
    expert = sum(s.advantage[-1] for s in update.samples if s.stream == "sft")
    mean = (sum(rewards) + demonstrated) / (len(rewards) + 1)
    assert expert == pytest.approx(max(demonstrated - mean, 0.0), abs=1e-8)
    assert rollouts == pytest.approx(mean - demonstrated, abs=1e-8)


@pytest.mark.parametrize("options", [{"baseline": "critic", "std": "none"}, {"kl": {"in": "reward"}}])
def test_credit_that_a_demonstration_cannot_have_is_refused(options):
    with pytest.raises(UserError, match="a demonstration in the group"):
        method("luffy", **options)


def test_state_is_json():
    assert json.loads(json.dumps(method("luffy").initial_state())) == {}
