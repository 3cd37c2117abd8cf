"""RL-PLUS: the formula written out with an older policy, its truth table, and any split into micro-batches."""

import pytest
import torch

from builders import tiny_llama
from relatives import CASES, agree, batch, check_any_split, decided, method
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule

BOTH, NOTHING = ("both", {"expert": 1, "pg": 4}), ("none", {})
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
    assert decided(method("rl-plus"), case) == TABLE[case]


def formula(groups, read):
    """A standardized over rollouts and demonstration; each sequence's mean over its tokens; all over K sequences."""
    total, count = 0.0, 0
    for one in groups:
        rewards = torch.tensor([t.score.value for t in (*one.trajectories, *one.demonstrations)], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        count += len(rewards)
        for trajectory, advantage in zip(one.trajectories, advantages, strict=False):
            total += read(trajectory).clipped(float(advantage)).mean()
        for expert in one.demonstrations:
            row = read(expert)
            new, old = row.p, row.old.exp()
            ratio = 2 * new / (old + 0.5 * (old + 1))
            total += (-ratio * float(advantages[-1]) * (1 - new.detach()) ** 0.5).mean()
    return total / count


def test_the_loss_is_the_published_one():
    plus, groups = method("rl-plus"), batch()
    agree(plus, plus.plan(groups, {}), lambda read: [formula(groups, read)])


def test_any_split():
    plus = method("rl-plus")
    check_any_split(plus, plus.plan(batch(), {}))


def test_a_second_update_is_weighed_against_the_policy_before_the_first():
    """The demonstration's p_old stays that of the step's first forward; stream `sft` would not keep it."""
    plus, seen = method("rl-plus"), []

    class Listening(type(plus)):
        def token_loss(self, view):
            here = view.of("expert")
            seen.append((view.logp[here].detach().clone(), view.logp_old[here].clone()))
            return super().token_loss(view)

    plus.__class__ = Listening
    config = OptimizerConfig(lr=3e-2, max_grad_norm=1e9)
    learner = Learner(tiny_llama(), torch.float32, Schedule(config, 10, 2, 1, 10_000, seed=0))
    means = learner.step(plus.plan([CASES["all fail"]], {}).updates, plus, version=0)
    (first, old_first), (second, old_second) = seen
    torch.testing.assert_close(old_first, first)
    torch.testing.assert_close(old_second, old_first)
    assert float((second - old_second).abs().max()) > 1e-3
    assert means.value("demo/nll") == pytest.approx(float(-(first.sum() + second.sum()) / 10), rel=1e-5)
