"""UFT: the schedule by hand, hints that are shared and never whole, the formula, and its decisions."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prefixed import LIMITS, agree, alone, column, hinted, method, noted, streams

from builders import group
from superrl.errors import UserError
from superrl.records import StepRecord


def visit(name="p", step=0, expert=8):
    return group([], lengths=[], experts=[expert], name=name, key=(0, 0, 0, step, 0, 0))


def test_the_schedule_by_hand():
    uft = method("uft")
    p = {t: uft.probability({"step": t - 1}) for t in (1, 150, 300, 301)}
    assert p[1] == pytest.approx(0.05 + 0.45 * (1 + math.cos(math.pi / 300)), abs=1e-12)
    assert (p[150], p[300], p[301]) == (pytest.approx(0.5), pytest.approx(0.05), 0.0)


def test_hints_are_binomial_fifths_shared_by_the_group_and_never_the_whole_of_it():
    uft = method("uft", hint_steps=1, low=0.3, high=0.3)
    asked = uft.requests([visit(step=s, expert=10) for s in range(400)], {"step": 0})
    assert all(len(wanted) == 1 and wanted[0].n == LIMITS.group_size for wanted in asked)
    lengths = [len(wanted[0].prefix) for wanted in asked]
    assert set(lengths) <= {0, 2, 4, 6, 8} and len(set(lengths)) >= 4  # a fifth of 10 tokens is 2; 10 would be all
    assert sum(lengths) / 400 == pytest.approx(5 * 0.3 * 2, rel=0.1)
    first = visit(step=3)
    (request,) = uft.requests([first], {"step": 0})[0]
    assert request.prefix == first.demonstrations[0].tokens[4 : 4 + len(request.prefix)]


def test_the_hint_is_the_group_s_own_lot_and_ends_after_the_schedule():
    uft = method("uft")
    assert uft.requests([visit()], {"step": 7}) == uft.requests([visit("q"), visit()], {"step": 7})[1:]
    assert [r.prefix for wanted in uft.requests([visit(step=s) for s in range(9)], {"step": 300}) for r in wanted] == [
        ()
    ] * 9
    bare = replace(visit(), demonstrations=())
    assert uft.requests([bare], {"step": 0})[0][0].prefix == ()


@given(expert=st.integers(1, 30), step=st.integers(0, 400))
def test_something_is_always_left_to_draw(expert, step):
    (request,) = method("uft").requests([visit(step=step, expert=expert)], {"step": step})[0]
    assert len(request.prefix) <= max(min(expert - 2, LIMITS.max_new_tokens - 1), 0)


def formula(groups, read, reduction="sequence"):
    """(1/D) of: GRPO with k2 on every rollout, and 0.001 of the hint's mean cross entropy for every rollout."""
    total, count = 0.0, 0
    for one in groups:
        rewards = torch.tensor([t.score.value for t in one.trajectories]).double()
        deviation = rewards.std() + 1e-4
        tokens = sum(t.length for t in one.trajectories)
        count += tokens if reduction == "token" else len(rewards)
        for t, reward in zip(one.trajectories, rewards, strict=True):
            advantage = 0.0 if rewards.max() == rewards.min() else float((reward - rewards.mean()) / deviation)
            row = read(t)
            token = row.clipped(advantage) + 1e-3 * 0.5 * (row.logp - column(t, t.annotations["logp_ref"])) ** 2
            total += token.sum() / (1 if reduction == "token" else t.length)
            if t.prefix:
                hint = replace(t, loss_mask=tuple(t.start <= i < t.start + t.prefix for i in range(len(t.tokens))))
                own = t.length if reduction == "token" else 1
                total += 1e-3 * own * -read(hint).logp.mean()
    return total / count


def batch():
    groups = [
        hinted(alone(group([], lengths=[], experts=[8], name="a")), 3, [1, 0, 0, 1], [2, 1, 4, 3]),
        hinted(alone(group([], lengths=[], experts=[6], name="b")), 2, [0, 0, 0, 0], [2, 5, 4, 3]),
        group([0, 1, 0, 0], lengths=[3, 1, 2, 2], name="c"),
    ]
    return [noted(one, "logp_ref") for one in groups]


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_the_loss_is_the_published_one(reduction):
    uft, groups = method("uft", reduction=reduction), batch()
    agree(uft, uft.plan(groups, {"step": 0}), lambda read: formula(groups, read, reduction))


def test_decisions_and_numbers():
    plan = method("uft").plan(batch(), {"step": 0})
    assert [d.kind for d in plan.decisions] == ["both", "both", "pg"] and streams(plan) == {"pg": 12, "sft": 2}
    assert plan.metrics == {"hint_tokens": pytest.approx(5 / 3)}
    assert method("uft").asked({"step": 0}) == {"hint_probability": pytest.approx(0.95, abs=1e-4)}
    plan = method("uft", kl={"in": "none"}).plan(batch(), {"step": 0})  # only a KL term keeps the failed rollouts
    assert [d.kind for d in plan.decisions] == ["both", "sft", "pg"] and streams(plan) == {"pg": 8, "sft": 2}
    assert plan.decisions[1].why == "0 of 4 correct after 2 expert tokens; equal rewards carry no gradient"
    (update,) = plan.updates
    assert update.denominators["sft"] == update.denominators["pg"] == (4.0, 4.0, 4.0)


def test_without_a_hint_it_is_grpo():
    groups = [noted(group([0, 1, 0, 0], name="c"), "logp_ref")]
    (update,) = method("uft").plan(groups, {"step": 0}).updates
    (plain,) = method("grpo", kl={"in": "loss"}).plan(groups, {}).updates
    assert update.samples == plain.samples and update.denominators["pg"] == plain.denominators["pg"]


def test_the_hint_is_trained_as_the_expert_s_and_the_rest_of_the_row_is_not():
    (update,) = method("uft").plan(batch(), {"step": 0}).updates
    hint = next(s for s in update.samples if s.stream == "sft")
    assert (hint.origin, hint.loss_mask, len(hint.tokens)) == ("expert", (False,) * 4 + (True,) * 3, 7)


def test_the_state_counts_steps_and_is_json():
    uft = method("uft")
    state = uft.initial_state()
    for _ in range(2):
        state = json.loads(json.dumps(uft.after_step(StepRecord(1, {}, ()), [], state)))
    assert state == {"step": 2}


def test_a_hint_that_grows_is_refused():
    with pytest.raises(UserError, match="cannot be above high"):
        method("uft", low=0.9, high=0.2)
