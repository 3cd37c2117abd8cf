"""SASR: both kinds of step written out, the lot between them, what the loop does without rollouts, and any split."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import group
from relatives import CASES, agree, batch, decided, gradients, method
from small_runs import letters, recipe, small_model
from superrl.errors import UserError
from superrl.records import StepRecord
from superrl.telemetry import of_decisions, of_groups
from superrl.training import train

SFT = {"step": 0, "next": "sft", "probability": 1.0, "norms": {"warm-up": None, "sft": None, "pg": None}}
RL = {**SFT, "next": "pg"}
NOTHING = ("none", {})
TABLE = {
    "all fail": NOTHING,
    "one right": ("pg", {"pg": 4}),
    "all right": NOTHING,
    "all fail, no demonstration": NOTHING,
    "rewards in {-1, 1}, all fail": NOTHING,
    "rewards in {-1, 1}, one right": ("pg", {"pg": 4}),
    "shaping on failures": ("pg", {"pg": 2}),
    "equal shaping on failures": NOTHING,
    "two have the mean reward": ("pg", {"pg": 2}),
    "all fail, a wrong demonstration": NOTHING,
}


@pytest.mark.parametrize("case", CASES)
def test_truth_table(case):
    assert decided(method("sasr"), case, RL) == TABLE[case]
    imitates = bool(CASES[case].demonstrations)
    assert decided(method("sasr"), case, SFT) == (("sft", {"sft": 1}) if imitates else NOTHING)


def test_an_rl_step_is_grpo_and_an_sft_step_is_sft():
    groups, sasr, grpo, sft = batch(), method("sasr"), method("grpo"), method("sft")
    (mine,), _, _ = gradients(sasr, sasr.plan(groups, RL))
    (theirs,), _, _ = gradients(grpo, grpo.plan(groups, {}))
    assert torch.equal(mine, theirs)
    (mine,), _, _ = gradients(sasr, sasr.plan(groups, SFT))
    (theirs,), _, _ = gradients(sft, sft.plan([g for g in groups if g.demonstrations], {}))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def rl(groups, read):
    total = 0.0
    for one in groups:
        values = torch.tensor([t.score.value for t in one.trajectories], dtype=torch.float64)
        advantages = (values - values.mean()) / (values.std() + 1e-4)
        total += sum(read(t).clipped(float(a)).mean() for t, a in zip(one.trajectories, advantages, strict=True))
    return total / (4 * len(groups))


def sft(groups, read):
    rows = [read(expert) for one in groups for expert in one.demonstrations]
    return -sum(row.logp.sum() for row in rows) / sum(len(row.logp) for row in rows)


def test_the_losses_are_the_published_ones():
    sasr, groups = method("sasr"), batch()
    agree(sasr, sasr.plan(groups, RL), lambda read: [rl(groups, read)])
    agree(sasr, sasr.plan(groups, SFT), lambda read: [sft(groups, read)])


@pytest.mark.parametrize("state", [SFT, RL])
def test_any_split(state):
    sasr = method("sasr")
    plan = sasr.plan(batch(), state)
    (whole,), told, _ = gradients(sasr, plan)
    (split,), others, packs = gradients(sasr, plan, max_tokens=1)
    assert len(packs) > 3 and float(whole.norm()) > 1e-4
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    assert others["loss"] == pytest.approx(told["loss"], rel=1e-5, abs=1e-7)


def after(sasr, state, norm, key=(0,)):
    visit = group([0] * 4, key=key)
    return json.loads(json.dumps(sasr.after_step(StepRecord(1, {"grad_norm": norm}, ()), [visit], state)))


def test_the_warm_up_is_sft_and_leaves_its_last_norm():
    sasr = method("sasr", warmup_steps=3)
    state = sasr.initial_state()
    for norm in (8.0, 6.0, 4.0):
        assert state["next"] == "sft" and state["probability"] == 1.0
        state = after(sasr, state, norm)
    assert state["norms"] == {"warm-up": 4.0, "sft": 4.0, "pg": None}
    assert state["probability"] == 0.5 and state["step"] == 3


def test_every_kind_of_step_keeps_its_own_norm():
    state = {**RL, "step": 50, "norms": {"warm-up": 4.0, "sft": 2.0, "pg": None}}
    assert after(method("sasr"), state, 0.5)["norms"] == {"warm-up": 4.0, "sft": 2.0, "pg": 0.5}
    assert after(method("sasr"), {**state, "next": "sft"}, 1.5)["norms"] == {"warm-up": 4.0, "sft": 1.5, "pg": None}
    assert after(method("sasr"), state, None)["norms"] == state["norms"]  # a step that moved nothing


@pytest.mark.parametrize(
    ("options", "norms", "probability"),
    [
        ({}, {"warm-up": 4.0, "sft": 1.0, "pg": 9.0}, 0.2),
        ({"norm_weight": 0.5}, {"warm-up": 4.0, "sft": 1.0, "pg": 9.0}, 1 / 3),
        ({"against": "policy"}, {"warm-up": 4.0, "sft": 1.0, "pg": 9.0}, 0.1),
        ({"against": "policy"}, {"warm-up": 4.0, "sft": 4.0, "pg": None}, 0.0),  # RL next, to have its norm
        ({}, {"warm-up": 0.0, "sft": 0.0, "pg": 1.0}, 0.0),
    ],
)
def test_probability_by_hand(options, norms, probability):
    state = {**RL, "step": 50, "norms": norms}
    assert after(method("sasr", **options), state, None)["probability"] == pytest.approx(probability)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 10))
def test_less_to_imitate_gives_rl_more_steps(less, more, warm):
    sasr = method("sasr")

    def chance(norm):
        return after(sasr, {**RL, "step": 50, "norms": {"warm-up": warm, "sft": norm, "pg": 1.0}}, None)["probability"]

    assert 0.0 <= chance(min(less, more)) <= chance(max(less, more)) <= 1.0


def test_the_lot_is_drawn_by_key_with_its_probability():
    sasr, state = method("sasr"), {**RL, "step": 50, "norms": {"warm-up": 3.0, "sft": 1.0, "pg": 1.0}}
    drawn = [after(sasr, state, None, key=(0, 0, 0, step))["next"] for step in range(2000)]
    assert drawn.count("sft") / 2000 == pytest.approx(0.25, abs=0.03)
    assert drawn[:20] == [after(sasr, state, None, key=(0, 0, 0, step))["next"] for step in range(20)]


def test_nothing_is_rolled_out_on_an_sft_step():
    sasr, bare = method("sasr"), [group([], experts=[3]), group([])]
    assert [list(r) for r in sasr.requests(bare, SFT)] == [[], []]
    assert [r[0].n for r in sasr.requests(bare, RL)] == [4, 4]
    plan = sasr.plan(bare, SFT)
    assert [d.kind for d in plan.decisions] == ["sft", "none"]
    assert of_groups(bare)["reward/mean"] is None and of_decisions(bare, plan.decisions)["switch/fallbacks"] == 1.0
    assert sasr.plan(bare, RL).updates[0].samples == ()  # groups that another step carried over


def test_without_a_demonstration_in_the_whole_warm_up_every_step_is_rl():
    one, lonely = method("sasr", warmup_steps=2), [group([1, 0, 0, 0])]
    state = one.initial_state()
    for step in range(4):
        state = one.after_step(StepRecord(step + 1, {"grad_norm": None}, ()), lonely, state)
    assert state["next"] == "pg" and state["probability"] == 0.0


@pytest.mark.parametrize("name", ["sasr", "hybrid"])
def test_dynamic_sampling_is_refused_where_whole_batches_are_judged(name, tmp_path):
    stage = {"method": {"name": name}, "refill": {"cap": 2}}
    with pytest.raises(UserError, match=rf"stages.0.refill: {name} judges whole batches"):
        train(recipe(small_model(tmp_path / "model"), stage), tmp_path / "run", reward=letters)
