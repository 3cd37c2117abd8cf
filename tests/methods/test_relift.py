"""ReLIFT: both losses written out, a buffer that loses and doubles nothing, an optimizer of its own, any split."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import group, tiny_llama
from relatives import CASES, LIMITS, agree, batch, check_any_split, decided, method, shown
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule
from superrl.records import StepRecord
from superrl.visits import visit_rows

WAIT, NOTHING = ("sft", {}), ("none", {})
TABLE = {
    "all fail": WAIT,
    "one right": ("pg", {"pg": 4}),
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": WAIT,
    "rewards in {-1, 1}, one right": ("pg", {"pg": 4}),
    "shaping on failures": ("both", {"pg": 2}),
    "equal shaping on failures": WAIT,
    "two have the mean reward": ("pg", {"pg": 2}),
    "all fail, a wrong demonstration": WAIT,  # kept only where the recipe keeps unverified ones
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("relift", entropy_bonus=0.0), case) == TABLE[case]


def rl(groups, read):
    """R - mean, unclipped, 0.001 H; sums over tokens / L_max / number of rollouts."""
    total = 0.0
    for one in groups:
        mean = sum(t.score.value for t in one.trajectories) / 4
        for trajectory in one.trajectories:
            row = read(trajectory)
            total += (-row.ratio * (trajectory.score.value - mean) - 0.001 * row.entropy).sum()
    return total / LIMITS.max_new_tokens / (4 * len(groups))


def sft(experts, read):
    """The token mean of -log p - 0.001 H."""
    rows = [read(expert) for expert in experts]
    return sum((-row.logp - 0.001 * row.entropy).sum() for row in rows) / sum(len(row.logp) for row in rows)


def test_both_losses_are_the_published_ones():
    relift, groups = method("relift", buffer=2), batch()
    failed = [groups[0].demonstrations[0], groups[3].demonstrations[0]]
    plan = relift.plan(groups, relift.initial_state())
    agree(relift, plan, lambda read: [rl(groups, read), sft(failed, read)])
    assert plan.updates[1].optimizer == "sft" and plan.updates[1].whole
    assert plan.metrics == {"buffer": 2.0, "sft_step": 1.0}


def test_any_split():
    relift = method("relift", buffer=2)
    check_any_split(relift, relift.plan(batch(), relift.initial_state()))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), max_size=8), st.integers(1, 5))
def test_every_failed_problem_is_learnt_once_and_in_order(steps, size):
    relift = method("relift", buffer=size)
    state, failed, learnt = relift.initial_state(), [], []
    for step, fails in enumerate(steps):
        groups = [
            shown(group([0 if fail else 1] * 4, experts=[1 + i], name=f"{step}/{i}")) for i, fail in enumerate(fails)
        ]
        failed += [g.demonstrations[0].tokens for g, fail in zip(groups, fails, strict=True) if fail]
        plan = relift.plan(groups, state)
        learnt += [sample.tokens for update in plan.updates[1:] for sample in update.samples]
        assert all(len(update.samples) == size for update in plan.updates[1:])
        state = json.loads(json.dumps(relift.after_step(StepRecord(step, {}, ()), groups, state)))
    assert learnt + [tuple(row["tokens"]) for row in state["buffer"]] == failed


def test_the_lesson_is_one_step_of_its_own_optimizer_whatever_the_stage_s_passes():
    relift = method("relift", buffer=2, lr_scale=3.0)
    groups = batch()
    plan = relift.plan(groups, relift.initial_state())
    schedule = Schedule(OptimizerConfig(lr=1e-3), 10, 2, 2, 10_000, seed=0)
    learner = Learner(tiny_llama(), torch.float32, schedule)
    learner.step(plan.updates, relift, version=0)
    assert learner.progress.updates == 2 * 2 + 1
    assert learner.optimizers["sft"].adam.param_groups[0]["lr"] == pytest.approx(3e-3)
    (taken,) = {float(entry["step"]) for entry in learner.optimizers["sft"].adam.state.values()}
    assert taken == 1.0


def test_a_buffer_longer_than_the_batch_says_nothing_of_its_groups():
    """The rows of the buffer are numbered apart from the groups: visits.jsonl shows the groups' shares alone."""
    relift, one = method("relift", buffer=3, entropy_bonus=0.0), CASES["all fail"]
    row = {"tokens": list(one.demonstrations[0].tokens), "start": 4}
    plan = relift.plan([one], {"buffer": [row, row]})
    assert len(plan.updates[1].samples) == 3
    (visit,) = visit_rows([one], [], [], plan)
    assert visit["share"] == 1.0 and visit["advantages"] is None
