"""The policy gradients: every method and option against its formula, written a second time and slowly."""

import itertools
import math
import random
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from whole_loss import alone, assert_same, gradients, loss_of, noted, random_batch, view, visit

from builders import group, trajectory
from superrl.errors import UserError
from superrl.methods import METHODS, build
from superrl.methods.credit import less_kl
from superrl.methods.hooks import Limits
from superrl.records import Score

LIMITS = Limits(group_size=4, max_new_tokens=6)


def method(name="grpo", **options):
    return build({"name": name, **options}, LIMITS)


def policy(**options):
    return method("grpo", **options).policy


def clip(x, low, high):
    return torch.clamp(x, 1 - low, 1 + high)


def rewards_of(one):
    return [t.score.value for t in one.trajectories]


def deviation(values):
    return statistics.stdev(values) + 1e-4


def tokenwise(batch, tokens, advantage, term, *, per="sequence"):
    """Sum of term(log-ratio, logp, A) over tokens, averaged as said; `advantage(g, k)` is a number or one a token."""
    total, count = 0.0, 0
    for g, one in enumerate(batch):
        for k, rollout in enumerate(one.trajectories):
            logp, old = tokens.logp[rollout.tokens], tokens.old[rollout.tokens]
            terms = term(logp - old, logp, advantage(g, k))
            if per == "sequence":
                total, count = total + terms.mean(), count + 1
            elif per == "token":
                total, count = total + terms.sum(), count + len(terms)
            else:
                total, count = total + terms.sum() / LIMITS.max_new_tokens, count + 1
    return total / count


def ppo_term(low, high):
    return lambda d, logp, a: -torch.minimum(d.exp() * a, clip(d.exp(), low, high) * a)


def by_group(batch, function):
    columns = [function(rewards_of(one)) for one in batch]
    return lambda g, k: columns[g][k]


def grpo(batch, tokens):
    a = by_group(batch, lambda r: [(x - statistics.fmean(r)) / deviation(r) for x in r])
    return tokenwise(batch, tokens, a, ppo_term(0.2, 0.2))


def dr_grpo(batch, tokens):
    a = by_group(batch, lambda r: [x - statistics.fmean(r) for x in r])
    return tokenwise(batch, tokens, a, ppo_term(0.2, 0.2), per="constant")


def dapo(batch, tokens):
    longest, buffer = LIMITS.max_new_tokens, 3

    def penalised(one):
        for t in one.trajectories:
            n = t.length
            soft = 0.0 if n <= longest - buffer else (longest - buffer - n) / buffer if n <= longest else -1.0
            yield t.score.value + soft

    columns = [list(penalised(one)) for one in batch]
    scores = [[(x - statistics.fmean(r)) / deviation(r) for x in r] for r in columns]
    return tokenwise(batch, tokens, lambda g, k: scores[g][k], ppo_term(0.2, 0.28), per="token")


def gspo(batch, tokens):
    a = by_group(batch, lambda r: [(x - statistics.fmean(r)) / deviation(r) for x in r])
    total = 0.0
    for g, one in enumerate(batch):
        for k, rollout in enumerate(one.trajectories):
            s = (tokens.logp[rollout.tokens] - tokens.old[rollout.tokens]).mean().exp()
            total = total - torch.minimum(s * a(g, k), clip(s, 0.1, 0.15) * a(g, k))
    return total / sum(len(one.trajectories) for one in batch)


def cispo(batch, tokens):
    a = by_group(batch, lambda r: [(x - statistics.fmean(r)) / deviation(r) for x in r])
    return tokenwise(batch, tokens, a, lambda d, logp, a: -d.exp().clamp(max=1.2).detach() * a * logp, per="token")


def rloo(batch, tokens):
    a = by_group(batch, lambda r: [x - statistics.fmean(r[:k] + r[k + 1 :]) for k, x in enumerate(r)])
    return tokenwise(batch, tokens, a, lambda d, logp, a: -d.exp() * a, per="constant")


def reinforce(batch, tokens):
    return tokenwise(batch, tokens, by_group(batch, list), lambda d, logp, a: -d.exp() * a, per="constant")


def reinforce_with_batch_mean(batch, tokens):
    mean = statistics.fmean(x for one in batch for x in rewards_of(one))
    a = by_group(batch, lambda r: [x - mean for x in r])
    return tokenwise(batch, tokens, a, lambda d, logp, a: -d.exp() * a, per="constant")


def reinforce_plus_plus(batch, tokens):
    beta = 0.3
    rows = {}
    for g, one in enumerate(batch):
        for k, t in enumerate(one.trajectories):
            cost = [beta * (o - r) for o, r in zip(tokens.old[t.tokens], tokens.ref[t.tokens], strict=True)]
            rows[g, k] = [t.score.value - float(sum(cost[i:])) for i in range(len(cost))]
    flat = [x for row in rows.values() for x in row]
    mean, std = statistics.fmean(flat), deviation(flat)
    white = {key: torch.tensor([(x - mean) / std for x in row], dtype=torch.float64) for key, row in rows.items()}
    return tokenwise(batch, tokens, lambda g, k: white[g, k], ppo_term(0.2, 0.2), per="token")


def reinforce_plus_plus_baseline(batch, tokens):
    columns = [[x - statistics.fmean(rewards_of(one)) for x in rewards_of(one)] for one in batch]
    flat = [a for row, one in zip(columns, batch, strict=True) for a, t in zip(row, one.trajectories, strict=True)
            for _ in range(t.length)]  # fmt: skip
    std = deviation(flat)
    loss = tokenwise(batch, tokens, lambda g, k: columns[g][k] / std, ppo_term(0.2, 0.2), per="token")
    rollouts = [t for one in batch for t in one.trajectories]
    k2 = [0.5 * (tokens.logp[t.tokens] - tokens.ref[t.tokens]) ** 2 for t in rollouts]
    return loss + 0.001 * torch.cat(k2).mean()


def maxrl(batch, tokens):
    a = by_group(batch, lambda r: [(x - statistics.fmean(r)) / (statistics.fmean(r) + 1e-4) for x in r])
    return tokenwise(batch, tokens, a, ppo_term(0.2, 0.2))


FORMULAS = [
    ("grpo", {}, grpo),
    ("dr-grpo", {}, dr_grpo),
    ("dapo", {"overlong_buffer": 3}, dapo),
    ("gspo", {"clip_low": 0.1, "clip_high": 0.15}, gspo),
    ("cispo", {"clip_high": 0.2}, cispo),
    ("rloo", {}, rloo),
    ("reinforce", {}, reinforce),
    ("reinforce", {"baseline": "batch"}, reinforce_with_batch_mean),
    ("reinforce++", {"kl": {"in": "reward", "coefficient": 0.3}}, reinforce_plus_plus),
    ("reinforce++", {"variant": "baseline"}, reinforce_plus_plus_baseline),
    ("maxrl", {}, maxrl),
]


@pytest.mark.parametrize(("name", "options", "oracle"), FORMULAS, ids=[row[2].__name__ for row in FORMULAS])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_published_formula(name, options, oracle, seed):
    batch, tokens = random_batch(seed)
    assert_same(loss_of(method(name, **options), batch, tokens), oracle(batch, tokens), tokens)


@pytest.mark.parametrize("std", ["sample", "population"])
def test_the_deviation_is_the_one_asked_for(std):
    rewards = [0.0, 0.0, 1.0, 0.5]
    spread = {"sample": statistics.stdev, "population": statistics.pstdev}[std](rewards)
    (credits,) = policy(std=std, eps=0.0).credit([group(rewards)])
    assert credits == pytest.approx([(r - 0.375) / spread for r in rewards], rel=1e-12)


def test_dividing_by_the_batch_s_deviation_by_hand():
    """Three tokens have +0.5 and one has -0.5: mean 0.25, deviation 0.5."""
    batch = [group([1.0, 0.0], lengths=[3, 1])]
    assert [c[-1] for c in policy(std="batch", eps=0.0).credit(batch)[0]] == pytest.approx([1.0, -1.0])
    (white,) = policy(baseline="batch", std="batch", eps=0.0).credit(batch)
    assert [c[-1] for c in white] == pytest.approx([0.5, -1.5])


RELATIVE = [("grpo", {}), ("grpo", {"std": "batch"}), ("dr-grpo", {}), ("gspo", {}), ("cispo", {}), ("rloo", {}),
            ("maxrl", {}), ("reinforce++", {"variant": "baseline"})]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), RELATIVE)
@given(reward=st.floats(0.0, 1e6), other=st.floats(0.0, 1.0))
def test_equal_rewards_of_a_group_have_advantage_exactly_zero(name, options, reward, other):
    equal, _ = method(name, **options).policy.credit([group([reward] * 4, name="a"), group([0, 1, other, 0], name="b")])
    assert all(a == 0.0 for credit in equal for a in (credit if isinstance(credit, tuple) else [credit]))


def at_ratio_one(name, reduction, **options):
    """The gradient of the first update of a batch, where logp is logp_old."""
    batch, tokens = random_batch(5)
    tokens.old = {key: leaf.detach() for key, leaf in tokens.logp.items()}
    return gradients(loss_of(method(name, reduction=reduction, **options), batch, tokens), tokens)


@pytest.mark.parametrize("reduction", ["sequence", "token", "prompt", "constant"])
def test_at_ratio_one_the_clips_coincide_up_to_reduction(reduction):
    plain = at_ratio_one("grpo", reduction)
    assert plain.abs().max() > 1e-3
    for name, options in [("dapo", {"overlong": "keep"}), ("gspo", {}), ("cispo", {}), ("grpo", {"surrogate": "none"})]:
        torch.testing.assert_close(at_ratio_one(name, reduction, **options), plain, rtol=1e-12, atol=1e-15)


def test_away_from_ratio_one_they_do_not():
    batch, tokens = random_batch(5)
    kinds = [{}, {"clip_high": 0.28}, {"surrogate": "sequence"}, {"surrogate": "cispo"}, {"surrogate": "none"}]
    found = [gradients(loss_of(method("grpo", **kind), batch, tokens), tokens) for kind in kinds]
    assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in itertools.combinations(found, 2))


# KL and entropy


def test_k1_in_the_loss_is_refused():
    with pytest.raises(UserError, match=r"k1 in the loss has zero expected gradient: use k2 .*, k3 .*, or "):
        method(kl={"in": "loss", "estimator": "k1"})


@pytest.mark.parametrize(
    ("estimator", "term"),
    [("k2", lambda d: 0.5 * d**2), ("k3", lambda d: (-d).exp() - 1 + d), (None, lambda d: 0.5 * d**2)],
)
def test_kl_in_the_loss_adds_its_estimate(estimator, term):
    batch, tokens = random_batch(1)
    chosen = {} if estimator is None else {"estimator": estimator}
    held = method(kl={"in": "loss", "coefficient": 0.7, **chosen})
    assert held.needs == {"logp_ref"}
    rollouts = [t for one in batch for t in one.trajectories]
    pull = [term(tokens.logp[t.tokens] - tokens.ref[t.tokens]).mean() for t in rollouts]
    assert_same(loss_of(held, batch, tokens), grpo(batch, tokens) + 0.7 * sum(pull) / len(pull), tokens)


def test_kl_in_the_reward_comes_after_the_normalisation_by_group():
    batch, tokens = random_batch(2)
    held = method(kl={"in": "reward", "coefficient": 0.7})
    assert held.needs == {"logp_ref"}
    for one, plain, credits in zip(batch, policy().credit(batch), held.policy.credit(batch), strict=True):
        for rollout, a, credit in zip(one.trajectories, plain, credits, strict=True):
            cost = 0.7 * (tokens.old[rollout.tokens] - tokens.ref[rollout.tokens])
            slow = [a - float(cost[i:].sum()) for i in range(len(cost))]
            assert [c for c, own in zip(credit, rollout.loss_mask, strict=True) if own] == pytest.approx(slow, rel=1e-9)
            assert not any(c for c, own in zip(credit, rollout.loss_mask, strict=True) if not own)


def two_tokens(logits):
    """log p [9, 2] of all sequences of two tokens of three, under logits [4, 3]: of the first, and given each first."""
    first, then = torch.log_softmax(logits[0], 0), torch.log_softmax(logits[1:], 1)
    return torch.stack([torch.stack([first[a], then[a, b]]) for a in range(3) for b in range(3)])


def test_the_policy_gradient_with_kl_in_the_reward_is_that_of_reward_minus_kl():
    """Enumerated: sum over y of p(y) sum over t of A_t grad log p_t = grad { E[R] - beta KL(policy || reference) }."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = two_tokens(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    rewards, beta = torch.randn(9, generator=generator, dtype=torch.float64), 0.6
    logp = two_tokens(logits)
    chance = logp.sum(1).exp()
    goal = (chance * rewards).sum() - beta * (chance * (logp - reference).sum(1)).sum()
    (wanted,) = torch.autograd.grad(goal, logits, retain_graph=True)
    surrogate = 0.0
    for y in range(9):
        columns = {"logp_ref": (0.0, *reference[y].tolist())}
        rollout = replace(trajectory(1, 2), logp_sampler=(0.0, *logp[y].tolist()), annotations=columns)
        credit = torch.tensor(less_kl(rollout, float(rewards[y]), beta)[1:], dtype=torch.float64)
        surrogate = surrogate + chance[y].detach() * (credit * logp[y]).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_entropy_bonus_lowers_the_loss_by_entropy():
    batch, tokens = random_batch(3)
    bold = method(entropy_bonus=0.01)
    assert bold.needs == {"entropy"}
    rollouts = [t for one in batch for t in one.trajectories]
    mean = sum(tokens.entropy[t.tokens].mean() for t in rollouts) / len(rollouts)
    assert_same(loss_of(bold, batch, tokens), grpo(batch, tokens) - 0.01 * mean, tokens)


HELD = [({"kl": {"in": "loss"}}, True), ({"entropy_bonus": 0.1}, True), ({}, False), ({"kl": {"in": "reward"}}, True)]


@pytest.mark.parametrize(("options", "trained"), HELD)
def test_rollouts_without_advantage_are_trained_where_something_else_pulls(options, trained):
    tokens, rng = random_batch(0)[1], random.Random(1)
    dead = noted(visit([1.0] * 4, [2] * 4, "dead"), tokens, rng)
    (update,) = method(**options).plan([dead], {}).updates
    assert len(update.samples) == (4 if trained else 0)


def test_a_micro_batch_of_demonstrations_needs_no_reference():
    tokens = random_batch(0)[1]
    mixed = build({"name": "superrl", "policy": {"kl": {"in": "loss"}}}, LIMITS)
    one = trajectory(4, 3, origin="expert", seed=99)
    noted(alone(replace(one, score=Score(1.0, True))), tokens, random.Random(0))
    (update,) = mixed.plan([group([0] * 4, experts=[3])], {}).updates
    (expert,) = update.samples
    tokens.logp[expert.tokens] = tokens.old[expert.tokens] = tokens.logp[one.tokens]
    tokens.entropy[expert.tokens] = tokens.value[expert.tokens] = tokens.logp[one.tokens]
    seen = view([expert], ("pg", "sft"), tokens)
    torch.testing.assert_close(mixed.token_loss(seen), -seen.logp)
    assert mixed.telemetry(seen)["policy/clip_fraction"] == (0.0, 0.0)


# length


@pytest.mark.parametrize(("length", "penalty"), [(1, 0.0), (3, 0.0), (4, -1 / 3), (5, -2 / 3), (6, -1.0), (7, -1.0)])
def test_the_soft_penalty_by_hand(length, penalty):
    """L = 6, C = 3: nothing up to 3 tokens, -1 from 6 on."""
    soft = policy(overlong="soft", overlong_buffer=3)
    assert soft.reward(trajectory(4, length, 0.25)) == pytest.approx(0.25 + penalty)


def test_an_expert_s_prefix_counts_towards_the_length():
    helped = replace(trajectory(4, 3, 1.0), prefix=2)
    assert policy(overlong="soft", overlong_buffer=3).reward(helped) == pytest.approx(1.0 - 2 / 3)


@pytest.mark.parametrize(("limit", "buffer"), [(100, 20), (6, 1), (3, 1)])
def test_the_buffer_is_a_fifth_of_the_limit(limit, buffer):
    assert build({"name": "dapo"}, Limits(4, limit)).policy.buffer == buffer


@pytest.mark.parametrize("options", [{}, {"kl": {"in": "loss"}}, {"std": "batch"}, {"entropy_bonus": 0.1}])
def test_filtered_rollouts_give_no_gradient_but_count(options):
    tokens, rng = random_batch(0)[1], random.Random(2)
    cut = noted(visit([1.0, 0.0, 1.0, 0.0], [2, 3, 6, 6], "cut", limit=6), tokens, rng)
    (update,) = method(overlong="filter", **options).plan([cut], {}).updates
    assert [sum(s.loss_mask) for s in update.samples] == [2, 3]
    assert update.denominators == {"pg": (4.0,)}
    found = gradients(loss_of(method(overlong="filter", **options), [cut], tokens), tokens)
    per_rollout = torch.split(found, [len(leaf) for leaf in tokens.leaves()])
    lost = {t.tokens for t in cut.trajectories if t.stop == "length"}
    touched = {key for key, grad in zip(tokens.logp, per_rollout, strict=False) if grad.abs().sum() > 0}
    assert touched == {t.tokens for t in cut.trajectories} - lost


def test_filtered_rollouts_have_no_say_in_the_batch_s_deviation():
    kept = visit([1.0, 0.0], [2, 2], "a")
    cut = visit([9.0, -9.0], [6, 6], "b", limit=6)
    credits = policy(overlong="filter", std="batch", eps=0.0).credit([kept, cut])
    assert [c[-1] for c in credits[0]] == pytest.approx([math.sqrt(3) / 2, -math.sqrt(3) / 2])  # 0.5 / stdev
    assert credits[1] == [0.0, 0.0]


# telemetry, switch, options


def test_the_clip_fraction_counts_policy_tokens():
    batch, tokens = random_batch(4)
    for name, options in [("grpo", {}), ("gspo", {"clip_low": 0.1, "clip_high": 0.1}), ("cispo", {"clip_high": 0.2})]:
        one = method(name, **options)
        (update,) = one.plan(batch, {}).updates
        seen = view(update.samples, ("pg",), tokens)
        hits, count = one.telemetry(seen)["policy/clip_fraction"]
        (flat,) = torch.autograd.grad(one.token_loss(seen).sum(), seen.logp)
        ratio = (seen.logp - seen.logp_old).exp()
        dead = (ratio > 1.2).sum() if name == "cispo" else (flat == 0).sum()
        assert count == len(seen.logp) and 0 < hits == int(dead)


def test_the_distance_from_the_reference_is_told():
    batch, tokens = random_batch(4)
    held = method(kl={"in": "loss"})
    (update,) = held.plan(batch, {}).updates
    seen = view(update.samples, ("pg",), tokens)
    d = seen.annotations["logp_ref"] - seen.logp
    with torch.no_grad():
        told = held.telemetry(seen)["method/kl_reference"]
    assert told == (pytest.approx(float((d.exp() - 1 - d).detach().sum()), rel=1e-9), len(d))


KEEPS = [({}, False), ({"std": "batch"}, True), ({"baseline": "batch", "std": "none"}, True),
         ({"baseline": "leave-one-out", "std": "none"}, False), ({"baseline": "none", "std": "none"}, True),
         ({"baseline": "critic", "std": "none"}, True)]  # fmt: skip


@pytest.mark.parametrize(("options", "keeps"), KEEPS)
def test_superrl_keeps_failed_rollouts_where_dropping_them_would_be_selection(options, keeps):
    assert build({"name": "superrl", "policy": options}, LIMITS).keeps_failed is keeps
    dropped = build({"name": "superrl", "policy": options, "failed_rollouts": "drop"}, LIMITS)
    assert not dropped.keeps_failed


def test_rewards_below_zero_have_no_success_rate_to_divide_by():
    with pytest.raises(UserError, match=r"rewards must not be negative, got -1.0"):
        method("maxrl").plan([group([1.0, -1.0, 1.0, 1.0])], {})


REFUSED = [
    ({"baseline": "leave-one-out"}, "baseline: leave-one-out divides by no group's deviation: set std: batch or none"),
    ({"baseline": "critic"}, "baseline: critic divides by no group's deviation"),
    ({"std": "mean", "overlong": "soft"}, "which overlong: soft makes negative"),
    ({"overlong_buffer": 3}, "overlong_buffer is read by overlong: soft alone"),
    (
        {"overlong": "soft", "overlong_buffer": 7},
        "overlong_buffer is 7, but a completion has at most max_new_tokens = 6",
    ),
    ({"gae_lambda": 0.9}, "gae_lambda is read by baseline: critic alone"),
    ({"critic": {"kind": "head"}}, "critic is read by baseline: critic alone"),
    ({"surrogate": "cispo", "clip_low": 0.1}, "clip_low is read by surrogate: token or sequence alone"),
    ({"surrogate": "none", "clip_high": 0.1}, "clip_high is read by surrogate: token or sequence or cispo alone"),
    ({"kl": {"coefficient": 0.1}}, "kl: the KL is in neither: set `in: loss` or `in: reward`"),
    ({"kl": {"in": "reward", "estimator": "k3"}}, "in the reward the estimator is k1"),
    ({"kl": {"in": "los"}}, "kl"),
    ({"clip_low": 1.5}, "clip_low"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_options_that_do_not_agree_are_refused(options, said):
    with pytest.raises(UserError) as refused:
        method(**options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


DEFAULTS = {
    "grpo": {"baseline": "group", "std": "sample", "surrogate": "token", "reduction": "sequence", "clip_high": 0.2},
    "dr-grpo": {"baseline": "group", "std": "none", "surrogate": "token", "reduction": "constant", "clip_high": 0.2},
    "dapo": {"std": "sample", "clip_low": 0.2, "clip_high": 0.28, "reduction": "token", "overlong": "soft"},
    "gspo": {"std": "sample", "surrogate": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "reduction": "sequence"},
    "cispo": {"std": "sample", "surrogate": "cispo", "clip_high": 4.0, "reduction": "token"},
    "rloo": {"baseline": "leave-one-out", "std": "none", "surrogate": "none", "reduction": "constant"},
    "reinforce": {"baseline": "none", "std": "none", "surrogate": "none", "reduction": "constant"},
    "reinforce++": {"baseline": "batch", "std": "batch", "surrogate": "token", "reduction": "token"},
    "maxrl": {"baseline": "group", "std": "mean", "surrogate": "token", "reduction": "sequence"},
    "ppo": {"baseline": "critic", "std": "batch", "reduction": "token", "value_clip": 0.2, "gae_lambda": 1.0},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_what_the_pages_say(name):
    options = METHODS[name].Options()
    assert {key: getattr(options, key) for key in DEFAULTS[name]} == DEFAULTS[name]
    assert options.kl.where == ("reward" if name == "reinforce++" else "none")
    METHODS[name](options, LIMITS)


@pytest.mark.parametrize("name", ["reinforce", "reinforce++", "ppo"])
def test_one_rollout_a_prompt_is_enough_without_a_group(name):
    build({"name": name}, Limits(1, 6))


@pytest.mark.parametrize("name", ["grpo", "rloo", "maxrl", "dapo"])
def test_a_group_of_one_has_no_baseline(name):
    with pytest.raises(UserError, match="group_size must be at least 2"):
        build({"name": name}, Limits(1, 6))


def test_the_baseline_variant_takes_other_options_too():
    kept = method("reinforce++", variant="baseline", kl={"in": "none"}, clip_high=0.3)
    assert kept.needs == set() and kept.policy.options.baseline == "group" and kept.policy.options.clip_high == 0.3
    assert method("reinforce++", variant="baseline").policy.options.kl.estimator == "k2"
