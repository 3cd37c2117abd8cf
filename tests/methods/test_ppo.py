"""PPO and its critic: GAE on rollouts, bootstrapping, the value loss as a stream; what superrl makes of failures."""

import json
import random
import statistics
from dataclasses import replace

import pytest
import torch
from whole_loss import Tokens, alone, assert_same, gradients, loss_of, noted, random_batch, view, visit

from builders import group, trajectory
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Score

LIMITS = Limits(group_size=4, max_new_tokens=6)


def ppo(**options):
    return build({"name": "ppo", **options}, LIMITS)


def rollout(values, reward, *, stop="eos", after=0.0, cost=None):
    """One rollout; the critic said `values` before its tokens and `after` behind the last; log p - log p_ref = cost."""
    n = len(values)
    pad = (0.0,) * 4
    notes = {"value": (*pad, *values), "value_next": (*pad, *values[1:], after), "logp_ref": (0.0,) * (4 + n)}
    costs = (*pad, *(cost or (0.0,) * n))
    return replace(trajectory(4, n, reward), stop=stop, annotations=notes, logp_sampler=costs)


def advantages(one, **options):
    ((found,),) = ppo(std="none", **options).policy.credit([alone(one)])
    assert found[:4] == (0.0,) * 4
    return list(found[4:])


def slow_advantages(one, gamma, lam, beta=0.0):
    """The O(T^2) sum, from the rollout's own records."""
    drawn = [t for t, own in enumerate(one.loss_mask) if own]
    values = [one.annotations["value"][t] for t in drawn]
    after = [*values[1:], one.annotations["value_next"][drawn[-1]] if one.stop == "length" else 0.0]
    rewards = [-beta * (one.logp_sampler[t] - one.annotations["logp_ref"][t]) for t in drawn]
    rewards[-1] += one.score.value
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [sum((gamma * lam) ** i * d for i, d in enumerate(deltas[t:])) for t in range(len(deltas))]


def test_credit_by_hand():
    """lambda 1: the return minus the value; lambda 0: one difference; the reward comes with the last token."""
    one = rollout([0.5, 0.25], 1.0)
    assert advantages(one) == [0.5, 0.75]
    assert advantages(one, gae_lambda=0.0) == [-0.25, 0.75]
    assert advantages(one, gamma=0.5) == [0.0, 0.75]


def test_a_rollout_that_was_cut_off_is_bootstrapped_and_one_that_ended_is_not():
    assert advantages(rollout([0.5, 0.25], 0.0, stop="length", after=0.8)) == pytest.approx([0.3, 0.55])
    for stop in ("eos", "stop"):
        assert advantages(rollout([0.5, 0.25], 0.0, stop=stop, after=0.8)) == [-0.5, -0.25]
    cut = rollout([0.5, 0.25], 0.0, stop="length", after=0.8)
    assert advantages(cut, bootstrap=False) == [-0.5, -0.25]


def test_kl_in_the_reward_is_taken_off_token_by_token():
    one = rollout([0.0, 0.0, 0.0], 1.0, cost=(0.3, -0.2, 0.4))
    held = {"kl": {"in": "reward", "coefficient": 0.5}}
    assert ppo(**held).needs == {"logp_ref", "value"} and ppo().needs == {"value"}
    assert advantages(one, **held) == pytest.approx([1.0 - 0.25, 1.0 - 0.1, 1.0 - 0.2])
    assert advantages(one, gae_lambda=0.0, **held) == pytest.approx([-0.15, 0.1, 0.8])


@pytest.mark.parametrize("options", [{}, {"gamma": 0.9, "gae_lambda": 0.95}])
def test_the_soft_penalty_reaches_the_critic_s_credit(options):
    long = rollout([0.0] * 6, 1.0)
    assert advantages(long, overlong="soft", overlong_buffer=3, **options)[-1] == 0.0
    assert advantages(long, **options)[-1] == 1.0


def test_a_rollout_of_no_token_has_no_credit():
    empty = replace(trajectory(4, 0, 1.0), annotations={"value": (0.0,) * 4, "value_next": (0.0,) * 4})
    (update,) = ppo(std="none").plan([alone(empty)], {}).updates
    assert update.samples == ()


def oracle(batch, tokens, *, gamma, lam, beta=0.0, whiten=True, clip=0.2):
    """The token mean of PPO's clip over whitened GAE, and half the token mean of the clipped value loss."""
    rollouts = [t for one in batch for t in one.trajectories]
    raw = [slow_advantages(t, gamma, lam, beta) for t in rollouts]
    flat = [a for row in raw for a in row]
    mean, std = (statistics.fmean(flat), statistics.stdev(flat) + 1e-4) if whiten else (0.0, 1.0)
    policy, critic = 0.0, 0.0
    for t, row in zip(rollouts, raw, strict=True):
        white = torch.tensor([(a - mean) / std for a in row], dtype=torch.float64)
        ratio = (tokens.logp[t.tokens] - tokens.old[t.tokens]).exp()
        policy = policy - torch.minimum(ratio * white, ratio.clamp(0.8, 1.2) * white).sum()
        value, old = tokens.value[t.tokens], torch.tensor(t.annotations["value"][4:], dtype=torch.float64)
        returns = old + torch.tensor(row, dtype=torch.float64)
        plain = (value - returns) ** 2
        near = old + (value - old).clamp(-clip, clip) if clip else value
        critic = critic + 0.5 * torch.maximum(plain, (near - returns) ** 2).sum()
    return (policy + 0.5 * critic) / len(flat)


def moved(batch, tokens):
    """The critic has learnt since it was asked: values of now differ from those noted."""
    rng = random.Random(0)
    for leaf in tokens.value.values():
        leaf.data += torch.tensor([rng.uniform(-0.4, 0.4) for _ in leaf], dtype=torch.float64)
    return batch, tokens


CASES = [
    ({}, {"gamma": 1.0, "lam": 1.0}),
    ({"gamma": 0.9, "gae_lambda": 0.95}, {"gamma": 0.9, "lam": 0.95}),
    ({"std": "none", "value_clip": None}, {"gamma": 1.0, "lam": 1.0, "whiten": False, "clip": None}),
    ({"kl": {"in": "reward", "coefficient": 0.3}, "gae_lambda": 0.5}, {"gamma": 1.0, "lam": 0.5, "beta": 0.3}),
]


@pytest.mark.parametrize(("options", "settings"), CASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_loss_is_the_published_formula(options, settings, seed):
    batch, tokens = moved(*random_batch(seed))
    assert {t.stop for one in batch for t in one.trajectories} == {"eos", "length"}
    assert_same(loss_of(ppo(**options), batch, tokens), oracle(batch, tokens, **settings), tokens)


def test_the_value_loss_has_a_stream_of_its_own():
    batch, _ = random_batch(0)
    method = ppo(value_weight=0.3)
    (update,) = method.plan(batch, {}).updates
    pg, value = ([s for s in update.samples if s.stream == stream] for stream in ("pg", "value"))
    assert [s.tokens for s in pg] == [s.tokens for s in value] and [s.weight for s in pg] == [s.weight for s in value]
    assert update.denominators["pg"] == update.denominators["value"]
    assert update.stream_weights == {"value": 0.3}
    json.dumps([s.annotations["return"] for s in value])


def test_the_critic_learns_from_rollouts_without_advantage():
    """A critic that foretold everything: no policy gradient, and still a value loss."""
    known = replace(group([1.0]), trajectories=(rollout([1.0, 1.0], 1.0),))
    (update,) = ppo(std="none").plan([known], {}).updates
    assert [s.stream for s in update.samples] == ["value"]


def test_filtered_rollouts_teach_neither_policy_nor_critic():
    batch, tokens = random_batch(0)
    (update,) = ppo(overlong="filter").plan(batch, {}).updates
    cut = {t.tokens for one in batch for t in one.trajectories if t.stop == "length"}
    assert cut and not cut & {s.tokens for s in update.samples}
    whole = gradients(loss_of(ppo(overlong="filter"), batch, tokens), tokens)
    parts = torch.split(whole, [len(leaf) for leaf in tokens.leaves()])
    keys = [*tokens.logp, *tokens.entropy, *tokens.value]
    assert all(g.abs().sum() == 0 for key, g in zip(keys, parts, strict=True) if key in cut)


def test_a_failed_group_is_kept_by_superrl_with_a_critic():
    failed = noted(visit([0.0] * 4, [2, 3, 4, 5], "failed"), Tokens(), random.Random(3))
    failed = replace(failed, demonstrations=group([], experts=[3]).demonstrations)
    kept = build({"name": "superrl", "policy": {"baseline": "critic", "std": "batch"}}, LIMITS)
    plan = kept.plan([failed], {})
    assert plan.decisions[0].kind == "both" and {s.stream for s in plan.updates[0].samples} == {"pg", "value", "sft"}
    grouped = build({"name": "superrl"}, LIMITS).plan([failed], {})
    assert {s.stream for s in grouped.updates[0].samples} == {"sft"}


def test_dropping_failed_groups_whitens_what_is_left():
    tokens, rng = Tokens(), random.Random(4)
    failed = noted(visit([0.0] * 4, [2] * 4, "failed"), tokens, rng)
    solved = noted(visit([1.0, 0.0, 1.0, 0.0], [3] * 4, "solved"), tokens, rng)
    options = {"name": "superrl", "policy": {"baseline": "critic", "std": "batch"}, "failed_rollouts": "drop"}
    (update,) = build(options, LIMITS).plan([failed, solved], {}).updates
    drawn = [
        a for s in update.samples if s.stream == "pg" for a, own in zip(s.advantage, s.loss_mask, strict=True) if own
    ]
    assert {s.group for s in update.samples} == {1}
    assert statistics.fmean(drawn) == pytest.approx(0.0, abs=1e-12) and statistics.stdev(drawn) == pytest.approx(
        1, 1e-3
    )


def test_a_micro_batch_of_demonstrations_needs_no_critic():
    tokens, expert = Tokens(), trajectory(4, 3, origin="expert", seed=99)
    noted(alone(replace(expert, score=Score(1.0, True))), tokens, random.Random(0))
    mixed = build({"name": "superrl", "policy": {"baseline": "critic", "std": "none"}}, LIMITS)
    failed = noted(visit([0.0] * 4, [2] * 4, "failed"), tokens, random.Random(1))
    (update,) = mixed.plan([replace(failed, demonstrations=(expert,))], {}).updates
    (row,) = [s for s in update.samples if s.stream == "sft"]
    seen = replace(view([row], ("pg", "sft", "value"), tokens), value=None)
    torch.testing.assert_close(mixed.token_loss(seen), -seen.logp)
    assert set(mixed.telemetry(seen)) == {"policy/clip_fraction"}


def test_the_critic_s_error_is_told():
    batch, tokens = moved(*random_batch(1))
    method = ppo()
    (update,) = method.plan(batch, {}).updates
    seen = view(update.samples, ("pg", "value"), tokens)
    with torch.no_grad():
        told = method.telemetry(seen)
    n = sum(t.length for one in batch for t in one.trajectories)
    error = total = 0.0
    for t in (t for one in batch for t in one.trajectories):
        old, now = t.annotations["value"][4:], tokens.value[t.tokens].tolist()
        for a, v, w in zip(slow_advantages(t, 1.0, 1.0), old, now, strict=True):
            error, total = error + (w - a - v) ** 2, total + w
    assert told["method/value_error"] == (pytest.approx(error, rel=1e-9), n)
    assert told["method/value"] == (pytest.approx(total, rel=1e-9), n)


def test_the_recipe_s_critic_is_the_learner_s():
    asked = ppo(critic={"kind": "head", "lr": 1e-3, "warmup_steps": 5}).critic
    assert (asked.kind, asked.lr, asked.warmup_steps) == ("head", 1e-3, 5)
    assert build({"name": "grpo"}, LIMITS).critic is None
