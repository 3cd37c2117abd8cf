"""DyME: the formula written out, its truth table, and that one update a batch is SFT in GRPO's clothing."""

from dataclasses import replace

import pytest
import torch

from relatives import CASES, agree, batch, check_any_split, decided, gradients, method
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits

MEMORIZE, EXPLORE, NOTHING = ("sft", {"expert": 1}), ("pg", {"pg": 4}), ("none", {})
TABLE = {
    "all fail": MEMORIZE,
    "one right": EXPLORE,
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": MEMORIZE,
    "rewards in {-1, 1}, one right": EXPLORE,
    "shaping on failures": MEMORIZE,
    "equal shaping on failures": MEMORIZE,
    "two have the mean reward": ("pg", {"pg": 2}),
    "all fail, a wrong demonstration": MEMORIZE,  # kept only where the recipe keeps unverified ones
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("dyme"), case) == TABLE[case]


def formula(groups, read):
    """A = (1, 0, ...) on a failed group with its truth in rollout 0's place; 0 if all right; else GRPO's; over K."""
    total = 0.0
    for one in groups:
        values, right = [t.score.value for t in one.trajectories], [t.score.correct for t in one.trajectories]
        if any(right) and not all(right):
            mean = sum(values) / 4
            std = (sum((v - mean) ** 2 for v in values) / 3) ** 0.5
            total += sum(read(t).clipped((t.score.value - mean) / (std + 1e-4)).mean() for t in one.trajectories)
        elif not any(right) and one.demonstrations:
            total += read(one.demonstrations[0]).clipped(1.0).mean()
    return total / (4 * len(groups))


def test_the_loss_is_the_published_one():
    dyme, groups = method("dyme"), batch()
    agree(dyme, dyme.plan(groups, {}), lambda read: [formula(groups, read)])


def test_any_split():
    dyme = method("dyme")
    check_any_split(dyme, dyme.plan(batch(), {}))


def test_with_one_update_a_failed_group_is_sft_at_one_kth_of_its_weight():
    failed = [one for one in batch() if one.demonstrations and not one.solved]
    sft = build({"name": "sft", "reduction": "prompt"}, Limits(4, 10))
    (alone,), _, _ = gradients(sft, sft.plan(failed, {}))
    (clothed,), _, _ = gradients(method("dyme"), method("dyme").plan(failed, {}))
    torch.testing.assert_close(clothed * 4, alone, rtol=1e-5, atol=1e-8)


def test_all_right_teaches_nothing_even_where_shaping_tells_them_apart():
    visit = CASES["all right"]
    scores = [replace(t.score, value=v) for t, v in zip(visit.trajectories, (1.0, 0.9, 0.8, 1.0), strict=True)]
    shaped = replace(
        visit, trajectories=tuple(replace(t, score=s) for t, s in zip(visit.trajectories, scores, strict=True))
    )
    plan = method("dyme").plan([shaped], {})
    assert plan.updates[0].samples == () and plan.decisions[0].kind == "none"


@pytest.mark.parametrize("options", [{"baseline": "none", "std": "none"}, {"std": "batch"}, {"kl": {"in": "reward"}}])
def test_other_credit_is_refused(options):
    with pytest.raises(UserError, match="DyME writes a group's advantages itself"):
        method("dyme", **options)
