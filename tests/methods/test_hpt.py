"""HPT: the formula written out, its truth table by threshold, and that gamma 0 is SuperRL's reward switch."""

import pytest
import torch

from builders import group
from relatives import CASES, LIMITS, agree, batch, check_any_split, decided, gradients, method, shown
from superrl.errors import UserError

IMITATE, NOTHING = ("sft", {"sft": 1}), ("none", {})
TABLE = {
    "all fail": IMITATE,
    "one right": ("pg", {"pg": 4}),
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": IMITATE,
    "rewards in {-1, 1}, one right": ("pg", {"pg": 4}),
    "shaping on failures": IMITATE,
    "equal shaping on failures": IMITATE,
    "two have the mean reward": ("pg", {"pg": 2}),
    "all fail, a wrong demonstration": IMITATE,  # kept only where the recipe keeps unverified ones
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("hpt"), case) == TABLE[case]


@pytest.mark.parametrize(
    ("gamma", "rewards", "kind"),
    [(0.25, [1, 0, 0, 0], "sft"), (0.25, [1, 1, 0, 0], "pg"), (0.5, [1, 1, 0, 0], "sft"), (0.24, [1, 0, 0, 0], "pg")],
)
def test_up_to_gamma_a_prompt_imitates(gamma, rewards, kind):
    visit = shown(group(rewards, experts=[5]))
    (decision,) = method("hpt", gamma=gamma).plan([visit], {}).decisions
    assert decision.kind == kind


def formula(groups, read, gamma):
    """P > gamma: R - mean, clipped; else one trace's -log p; sums over tokens / L_max, means over sequences."""
    total = 0.0
    for one in groups:
        values = [t.score.value for t in one.trajectories]
        if sum(t.score.correct for t in one.trajectories) > gamma * 4:
            mean = sum(values) / 4
            total += sum(read(t).clipped(t.score.value - mean).sum() for t in one.trajectories) / 4
        elif one.demonstrations:
            total += -read(one.demonstrations[0]).logp.sum()
    return total / LIMITS.max_new_tokens / len(groups)


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_the_loss_is_the_published_one(gamma):
    hpt, groups = method("hpt", gamma=gamma), batch()
    agree(hpt, hpt.plan(groups, {}), lambda read: [formula(groups, read, gamma)])


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_any_split(gamma):
    hpt = method("hpt", gamma=gamma)
    check_any_split(hpt, hpt.plan(batch(), {}))


def test_gamma_0_is_superrl_s_reward_switch():
    superrl = method("superrl", policy={"std": "none"}, inner="constant")
    hpt, groups = method("hpt"), batch()
    assert hpt.plan(groups, {}) == superrl.plan(groups, {"visits": {}})
    (one,), _, _ = gradients(hpt, hpt.plan(groups, {}))
    (other,), _, _ = gradients(superrl, superrl.plan(groups, {}))
    assert torch.equal(one, other)


def test_an_option_of_the_policy_leaves_dr_grpo_s_others_alone():
    assert method("hpt", policy={"clip_high": 0.28}).policy.options.std == "none"
    with pytest.raises(UserError, match="gamma is read by gate: rate alone"):
        method("hpt", gate="reward", gamma=0.5)
