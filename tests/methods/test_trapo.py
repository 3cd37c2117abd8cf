"""TRAPO's trust-region SFT on its skeleton: the formula written out, the truth table, and any split."""

import pytest

from builders import group
from relatives import CASES, LIMITS, agree, batch, check_any_split, decided, method, shown

BARE = {"policy": {"entropy_bonus": 0.0}}
IMITATE, BOTH, TWO, NOTHING = (
    ("sft", {"sft": 1}), ("both", {"pg": 4, "sft": 1}), ("both", {"pg": 2, "sft": 1}), ("none", {})
)  # fmt: skip
TABLE = {
    "all fail": IMITATE,
    "one right": BOTH,
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": IMITATE,
    "rewards in {-1, 1}, one right": BOTH,
    "shaping on failures": TWO,
    "equal shaping on failures": IMITATE,
    "two have the mean reward": TWO,
    "all fail, a wrong demonstration": IMITATE,  # kept only where the recipe keeps unverified ones
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("trapo", **BARE), case) == TABLE[case]


def formula(groups, read, loss):
    """Unclipped R - mean and 0.001 H on every rollout; up to half solved, the whole trace beside; / (N L_max)."""
    total = 0.0
    for one in groups:
        mean = sum(t.score.value for t in one.trajectories) / 4
        for trajectory in one.trajectories:
            row = read(trajectory)
            total += (-row.ratio * (trajectory.score.value - mean) - 0.001 * row.entropy).sum() / 4
        if one.demonstrations and sum(t.score.correct for t in one.trajectories) <= 2:
            total += loss(read(one.demonstrations[0])).sum()
    return total / LIMITS.max_new_tokens / len(groups)


def test_the_loss_is_the_published_one():
    trapo, groups = method("trapo"), batch()
    agree(
        trapo,
        trapo.plan(groups, {}),
        lambda read: [formula(groups, read, lambda row: -(row.p.detach() / 0.1).clamp(max=1.0) * row.logp)],
    )


def test_with_imitation_nll_it_is_the_skeleton_with_plain_sft():
    plain, groups = method("trapo", imitation="nll"), batch()
    agree(plain, plain.plan(groups, {}), lambda read: [formula(groups, read, lambda row: -row.logp)])


@pytest.mark.parametrize(("rewards", "kind"), [([1, 1, 0, 0], "both"), ([1, 1, 1, 0], "pg")])
def test_up_to_half_solved_a_problem_is_imitated(rewards, kind):
    (decision,) = method("trapo").plan([shown(group(rewards, experts=[5]))], {}).decisions
    assert decision.kind == kind


def test_any_split():
    trapo = method("trapo")
    check_any_split(trapo, trapo.plan(batch(), {}))
