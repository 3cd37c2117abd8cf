"""SRFT: the formula written out, the direction of its entropy weights, its truth table, and any split."""

from dataclasses import replace
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group
from relatives import CASES, LIMITS, agree, batch, check_any_split, decided, method, shown
from superrl.methods.srft import entropy

BOTH, ALONE = ("both", {"expert": 1, "pg": 4, "sft": 1}), ("pg", {"pg": 4})
TABLE = {
    "all fail": BOTH,
    "one right": BOTH,
    "all right": ("both", {"pg": 4, "sft": 1}),
    "all fail, no demonstration": ALONE,
    "rewards in {-1, 1}, all fail": BOTH,
    "rewards in {-1, 1}, one right": BOTH,
    "shaping on failures": BOTH,
    "equal shaping on failures": BOTH,
    "two have the mean reward": BOTH,
    "all fail, a wrong demonstration": ALONE,
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("srft"), case) == TABLE[case]


def formula(groups, read):
    """w_sft E_demo[-log p] + E_demo[-A f(p)] + w_rl E+[-log p] + E-[log p], sums over tokens / L_max."""
    rollouts = [t for one in groups for t in one.trajectories]
    h = -sum(sum(t.logp_sampler) for t in rollouts) / sum(t.length for t in rollouts)
    signs = [0.1 * exp(h) if t.score.correct else -1.0 for t in rollouts]
    total = sum((-a * read(t).logp).sum() for a, t in zip(signs, rollouts, strict=True)) / len(rollouts)
    demonstrated = [one for one in groups if one.demonstrations]
    for one in demonstrated:
        row, rewards = read(one.demonstrations[0]), [t.score.value for t in (*one.trajectories, *one.demonstrations)]
        advantage = rewards[-1] - sum(rewards) / len(rewards)
        imitated = -0.5 * exp(-h) * row.logp - advantage * row.p / (row.p + 0.1)
        total += imitated.sum() / len(demonstrated)
    return total / LIMITS.max_new_tokens


def test_the_loss_is_the_published_one():
    srft, groups = method("srft"), batch()
    agree(srft, srft.plan(groups, {}), lambda read: [formula(groups, read)])


def test_any_split():
    srft = method("srft")
    check_any_split(srft, srft.plan(batch(), {}))


@given(st.floats(0, 5), st.floats(0.01, 5))
def test_uncertainty_takes_weight_from_imitation_and_gives_it_to_successes(low, more):
    """The paper's sign: exp(-H) on demonstrations, exp(+H) on correct rollouts."""

    def weighed(h):
        visit = CASES["one right"]
        drawn = tuple(replace(t, entropy=h) for t in visit.trajectories)
        return method("srft").plan([replace(visit, trajectories=drawn)], {}).metrics

    sure, unsure = weighed(low), weighed(low + more)
    assert sure["weight/sft"] == pytest.approx(0.5 * exp(-low), rel=1e-12)
    assert sure["weight/positive"] == pytest.approx(0.1 * exp(low), rel=1e-12)
    assert unsure["weight/sft"] < sure["weight/sft"] and unsure["weight/positive"] > sure["weight/positive"]


def test_entropy_is_the_sampler_s_and_else_estimated_from_what_it_drew():
    visit = group([0, 0], lengths=[1, 3])
    known = replace(
        visit, trajectories=tuple(replace(t, entropy=h) for t, h in zip(visit.trajectories, (1.0, 2.0), strict=True))
    )
    assert entropy([known]) == pytest.approx((1.0 + 3 * 2.0) / 4)
    assert entropy([visit]) == pytest.approx(-sum(sum(t.logp_sampler) for t in visit.trajectories) / 4)


def test_each_expectation_is_over_its_own_count():
    visits = [CASES["all fail"], CASES["all fail, no demonstration"], shown(group([1, 0, 0, 0], experts=[3], name="q"))]
    (update,) = method("srft").plan(visits, {}).updates
    assert update.denominators == {"pg": (4.0, 4.0, 4.0), "sft": (1.0, 0.0, 1.0), "expert": (1.0, 0.0, 1.0)}


def test_a_rollout_makes_room_for_a_right_demonstration():
    visits = [CASES["all fail"], CASES["all fail, no demonstration"]]
    assert [r[0].n for r in method("srft").requests(visits, {})] == [3, 4]
