"""BREAD: when it branches, the bisection against a slow one, which branch is trained, the formula."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefixed import agree, hinted, method, streams

from builders import group
from superrl.errors import UserError
from superrl.methods.hooks import Limits
from superrl.records import Score


def visit(rewards=(0, 0, 0, 0), *, expert=10, name="p", **options):
    return group(list(rewards), experts=[expert], name=name, **options)


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (visit(), {0: 4}),
        (visit([0, 1, 0, 0]), {}),
        (visit([1, 1, 1, 1]), {}),
        (group([0] * 4), {}),
        (visit([-1] * 4), {0: 4}),
        (visit([0.3, 0.1, 0, 0], correct=[False] * 4), {0: 4}),
        (visit([0.9, 0, 0, 0], correct=[True, False, False, False]), {}),
        (visit(expert=2), {}),
        (visit(expert=3), {0: 4}),
    ],
    ids=[
        "all fail",
        "one right",
        "all right",
        "no expert",
        "{-1, 1}",
        "shaped",
        "right by less",
        "2 tokens",
        "3 tokens",
    ],
)
def test_only_a_failed_prompt_with_a_long_enough_demonstration_branches(case, wanted):
    asked = method("bread").retry([case], {})
    assert {g: requests[0].n for g, requests in asked.items()} == wanted


def rounds(bread, one, rate_at):
    """The loop of `rollout.retry`, with a policy that succeeds at `rate_at(prefix)`: the prefixes drawn."""
    drawn = []
    while asked := bread.retry([one], {}):
        (request,) = asked[0]
        length = len(request.prefix)
        assert request.prefix == one.demonstrations[0].tokens[4 : 4 + length]
        right = round(rate_at(length) * request.n)
        one = hinted(one, length, [1.0] * right + [0.0] * (request.n - right))
        drawn.append(length)
    return drawn, one


def test_bisection_by_hand():
    bread = method("bread", low=0.25, high=0.75)
    assert rounds(bread, visit(), lambda k: 0.5)[0] == [4]  # between 0 and 9: 8 tokens may be given
    assert rounds(bread, visit(), lambda k: float(k >= 6))[0] == [4, 6, 5]  # 6 is too easy, 5 too hard: no more between
    assert rounds(bread, visit(), lambda k: 0.0)[0] == [4, 6, 7, 8]
    assert rounds(bread, visit(), lambda k: 1.0)[0] == [4, 2, 1]
    assert rounds(method("bread", rounds=1), visit(), lambda k: 0.0)[0] == [4]


@given(expert=st.integers(4, 60), threshold=st.integers(0, 60), soft=st.integers(0, 8), bound=st.integers(1, 12))
def test_bisection_never_repeats_and_ends_in_the_window_or_beside_it(expert, threshold, soft, bound):
    bread = method("bread", rounds=bound)
    bread.limits = Limits(8, 100)

    def rate(k):
        return min(max((k - threshold) / (soft + 1) + 0.5, 0.0), 1.0)

    drawn, _ = rounds(bread, visit([0] * 8, expert=expert), rate)
    found = [round(8 * rate(k)) / 8 for k in drawn]
    assert len(set(drawn)) == len(drawn) <= bound and all(1 <= k <= expert - 2 for k in drawn)
    assert all(not 0.25 <= r <= 0.75 for r in found[:-1])
    if len(drawn) < bound and drawn and not 0.25 <= found[-1] <= 0.75:
        assert not any(0.25 <= round(8 * rate(k)) / 8 <= 0.75 for k in range(1, expert - 1))


def test_the_branch_in_the_window_is_trained_else_the_nearest_and_of_equals_the_shortest():
    bread = method("bread")
    searched = hinted(hinted(visit(), 4, [0, 0, 0, 0]), 6, [1, 0, 0, 1])
    easy = hinted(hinted(visit(name="q"), 4, [0, 0, 0, 0]), 6, [1, 1, 1, 1])
    near = hinted(hinted(visit(name="r"), 4, [1, 1, 1, 1]), 2, [0, 0, 0, 0])
    plan = bread.plan([searched, easy, near, visit([1, 0, 0, 0], name="s")], {})
    assert [d.kind for d in plan.decisions] == ["pg", "none", "none", "pg"]
    assert plan.decisions[0].why == "0 of 4 correct; branched, 2 of 4 correct after 6 expert tokens"
    assert "0 of 4 correct after 4" in plan.decisions[1].why and "after 2" in plan.decisions[2].why
    assert streams(plan) == {"pg": 8} and plan.updates[0].denominators == {"pg": (4.0,) * 4}
    assert plan.metrics == {"branches": 6.0, "branch_tokens": 4.0}


def batch():
    a = hinted(hinted(visit(name="a"), 4, [0, 0, 0, 0], [1, 2, 3, 4]), 6, [1, 0, 0, 1], [4, 1, 2, 3])
    return [a, visit([1, 0, 0, 0], lengths=[1, 2, 5, 3], name="b"), visit([0] * 4, name="c")]


def formula(groups, read):
    """GRPO, 1/T each, over the branch at 6 of the first group and the own rollouts of the others; K each in D."""
    total, count = 0.0, 0
    for one in groups:
        rows = [t for t in one.trajectories if t.prefix == 6] or [t for t in one.trajectories if not t.prefix]
        rewards = [t.score.value for t in rows]
        mean = sum(rewards) / len(rows)
        deviation = (sum((r - mean) ** 2 for r in rewards) / (len(rows) - 1)) ** 0.5
        count += len(rows)
        if deviation:
            total += sum(read(t).clipped((t.score.value - mean) / (deviation + 1e-4)).mean() for t in rows)
    return total / count


def test_the_loss_is_the_published_one():
    bread, groups = method("bread"), batch()
    agree(bread, bread.plan(groups, {}), lambda read: formula(groups, read))


def test_where_nothing_fails_it_is_grpo():
    groups = [visit([1, 0, 0, 0], name="b"), visit([1, 1, 0, 1], name="c")]
    assert method("bread").plan(groups, {}).updates == method("grpo").plan(groups, {}).updates


def test_a_branch_s_success_is_not_the_policy_s_own():
    one = hinted(visit(), 4, [1, 0, 0, 0])
    assert not one.solved and len(one.own) == 4
    solved = replace(one, trajectories=(replace(one.trajectories[0], score=Score(1.0, True)), *one.trajectories[1:]))
    assert solved.solved and method("bread").retry([solved], {}) == {}


@pytest.mark.parametrize(("options", "said"), [({"low": 0.8}, "low cannot be above"), ({"rounds": 99}, "12")])
def test_options_that_contradict_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        method("bread", **options)
