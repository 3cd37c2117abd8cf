"""Prefix-RFT: the schedule, one prefixed rollout in N, the choice of tokens, the formula."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefixed import LIMITS, agree, continued, method, streams

from builders import group
from superrl.errors import UserError
from superrl.methods.prefix_rft import uncertain
from superrl.records import StepRecord


def visit(rewards=(), *, expert=10, name="p", step=0, lengths=None):
    return group(list(rewards), lengths=lengths, experts=[expert], name=name, key=(0, 0, 0, step, 0, 0))


def with_entropy(one, entropy):
    (expert,) = one.demonstrations
    column = (0.0,) * expert.start + tuple(entropy[i % len(entropy)] for i in range(expert.length))
    return replace(one, demonstrations=(replace(expert, annotations={"demo_entropy": column}),))


def test_the_schedule_by_hand():
    one = method("prefix-rft")
    assert one.low({"step": 0}) == pytest.approx(0.95) and one.low({"step": 250}) == pytest.approx(0.5)
    assert one.low({"step": 500}) == one.low({"step": 900}) == pytest.approx(0.05)
    quarter = method("prefix-rft", schedule_steps=100, low_to=0.0).low({"step": 25})
    assert quarter == pytest.approx(0.475 * (1 + math.cos(math.pi / 4)))


def test_one_rollout_of_n_continues_a_prefix_whose_share_is_uniform_above_low():
    one = method("prefix-rft", low_to=0.5, schedule_steps=1, high=0.9)
    asked = one.requests([visit(expert=100, step=s) for s in range(300)], {"step": 1})
    assert all([r.n for r in wanted] == [3, 1] and wanted[0].prefix == () for wanted in asked)
    assert {len(wanted[1].prefix) for wanted in asked} == {9}  # never past max_new_tokens
    roomy = method("prefix-rft", low_to=0.5, schedule_steps=1, high=0.9)
    roomy.limits = replace(LIMITS, max_new_tokens=200)
    lengths = [len(w[1].prefix) for w in roomy.requests([visit(expert=100, step=s) for s in range(300)], {"step": 1})]
    assert min(lengths) >= 50 and max(lengths) < 90 and sum(lengths) / 300 == pytest.approx(69.5, abs=2)
    assert max(lengths) > 85 and min(lengths) < 55


def test_without_a_demonstration_all_n_are_the_policy_s():
    bare = replace(visit(), demonstrations=())
    assert [[(r.n, r.prefix) for r in w] for w in method("prefix-rft").requests([bare], {"step": 0})] == [[(4, ())]]


def test_the_most_uncertain_tokens_are_chosen_by_hand():
    one = visit(expert=12)
    rollout = continued(one, 10, 2, 1.0)
    entropy = (9.0,) * 4 + (0.1, 0.7, 0.2, 0.7, 0.3, 0.0, 0.9, 0.1, 0.1, 0.1) + (5.0, 5.0)
    assert uncertain(entropy, rollout, 0.2) == [10, 5]  # of ten: 0.9, then the first 0.7
    assert uncertain(entropy, rollout, 0.01) == [10] and uncertain(entropy, rollout, 0.0) == []
    assert sorted(uncertain(entropy, rollout, 1.0)) == list(range(4, 14))


@given(prefix=st.integers(1, 20), share=st.floats(0.0, 1.0), data=st.data())
def test_the_chosen_share_is_never_less_certain_than_the_rest(prefix, share, data):
    one = visit(expert=22)
    entropy = data.draw(st.lists(st.floats(0, 5), min_size=27, max_size=27))
    chosen = uncertain(entropy, continued(one, prefix, 1, 0.0), share)
    rest = [entropy[i] for i in range(4, 4 + prefix) if i not in chosen]
    assert len(chosen) == (max(round(share * prefix), 1) if share else 0)
    assert all(4 <= i < 4 + prefix and entropy[i] >= max(rest, default=0.0) for i in chosen)


def batch():
    """A prefixed rollout that succeeds, one that fails, one in a group of equal rewards, and a group without."""
    a = visit([0, 0, 1], lengths=[2, 5, 3], name="a")
    b = visit([0, 1, 1], lengths=[2, 1, 3], name="b", expert=9)
    c = visit([0, 0, 0], name="c")
    told = [
        replace(one, trajectories=(*one.trajectories, continued(one, 6, n, r)))
        for one, n, r in ((a, 3, 1.0), (b, 2, 0.0), (c, 2, 0.0))
    ]
    groups = [with_entropy(one, (0.2, 1.5, 0.1, 0.9, 0.4, 1.2)) for one in told]
    return [*groups, group([1, 0, 0, 0], name="d")]


def formula(groups, read, share):
    """Dr.GRPO over each group of N, all over L_max; the k most uncertain prefix tokens with the same A and clip."""
    total, count = 0.0, 0
    for one in groups:
        rewards = [t.score.value for t in one.trajectories]
        count += len(rewards)
        for t in one.trajectories:
            advantage = t.score.value - sum(rewards) / len(rewards)
            total += read(t).clipped(advantage).sum() / LIMITS.max_new_tokens
            if t.prefix:
                entropy = one.demonstrations[0].annotations["demo_entropy"]
                k = max(round(share * t.prefix), 1)
                ranked = sorted(range(t.prefix), key=lambda i: -entropy[t.start + i])[:k]
                mask = tuple(i - t.start in ranked for i in range(len(t.tokens)))
                short = replace(
                    t,
                    tokens=t.tokens[: t.start + t.prefix],
                    loss_mask=mask[: t.start + t.prefix],
                    logp_sampler=t.logp_sampler[: t.start + t.prefix],
                )
                total += read(short).clipped(advantage).sum() / LIMITS.max_new_tokens
    return total / count


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_loss_is_the_published_one(share):
    one, groups = method("prefix-rft", top_share=share), batch()
    agree(one, one.plan(groups, {"step": 0}), lambda read: formula(groups, read, share))


def test_decisions_streams_and_denominators():
    plan = method("prefix-rft").plan(batch(), {"step": 500})
    assert [d.kind for d in plan.decisions] == ["both", "both", "none", "pg"]
    assert plan.decisions[0].why == "1 of 3 correct; 1 of 1 correct after 6 expert tokens"
    assert streams(plan) == {"pg": 12, "prefix": 2}
    (update,) = plan.updates
    assert update.denominators == {"pg": (4.0,) * 4, "prefix": (4.0,) * 4}
    assert plan.metrics == {"prefix_tokens": 18 / 4}
    assert method("prefix-rft").asked({"step": 500}) == {"prefix_low": pytest.approx(0.05)}


def test_the_prefix_s_tokens_take_the_sign_of_what_came_of_it_and_are_the_expert_s():
    (update,) = method("prefix-rft").plan(batch(), {"step": 0}).updates
    good, bad = (s for s in update.samples if s.stream == "prefix")
    assert good.advantage[-1] > 0 > bad.advantage[-1]
    assert good.origin == "expert" and sum(good.loss_mask) == 1 and good.loss_mask[5]  # 20 % of 6, where entropy is 1.5


def test_no_share_trains_no_prefix():
    assert streams(method("prefix-rft", top_share=0.0).plan(batch(), {"step": 0})) == {"pg": 12}


def test_needs_and_state():
    one = method("prefix-rft")
    assert one.needs == {"demo_entropy"}
    assert json.loads(json.dumps(one.after_step(StepRecord(1, {}, ()), [], one.initial_state()))) == {"step": 1}
    with pytest.raises(UserError, match="cannot be above high"):
        method("prefix-rft", high=0.3, low_to=0.5)
